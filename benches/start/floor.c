/* The floor: the kernel objects of one container with nothing around them. For every line on stdin it
 * makes, runs and removes one, and answers with the nanoseconds it took.
 *
 *   floor <lower dir> <scratch dir> <program> [hierarchy dir...]
 *
 * One volatile overlay, proc, a /dev of six nodes, devpts, shm, mqueue, sysfs, ten masked and five
 * read-only paths, pivot_root, 14 capabilities, a seccomp program of 91 instructions, lo, one cgroup in
 * every hierarchy given, and pid, mount, net, ipc, uts and cgroup namespaces. The child shares memory with
 * this program (CLONE_VM), which a library in somebody's process must not do; see ARCHITECTURE.md. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *lower, *scratch, *program;
static char **hierarchies;
static int hierarchy_count;
static char dir[300], name[64];
static struct sock_filter filter[128];
static struct sock_fprog bpf;

static void must(long r, const char *what) {
    if (r < 0) {
        dprintf(2, "floor: %s: %s\n", what, strerror(errno));
        _exit(1);
    }
}
static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}
static int attach(int fs, unsigned flags, const char *to) {
    must(syscall(SYS_fsconfig, fs, 6, 0, 0, 0), to);
    int m = syscall(SYS_fsmount, fs, 1, flags);
    must(m, to);
    must(syscall(SYS_move_mount, m, "", AT_FDCWD, to, 4), to);
    close(fs);
    return m;
}
static int open_fs(const char *kind) {
    int fs = syscall(SYS_fsopen, kind, 1);
    must(fs, kind);
    return fs;
}
static void option(int fs, const char *key, const char *value) { must(syscall(SYS_fsconfig, fs, 1, key, value, 0), key); }

static void cover(const char *path, const char *with, int read_only) {
    int t = syscall(SYS_open_tree, AT_FDCWD, with, 1 | O_CLOEXEC);
    if (t < 0) return;
    unsigned long attr[4] = {1, 0, 0, 0};
    if (read_only) must(syscall(SYS_mount_setattr, t, "", AT_EMPTY_PATH, attr, 32), path);
    syscall(SYS_move_mount, t, "", AT_FDCWD, path, 4);
    close(t);
}

static void tree(void) {
    char path[600];
    must(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0), "private");
    int fs = open_fs("overlay");
    option(fs, "lowerdir", lower);
    snprintf(path, sizeof path, "%s/u", dir);
    option(fs, "upperdir", path);
    snprintf(path, sizeof path, "%s/w", dir);
    option(fs, "workdir", path);
    must(syscall(SYS_fsconfig, fs, 0, "volatile", 0, 0), "volatile");
    snprintf(path, sizeof path, "%s/m", dir);
    close(attach(fs, 0, path));
    must(chdir(path), "chdir");
    close(attach(open_fs("proc"), 0xe, "proc"));
    fs = open_fs("tmpfs");
    option(fs, "mode", "755");
    close(attach(fs, 2, "dev"));
    static const struct { const char *n; int ma, mi; } nodes[] = {
        {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0}};
    for (int i = 0; i < 6; i++) must(mknod(nodes[i].n, S_IFCHR | 0666, makedev(nodes[i].ma, nodes[i].mi)), nodes[i].n);
    must(symlink("/proc/self/fd", "dev/fd"), "link");
    must(symlink("/proc/self/fd/0", "dev/stdin"), "link");
    must(symlink("/proc/self/fd/1", "dev/stdout"), "link");
    must(symlink("/proc/self/fd/2", "dev/stderr"), "link");
    must(symlink("pts/ptmx", "dev/ptmx"), "link");
    mkdir("dev/pts", 0755), mkdir("dev/shm", 01777), mkdir("dev/mqueue", 0755);
    fs = open_fs("devpts");
    option(fs, "mode", "620"), option(fs, "ptmxmode", "666");
    close(attach(fs, 0xa, "dev/pts"));
    close(attach(open_fs("tmpfs"), 0xe, "dev/shm"));
    close(attach(open_fs("mqueue"), 0xe, "dev/mqueue"));
    close(attach(open_fs("sysfs"), 0xf, "sys"));
    static const char *masked[] = {"proc/kcore", "proc/keys", "proc/timer_list", "proc/interrupts", "proc/kallsyms",
                                   "proc/kmsg", "proc/slabinfo", "proc/iomem", "proc/ioports", "proc/vmallocinfo"};
    for (int i = 0; i < 10; i++) cover(masked[i], "dev/null", 0);
    static const char *read_only[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
    for (int i = 0; i < 5; i++) cover(read_only[i], read_only[i], 1);
    must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    must(umount2(".", MNT_DETACH), "umount");
    must(chdir("/"), "chdir");
}

static int child(void *unused) {
    (void)unused;
    char path[600];
    for (int i = 0; i < hierarchy_count; i++) {
        /* The v2 tree is joined by the clone itself elsewhere; writing a pid there would wait. */
        if (strstr(hierarchies[i], "unified")) continue;
        snprintf(path, sizeof path, "%s/%s/tasks", hierarchies[i], name);
        int f = open(path, O_WRONLY | O_CLOEXEC);
        must(f, path);
        must(write(f, "0", 1), path);
        close(f);
    }
    must(unshare(CLONE_NEWCGROUP), "cgroup namespace");
    struct ifreq lo = {.ifr_name = "lo"};
    lo.ifr_flags = IFF_UP | IFF_RUNNING;
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    must(ioctl(s, SIOCSIFFLAGS, &lo), "lo");
    close(s);
    must(sethostname("floor", 5), "hostname");
    tree();
    setsid();
    unsigned long keep = 0xa80425fb;
    for (int i = 0; i <= 40; i++)
        if (!(keep >> i & 1)) prctl(PR_CAPBSET_DROP, i);
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2] = {{keep, keep, 0}, {keep >> 32, keep >> 32, 0}};
    must(syscall(SYS_capset, &h, d), "capset");
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &bpf), "seccomp");
    char *argv[] = {(char *)program, 0}, *env[] = {"PATH=/bin", 0};
    execve(program, argv, env);
    must(-1, program);
    return 1;
}

static void once(void) {
    static int count;
    static char stack[1 << 18] __attribute__((aligned(16)));
    char path[600];
    snprintf(name, sizeof name, "floor%d_%d", getpid(), count++);
    snprintf(dir, sizeof dir, "%s/%s", scratch, name);
    must(mkdir(dir, 0700), dir);
    static const char *parts[] = {"m", "u", "w"};
    for (int i = 0; i < 3; i++) snprintf(path, sizeof path, "%s/%s", dir, parts[i]), must(mkdir(path, 0755), path);
    for (int i = 0; i < hierarchy_count; i++) {
        snprintf(path, sizeof path, "%s/%s", hierarchies[i], name);
        must(mkdir(path, 0755), path);
    }
    int pidfd = -1;
    int flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    must(clone(child, stack + sizeof stack, flags | SIGCHLD, 0, &pidfd, 0, 0), "clone");
    siginfo_t si;
    must(waitid(3, pidfd, &si, WEXITED), "wait");
    close(pidfd);
    if (si.si_status) exit(1);
    for (int i = 0; i < hierarchy_count; i++) {
        snprintf(path, sizeof path, "%s/%s", hierarchies[i], name);
        while (rmdir(path) < 0 && errno == EBUSY) sched_yield();
    }
    static const char *rest[] = {"m", "u", "w/work/incompat/volatile/dirty", "w/work/incompat/volatile", "w/work/incompat", "w/work", "w", ""};
    for (int i = 0; i < 8; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, rest[i]);
        if (unlink(path) < 0) rmdir(path);
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    lower = argv[1], scratch = argv[2], program = argv[3];
    hierarchies = argv + 4, hierarchy_count = argc - 4;
    umask(0);
    /* 43 intervals of alternately allowed and refused calls above the numbers that exist: a filter of the
     * size of Docker's policy as an interval tree, which allows everything. */
    int n = 0;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
    for (int i = 0; i < 44; i++) {
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 2000 + i, 0, 1);
        filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1);
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    bpf.len = n, bpf.filter = filter;
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        long begin = now();
        once();
        printf("%ld\n", now() - begin);
        fflush(stdout);
    }
    return 0;
}
