/* What can a program in here reach? One line per check, sorted: a name, a tab, and `yes` (reached), `no`
 * or a number, with the detail after it. All checks are put so that `yes` and more mean more reach; a
 * line that is missing (of a file that another place does not even show) is a `no`.
 *
 *   probe [the host's namespaces, as `readlink /proc/self/ns/<name>` shows them...]
 *
 * Whether a seccomp filter lets a call through is asked without making the call: the probe adds a filter
 * of its own that hands calls with a mark in their sixth argument to a listener. Any refusal by another
 * filter takes precedence, so the listener sees exactly what passes, and answers in the kernel's place.
 * What is then made for real has arguments that fail without effect, or is on the list NOT_TRIED, and
 * runs in a process of its own with a time limit. Files are opened for writing but never written.
 *
 * Built by program.rs with `cc -static -no-pie -O2`. */
#include "probe.h"

/* Milliseconds: long, because nothing that is tried waits, and a busy machine must not look like a hanging call. */
#define LIMIT 5000

static long *shared;
static char **lines;
static int line_count;
int listener = -1;
long word[64];

void report(const char *format, ...) {
    va_list va;
    va_start(va, format);
    if (line_count % 1024 == 0) lines = realloc(lines, (line_count + 1024) * sizeof *lines);
    if (!lines || vasprintf(&lines[line_count++], format, va) < 0) _exit(3);
    va_end(va);
}

const char *error_name(long e) {
    static char number[32];
    const char *name = e > 0 && e < 4096 ? strerrorname_np((int)e) : NULL;
    if (name) return name;
    snprintf(number, sizeof number, "errno %ld", e);
    return number;
}

/* A thing that is done or refused. */
static void done(const char *name, long r, const char *detail) {
    if (r >= 0) report("%s\tyes%s%s", name, *detail ? " " : "", detail);
    else report("%s\tno %s", name, error_name(-r));
}

long sys(long nr, long a, long b, long c, long d, long e) {
    long r = syscall(nr, a, b, c, d, e, 0L);
    return r < 0 ? -errno : r;
}

int guarded(attempt f, const long *a, long *result) {
    int pipes[2];
    if (pipe(pipes)) _exit(3);
    pid_t child = fork();
    if (child < 0) _exit(3);
    if (!child) {
        /* The kernel's message of a death is of no use to the one who looks on. */
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        close(pipes[0]);
        *shared = f(a);
        /* Not _exit(2), which leaves the mark where it may still be, in the register of argument six. */
        native(SYS_exit_group, (const long[5]){0}, 0);
    }
    close(pipes[1]);
    struct pollfd watched[2] = {{pipes[0], POLLIN, 0}, {listener, POLLIN, 0}};
    int status, hung = 0;
    while (!(watched[0].revents & POLLHUP) && !hung) {
        hung = !poll(watched, listener < 0 ? 1 : 2, LIMIT);
        if (watched[1].revents & POLLIN) answer();
    }
    if (hung) kill(child, SIGKILL);
    close(pipes[0]);
    waitpid(child, &status, 0);
    *result = WIFSIGNALED(status) ? WTERMSIG(status) : *shared;
    return hung ? HUNG : WIFSIGNALED(status) ? KILLED : RETURNED;
}

void try_it(const char *name, attempt f, long a, long b, long c, long d) {
    long arguments[5] = {a, b, c, d, 0}, r;
    switch (guarded(f, arguments, &r)) {
    case RETURNED: done(name, r, ""); break;
    case KILLED: report("%s\tno killed by signal %ld", name, r); break;
    default: report("%s\tno hung", name);
    }
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int in_a_container(int argc, char **argv) {
    char link[64];
    ssize_t n = readlink("/proc/self/ns/mnt", link, sizeof link - 1);
    link[n > 0 ? n : 0] = 0;
    int known = 0, same = 0;
    for (int i = 1; i < argc; i++) known |= !strncmp(argv[i], "mnt:", 4), same |= !strcmp(argv[i], link);
    return n > 0 && known && !same;
}

int main(int argc, char **argv) {
    if (!in_a_container(argc, argv)) {
        fprintf(stderr, "probe: only in a mount namespace other than the host's, which must be given: it tries to unmount\n");
        return 2;
    }
    shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 3;
    identity();
    if (install_listener() < 0) {
        fprintf(stderr, "probe: no seccomp listener: %s\n", error_name(-listener));
        return 3;
    }
    system_calls();
    sockets();
    namespaces(argc, argv);
    powers();
    files();
    devices();
    mounts();
    qsort(lines, line_count, sizeof *lines, by_text);
    for (int i = 0; i < line_count; i++) puts(lines[i]);
    return 0;
}
