/* What the parts of the probe share; probe.c says what it is. */
#pragma once
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

typedef long (*attempt)(const long *);
enum { NATIVE, I386, X32_ABI };
enum { RETURNED, KILLED, HUNG };

#define SYS(name, ...) SYS_(SYS_##name, ##__VA_ARGS__, 0, 0, 0, 0, 0)
#define SYS_(nr, a, b, c, d, e, ...) sys(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

/* Memory that calls may read and write: it has an address that fits into 32 bits. */
extern long word[64];

__attribute__((format(printf, 1, 2))) void report(const char *format, ...);
const char *error_name(long e);
/* A system call through the C library: the result or a negative errno. */
long sys(long nr, long a, long b, long c, long d, long e);
/* Makes an attempt in a process of its own, so that its death, its hanging and its effects are its own. */
int guarded(attempt f, const long *a, long *result);
/* The same, and reports whether it succeeded. */
void try_it(const char *name, attempt f, long a, long b, long c, long d);
/* Reports whether a call with these arguments passes all filters. */
void passing(const char *name, int abi, long nr, long a, long b, long c);
/* An i386 call with five arguments and a sixth. */
long i386(long nr, const long *a, long sixth);

/* The same of the native ABI. */
long native(long nr, const long *a, long sixth);

extern int listener;
int install_listener(void);
/* Answers what has passed all other filters. */
void answer(void);
void system_calls(void);
void sockets(void);
void identity(void);
void namespaces(int argc, char **argv);
void powers(void);
void mounts(void);
void files(void);
void devices(void);
