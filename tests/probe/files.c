/* Who the process is, and the files and devices it can open. */
#include "probe.h"

static unsigned long long status_of(const char *key, int base) {
    char text[8192];
    int fd = open("/proc/self/status", O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), 0, base) : 0;
}

void identity(void) {
    int leaked = 0;
    for (int fd = 3; fd < 1024; fd++) leaked += fcntl(fd, F_GETFD) >= 0;
    report("identity/descriptors beyond 2\t%d", leaked);
    static const struct { const char *name, *key; } sets[] = {{"ambient", "CapAmb:"}, {"bounding", "CapBnd:"},
        {"effective", "CapEff:"}, {"inheritable", "CapInh:"}, {"permitted", "CapPrm:"}};
    for (int s = 0; s < COUNT(sets); s++) {
        unsigned long long held = status_of(sets[s].key, 16);
        for (int cap = 0; cap <= 40; cap++)
            report("capability/%s/%02d\t%s", sets[s].name, cap, held >> cap & 1 ? "yes" : "no");
    }
    report("identity/privileges can be gained\t%s", status_of("NoNewPrivs:", 10) ? "no no_new_privs" : "yes");
    report("identity/no seccomp filter\t%s", status_of("Seccomp:", 10) ? "no mode 2" : "yes");
    /* A map says what its parent's ids are; who owns the kernel's own files is the first root of all. */
    struct stat ns;
    int host_root = stat("/proc/self/ns/mnt", &ns) || ns.st_uid != 65534;
    FILE *map = fopen("/proc/self/uid_map", "r");
    unsigned long inside, outside, length, mapped = 0;
    while (map && fscanf(map, "%lu %lu %lu", &inside, &outside, &length) == 3) mapped += length;
    if (map) fclose(map);
    report("identity/the host's root is in the user map\t%s", host_root ? "yes" : "no");
    report("identity/all ids are in the user map\t%s", mapped > 0xfffffff0 ? "yes" : "no");
    struct rlimit core = {0, 0};
    getrlimit(RLIMIT_CORE, &core);
    report("identity/core dumps\t%s", core.rlim_max ? "yes" : "no");
    static const struct { const char *path; unsigned long flag; const char *name; } flags[] = {
        {"/", ST_NOSUID, "suid"}, {"/", ST_NODEV, "dev"}, {"/", ST_RDONLY, "write"}, {"/dev", ST_NOSUID, "suid"},
        {"/dev", ST_NOEXEC, "exec"}, {"/dev/shm", ST_NOSUID, "suid"}, {"/dev/shm", ST_NODEV, "dev"},
        {"/dev/shm", ST_NOEXEC, "exec"}, {"/proc", ST_NOSUID, "suid"}, {"/proc", ST_NODEV, "dev"}, {"/proc", ST_NOEXEC, "exec"},
        {"/proc", ST_RDONLY, "write"}, {"/sys", ST_NOSUID, "suid"}, {"/sys", ST_RDONLY, "write"}, {"/sys", ST_NOEXEC, "exec"}};
    for (int i = 0; i < COUNT(flags); i++) {
        struct statvfs v;
        struct stat root, at;
        int r = stat("/", &root) || stat(flags[i].path, &at) || statvfs(flags[i].path, &v);
        /* A path where nothing is mounted says nothing of its own. */
        r |= strcmp(flags[i].path, "/") && root.st_dev == at.st_dev;
        report("flags/%s %s\t%s", flags[i].path, flags[i].name, r || v.f_flag & flags[i].flag ? "no" : "yes");
    }
}

/* Can something be read? An empty file counts, because what the kernel has to say changes; one that fails
 * to be read and what is masked do not. Of kernel messages it is enough that they open: reading takes them. */
static int readable(const char *path) {
    static char byte[4096];
    struct stat st;
    if (stat(path, &st)) return 0;
    if (S_ISDIR(st.st_mode)) {
        DIR *dir = opendir(path);
        int n = 0;
        while (dir && readdir(dir)) n++;
        if (dir) closedir(dir);
        return n > 2;
    }
    if (!S_ISREG(st.st_mode)) return 0;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = strcmp(path, "/proc/kmsg") ? read(fd, byte, sizeof byte) : 0;
    close(fd);
    return n >= 0;
}

static void named_path(const char *path) {
    struct stat st;
    if (lstat(path, &st)) {
        report("path/readable/%s\tno absent", path);
        report("path/writable/%s\tno absent", path);
        return;
    }
    report("path/readable/%s\t%s", path, readable(path) ? "yes" : "no empty, masked or refused");
    int fd = S_ISDIR(st.st_mode) ? faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) : open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY);
    int null = S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3);
    report("path/writable/%s\t%s", path, null ? "no /dev/null" : fd >= 0 ? "yes" : "no refused");
    if (fd > 0) close(fd);
}

static const char *PATHS[] = {
    /* masked by Docker */ "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
    /* masked besides */ "/proc/kallsyms", "/proc/kmsg", "/proc/config.gz", "/proc/slabinfo", "/proc/vmallocinfo",
    "/proc/pagetypeinfo", "/proc/iomem", "/proc/ioports", "/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup",
    "/proc/key-users", "/proc/mtrr", "/proc/driver", "/proc/schedstat", "/proc/modules", "/sys/kernel/debug", "/sys/kernel/tracing",
    "/sys/kernel/security", "/sys/kernel/vmcoreinfo", "/sys/kernel/notes", "/sys/kernel/boot_params", "/sys/kernel/slab",
    "/sys/fs/bpf", "/sys/fs/pstore", "/sys/power", "/sys/module",
    /* read-only */ "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sys/kernel/sysrq",
    /* and more that speaks of the machine */ "/proc/1/environ", "/proc/1/mem", "/proc/cmdline", "/proc/cpuinfo", "/proc/meminfo",
    "/proc/self/mem", "/proc/self/mountinfo", "/proc/self/pagemap", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/attr/current",
    "/sys/kernel/uevent_helper", "/sys/kernel/kexec_loaded", "/sys/class/net", "/sys/block", "/sys/fs/cgroup", "/sys/bus/pci/devices",
    "/sys/devices/virtual/dmi/id/product_uuid", "/sys/kernel/btf/vmlinux", "/sys/hypervisor",
    "/etc/shadow", "/dev/shm", "/run/docker.sock", "/var/run/docker.sock"};

/* Walks below `path`: counts what can be read, and names what can be written. */
static void walk(const char *path, const char *label, int depth, int *files, int *read) {
    DIR *dir = opendir(path);
    struct dirent *e;
    char next[1024];
    while (dir && (e = readdir(dir))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || e->d_type == DT_LNK) continue;
        if (snprintf(next, sizeof next, "%s/%s", path, e->d_name) >= COUNT(next)) continue;
        if (e->d_type == DT_DIR) {
            if (depth < 16 && strcmp(next, "/sys/fs/cgroup") && strcmp(next, "/sys/kernel/slab")) walk(next, label, depth + 1, files, read);
            continue;
        }
        /* A file with /dev/null over it is masked. */
        struct stat st;
        if (lstat(next, &st) || S_ISCHR(st.st_mode)) continue;
        (*files)++;
        *read += !faccessat(AT_FDCWD, next, R_OK, AT_EACCESS);
        /* The names of cgroups are not the same twice, so those of their files stand for them. */
        const char *name = strncmp(next, "/sys/fs/cgroup", 14) ? next : strrchr(next, '/') + 1;
        if (!faccessat(AT_FDCWD, next, W_OK, AT_EACCESS)) report("%s/writable/%s\tyes", label, name);
    }
    if (dir) closedir(dir);
}

static void tree(const char *path, const char *label) {
    int files = 0, read = 0;
    walk(path, label, 0, &files, &read);
    report("count/%s, shown\t%d", label, files);
    report("count/%s, readable\t%d", label, read);
}

void files(void) {
    for (int i = 0; i < COUNT(PATHS); i++) named_path(PATHS[i]);
    tree("/sys", "sysfs"), tree("/proc/sys", "sysctl"), tree("/sys/fs/cgroup", "cgroup");
    char name[300];
    struct dirent *e;
    DIR *dir = opendir("/proc");
    while (dir && (e = readdir(dir))) {
        if ((*e->d_name >= '0' && *e->d_name <= '9') || *e->d_name == '.' || e->d_type == DT_LNK) continue;
        snprintf(name, sizeof name, "/proc/%s", e->d_name);
        if (readable(name)) report("proc/shown/%s\tyes", e->d_name);
    }
    if (dir) closedir(dir);
    FILE *symbols = fopen("/proc/kallsyms", "r");
    unsigned long address = 0, any = 0;
    while (symbols && fscanf(symbols, "%lx%*[^\n]", &address) == 1 && !any) any = address;
    report("path/kernel addresses\t%s", any ? "yes" : "no");
}

static long open_device(const long *a) {
    int fd = open((const char *)a[0], (int)a[1] | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    return fd < 0 ? -errno : 0;
}
/* a: directory, mode, device, whether to open. */
static long make_device(const long *a) {
    char path[64];
    snprintf(path, sizeof path, "%s/probe-node", (const char *)a[0]);
    long r = mknod(path, (mode_t)a[1] | 0600, (dev_t)a[2]) ? -errno : 0;
    if (!r && a[3]) {
        int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        r = fd < 0 ? -errno : 0;
    }
    unlink(path);
    return r;
}

void devices(void) {
    char name[96];
    static const char *present[] = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts/ptmx", "kmsg", "mem",
        "port", "kvm", "fuse", "loop-control", "loop0", "sda", "vda", "nvme0n1", "net/tun", "mapper/control", "vsock", "uinput",
        "cpu/0/msr", "hpet", "snapshot", "userfaultfd", "vhost-net", "vhost-vsock", "rtc0", "tty0", "vcs", "btrfs-control", "ppp"};
    for (int i = 0; i < COUNT(present); i++) {
        char path[64];
        snprintf(path, sizeof path, "/dev/%s", present[i]);
        snprintf(name, sizeof name, "device/readable/%s", present[i]), try_it(name, open_device, (long)path, O_RDONLY, 0, 0);
        snprintf(name, sizeof name, "device/writable/%s", present[i]), try_it(name, open_device, (long)path, O_WRONLY, 0, 0);
    }
    static const struct { const char *name; int mode, major, minor; } made[] = {{"fifo", S_IFIFO, 0, 0}, {"null", S_IFCHR, 1, 3},
        {"mem", S_IFCHR, 1, 1}, {"port", S_IFCHR, 1, 4}, {"kmsg", S_IFCHR, 1, 11}, {"tun", S_IFCHR, 10, 200}, {"fuse", S_IFCHR, 10, 229},
        {"loop-control", S_IFCHR, 10, 237}, {"kvm", S_IFCHR, 10, 232}, {"loop0", S_IFBLK, 7, 0}, {"sda", S_IFBLK, 8, 0},
        {"vda", S_IFBLK, 254, 0}, {"whiteout", S_IFCHR, 0, 0}};
    static const char *places[] = {"/", "/dev", "/dev/shm"};
    for (int i = 0; i < COUNT(made); i++)
        for (int p = 0; p < COUNT(places); p++)
            for (int opened = 0; opened < 2; opened++) {
                if (opened && made[i].mode == S_IFIFO) continue;
                const char *kind = made[i].major ? "device" : "node", *what = opened ? "made and opened" : "made";
                snprintf(name, sizeof name, "%s/%s/%s in %s", kind, what, made[i].name, places[p]);
                try_it(name, make_device, (long)places[p], made[i].mode, (long)makedev(made[i].major, made[i].minor), opened);
            }
}
