//! # Safety
//! Raw system calls. This file and `main.rs` hold all the assembly of the helper; the other files call
//! only the safe functions below. They are safe because each takes references or [`Text`] values
//! whose memory outlives the call, and because a wrong descriptor or number is answered by the
//! kernel with an errno: nothing here can make the helper's own memory invalid.

use core::arch::asm;

/// A negative errno as the kernel returns it, made positive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);
pub type Result<T> = core::result::Result<T, Errno>;

pub const ENOENT: i32 = 2;
pub const EINTR: i32 = 4;
pub const EBADF: i32 = 9;
pub const EAGAIN: i32 = 11;
pub const EACCES: i32 = 13;
pub const EBUSY: i32 = 16;
pub const ENOTDIR: i32 = 20;
pub const EIO: i32 = 5;
pub const EINVAL: i32 = 22;
pub const EOVERFLOW: i32 = 75;
pub const ESTALE: i32 = 116;

/// A NUL-terminated string inside the mapped plan or a literal.
#[derive(Clone, Copy)]
pub struct Text(*const u8);

impl Text {
    pub const EMPTY: Text = Text(c"".as_ptr().cast());
    pub const fn literal(s: &'static core::ffi::CStr) -> Text {
        Text(s.as_ptr().cast())
    }
    /// # Safety
    /// `p` points to a NUL-terminated string that is never unmapped.
    pub const unsafe fn from_ptr(p: *const u8) -> Text {
        Text(p)
    }
    /// A NUL-terminated buffer on the caller's stack; `None` without the NUL.
    pub fn from_buf(b: &[u8]) -> Option<Text> {
        b.contains(&0).then_some(Text(b.as_ptr()))
    }
    pub fn bytes(self) -> &'static [u8] {
        let mut n = 0;
        // SAFETY: by construction the string ends with a NUL and stays mapped.
        unsafe {
            while *self.0.add(n) != 0 {
                n += 1;
            }
            core::slice::from_raw_parts(self.0, n)
        }
    }
    fn addr(self) -> usize {
        self.0 as usize
    }
}

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const MMAP: usize = 9;
    pub const SIGACTION: usize = 13;
    pub const SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const SENDMSG: usize = 46;
    pub const RECVMSG: usize = 47;
    pub const SOCKET: usize = 41;
    pub const SOCKETPAIR: usize = 53;
    pub const FSYNC: usize = 74;
    pub const CHDIR: usize = 80;
    pub const FCHDIR: usize = 81;
    pub const CHROOT: usize = 161;
    pub const UMASK: usize = 95;
    pub const GETPID: usize = 39;
    pub const GETPPID: usize = 110;
    pub const SETSID: usize = 112;
    pub const SETGROUPS: usize = 116;
    pub const SETRESUID: usize = 117;
    pub const SETRESGID: usize = 119;
    pub const CAPSET: usize = 126;
    pub const PIVOT_ROOT: usize = 155;
    pub const PRCTL: usize = 157;
    pub const UMOUNT2: usize = 166;
    pub const SETHOSTNAME: usize = 170;
    pub const SETDOMAINNAME: usize = 171;
    pub const CLOCK_GETTIME: usize = 228;
    pub const EXIT_GROUP: usize = 231;
    pub const WAITID: usize = 247;
    pub const KEYCTL: usize = 250;
    pub const OPENAT: usize = 257;
    pub const MKDIRAT: usize = 258;
    pub const MKNODAT: usize = 259;
    pub const FCHOWNAT: usize = 260;
    pub const NEWFSTATAT: usize = 262;
    pub const UNLINKAT: usize = 263;
    pub const SYMLINKAT: usize = 266;
    pub const PPOLL: usize = 271;
    pub const UNSHARE: usize = 272;
    pub const ACCEPT4: usize = 288;
    pub const DUP3: usize = 292;
    pub const PIPE2: usize = 293;
    pub const PRLIMIT64: usize = 302;
    pub const SETNS: usize = 308;
    pub const RENAMEAT2: usize = 316;
    pub const SECCOMP: usize = 317;
    pub const EXECVE: usize = 59;
    pub const KILL: usize = 62;
    pub const FACCESSAT2: usize = 439;
    pub const PWRITE64: usize = 18;
    pub const PREAD64: usize = 17;
    pub const GETCWD: usize = 79;
}
#[cfg(target_arch = "aarch64")]
mod nr {
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const CLOSE: usize = 57;
    pub const MMAP: usize = 222;
    pub const SIGACTION: usize = 134;
    pub const KILL: usize = 129;
    pub const GETPPID: usize = 173;
    pub const SIGPROCMASK: usize = 135;
    pub const IOCTL: usize = 29;
    pub const SENDMSG: usize = 211;
    pub const RECVMSG: usize = 212;
    pub const SOCKET: usize = 198;
    pub const SOCKETPAIR: usize = 199;
    pub const FSYNC: usize = 82;
    pub const CHDIR: usize = 49;
    pub const FCHDIR: usize = 50;
    pub const CHROOT: usize = 51;
    pub const UMASK: usize = 166;
    pub const GETPID: usize = 172;
    pub const SETSID: usize = 157;
    pub const SETGROUPS: usize = 159;
    pub const SETRESUID: usize = 147;
    pub const SETRESGID: usize = 149;
    pub const CAPSET: usize = 91;
    pub const PIVOT_ROOT: usize = 41;
    pub const PRCTL: usize = 167;
    pub const UMOUNT2: usize = 39;
    pub const SETHOSTNAME: usize = 161;
    pub const SETDOMAINNAME: usize = 162;
    pub const CLOCK_GETTIME: usize = 113;
    pub const EXIT_GROUP: usize = 94;
    pub const WAITID: usize = 95;
    pub const KEYCTL: usize = 219;
    pub const OPENAT: usize = 56;
    pub const MKDIRAT: usize = 34;
    pub const MKNODAT: usize = 33;
    pub const FCHOWNAT: usize = 54;
    pub const NEWFSTATAT: usize = 79;
    pub const UNLINKAT: usize = 35;
    pub const SYMLINKAT: usize = 36;
    pub const PPOLL: usize = 73;
    pub const UNSHARE: usize = 97;
    pub const ACCEPT4: usize = 242;
    pub const DUP3: usize = 24;
    pub const PIPE2: usize = 59;
    pub const PRLIMIT64: usize = 261;
    pub const SETNS: usize = 268;
    pub const RENAMEAT2: usize = 276;
    pub const SECCOMP: usize = 277;
    pub const EXECVE: usize = 221;
    pub const FACCESSAT2: usize = 439;
    pub const PWRITE64: usize = 68;
    pub const PREAD64: usize = 67;
    pub const GETCWD: usize = 17;
}
/// The calls since Linux 5.0 have one number on all architectures.
mod nr_common {
    pub const OPEN_TREE: usize = 428;
    pub const MOVE_MOUNT: usize = 429;
    pub const FSOPEN: usize = 430;
    pub const FSCONFIG: usize = 431;
    pub const FSMOUNT: usize = 432;
    pub const CLONE3: usize = 435;
    pub const CLOSE_RANGE: usize = 436;
    pub const OPENAT2: usize = 437;
    pub const MOUNT_SETATTR: usize = 442;
}
use nr_common::*;

#[cfg(target_arch = "x86_64")]
fn raw(n: usize, a: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the x86_64 Linux convention: number in rax, arguments in rdi..r9, rcx and r11 clobbered.
    // Memory named by the arguments is valid by the contract of this file's functions.
    unsafe {
        asm!("syscall", inlateout("rax") n as isize => ret, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    ret
}
#[cfg(target_arch = "aarch64")]
fn raw(n: usize, a: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the aarch64 Linux convention: number in x8, arguments in x0..x5.
    unsafe {
        asm!("svc 0", in("x8") n, inlateout("x0") a[0] => ret, in("x1") a[1], in("x2") a[2],
            in("x3") a[3], in("x4") a[4], in("x5") a[5], options(nostack));
    }
    ret
}
fn call(n: usize, a: [usize; 6]) -> Result<usize> {
    let r = raw(n, a);
    if (-4095..0).contains(&r) { Err(Errno(-r as i32)) } else { Ok(r as usize) }
}
macro_rules! sys {
    ($n:expr $(, $a:expr)*) => {{
        let given = [$($a as usize),*];
        let mut all = [0usize; 6];
        all[..given.len()].copy_from_slice(&given);
        call($n, all)
    }};
}

pub const CWD: i32 = -100;
pub const O_WRONLY: u32 = 1;
pub const O_RDWR: u32 = 2;
pub const O_CREAT: u32 = 0o100;
pub const O_EXCL: u32 = 0o200;
pub const O_NOCTTY: u32 = 0o400;
pub const O_TRUNC: u32 = 0o1000;
pub const O_APPEND: u32 = 0o2000;
pub const O_NONBLOCK: u32 = 0o4000;
pub const O_CLOEXEC: u32 = 0o2000000;
pub const O_PATH: u32 = 0o10000000;
#[cfg(target_arch = "x86_64")]
pub const O_DIRECTORY: u32 = 0o200000;
#[cfg(target_arch = "x86_64")]
pub const O_NOFOLLOW: u32 = 0o400000;
#[cfg(target_arch = "aarch64")]
pub const O_DIRECTORY: u32 = 0o40000;
#[cfg(target_arch = "aarch64")]
pub const O_NOFOLLOW: u32 = 0o100000;

pub fn read(fd: i32, b: &mut [u8]) -> Result<usize> {
    sys!(nr::READ, fd, b.as_mut_ptr(), b.len())
}
pub fn pread(fd: i32, b: &mut [u8]) -> Result<usize> {
    sys!(nr::PREAD64, fd, b.as_mut_ptr(), b.len(), 0)
}
pub fn write(fd: i32, b: &[u8]) -> Result<usize> {
    sys!(nr::WRITE, fd, b.as_ptr(), b.len())
}
pub fn pwrite(fd: i32, b: &[u8]) -> Result<usize> {
    sys!(nr::PWRITE64, fd, b.as_ptr(), b.len(), 0)
}
pub fn write_all(fd: i32, mut b: &[u8]) -> Result<()> {
    while !b.is_empty() {
        match write(fd, b) {
            Ok(n) => b = b.get(n..).unwrap_or(&[]),
            Err(Errno(EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
pub fn close(fd: i32) {
    // Nothing can be done about an error, and the descriptor is gone in any case.
    let _ = sys!(nr::CLOSE, fd);
}
pub fn close_range(first: u32, flags: u32) -> Result<()> {
    sys!(CLOSE_RANGE, first, u32::MAX, flags).map(drop)
}
pub fn openat(dir: i32, path: Text, flags: u32, mode: u32) -> Result<i32> {
    sys!(nr::OPENAT, dir, path.addr(), flags | O_CLOEXEC, mode).map(|f| f as i32)
}
pub const RESOLVE_NO_XDEV: u64 = 1;
pub const RESOLVE_NO_MAGICLINKS: u64 = 2;
pub const RESOLVE_NO_SYMLINKS: u64 = 4;
pub const RESOLVE_BENEATH: u64 = 8;
pub const RESOLVE_IN_ROOT: u64 = 16;
pub fn openat2(dir: i32, path: Text, flags: u32, resolve: u64) -> Result<i32> {
    let how = [u64::from(flags | O_CLOEXEC), 0, resolve];
    sys!(OPENAT2, dir, path.addr(), how.as_ptr(), 24).map(|f| f as i32)
}
pub fn mkdirat(dir: i32, path: Text, mode: u32) -> Result<()> {
    sys!(nr::MKDIRAT, dir, path.addr(), mode).map(drop)
}
pub fn mknodat(dir: i32, path: Text, mode: u32, dev: u64) -> Result<()> {
    sys!(nr::MKNODAT, dir, path.addr(), mode, dev).map(drop)
}
pub fn symlinkat(target: Text, dir: i32, path: Text) -> Result<()> {
    sys!(nr::SYMLINKAT, target.addr(), dir, path.addr()).map(drop)
}
pub fn unlinkat(dir: i32, path: Text, flags: u32) -> Result<()> {
    sys!(nr::UNLINKAT, dir, path.addr(), flags).map(drop)
}
pub fn renameat(from: i32, name: Text, to: i32, new: Text) -> Result<()> {
    sys!(nr::RENAMEAT2, from, name.addr(), to, new.addr(), 0).map(drop)
}
pub fn chown_nofollow(dir: i32, path: Text, uid: u32, gid: u32) -> Result<()> {
    sys!(nr::FCHOWNAT, dir, path.addr(), uid, gid, 0x100 | 0x1000).map(drop)
}
pub fn fsync(fd: i32) -> Result<()> {
    sys!(nr::FSYNC, fd).map(drop)
}
/// `(st_mode, st_rdev, st_size)`.
pub fn fstat(fd: i32) -> Result<(u32, u64, u64)> {
    let mut b = [0u64; 18];
    sys!(nr::NEWFSTATAT, fd, Text::EMPTY.addr(), b.as_mut_ptr(), 0x1000)?;
    #[cfg(target_arch = "x86_64")]
    let mode = b[3] as u32;
    #[cfg(target_arch = "aarch64")]
    let mode = b[2] as u32;
    #[cfg(target_arch = "x86_64")]
    let rdev = b[5];
    #[cfg(target_arch = "aarch64")]
    let rdev = b[4];
    Ok((mode, rdev, b[6]))
}
/// Fills `b` with the stat structure, whose first two words are device and inode everywhere.
pub fn stat_identity(fd: i32, b: &mut [u64; 18]) -> Result<()> {
    sys!(nr::NEWFSTATAT, fd, Text::EMPTY.addr(), b.as_mut_ptr(), 0x1000).map(drop)
}
pub fn exists(path: Text) -> bool {
    sys!(nr::FACCESSAT2, CWD, path.addr(), 0, 0x200).is_ok()
}
pub fn pipe() -> Result<[i32; 2]> {
    let mut p = [-1i32; 2];
    sys!(nr::PIPE2, p.as_mut_ptr(), O_CLOEXEC)?;
    Ok(p)
}
pub fn set_nonblocking(fd: i32) {
    let on = 1i32;
    // FIONBIO; failing means a blocking read after poll said "ready", which cannot hang.
    let _ = sys!(nr::IOCTL, fd, 0x5421, &raw const on);
}
pub fn dup3(from: i32, to: i32) -> Result<()> {
    sys!(nr::DUP3, from, to, 0).map(drop)
}
pub fn socketpair() -> Result<[i32; 2]> {
    let mut p = [-1i32; 2];
    sys!(nr::SOCKETPAIR, 1, 5 | O_CLOEXEC, 0, p.as_mut_ptr())?;
    Ok(p)
}
pub fn accept(fd: i32) -> Result<i32> {
    sys!(nr::ACCEPT4, fd, 0, 0, O_CLOEXEC | O_NONBLOCK).map(|f| f as i32)
}
/// The uid at the other end of a unix socket.
pub fn peer_uid(fd: i32) -> Result<u32> {
    #[cfg(target_arch = "x86_64")]
    const GETSOCKOPT: usize = 55;
    #[cfg(target_arch = "aarch64")]
    const GETSOCKOPT: usize = 209;
    let mut cred = [0u32; 3];
    let mut len = 12u32;
    sys!(GETSOCKOPT, fd, 1, 17, cred.as_mut_ptr(), &raw mut len)?;
    Ok(cred[1])
}
pub fn geteuid() -> u32 {
    #[cfg(target_arch = "x86_64")]
    const GETEUID: usize = 107;
    #[cfg(target_arch = "aarch64")]
    const GETEUID: usize = 175;
    sys!(GETEUID).unwrap_or(0) as u32
}

#[repr(C)]
struct MsgHdr {
    name: usize,
    name_len: u32,
    iov: *const [usize; 2],
    iov_len: usize,
    control: usize,
    control_len: usize,
    flags: i32,
}
#[repr(C, align(8))]
struct Control {
    len: usize,
    level: i32,
    kind: i32,
    fds: [i32; super::wire::FDS_PER_MESSAGE],
}
pub const MSG_DONTWAIT: u32 = 0x40;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
const MSG_CTRUNC: i32 = 8;

/// Sends `b` followed by `tail` as one message, with at most one descriptor.
pub fn send(fd: i32, b: &[u8], tail: &[u8], pass: Option<i32>, flags: u32) -> Result<usize> {
    let iov = [[b.as_ptr() as usize, b.len()], [tail.as_ptr() as usize, tail.len()]];
    let control =
        Control { len: 20, level: 1, kind: 1, fds: [pass.unwrap_or(-1); super::wire::FDS_PER_MESSAGE] };
    let (c, cl) = if pass.is_some() { (&raw const control as usize, 24) } else { (0, 0) };
    let m = MsgHdr { name: 0, name_len: 0, iov: iov.as_ptr(), iov_len: 2, control: c, control_len: cl, flags: 0 };
    sys!(nr::SENDMSG, fd, &raw const m, flags | MSG_NOSIGNAL)
}
/// Receives one message and hands each descriptor that came with it to `take`.
pub fn receive(fd: i32, b: &mut [u8], flags: u32, take: &mut dyn FnMut(i32)) -> Result<usize> {
    let iov = [[b.as_mut_ptr() as usize, b.len()]];
    let mut control = Control { len: 0, level: 0, kind: 0, fds: [-1; super::wire::FDS_PER_MESSAGE] };
    let mut m = MsgHdr {
        name: 0,
        name_len: 0,
        iov: iov.as_ptr(),
        iov_len: 1,
        control: &raw mut control as usize,
        control_len: size_of::<Control>(),
        flags: 0,
    };
    // Both addresses are exposed as mutable, so the compiler knows that the call may write to them.
    let n = sys!(nr::RECVMSG, fd, &raw mut m, flags | MSG_CMSG_CLOEXEC)?;
    if control.level == 1 && control.kind == 1 && control.len >= 20 {
        for f in control.fds.iter().take((control.len - 16) / 4) {
            take(*f);
        }
    }
    if m.flags & MSG_CTRUNC != 0 { Err(Errno(EINVAL)) } else { Ok(n) }
}

/// Maps a descriptor privately for the rest of the helper's life.
pub fn map(fd: i32, len: usize) -> Result<*mut u8> {
    sys!(nr::MMAP, 0, len, 3, 2, fd, 0).map(|a| a as *mut u8)
}

/// The caller dies with its parent (PR_SET_PDEATHSIG); a change of ids cancels it.
pub fn die_with_parent() -> Result<()> {
    prctl(1, SIGKILL as usize, 0).map(drop)
}
pub fn setsid() -> Result<()> {
    sys!(nr::SETSID).map(drop)
}
pub fn getpid() -> i32 {
    sys!(nr::GETPID).unwrap_or(0) as i32
}
/// 0 when the parent is in another pid namespace.
pub fn getppid() -> i32 {
    sys!(nr::GETPPID).unwrap_or(0) as i32
}
pub fn exit(code: i32) -> ! {
    loop {
        let _ = sys!(nr::EXIT_GROUP, code);
    }
}
pub fn prctl(option: u32, a: usize, b: usize) -> Result<usize> {
    sys!(nr::PRCTL, option, a, b, 0, 0)
}
/// Restores every signal's default action: ignored ones are inherited through exec and would
/// break `waitid` here and surprise the container.
pub fn reset_signals() {
    let action = [0usize; 4];
    for signal in 1..=64 {
        let _ = sys!(nr::SIGACTION, signal, action.as_ptr(), 0, 8);
    }
}
pub fn signal_mask(mask: u64) {
    let _ = sys!(nr::SIGPROCMASK, 2, &raw const mask, 0, 8);
}
/// Signals a child that has not been waited for: until then its number is nobody else's.
pub fn kill_child(pid: i32, signal: i32) -> Result<()> {
    sys!(nr::KILL, pid, signal).map(drop)
}

#[repr(C)]
#[derive(Default)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}
pub const CLONE_PIDFD: u64 = 0x1000;
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
pub const SIGCHLD: u64 = 17;
pub const SIGKILL: i32 = 9;
/// A fork-like clone: this process is one thread and a few pages, so the copy is cheap and the
/// child may go on as if nothing had happened. Returns 0 in the child.
pub fn clone3(args: &CloneArgs) -> Result<i32> {
    sys!(CLONE3, args as *const CloneArgs, size_of::<CloneArgs>()).map(|p| p as i32)
}
pub fn unshare(flags: u64) -> Result<()> {
    sys!(nr::UNSHARE, flags).map(drop)
}
pub fn setns(fd: i32, flags: u64) -> Result<()> {
    sys!(nr::SETNS, fd, flags).map(drop)
}

/// `(si_code, si_status, user+system CPU ns, peak memory bytes)` of an exited child.
pub fn wait(pidfd: i32, nohang: bool) -> Result<Option<(i32, i32, u64, u64)>> {
    let mut info = [0i32; 32];
    let mut usage = [0u64; 18];
    let flags = 4 | u32::from(nohang);
    sys!(nr::WAITID, 3, pidfd, info.as_mut_ptr(), flags, usage.as_mut_ptr())?;
    if info[0] == 0 {
        return Ok(None);
    }
    let cpu = (usage[0] + usage[2]) * 1_000_000_000 + (usage[1] + usage[3]) * 1000;
    Ok(Some((info[2], info[6], cpu, usage[4] * 1024)))
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct PollFd {
    pub fd: i32,
    pub events: i16,
    pub revents: i16,
}
pub const POLLIN: i16 = 1;
pub const POLLOUT: i16 = 4;
pub fn poll(fds: &mut [PollFd]) -> Result<usize> {
    sys!(nr::PPOLL, fds.as_mut_ptr(), fds.len(), 0, 0, 8)
}
/// Whether the one descriptor is ready now.
pub fn poll_now(fds: &mut [PollFd; 1]) -> bool {
    let zero = [0u64; 2];
    sys!(nr::PPOLL, fds.as_mut_ptr(), 1, zero.as_ptr(), 0, 8) == Ok(1)
}
pub fn sleep_ms(ms: u64) {
    let time = [0, ms * 1_000_000];
    let _ = sys!(nr::PPOLL, 0, 0, time.as_ptr(), 0, 8);
}
/// CLOCK_REALTIME in ns.
pub fn now() -> u64 {
    let mut t = [0u64; 2];
    let _ = sys!(nr::CLOCK_GETTIME, 0, t.as_mut_ptr());
    t[0] * 1_000_000_000 + t[1]
}

pub fn fsopen(kind: Text) -> Result<i32> {
    sys!(FSOPEN, kind.addr(), 1).map(|f| f as i32)
}
pub fn fsconfig_flag(fd: i32, key: Text) -> Result<()> {
    sys!(FSCONFIG, fd, 0, key.addr(), 0, 0).map(drop)
}
pub fn fsconfig_string(fd: i32, key: Text, value: Text) -> Result<()> {
    sys!(FSCONFIG, fd, 1, key.addr(), value.addr(), 0).map(drop)
}
pub fn fsconfig_fd(fd: i32, key: Text, value: i32) -> Result<()> {
    sys!(FSCONFIG, fd, 5, key.addr(), 0, value).map(drop)
}
pub fn fsconfig_create(fd: i32) -> Result<()> {
    sys!(FSCONFIG, fd, 6, 0, 0, 0).map(drop)
}
pub fn fsmount(fd: i32, attr: u64) -> Result<i32> {
    sys!(FSMOUNT, fd, 1, attr).map(|f| f as i32)
}
pub const AT_EMPTY_PATH: u32 = 0x1000;
pub const AT_RECURSIVE: u32 = 0x8000;
pub fn open_tree(dir: i32, path: Text, recursive: bool) -> Result<i32> {
    let flags = 1 | O_CLOEXEC | AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    sys!(OPEN_TREE, dir, path.addr(), flags).map(|f| f as i32)
}
pub fn move_mount(mount: i32, target: i32) -> Result<()> {
    sys!(MOVE_MOUNT, mount, Text::EMPTY.addr(), target, Text::EMPTY.addr(), 0x4 | 0x40).map(drop)
}
pub const MOUNT_ATTR_RDONLY: u64 = 1;
pub const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
pub const MS_PRIVATE: u64 = 1 << 18;
pub fn mount_setattr(dir: i32, path: Text, set: u64, clear: u64, propagation: u64, userns: i32, recursive: bool) -> Result<()> {
    let attr = [set, clear, propagation, userns as u64];
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    sys!(MOUNT_SETATTR, dir, path.addr(), flags, attr.as_ptr(), 32).map(drop)
}
/// Makes the current directory the root; the old root is then stacked on it.
pub fn pivot_root_here() -> Result<()> {
    let dot = Text::literal(c".");
    sys!(nr::PIVOT_ROOT, dot.addr(), dot.addr()).map(drop)
}
/// Detaches the topmost mount at the current directory.
pub fn unmount_here() -> Result<()> {
    sys!(nr::UMOUNT2, Text::literal(c".").addr(), 2).map(drop)
}
/// Makes the current directory the root of this process.
pub fn chroot_here() -> Result<()> {
    sys!(nr::CHROOT, Text::literal(c".").addr()).map(drop)
}
pub fn chdir(path: Text) -> Result<()> {
    sys!(nr::CHDIR, path.addr()).map(drop)
}
pub fn fchdir(fd: i32) -> Result<()> {
    sys!(nr::FCHDIR, fd).map(drop)
}
/// The current directory, for the check that it lies below "/".
pub fn getcwd(b: &mut [u8]) -> Result<usize> {
    sys!(nr::GETCWD, b.as_mut_ptr(), b.len())
}
pub fn sethostname(name: Text, len: usize) -> Result<()> {
    sys!(nr::SETHOSTNAME, name.addr(), len).map(drop)
}
pub fn setdomainname(name: Text, len: usize) -> Result<()> {
    sys!(nr::SETDOMAINNAME, name.addr(), len).map(drop)
}
/// Brings `lo` up in the current network namespace.
pub fn loopback_up() -> Result<()> {
    let fd = sys!(nr::SOCKET, 2, 2 | O_CLOEXEC, 0)? as i32;
    // struct ifreq: 16 bytes of name, then the flags IFF_UP | IFF_RUNNING.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16] = 0x41;
    let r = sys!(nr::IOCTL, fd, 0x8914, request.as_ptr());
    close(fd);
    r.map(drop)
}
pub fn rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    sys!(nr::PRLIMIT64, 0, resource, limit.as_ptr(), 0).map(drop)
}
pub fn setgroups(groups: &[u32]) -> Result<()> {
    sys!(nr::SETGROUPS, groups.len(), groups.as_ptr()).map(drop)
}
pub fn setresgid(gid: u32) -> Result<()> {
    sys!(nr::SETRESGID, gid, gid, gid).map(drop)
}
pub fn setresuid(uid: u32) -> Result<()> {
    sys!(nr::SETRESUID, uid, uid, uid).map(drop)
}
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = [0x2008_0522u32, 0];
    let data = [
        effective as u32,
        permitted as u32,
        inheritable as u32,
        (effective >> 32) as u32,
        (permitted >> 32) as u32,
        (inheritable >> 32) as u32,
    ];
    sys!(nr::CAPSET, header.as_ptr(), data.as_ptr()).map(drop)
}
/// # Safety
/// `program` points to `len` valid BPF instructions of 8 bytes.
pub unsafe fn seccomp(program: *const u8, len: u16) -> Result<()> {
    #[repr(C)]
    struct Prog {
        len: u16,
        filter: *const u8,
    }
    let p = Prog { len, filter: program };
    sys!(nr::SECCOMP, 1, 0, &raw const p).map(drop)
}
pub fn join_session_keyring(name: Text) -> Result<()> {
    sys!(nr::KEYCTL, 1, name.addr()).map(drop)
}
/// Whose files the next ones are (setfsuid(2)); cannot fail for root.
pub fn set_fs_ids(uid: u32, gid: u32) {
    #[cfg(target_arch = "x86_64")]
    const SETFS: [usize; 2] = [122, 123];
    #[cfg(target_arch = "aarch64")]
    const SETFS: [usize; 2] = [151, 152];
    let _ = sys!(SETFS[1], gid);
    let _ = sys!(SETFS[0], uid);
}
pub fn umask(mask: u32) {
    let _ = sys!(nr::UMASK, mask);
}
/// # Safety
/// `argv` and `envp` are null-terminated arrays of pointers to strings.
pub unsafe fn execve(path: Text, argv: *const usize, envp: *const usize) -> Errno {
    match sys!(nr::EXECVE, path.addr(), argv, envp) {
        Err(e) => e,
        Ok(_) => Errno(EINVAL),
    }
}
pub fn set_controlling_terminal(fd: i32) -> Result<()> {
    sys!(nr::IOCTL, fd, 0x540e, 0).map(drop)
}
pub fn unlock_pty(master: i32) -> Result<()> {
    let off = 0i32;
    sys!(nr::IOCTL, master, 0x4004_5431u32, &raw const off).map(drop)
}
/// The other end of a pty, by descriptor: no path is looked up (TIOCGPTPEER).
pub fn pty_peer(master: i32) -> Result<i32> {
    sys!(nr::IOCTL, master, 0x5441, O_RDWR | O_NOCTTY | O_CLOEXEC).map(|f| f as i32)
}
/// N of `/dev/pts/N` (TIOCGPTN).
pub fn pty_number(master: i32) -> Result<u32> {
    let mut n = 0u32;
    sys!(nr::IOCTL, master, 0x8004_5430u32, &raw mut n)?;
    Ok(n)
}
pub fn set_window_size(fd: i32, rows: u16, columns: u16) -> Result<()> {
    let size = [rows, columns, 0, 0];
    sys!(nr::IOCTL, fd, 0x5414, size.as_ptr()).map(drop)
}
