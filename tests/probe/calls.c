/* System calls by number, and what filters say to them. */
#include "probe.h"
#include "names.h"

#define CALLS 512
#define X32 0x40000000
#define MARK 0x5afe5afe
#define PASSED 0x5afe

long native(long nr, const long *a, long mark) {
    register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = mark;
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return r;
}

long i386(long nr, const long *a, long mark) {
    int r;
    __asm__ volatile("lea -128(%%rsp), %%rsp; push %%rbp; mov %7, %%ebp; int $0x80; pop %%rbp; lea 128(%%rsp), %%rsp"
                     : "=a"(r) : "a"((int)nr), "b"((int)a[0]), "c"((int)a[1]), "d"((int)a[2]), "S"((int)a[3]),
                       "D"((int)a[4]), "r"((int)mark) : "memory", "r8", "r9", "r10", "r11");
    return r;
}

/* a: ABI, number, mark, then five arguments. */
static long call(const long *a) {
    return a[0] == I386 ? i386(a[1], a + 3, a[2]) : native(a[0] == X32_ABI ? a[1] | X32 : a[1], a + 3, a[2]);
}

void answer(void) {
    struct seccomp_notif ask = {0};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &ask)) return;
    struct seccomp_notif_resp say = {.id = ask.id, .val = PASSED};
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &say);
}

int install_listener(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MARK, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {COUNT(code), code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return listener = (int)SYS(seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* Does the call pass all filters? `why` says what refuses it. */
static int passes(int abi, long nr, const long *a, char *why) {
    long arguments[8] = {abi, nr, MARK, a[0], a[1], a[2], a[3], a[4]}, r;
    int how = guarded(call, arguments, &r);
    if (how == RETURNED && r == PASSED) return 1;
    if (how == RETURNED) sprintf(why, "filter says %s", error_name(-r));
    else sprintf(why, how == KILLED ? "killed by signal %ld" : "hung", r);
    return 0;
}

/* These end, stop or copy the caller, wait for ever, or act on the whole machine whatever their arguments. */
static const char *NOT_TRIED[] = {"exit", "exit_group", "fork", "pause", "rt_sigreturn", "sigreturn", "sigsuspend",
                                  "sync", "uprobe", "uretprobe", "vfork", "vhangup"};

/* All arguments are -1 (no descriptor, address, flag or process) unless the kernel or a filter could not
 * tell the call from one that does not exist, or the call would have an effect. */
static const struct { const char *name; long a[5]; } GIVEN[] = {
    {"alarm", {0}}, {"clone", {0x800}}, {"futex", {(long)word, 1}}, {"futex_time64", {(long)word, 1}}, {"ipc", {2, 0x7fffffff}},
    {"kill", {0x7fffffff}}, {"modify_ldt", {0, (long)word, 0}}, {"msgget", {0x7fffffff}}, {"nice", {0}}, {"personality", {0xffffffff}},
    {"semget", {0x7fffffff}}, {"shmget", {0x7fffffff, 1}}, {"socket", {1, -1}}, {"socketpair", {1, -1}}, {"umask", {0}},
};

static const long *arguments_of(const char *name) {
    static const long none[5] = {-1, -1, -1, -1, -1};
    for (int i = 0; i < COUNT(GIVEN); i++)
        if (name && !strcmp(GIVEN[i].name, name)) return GIVEN[i].a;
    return none;
}

static int tried(const char *name) {
    for (int i = 0; i < COUNT(NOT_TRIED); i++)
        if (name && !strcmp(NOT_TRIED[i], name)) return 0;
    return 1;
}

static void system_call(int abi, const char *label, const char *name, int nr) {
    char full[80], why[64];
    snprintf(full, sizeof full, "syscall/%s/%03d %s", label, nr, name ? name : "");
    const long *a = arguments_of(name);
    if (!passes(abi, nr, a, why)) {
        report("%s\tno %s", full, why);
        return;
    }
    long arguments[8] = {abi, nr, 0, a[0], a[1], a[2], a[3], a[4]}, r;
    if (!tried(name)) {
        int there = abi != X32_ABI || native(SYS_getpid | X32, arguments, 0) != -ENOSYS;
        report("%s\t%s", full, there ? "yes not tried" : "no kernel has none");
        return;
    }
    switch (guarded(call, arguments, &r)) {
    case RETURNED:
        if (r == -ENOSYS) report("%s\tno kernel has none", full);
        else report("%s\tyes %s", full, r < 0 && r > -4096 ? error_name(-r) : "ok");
        break;
    case KILLED: report("%s\tyes signal %ld", full, r); break;
    default: report("%s\tyes hung", full);
    }
}

void system_calls(void) {
    for (int nr = 0; nr < CALLS; nr++) {
        system_call(NATIVE, "native", native_names[nr], nr);
        system_call(I386, "i386", i386_names[nr], nr);
        system_call(X32_ABI, "x32", native_names[nr], nr);
    }
}

void passing(const char *name, int abi, long nr, long a, long b, long c) {
    long arguments[5] = {a, b, c, 0, 0};
    char why[64];
    if (passes(abi, nr, arguments, why)) report("%s\tyes", name);
    else report("%s\tno %s", name, why);
}
