/* Namespaces, mounts, and single interfaces of the kernel. */
#include "probe.h"

static long unshare_it(const long *a) { return SYS(unshare, a[0]); }
static long clone_it(const long *a) {
    long r = SYS(clone, a[0] | SIGCHLD);
    if (!r) _exit(0);
    return r;
}
static long clone3_it(const long *a) {
    unsigned long long args[8] = {[0] = (unsigned long)a[0], [4] = SIGCHLD};
    long r = SYS(clone3, args, sizeof args);
    if (!r) _exit(0);
    return r;
}
static long setns_it(const long *a) {
    int fd = open((const char *)a[0], O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : SYS(setns, fd, 0);
}

static const struct { const char *name; long flag; } NAMESPACES[] = {
    {"cgroup", 0x2000000}, {"ipc", 0x8000000}, {"mnt", 0x20000}, {"net", 0x40000000},
    {"pid", 0x20000000}, {"time", 0x80}, {"user", 0x10000000}, {"uts", 0x4000000}};

void namespaces(int argc, char **argv) {
    char name[80], path[64], link[64];
    for (int i = 0; i < COUNT(NAMESPACES); i++) {
        const char *ns = NAMESPACES[i].name;
        long flag = NAMESPACES[i].flag;
        snprintf(name, sizeof name, "namespace/unshare/%s", ns), try_it(name, unshare_it, flag, 0, 0, 0);
        /* To clone(2) the bit of the time namespace is part of the signal. */
        snprintf(name, sizeof name, "namespace/clone/%s", ns);
        if (flag != 0x80) try_it(name, clone_it, flag, 0, 0, 0);
        snprintf(name, sizeof name, "namespace/clone3/%s", ns), try_it(name, clone3_it, flag, 0, 0, 0);
        snprintf(path, sizeof path, "/proc/self/ns/%s", ns);
        snprintf(name, sizeof name, "namespace/setns to its own/%s", ns), try_it(name, setns_it, (long)path, 0, 0, 0);
        ssize_t n = readlink(path, link, sizeof link - 1);
        link[n > 0 ? n : 0] = 0;
        int known = 0, same = 0;
        for (int k = 1; k < argc; k++) {
            known |= !strncmp(argv[k], ns, strlen(ns)) && argv[k][strlen(ns)] == ':';
            same |= !strcmp(argv[k], link);
        }
        report("namespace/the host's/%s\t%s", ns, same ? "yes" : known && n > 0 ? "no own" : "no unknown");
    }
    try_it("namespace/clone3/none", clone3_it, 0, 0, 0, 0);
}

static long persona(const long *a) { return SYS(personality, a[0]); }
static long get_keyring(const long *a) { return SYS(keyctl, 0, a[0], 0); }
static long add_key_it(const long *a) { return SYS(add_key, "user", "probe", "x", 1, a[0]); }
static long request_key_it(const long *a) { return SYS(request_key, "user", "probe", 0, a[0]); }
static long trace_me(const long *a) { return SYS(ptrace, PTRACE_TRACEME, a[0]); }
static long raw_call(const long *a) { return SYS_(a[0], a[1], a[2], a[3], 0, 0, 0); }

/* Another process of the same container as the object. */
static long on_child(const long *a) {
    pid_t other = fork();
    if (!other)
        for (;;) usleep(100000);
    struct iovec io = {word, 8}, from = {word, 8};
    long fd, r = -EINVAL;
    switch (a[0]) {
    case 0: r = SYS(ptrace, PTRACE_SEIZE, other, 0, 0); break;
    case 1: r = SYS_(SYS_process_vm_readv, other, &io, 1, &from, 1, 0); break;
    case 2: r = SYS_(SYS_process_vm_writev, other, &io, 1, &from, 1, 0); break;
    case 3: r = (fd = SYS(pidfd_open, other, 0)) < 0 ? fd : SYS(pidfd_getfd, fd, 0, 0); break;
    case 4: r = SYS(kcmp, getpid(), other, 1, 0, 0); break;
    }
    kill(other, SIGKILL);
    return r;
}

static long inject(const long *a) {
    (void)a;
    setsid();
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY), unlock = 0;
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock)) return -errno;
    int terminal = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    if (terminal < 0 || ioctl(terminal, TIOCSCTTY, 0)) return -errno;
    return ioctl(terminal, TIOCSTI, "x") ? -errno : 0;
}

static long bpf_map(const long *a) {
    union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return SYS(bpf, BPF_MAP_CREATE + a[0], &attr, sizeof attr);
}
static long bpf_program(const long *a) {
    struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
    union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = 2, .insns = (unsigned long)code,
                           .license = (unsigned long)"MIT"};
    return SYS(bpf, BPF_PROG_LOAD + a[0], &attr, sizeof attr);
}
static long perf(const long *a) {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK,
                                   .exclude_kernel = a[0], .exclude_hv = a[0]};
    return SYS(perf_event_open, &attr, 0, -1, -1, 0);
}
static long mount_it(const long *a) { return mount((char *)a[0], (char *)a[1], (char *)a[2], (unsigned long)a[3], 0) ? -errno : 0; }
static long umount_it(const long *a) { return umount2((char *)a[0], MNT_DETACH) ? -errno : 0; }
static long same_name(const long *a) {
    struct utsname now;
    uname(&now);
    const char *name = a[0] == SYS_sethostname ? now.nodename : now.domainname;
    return SYS_(a[0], name, strlen(name), 0, 0, 0, 0);
}
static long open_handle(const long *a) {
    struct { struct file_handle h; char space[128]; } handle = {.h.handle_bytes = 128};
    int mount_id;
    long r = SYS(name_to_handle_at, AT_FDCWD, "/", &handle, &mount_id, 0);
    if (r < 0 || !a[0]) return r;
    int at = open("/", O_RDONLY | O_DIRECTORY);
    return SYS(open_by_handle_at, at, &handle, O_RDONLY);
}
static long drop(const long *a) { return prctl(PR_CAPBSET_DROP, a[0], 0, 0, 0) ? -errno : 0; }
static long realtime(const long *a) {
    struct sched_param one = {.sched_priority = 1};
    return a[0] ? SYS(sched_setscheduler, 0, SCHED_FIFO, &one) : (setpriority(PRIO_PROCESS, 0, -20) ? -errno : 0);
}

void powers(void) {
    static const unsigned personas[] = {0, 0x8, 0x20000, 0x20008, 0xffffffff, 0x40000, 0x100000, 0x200000, 0x400000,
                                        0x800000, 0x1000000, 0x4000000, 0x8000000};
    char name[80];
    for (int i = 0; i < COUNT(personas); i++) {
        snprintf(name, sizeof name, "personality/%#x", personas[i]);
        try_it(name, persona, (long)personas[i], 0, 0, 0);
    }
    passing("ioctl/past filter/TIOCSTI", NATIVE, SYS_ioctl, -1, TIOCSTI, 0);
    passing("ioctl/past filter/TIOCLINUX", NATIVE, SYS_ioctl, -1, 0x541c, 0);
    passing("ioctl/past filter/TIOCSTI with high bits", NATIVE, SYS_ioctl, -1, 0x100000000 | TIOCSTI, 0);
    try_it("ioctl/done/TIOCSTI on its own terminal", inject, 0, 0, 0, 0);
    try_it("keys/session keyring", get_keyring, -3, 0, 0, 0);
    try_it("keys/user keyring", get_keyring, -4, 0, 0, 0);
    try_it("keys/add to the process", add_key_it, -2, 0, 0, 0);
    try_it("keys/request", request_key_it, 0, 0, 0, 0);
    try_it("trace/be traced", trace_me, 0, 0, 0, 0);
    static const char *others[] = {"seize", "read memory", "write memory", "take descriptor", "compare"};
    for (int i = 0; i < COUNT(others); i++)
        snprintf(name, sizeof name, "trace/%s of a child", others[i]), try_it(name, on_child, i, 0, 0, 0);
    try_it("kernel/io_uring", raw_call, SYS_io_uring_setup, 2, (long)word, 0);
    memset(word, 0, sizeof word);
    try_it("kernel/aio", raw_call, SYS_io_setup, 1, (long)word, 0);
    try_it("kernel/userfaultfd", raw_call, SYS_userfaultfd, 0, 0, 0);
    try_it("kernel/userfaultfd, user mode only", raw_call, SYS_userfaultfd, 1, 0, 0);
    try_it("kernel/bpf map", bpf_map, 0, 0, 0, 0);
    try_it("kernel/bpf program", bpf_program, 0, 0, 0, 0);
    try_it("kernel/perf", perf, 0, 0, 0, 0);
    try_it("kernel/perf, user mode only", perf, 1, 0, 0, 0);
    try_it("kernel/memfd_secret", raw_call, 447, 0, 0, 0);
    try_it("kernel/modify_ldt", raw_call, SYS_modify_ldt, 0, (long)word, 8);
    try_it("kernel/iopl", raw_call, SYS_iopl, 3, 0, 0);
    try_it("kernel/ioperm", raw_call, SYS_ioperm, 0x80, 1, 1);
    try_it("kernel/log size", raw_call, SYS_syslog, 10, 0, 0);
    try_it("kernel/log read", raw_call, SYS_syslog, 3, (long)word, 8);
    try_it("kernel/clock state", raw_call, SYS_adjtimex, (long)word, 0, 0);
    try_it("kernel/fanotify", raw_call, SYS_fanotify_init, 0, 0, 0);
    try_it("kernel/file handle made", open_handle, 0, 0, 0, 0);
    try_it("kernel/file handle opened", open_handle, 1, 0, 0, 0);
    try_it("kernel/host name set to itself", same_name, SYS_sethostname, 0, 0, 0);
    try_it("kernel/domain name set to itself", same_name, SYS_setdomainname, 0, 0, 0);
    try_it("kernel/chroot to /", raw_call, SYS_chroot, (long)"/", 0, 0);
    try_it("kernel/bounding set shrunk", drop, 0, 0, 0, 0);
    try_it("kernel/realtime scheduling", realtime, 1, 0, 0, 0);
    try_it("kernel/priority -20", realtime, 0, 0, 0, 0);
}

/* Last of all: what succeeds stays and changes what other checks see. */
void mounts(void) {
    char name[80];
    static const char *filesystems[] = {"tmpfs", "proc", "sysfs", "cgroup", "cgroup2", "overlay", "devpts", "mqueue",
                                        "ext4", "bpf", "debugfs", "tracefs", "securityfs", "ramfs", "fuse"};
    for (int i = 0; i < COUNT(filesystems); i++) {
        snprintf(name, sizeof name, "mount/new/%s", filesystems[i]);
        try_it(name, mount_it, (long)"probe", (long)"/dev/shm", (long)filesystems[i], 0);
        snprintf(name, sizeof name, "mount/fsopen/%s", filesystems[i]);
        try_it(name, raw_call, SYS_fsopen, (long)filesystems[i], 0, 0);
    }
    try_it("mount/bind", mount_it, (long)"/proc", (long)"/dev/shm", 0, MS_BIND);
    try_it("mount/open_tree clone", raw_call, SYS_open_tree, -100, (long)"/", 1);
    try_it("mount/propagation", mount_it, 0, (long)"/", 0, MS_REC | MS_PRIVATE);
    static const char *locked[] = {"/", "/proc", "/proc/sys", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys", "/dev"};
    for (int i = 0; i < COUNT(locked); i++) {
        snprintf(name, sizeof name, "mount/unmount/%s", locked[i]), try_it(name, umount_it, (long)locked[i], 0, 0, 0);
        snprintf(name, sizeof name, "mount/remount writable/%s", locked[i]);
        try_it(name, mount_it, 0, (long)locked[i], 0, MS_REMOUNT | MS_BIND);
    }
}
