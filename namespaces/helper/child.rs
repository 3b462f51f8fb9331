//! # Safety
//! The interpreter that runs between clone and execve. It owns a copy of the helper's few pages, so
//! it may do what any small process may do; still it allocates nothing, takes no lock and logs
//! nothing. A failing step ends the process after one write of a [`Report`].
//!
//! `unsafe` appears where a raw program or pointer array from the plan is handed to the kernel.

use crate::empty::CLONE_NEWNS;
use crate::plan::{Plan, Slots};
use crate::sys::{self, *};
use crate::wire::{Header, NO_SLOT, Op, Report, flag, move_flag, op, report, stage};

const CLONE_NEWUSER: u64 = 0x1000_0000;

/// Descriptors made by the helper for this child.
pub struct Context {
    pub report: i32,
    pub donor_pid: i32,
    pub donor_pidfd: i32,
    pub donor_ready: i32,
    pub hold: i32,
    pub handover: i32,
    /// The monitor's pipe ends for stdin, stdout, stderr; -1 = none.
    pub stdio: [i32; 3],
}

/// A failure: errno and what kind of thing it happened to (0 = nothing to add).
struct Failure(Errno, u32);
impl From<Errno> for Failure {
    fn from(e: Errno) -> Self {
        Failure(e, 0)
    }
}
type Step = core::result::Result<(), Failure>;

struct Child<'a> {
    plan: Plan,
    header: &'static Header,
    slots: &'a mut Slots,
    context: &'a Context,
    /// An attached read-only empty directory, the source of further masks.
    empty: i32,
    /// The verified `/dev/null`.
    null: i32,
    /// The root directory once the container's root is in place.
    root: i32,
    terminal: i32,
    master: i32,
}

pub fn run(plan: Plan, slots: &mut Slots, context: &Context) -> ! {
    let mut child =
        Child { plan, header: plan.header(), slots, context, empty: -1, null: -1, root: -1, terminal: -1, master: -1 };
    for (i, op) in plan.ops().iter().enumerate() {
        if let Err(Failure(errno, detail)) = child.step(op) {
            fail(context.report, report::FAILED, i as u32, errno, detail);
        }
    }
    // A plan ends with EXEC, which does not return.
    fail(context.report, report::FAILED, u32::MAX, Errno(EINVAL), 0)
}

fn fail(fd: i32, kind: u32, op: u32, errno: Errno, detail: u32) -> ! {
    // The monitor treats a missing report as "died during set-up".
    let _ = tell(fd, Report { kind, op, errno: errno.0, detail });
    sys::exit(127)
}

fn tell(fd: i32, r: Report) -> Result<()> {
    let mut b = [0u8; 16];
    for (part, value) in b.chunks_exact_mut(4).zip([r.kind, r.op, r.errno as u32, r.detail]) {
        part.copy_from_slice(&value.to_ne_bytes());
    }
    sys::write(fd, &b).map(drop)
}

impl Child<'_> {
    fn step(&mut self, o: &Op) -> Step {
        match o.code {
            op::JOIN_CGROUP | op::WAIT_DONOR | op::SETNS_DONOR | op::UNSHARE | op::ENTER | op::EMPTY => self.namespaces(o),
            op::FS_OPEN | op::FS_STRING | op::FS_FLAG | op::FS_LAYER | op::FS_MOUNT => self.filesystem(o),
            op::PRIVATE_ROOT | op::OPEN | op::OPEN_TREE | op::IDMAP | op::ATTR | op::MOVE | op::PIVOT
            | op::ROOT | op::ROOT_ATTR | op::MASK | op::READONLY => self.mounts(o),
            op::MKDIR | op::SYMLINK | op::MKNOD | op::CREATE | op::UNLINK | op::CHOWN | op::CLOSE => self.files(o),
            op::PTY | op::STDIO | op::SESSION | op::DIE_WITH_PARENT | op::HOLD | op::CHDIR | op::EXEC => self.process(o),
            _ => self.attributes(o),
        }
    }

    fn text(&self, offset: u64) -> Result<Text> {
        self.plan.text(offset)
    }

    fn namespaces(&mut self, o: &Op) -> Step {
        match o.code {
            // v1: "0" names the writer itself, which spares the grace period that moving another
            // process by pid waits for.
            op::JOIN_CGROUP => {
                sys::write(self.slots.get(o.a)?, b"0")?;
            }
            op::WAIT_DONOR => self.wait_donor()?,
            op::SETNS_DONOR => sys::setns(self.context.donor_pidfd, o.a)?,
            // From here on processes of the container see this one: they must not be able to trace it or to
            // open what it has open (CVE-2016-9962), and a change of namespace resets both settings.
            op::ENTER => {
                sys::setns(self.slots.get(o.a)?, o.b)?;
                if o.b & CLONE_NEWUSER != 0 {
                    // Root of the host is nobody in there, who may own nothing.
                    sys::setresgid(0)?;
                    sys::setresuid(0)?;
                }
                sys::prctl(4, 0, 0)?;
                self.die_with_parent()?;
            }
            op::EMPTY => {
                sys::setns(self.slots.get(o.a)?, CLONE_NEWNS)?;
                sys::unshare(CLONE_NEWNS)?;
                self.forget_root();
            }
            _ => {
                sys::unshare(o.a)?;
                // A copy of the mounts: descriptors of the old ones lead elsewhere now.
                self.forget_root();
            }
        }
        Ok(())
    }

    /// Waits until the donor has made its namespaces, then writes its id maps: this process is in
    /// the parent user namespace, which may do so.
    fn wait_donor(&mut self) -> Step {
        let mut b = [0u8; 4];
        if sys::read(self.context.donor_ready, &mut b)? != 4 {
            return Err(Failure(Errno(EINVAL), stage::DONOR_NAMESPACES));
        }
        let errno = i32::from_ne_bytes(b);
        if errno != 0 {
            return Err(Failure(Errno(errno), stage::DONOR_NAMESPACES));
        }
        let h = self.header;
        if h.donor_uid_map == 0 {
            return Ok(());
        }
        let proc = self.slots.get(u64::from(h.proc_dir))?;
        write_maps(proc, self.context.donor_pid, self.plan, h.donor_uid_map, h.donor_gid_map,
            h.flags & flag::DONOR_DENY_SETGROUPS != 0)
            .map_err(|e| Failure(e, stage::DONOR_ID_MAP))
    }

    fn filesystem(&mut self, o: &Op) -> Step {
        match o.code {
            op::FS_OPEN => {
                let fd = sys::fsopen(self.text(o.b)?)?;
                self.slots.set(o.a, fd)?;
            }
            op::FS_STRING => sys::fsconfig_string(self.slots.get(o.a)?, self.text(o.b)?, self.text(o.c)?)?,
            op::FS_FLAG => sys::fsconfig_flag(self.slots.get(o.a)?, self.text(o.b)?)?,
            op::FS_LAYER => {
                let (fs, key, dir) = (self.slots.get(o.a)?, self.text(o.b)?, self.slots.get(o.c)?);
                match sys::fsconfig_fd(fs, key, dir) {
                    // Kernels before 6.13 take strings only; /proc/self/fd names the same directory.
                    Err(Errno(EINVAL | sys::EBADF)) => {
                        let mut b = [0u8; 32];
                        let path = fd_path(&mut b, dir).ok_or(Errno(EINVAL))?;
                        sys::fsconfig_string(fs, key, path)?;
                    }
                    other => other?,
                }
            }
            _ => {
                let fs = self.slots.get(o.a)?;
                sys::fsconfig_create(fs)?;
                let mount = sys::fsmount(fs, o.b)?;
                self.slots.set(o.a, mount)?;
            }
        }
        Ok(())
    }

    fn mounts(&mut self, o: &Op) -> Step {
        let recursive = o.flags & 1 != 0;
        match o.code {
            op::PRIVATE_ROOT => {
                sys::mount_setattr(CWD, Text::literal(c"/"), 0, 0, MS_PRIVATE, 0, true)?;
            }
            op::OPEN => self.open_host(o)?,
            op::OPEN_TREE => {
                let path = if o.c == 0 { Text::EMPTY } else { self.text(o.c)? };
                let tree = sys::open_tree(self.slots.get(o.b)?, path, recursive)?;
                self.slots.set(o.a, tree)?;
            }
            op::IDMAP => {
                let userns = self.donor_user_namespace()?;
                let r = sys::mount_setattr(self.slots.get(o.a)?, Text::EMPTY, MOUNT_ATTR_IDMAP, 0, 0, userns, recursive);
                sys::close(userns);
                r?;
            }
            op::ATTR => {
                let propagation = if o.flags & 2 != 0 { MS_PRIVATE } else { 0 };
                sys::mount_setattr(self.slots.get(o.a)?, Text::EMPTY, o.b, o.c, propagation, 0, recursive)?;
            }
            op::ROOT_ATTR => sys::mount_setattr(CWD, Text::literal(c"/"), o.b, 0, 0, 0, false)?,
            op::MOVE => {
                let mount = self.slots.get(o.a)?;
                let target = self.target(o)?;
                sys::move_mount(mount, target)?;
                sys::close(target);
            }
            op::PIVOT => {
                self.forget_root();
                switch_root(self.slots.get(o.a)?)?;
            }
            op::ROOT => self.take_root(o)?,
            op::MASK => self.mask(o)?,
            _ => self.read_only(o)?,
        }
        Ok(())
    }

    /// Opens a path of the host and checks that it is the object which the library validated.
    fn open_host(&mut self, o: &Op) -> Step {
        let resolve = if o.flags & 1 != 0 { RESOLVE_NO_SYMLINKS } else { 0 };
        let fd = sys::openat2(CWD, self.text(o.b)?, O_PATH, resolve)?;
        if o.c != 0 {
            let want = self.plan.longs(o.c, 2)?;
            let mut st = [0u64; 18];
            sys::stat_identity(fd, &mut st)?;
            if st[0] != want[0] || st[1] != want[1] {
                return Err(Failure(Errno(sys::ESTALE), 0));
            }
        }
        self.slots.set(o.a, fd)?;
        Ok(())
    }

    fn donor_user_namespace(&self) -> Result<i32> {
        let mut b = [0u8; 32];
        let path = proc_path(&mut b, self.context.donor_pid, b"ns/user").ok_or(Errno(EINVAL))?;
        sys::openat(self.slots.get(u64::from(self.header.proc_dir))?, path, 0, 0)
    }

    /// Attaches the detached root over the empty one and goes there.
    fn take_root(&mut self, o: &Op) -> Step {
        let mount = self.slots.get(o.a)?;
        let empty = self.root()?;
        sys::move_mount(mount, empty)?;
        self.forget_root();
        sys::fchdir(mount)?;
        // The topmost mount at the namespace's root is no cage: it is what everybody who enters sees.
        sys::chroot_here()?;
        Ok(())
    }

    fn forget_root(&mut self) {
        if self.root >= 0 {
            sys::close(self.root);
            self.root = -1;
        }
    }

    fn root(&mut self) -> Result<i32> {
        if self.root < 0 {
            self.root = sys::openat(CWD, Text::literal(c"/"), O_PATH | O_DIRECTORY, 0)?;
        }
        Ok(self.root)
    }

    fn lookup(&mut self, path: Text, flags: u32) -> Result<i32> {
        sys::openat2(self.root()?, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    }

    /// The mount point of a MOVE or BIND, made when the flags say so.
    fn target(&mut self, o: &Op) -> Result<i32> {
        if o.flags & move_flag::BELOW_SLOT != 0 {
            let resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
            return sys::openat2(self.slots.get(o.c)?, self.text(o.b)?, O_PATH, resolve);
        }
        let path = self.text(o.b)?;
        let mut resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
        if o.flags & move_flag::NO_SYMLINKS != 0 {
            resolve |= RESOLVE_NO_SYMLINKS;
        }
        match sys::openat2(self.root()?, path, O_PATH, resolve) {
            Err(Errno(ENOENT)) if o.flags & (move_flag::MKDIR | move_flag::MKFILE) != 0 => {
                self.create(path.bytes(), resolve, o.flags & move_flag::MKFILE != 0)
            }
            other => other,
        }
    }

    /// Creates `path` and its missing parents, owned by the container's root, and opens it. Existing
    /// prefixes are resolved inside the root; what is made here is never reached by path again.
    fn create(&mut self, path: &[u8], resolve: u64, file: bool) -> Result<i32> {
        let root = self.root()?;
        let mut name = [0u8; 256];
        let mut prefix = [0u8; 4096];
        let mut parent = sys::openat2(root, Text::literal(c"."), O_PATH | O_DIRECTORY, resolve)?;
        let mut made = false;
        let mut start = 0;
        while start < path.len() {
            if path[start] == b'/' {
                start += 1;
                continue;
            }
            let end = path[start..].iter().position(|c| *c == b'/').map_or(path.len(), |n| start + n);
            let last = path[end..].iter().all(|c| *c == b'/');
            let component = path.get(start..end).filter(|c| c.len() < 256 && end < 4096).ok_or(Errno(EINVAL))?;
            name[..component.len()].copy_from_slice(component);
            name[component.len()] = 0;
            prefix[..end].copy_from_slice(&path[..end]);
            prefix[end] = 0;
            let text = Text::from_buf(&name).ok_or(Errno(EINVAL))?;
            let existing = if made {
                Err(Errno(ENOENT))
            } else {
                sys::openat2(root, Text::from_buf(&prefix).ok_or(Errno(EINVAL))?, O_PATH, resolve)
            };
            let next = match existing {
                Ok(fd) => fd,
                Err(Errno(ENOENT)) => {
                    made = true;
                    self.make(parent, text, file && last)?
                }
                Err(e) => return Err(e),
            };
            sys::close(parent);
            parent = next;
            start = end;
        }
        Ok(parent)
    }

    fn make(&self, parent: i32, name: Text, file: bool) -> Result<i32> {
        let create = || {
            if file {
                sys::openat(parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY, 0o644).map(sys::close)
            } else {
                sys::mkdirat(parent, name, 0o755)
            }
        };
        match create() {
            // An idmapped mount knows the container's ids only: make it as the container's root.
            Err(Errno(sys::EOVERFLOW)) => {
                sys::set_fs_ids(self.header.root_uid, self.header.root_gid);
                let made = create();
                sys::set_fs_ids(0, 0);
                made?;
                return sys::openat2(parent, name, O_PATH | O_NOFOLLOW, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
            }
            other => other?,
        }
        let fd = sys::openat2(parent, name, O_PATH | O_NOFOLLOW, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)?;
        self.give(fd, Text::EMPTY)?;
        Ok(fd)
    }

    /// Gives a new file to the container's root.
    fn give(&self, dir: i32, name: Text) -> Result<()> {
        let h = self.header;
        if h.root_uid == 0 && h.root_gid == 0 {
            return Ok(());
        }
        sys::chown_nofollow(dir, name, h.root_uid, h.root_gid)
    }

    /// What a MASK or READONLY is about. Below procfs and sysfs it is found from the mount itself: a
    /// root that somebody else changes at the same time could lead "/proc" elsewhere for a moment, and
    /// what does not exist there would stay bare (CVE-2019-19921).
    fn protected(&mut self, o: &Op) -> Result<i32> {
        let path = self.text(o.a)?;
        if o.b == u64::from(NO_SLOT) {
            return self.lookup(path, O_PATH);
        }
        sys::openat2(self.slots.get(o.b)?, path, O_PATH, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    }

    fn mask(&mut self, o: &Op) -> Step {
        let target = match self.protected(o) {
            Err(Errno(ENOENT | ENOTDIR)) => return Ok(()),
            other => other?,
        };
        let (mode, _, _) = sys::fstat(target)?;
        if mode & 0o170000 != 0o040000 {
            let tree = sys::open_tree(self.null()?, Text::EMPTY, false)?;
            sys::move_mount(tree, target)?;
            sys::close(tree);
        } else if self.empty < 0 {
            let fs = sys::fsopen(Text::literal(c"tmpfs"))?;
            sys::fsconfig_string(fs, Text::literal(c"nr_inodes"), Text::literal(c"2"))?;
            sys::fsconfig_string(fs, Text::literal(c"mode"), Text::literal(c"555"))?;
            sys::fsconfig_create(fs)?;
            let tree = sys::fsmount(fs, 0xf)?;
            sys::close(fs);
            sys::move_mount(tree, target)?;
            self.empty = tree;
        } else {
            let tree = sys::open_tree(self.empty, Text::EMPTY, false)?;
            sys::move_mount(tree, target)?;
            sys::close(tree);
        }
        sys::close(target);
        Ok(())
    }

    /// The null device of the container's own `/dev`, checked to be it.
    fn null(&mut self) -> Result<i32> {
        if self.null < 0 {
            let null = self.lookup(Text::literal(c"/dev/null"), O_PATH)?;
            let (mode, device, _) = sys::fstat(null)?;
            if mode & 0o170000 != 0o020000 || device != 0x103 {
                return Err(Errno(EINVAL));
            }
            self.null = null;
        }
        Ok(self.null)
    }

    fn read_only(&mut self, o: &Op) -> Step {
        let target = match self.protected(o) {
            Err(Errno(ENOENT | ENOTDIR)) => return Ok(()),
            other => other?,
        };
        let tree = sys::open_tree(target, Text::EMPTY, true)?;
        sys::mount_setattr(tree, Text::EMPTY, MOUNT_ATTR_RDONLY, 0, 0, 0, true)?;
        sys::move_mount(tree, target)?;
        sys::close(tree);
        sys::close(target);
        Ok(())
    }

    fn files(&mut self, o: &Op) -> Step {
        let dir = self.slots.get(o.a)?;
        match o.code {
            op::MKDIR => {
                let name = self.text(o.b)?;
                sys::mkdirat(dir, name, o.c as u32)?;
                self.give(dir, name)?;
            }
            op::SYMLINK => sys::symlinkat(self.text(o.c)?, dir, self.text(o.b)?)?,
            op::MKNOD => {
                let name = self.text(o.b)?;
                sys::mknodat(dir, name, o.flags, o.c)?;
                self.give(dir, name)?;
            }
            op::CREATE => {
                let name = self.text(o.b)?;
                let fd = sys::openat(dir, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY, o.flags)?;
                sys::write_all(fd, self.plan.bytes(o.c)?)?;
                sys::close(fd);
                self.give(dir, name)?;
            }
            op::UNLINK => sys::unlinkat(dir, self.text(o.b)?, 0)?,
            op::CHOWN => sys::chown_nofollow(dir, Text::EMPTY, o.b as u32, o.c as u32)?,
            _ => self.slots.set(o.a, -1)?,
        }
        Ok(())
    }

    fn attributes(&mut self, o: &Op) -> Step {
        match o.code {
            op::HOSTNAME => sys::sethostname(self.text(o.a)?, o.b as usize)?,
            op::DOMAINNAME => sys::setdomainname(self.text(o.a)?, o.b as usize)?,
            op::LOOPBACK => sys::loopback_up()?,
            op::SYSCTL | op::OOM_SCORE => {
                let (path, value) = if o.code == op::SYSCTL {
                    (self.text(o.b)?, o.c)
                } else {
                    (Text::literal(c"self/oom_score_adj"), o.b)
                };
                // "self" is a symlink of procfs; a sysctl path has none.
                let mut resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS;
                if o.code == op::SYSCTL {
                    resolve |= RESOLVE_NO_SYMLINKS;
                }
                let fd = sys::openat2(self.slots.get(o.a)?, path, O_WRONLY, resolve)?;
                sys::write(fd, self.text(value)?.bytes())?;
                sys::close(fd);
            }
            op::RLIMIT => sys::rlimit(o.a as u32, o.b, o.c)?,
            op::USER => {
                if o.flags & 1 != 0 {
                    sys::prctl(8, 1, 0)?;
                }
                if o.c != 0 {
                    let n = self.plan.words(o.c, 1)?[0] as usize;
                    sys::setgroups(self.plan.words(o.c + 4, n)?)?;
                }
                sys::setresgid(o.b as u32)?;
                sys::setresuid(o.a as u32)?;
                // A change of ids resets both; where fs.suid_dumpable is 1, to "everybody may look".
                sys::prctl(4, 0, 0)?;
                self.die_with_parent()?;
                if o.flags & 1 != 0 {
                    sys::prctl(8, 0, 0)?;
                }
            }
            op::BOUNDING => {
                for cap in 0..64u64 {
                    if o.a & (1 << cap) == 0 {
                        match sys::prctl(24, cap as usize, 0) {
                            // The first number that the kernel does not know. Those up to
                            // CAP_CHECKPOINT_RESTORE are older than mount_setattr, without which nothing gets
                            // here: that one of them is unknown is a refusal.
                            Err(Errno(EINVAL)) if cap > 40 => break,
                            other => other.map_err(|e| Failure(e, cap as u32))?,
                        };
                    }
                }
            }
            op::CAPSET => sys::capset(o.a, o.b, o.c)?,
            op::AMBIENT => {
                sys::prctl(47, 4, 0)?;
                for cap in (0..64usize).filter(|c| o.a & (1 << c) != 0) {
                    sys::prctl(47, 2, cap).map_err(|e| Failure(e, cap as u32))?;
                }
            }
            op::NO_NEW_PRIVS => {
                sys::prctl(38, 1, 0)?;
            }
            // SAFETY: `program` checked that `b` instructions lie inside the plan.
            op::SECCOMP => unsafe { sys::seccomp(self.plan.program(o.a, o.b)?, o.b as u16)? },
            op::KEYRING => sys::join_session_keyring(self.text(o.a)?)?,
            op::UMASK => sys::umask(o.a as u32),
            _ => return Err(Failure(Errno(EINVAL), 0)),
        }
        Ok(())
    }

    fn process(&mut self, o: &Op) -> Step {
        match o.code {
            op::SESSION => sys::setsid()?,
            op::DIE_WITH_PARENT => self.die_with_parent()?,
            op::PTY => self.open_pty(o)?,
            op::STDIO => self.stdio(o)?,
            op::CHDIR => {
                let path = self.text(o.a)?;
                let fd = match self.lookup(path, O_PATH | O_DIRECTORY) {
                    Err(Errno(ENOENT)) if o.flags & 1 != 0 => {
                        self.create(path.bytes(), RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, false)?
                    }
                    other => other?,
                };
                sys::fchdir(fd)?;
                sys::close(fd);
                // A directory outside the root has no path: "(unreachable)/…".
                let mut b = [0u8; 4096];
                sys::getcwd(&mut b)?;
                if b[0] != b'/' {
                    return Err(Failure(Errno(EACCES), 1));
                }
            }
            op::HOLD => {
                if self.header.flags & flag::HOLD != 0 {
                    tell(self.context.report, Report { kind: report::HELD, ..Report::default() })?;
                    if sys::read(self.context.hold, &mut [0u8])? != 1 {
                        sys::exit(127);
                    }
                }
            }
            _ => return self.execute(o),
        }
        Ok(())
    }

    fn die_with_parent(&self) -> Result<()> {
        sys::die_with_parent()?;
        // A parent that had died before sends no signal; its end of the pipe is gone then.
        if sys::poll_now(&mut [PollFd { fd: self.context.report, events: 0, revents: 0 }]) {
            sys::exit(127);
        }
        Ok(())
    }

    /// Opens a pty of the container's own devpts, by descriptor, and hands the master over.
    fn open_pty(&mut self, o: &Op) -> Step {
        let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
        let master = sys::openat2(self.root()?, Text::literal(c"/dev/pts/ptmx"), O_RDWR | O_NOCTTY, resolve)?;
        sys::unlock_pty(master)?;
        let terminal = sys::pty_peer(master)?;
        sys::set_window_size(terminal, (o.a >> 16) as u16, o.a as u16)?;
        sys::chown_nofollow(terminal, Text::EMPTY, o.b as u32, o.c as u32)?;
        sys::send(self.context.handover, b"m", &[], Some(master), 0)?;
        self.master = master;
        if o.flags & 1 != 0 {
            let tree = sys::open_tree(terminal, Text::EMPTY, false)?;
            let console = self.create_console()?;
            sys::move_mount(tree, console)?;
            sys::close(tree);
            sys::close(console);
        }
        self.terminal = terminal;
        Ok(())
    }

    fn create_console(&mut self) -> Result<i32> {
        let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
        let dev = sys::openat2(self.root()?, Text::literal(c"/dev"), O_PATH | O_DIRECTORY, resolve)?;
        let fd = self.make(dev, Text::literal(c"console"), true);
        sys::close(dev);
        fd
    }

    fn stdio(&mut self, o: &Op) -> Step {
        if self.terminal >= 0 {
            // By name in the mount namespace of the program, so that it can find its terminal's name;
            // it must be the very terminal that was made.
            let mut b = [0u8; 32];
            let end = crate::format::append(&mut b, 0, b"/dev/pts/");
            crate::format::decimal(&mut b, end, u64::from(sys::pty_number(self.master)?));
            let path = Text::from_buf(&b).ok_or(Errno(EINVAL))?;
            let named = self.lookup(path, O_RDWR | O_NOCTTY)?;
            if sys::fstat(named)?.1 != sys::fstat(self.terminal)?.1 {
                return Err(Failure(Errno(sys::ESTALE), 0));
            }
            self.terminal = named;
            sys::set_controlling_terminal(self.terminal)?;
            for to in 0..3 {
                sys::dup3(self.terminal, to)?;
            }
            return Ok(());
        }
        for (to, slot) in [o.a, o.b, o.c].into_iter().enumerate() {
            let from = if slot == u64::from(NO_SLOT) { self.context.stdio[to] } else { self.slots.get(slot)? };
            sys::dup3(from, to as i32).map_err(|e| Failure(e, to as u32))?;
        }
        Ok(())
    }

    fn execute(&mut self, o: &Op) -> Step {
        let argv = self.plan.pointers(o.a)?;
        let envp = self.plan.pointers(o.b)?;
        sys::signal_mask(0);
        // A marker before, silence after: what the monitor needs to tell success from a crash.
        // Unheard the program must not run.
        tell(self.context.report, Report { kind: report::EXECUTING, ..Report::default() })?;
        let mut outcome = Failure(Errno(ENOENT), 0);
        let mut i = 0;
        loop {
            let candidate = self.plan.longs(o.c + i * 8, 1)?[0];
            if candidate == 0 {
                return Err(outcome);
            }
            let path = self.text(candidate)?;
            // SAFETY: `pointers` made both arrays null-terminated arrays of strings.
            let errno = unsafe { sys::execve(path, argv, envp) };
            match errno {
                // As execvp: look further, but remember that something was there. ENOENT with the
                // file present means its interpreter is missing.
                Errno(ENOENT) if sys::exists(path) => return Err(Failure(errno, 1)),
                Errno(ENOENT | ENOTDIR) => {}
                Errno(EACCES) => outcome = Failure(errno, 0),
                _ => return Err(Failure(errno, 0)),
            }
            i += 1;
        }
    }
}

/// Attaches a detached mount over "/", makes it the root and drops the host's tree.
pub fn switch_root(mount: i32) -> Result<()> {
    let old = sys::openat(CWD, Text::literal(c"/"), O_PATH | O_DIRECTORY, 0)?;
    sys::move_mount(mount, old)?;
    sys::fchdir(mount)?;
    sys::pivot_root_here()?;
    sys::fchdir(old)?;
    sys::close(old);
    // A host may have mounts stacked over its "/" (after `mount --bind / /`, say): each unmounting
    // takes the topmost. EINVAL is the answer when the old root itself is no longer mounted, and
    // nothing less will do; before anything was unmounted it is a refusal.
    sys::unmount_here()?;
    let mut result = sys::unmount_here();
    for _ in 0..64 {
        if result.is_err() {
            break;
        }
        result = sys::unmount_here();
    }
    if result != Err(Errno(EINVAL)) {
        return Err(result.err().unwrap_or(Errno(sys::EBUSY)));
    }
    sys::chdir(Text::literal(c"/"))
}

/// `/proc/self/fd/N` with its NUL.
fn fd_path(b: &mut [u8; 32], fd: i32) -> Option<Text> {
    const PREFIX: &[u8] = b"/proc/self/fd/";
    b[..PREFIX.len()].copy_from_slice(PREFIX);
    let end = crate::format::decimal(b, PREFIX.len(), fd as u64);
    *b.get_mut(end)? = 0;
    Text::from_buf(b)
}

/// `<pid>/<name>` with its NUL, relative to a procfs descriptor.
pub fn proc_path(b: &mut [u8; 32], pid: i32, name: &[u8]) -> Option<Text> {
    let mut end = crate::format::decimal(b, 0, pid as u64);
    *b.get_mut(end)? = b'/';
    end += 1;
    b.get_mut(end..end + name.len())?.copy_from_slice(name);
    *b.get_mut(end + name.len())? = 0;
    Text::from_buf(b)
}

/// Writes `uid_map` and `gid_map` of `pid`, with `setgroups` denied first where that is needed.
pub fn write_maps(proc: i32, pid: i32, plan: Plan, uid_map: u32, gid_map: u32, deny: bool) -> Result<()> {
    let put = |name: &[u8], value: &[u8]| -> Result<()> {
        let mut b = [0u8; 32];
        let path = proc_path(&mut b, pid, name).ok_or(Errno(EINVAL))?;
        let fd = sys::openat(proc, path, O_WRONLY, 0)?;
        let r = sys::write(fd, value).map(drop);
        sys::close(fd);
        r
    };
    if deny {
        put(b"setgroups", b"deny")?;
    }
    put(b"uid_map", plan.text(u64::from(uid_map))?.bytes())?;
    put(b"gid_map", plan.text(u64::from(gid_map))?.bytes())
}
