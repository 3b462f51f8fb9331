//! The three policies. `compat` follows Docker's published default; the others are made from it by
//! taking away, so that each is a subset of the one before.

use super::{Action, Argument, Condition, Operator, Profile, Rule};

/// Calls that every container may make.
const COMMON: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 \
clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 \
epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit \
exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 \
fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork \
fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue \
futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 \
geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid \
getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid \
getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch \
inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents \
io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule \
landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr \
listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier \
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect \
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink \
mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat \
_newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free \
pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 \
pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg \
recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall \
riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam \
sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp \
select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid \
setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid \
setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid \
setsockopt set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown \
sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 \
statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete \
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink \
unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev \
arch_prctl modify_ldt";

/// Other processes of the same container; Docker allows them since kernel 4.8 fixed seccomp there.
const TRACING: &str = "process_vm_readv process_vm_writev ptrace";

/// Calls that Docker's policy came to allow after its release 20.10. `secure` gives less than every Docker
/// does, and to a program they look like calls of a newer kernel, which it does without.
const SINCE_DOCKER_20: &str = "cachestat fchmodat2 futex_requeue futex_wait futex_wake getxattrat listxattrat mseal \
pkey_alloc pkey_free pkey_mprotect process_vm_readv process_vm_writev removexattrat setxattrat";

/// What a capability of the container adds under `compat` (and Docker).
const BY_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_set_self_attr lsm_list_modules mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// What `secure` takes from [`COMMON`]: old ABIs, handles, and interfaces with a bad record.
const NOT_SECURE: &[&str] = &[
    "adjtimex",
    "clock_adjtime",
    "clock_adjtime64",
    "fanotify_mark",
    "modify_ldt",
    "name_to_handle_at",
    "epoll_ctl_old",
    "epoll_wait_old",
    "io_cancel",
    "socketcall",
    "ipc",
    "remap_file_pages",
    "memfd_secret",
    "uretprobe",
    "vmsplice",
    "statmount",
    "listmount",
];

/// CLONE_NEW* except CLONE_NEWTIME, which shares its bit with the exit signal of clone(2).
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff];
const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
const NETLINK_ROUTE: u64 = 0;
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;
const ENOSYS: u32 = 38;
const EPROTONOSUPPORT: u32 = 93;
/// The kernel looks at the low 32 bits of these arguments, so the filter must, too.
const INT: u64 = 0xffff_ffff;

fn rule(names: &str, action: Action, args: Vec<Argument>) -> Rule {
    Rule {
        names: names.split_whitespace().map(str::to_owned).collect(),
        action,
        errno_ret: None,
        args,
        includes: Condition::default(),
        excludes: Condition::default(),
    }
}

fn allow(names: &str) -> Rule {
    rule(names, Action::Allow, Vec::new())
}

fn int_equals(index: u32, value: u64) -> Argument {
    Argument { index, value: INT, value_two: value, op: Operator::MaskedEqual }
}

fn caps(names: &[&str]) -> Condition {
    Condition { caps: names.iter().map(|s| (*s).to_owned()).collect(), ..Condition::default() }
}

fn profile(architectures: &[&str], syscalls: Vec<Rule>) -> Profile {
    Profile {
        default_action: Action::Errno,
        default_errno_ret: Some(1),
        architectures: architectures.iter().map(|s| (*s).to_owned()).collect(),
        arch_map: Vec::new(),
        syscalls,
    }
}

/// clone(2) without namespaces; clone3(2), whose flags a filter cannot read, as if it did not exist.
fn clone_rules() -> [Rule; 2] {
    let no_namespaces =
        Argument { index: 0, value: NAMESPACE_FLAGS, value_two: 0, op: Operator::MaskedEqual };
    let mut clone = rule("clone", Action::Allow, vec![no_namespaces]);
    clone.excludes = caps(&["CAP_SYS_ADMIN"]);
    let mut clone3 = rule("clone3", Action::Errno, Vec::new());
    clone3.errno_ret = Some(ENOSYS);
    clone3.excludes = caps(&["CAP_SYS_ADMIN"]);
    [clone, clone3]
}

/// As if the kernel did not have these calls, so that programs take the older way.
fn unknown(names: &str) -> Rule {
    Rule { errno_ret: Some(ENOSYS), ..rule(names, Action::Errno, Vec::new()) }
}

/// Calls that Docker's policy does not have yet.
fn too_new() -> Rule {
    unknown("file_getattr file_setattr")
}

fn by_capability() -> impl Iterator<Item = Rule> {
    BY_CAPABILITY.iter().map(|(cap, names)| Rule { includes: caps(&[cap]), ..allow(names) })
}

pub(super) fn compat() -> Profile {
    let mut rules = vec![allow(COMMON), allow(TRACING)];
    rules.extend(PERSONALITIES.map(|p| rule("personality", Action::Allow, vec![int_equals(0, p)])));
    rules.extend([AF_ALG, AF_VSOCK].map(|family| rule("socket", Action::Errno, vec![int_equals(0, family)])));
    rules.push(allow("socket"));
    rules.extend(clone_rules());
    rules.push(too_new());
    rules.extend(by_capability());
    profile(&["SCMP_ARCH_X86"], rules)
}

fn common_secure(extra: &str) -> Rule {
    let mut common = allow(COMMON);
    let newer: Vec<&str> = SINCE_DOCKER_20.split_whitespace().collect();
    common.names.retain(|n| {
        let n = n.as_str();
        !NOT_SECURE.contains(&n) && !newer.contains(&n) && !["ioctl", "socketpair"].contains(&n)
    });
    common.names.extend(extra.split_whitespace().map(str::to_owned));
    common
}

fn without_injection() -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        [TIOCSTI, TIOCLINUX].map(|c| rule("ioctl", Action::Errno, vec![int_equals(1, c)])).into();
    rules.push(allow("ioctl"));
    rules
}

/// Sockets of these families; pairs of unix sockets only, because even a refused pair makes the kernel
/// load the family's module.
fn sockets(families: &[u64]) -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        families.iter().map(|f| rule("socket", Action::Allow, vec![int_equals(0, *f)])).collect();
    rules.push(rule("socketpair", Action::Allow, vec![int_equals(0, AF_UNIX)]));
    rules
}

/// Other netlink protocols do not exist: useradd and its kin go on without audit then, but give up
/// when the kernel says EPERM.
fn no_netlink() -> Rule {
    Rule {
        errno_ret: Some(EPROTONOSUPPORT),
        ..rule("socket", Action::Errno, vec![int_equals(0, AF_NETLINK)])
    }
}

fn personality_query() -> impl Iterator<Item = Rule> {
    [0, INT].into_iter().map(|p| rule("personality", Action::Allow, vec![int_equals(0, p)]))
}

pub(super) fn secure() -> Profile {
    let mut rules = vec![common_secure("ptrace"), unknown(SINCE_DOCKER_20)];
    rules.extend(without_injection());
    rules.extend(sockets(&[AF_UNIX, AF_INET, AF_INET6]));
    rules.push(rule("socket", Action::Allow, vec![int_equals(0, AF_NETLINK), int_equals(2, NETLINK_ROUTE)]));
    rules.push(no_netlink());
    rules.extend(personality_query());
    rules.extend(clone_rules());
    rules.push(too_new());
    rules.extend(by_capability());
    profile(&[], rules)
}

pub(super) fn strict() -> Profile {
    let mut rules = vec![common_secure(""), unknown(SINCE_DOCKER_20)];
    rules.extend(without_injection());
    rules.extend(sockets(&[AF_UNIX, AF_INET, AF_INET6]));
    rules.push(no_netlink());
    rules.extend(personality_query());
    rules.extend(clone_rules());
    rules.push(too_new());
    profile(&[], rules)
}
