//! The format in which the library hands a compiled plan to the helper, and in which the helper
//! answers. Included by both sides, so that there is one definition; plain data, no unsafe code.
//!
//! A plan is one sealed memfd: [`Header`], an array of [`Op`], then a data area. Strings are
//! NUL-terminated and named by their offset from the start of the memfd; offset 0 means "none".
//! Descriptors travel by `SCM_RIGHTS` and are named by their *slot*, an index into one table; slots
//! above those sent are registers which the operations fill (`fsopen` results, detached mounts).

/// First word of a plan and of every message.
pub const MAGIC: u32 = 0x6278_7368;
/// Changes whenever this file does; helper and library are built together.
pub const VERSION: u32 = 1;
/// Size of the descriptor table.
pub const MAX_SLOTS: usize = 1024;
/// "No descriptor".
pub const NO_SLOT: u32 = u32::MAX;
/// Descriptors that one message may carry (the kernel's SCM_MAX_FD is 253).
pub const FDS_PER_MESSAGE: usize = 200;

/// What the monitor needs to know; everything the container needs is in the operations.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub magic: u32,
    pub version: u32,
    pub total: u32,
    pub ops: u32,
    pub op_count: u32,
    pub fd_count: u32,
    pub flags: u32,
    /// Host-side ids of the container's root, the owner of what the set-up creates.
    pub root_uid: u32,
    pub root_gid: u32,
    /// Namespaces of the container's clone3.
    pub clone_flags: u64,
    /// Namespaces of the donor (see `spawn.rs`); 0 = no donor.
    pub donor_flags: u64,
    /// Namespaces that the helper itself enters first (rootless: user; time).
    pub own_flags: u64,
    pub enter_flags: u64,
    pub own_uid_map: u32,
    pub own_gid_map: u32,
    pub donor_uid_map: u32,
    pub donor_gid_map: u32,
    pub time_offsets: u32,
    /// Slots.
    pub proc_dir: u32,
    pub state_dir: u32,
    pub lock_file: u32,
    pub listener: u32,
    pub into_cgroup: u32,
    pub cgroup_kill: u32,
    pub oom_file: u32,
    pub cpu_file: u32,
    pub memory_peak_file: u32,
    pub forward_stdout: u32,
    pub forward_stderr: u32,
    /// Log rotation: bytes per file, and how many rotated files to keep.
    pub log_max_files: u32,
    /// Slot of a process (pidfd) whose namespaces are entered, and those that the helper itself enters.
    pub enter: u32,
    pub log_max_size: u64,
    /// Array of `cleanup_count` quadruples (slot, name, slot, new name): what goes after the exit. With a
    /// second slot it is renamed there, without one (NO_SLOT) it is unlinked, as a directory when the new
    /// name is not 0.
    pub cleanup: u32,
    pub cleanup_count: u32,
}

/// `Header::flags`.
pub mod flag {
    /// The monitor leaves the caller's process tree and outlives the caller.
    pub const DETACHED: u32 = 1;
    /// stdout and stderr (or the pty) are pumped by the monitor.
    pub const PUMP: u32 = 2;
    /// Pumped output goes to `log` in the state directory.
    pub const LOG: u32 = 4;
    /// The container has a pty; its master arrives on the hand-over socket.
    pub const PTY: u32 = 8;
    /// The monitor holds the write end of the container's stdin.
    pub const STDIN: u32 = 16;
    /// Wait for the caller to write `own_uid_map` (newuidmap) instead of writing it.
    pub const EXTERNAL_MAP: u32 = 32;
    /// Write the exit record to the state directory, durably.
    pub const EXIT_FILE: u32 = 64;
    /// `setgroups` must be denied before the helper's own gid map can be written.
    pub const OWN_DENY_SETGROUPS: u32 = 128;
    /// The same for the donor's.
    pub const DONOR_DENY_SETGROUPS: u32 = 256;
    /// Stop at the HOLD operation until a GO message arrives.
    pub const HOLD: u32 = 512;
}

/// One step of the set-up.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    pub code: u32,
    pub flags: u32,
    pub a: u64,
    pub b: u64,
    pub c: u64,
}

/// Operation codes: what the child does with `(flags, a, b, c)`.
pub mod op {
    pub const JOIN_CGROUP: u32 = 1; // a = slot of a `tasks`/`cgroup.procs` file
    pub const WAIT_DONOR: u32 = 2;
    pub const SETNS_DONOR: u32 = 3; // a = CLONE_NEW* flags
    pub const UNSHARE: u32 = 4; // a = CLONE_NEW* flags
    pub const PRIVATE_ROOT: u32 = 5;
    pub const FS_OPEN: u32 = 6; // a = slot, b = type
    pub const FS_STRING: u32 = 7; // a = slot, b = key, c = value
    pub const FS_FLAG: u32 = 8; // a = slot, b = key
    pub const FS_LAYER: u32 = 9; // a = slot, b = key, c = slot of a directory (by descriptor where the kernel can)
    pub const FS_MOUNT: u32 = 10; // a = slot, b = MOUNT_ATTR_*
    pub const OPEN_TREE: u32 = 11; // a = new slot, b = slot, c = path below it; flags & 1 = recursive
    pub const IDMAP: u32 = 12; // a = slot; flags & 1 = recursive
    pub const ATTR: u32 = 13; // a = slot, b = set, c = clear; flags & 1 = recursive, & 2 = make private
    pub const MOVE: u32 = 14; // a = slot, b = target path, flags = move_flag::*
    pub const PIVOT: u32 = 15; // a = slot of the root mount
    pub const MKDIR: u32 = 16; // a = slot, b = name, c = mode
    pub const SYMLINK: u32 = 17; // a = slot, b = name, c = target
    pub const MKNOD: u32 = 18; // a = slot, b = name, c = device, flags = mode
    pub const CREATE: u32 = 19; // a = slot, b = name, c = data (u32 length, bytes), flags = mode
    pub const HOSTNAME: u32 = 20; // a = string, b = length
    pub const DOMAINNAME: u32 = 21; // a = string, b = length
    pub const LOOPBACK: u32 = 22;
    pub const SYSCTL: u32 = 23; // a = slot of a procfs mount, b = path, c = value string
    pub const RLIMIT: u32 = 24; // a = resource, b = soft, c = hard
    pub const MASK: u32 = 25; // a = path, b = slot of the mount it is below, or NO_SLOT: the root; directories get a read-only empty tmpfs, files /dev/null
    pub const READONLY: u32 = 26; // a = path, b = as for MASK
    pub const USER: u32 = 27; // a = uid, b = gid, c = groups (u32 count, u32s); flags & 1 = keep capabilities
    pub const BOUNDING: u32 = 28; // a = set to keep
    pub const CAPSET: u32 = 29; // a = effective, b = permitted, c = inheritable
    pub const AMBIENT: u32 = 30; // a = set
    pub const NO_NEW_PRIVS: u32 = 31;
    pub const SECCOMP: u32 = 32; // a = program, b = instructions
    pub const KEYRING: u32 = 33; // a = name
    pub const OOM_SCORE: u32 = 34; // a = slot of a procfs mount, b = value string
    pub const UMASK: u32 = 35; // a = mask
    pub const CHDIR: u32 = 36; // a = path; flags & 1 = create when missing
    pub const STDIO: u32 = 37; // a, b, c = slots of stdin, stdout, stderr (NO_SLOT: the monitor's pipe)
    pub const PTY: u32 = 38; // a = rows << 16 | columns, b = uid, c = gid of the terminal
    pub const HOLD: u32 = 39;
    pub const EXEC: u32 = 40; // a = argv, b = envp, c = candidate paths (arrays of u64 offsets, 0-terminated)
    pub const ROOT_ATTR: u32 = 41; // b = MOUNT_ATTR_* to set on "/" alone
    pub const CLOSE: u32 = 42; // a = slot
    pub const SESSION: u32 = 43;
    pub const OPEN: u32 = 44; // a = slot, b = host path, c = expected (device, inode) as two u64s or 0; flags & 1 = no symlinks; before PIVOT
    pub const UNLINK: u32 = 45; // a = slot, b = name
    pub const CHOWN: u32 = 47; // a = slot, b = uid, c = gid
    pub const DIE_WITH_PARENT: u32 = 49;
    pub const ENTER: u32 = 50; // a = slot of a pidfd, b = CLONE_NEW* flags
    pub const EMPTY: u32 = 51; // a = slot of an empty mount namespace: goes on in a copy of it
    pub const ROOT: u32 = 52; // a = slot of the root mount, in such a copy
}

/// How MOVE treats its target.
pub mod move_flag {
    /// Create a missing directory (and its parents), owned by the container's root.
    pub const MKDIR: u32 = 1;
    /// Create a missing empty file (and its parents).
    pub const MKFILE: u32 = 2;
    /// A symlink anywhere in the target is an error.
    pub const NO_SYMLINKS: u32 = 4;
    /// The target is the directory in slot `c` with the name `b` below it.
    pub const BELOW_SLOT: u32 = 8;
}

/// What the child tells the monitor over the report pipe (one write each, so atomic).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub kind: u32,
    pub op: u32,
    pub errno: i32,
    pub detail: u32,
}

/// `Report::kind` and `Message::kind` from helper to library.
pub mod report {
    pub const FAILED: u32 = 1;
    pub const HELD: u32 = 2;
    pub const EXECUTING: u32 = 3;
    pub const STARTED: u32 = 4;
    pub const EXITED: u32 = 5;
    pub const NEED_MAP: u32 = 6;
    /// The helper itself failed: `op` is a `stage`.
    pub const HELPER_FAILED: u32 = 7;
    /// The child died before it could execute the program.
    pub const DIED: u32 = 8;
    /// Pumped output, sent to attached clients: `a` = stream (1, 2), then the bytes.
    pub const OUTPUT: u32 = 9;
    /// The answer to `request::EMPTY`, with the namespace.
    pub const EMPTY: u32 = 10;
}

/// Steps of the helper before the container's own operations run.
pub mod stage {
    pub const RECEIVE: u32 = 1;
    pub const MAP_PLAN: u32 = 2;
    pub const OWN_NAMESPACES: u32 = 3;
    pub const OWN_ID_MAP: u32 = 4;
    pub const TIME_OFFSETS: u32 = 5;
    pub const PIPES: u32 = 6;
    pub const CLONE_DONOR: u32 = 7;
    pub const CLONE: u32 = 8;
    pub const LOG: u32 = 9;
    pub const DETACH: u32 = 10;
    pub const RECORD: u32 = 11;
    pub const DONOR_NAMESPACES: u32 = 12;
    pub const DONOR_ID_MAP: u32 = 13;
    pub const DUMPABLE: u32 = 14;
    pub const SESSION: u32 = 15;
    pub const ENTER: u32 = 16;
    pub const EMPTY: u32 = 17;
}

/// One message of the control socket, in both directions.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Message {
    pub magic: u32,
    pub kind: u32,
    pub a: u64,
    pub b: u64,
    pub exit: Exit,
}

/// How the container ended and what it used.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// `si_code` of waitid: CLD_EXITED 1, CLD_KILLED 2, CLD_DUMPED 3.
    pub code: i32,
    /// Exit code or signal number.
    pub status: i32,
    /// OOM kills counted by the cgroup; `u64::MAX` when there is no counter.
    pub oom_kills: u64,
    /// CPU time in ns (cgroup, else rusage).
    pub cpu_ns: u64,
    /// Peak memory in bytes (cgroup, else rusage); 0 = unknown.
    pub memory_peak: u64,
    /// CLOCK_REALTIME of start and exit, ns.
    pub started_ns: u64,
    pub finished_ns: u64,
}

/// Requests from the library (control socket) or an attached process (listener).
pub mod request {
    pub const PLAN: u32 = 101; // a = descriptors in all
    pub const FDS: u32 = 102;
    pub const GO: u32 = 103;
    pub const MAPPED: u32 = 104;
    pub const KILL: u32 = 105; // a = signal
    pub const RESIZE: u32 = 106; // a = rows << 16 | columns
    pub const INPUT: u32 = 107; // bytes follow the message
    pub const CLOSE_INPUT: u32 = 108;
    pub const ATTACH: u32 = 109;
    /// Instead of a plan: make an empty mount namespace, with the procfs that comes with it.
    pub const EMPTY: u32 = 110;
}
