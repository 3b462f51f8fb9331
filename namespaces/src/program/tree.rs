//! The part of the compiler that builds the container's file tree.
//!
//! Everything is opened, cloned and configured while the host's tree is still there, and attached
//! after it is gone: nothing of the image is resolved while a path could lead to the host.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{Error, Result};
use crate::failure::words;
use crate::kind::Namespaces;
use crate::mount::{Kind, Mount, Overlay, Root, attribute};
use crate::program::Compiler;
use crate::sandbox::{Sandbox, SmallFile};
use crate::wire::{NO_SLOT, move_flag, op};

const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// A detached mount waiting to be attached.
struct Ready {
    /// Its place among the mounts of the plan.
    place: usize,
    register: u64,
    target: PathBuf,
    flags: u32,
}

/// Builds and attaches the tree up to the point where names and sysctls can be set.
pub(super) fn build(c: &mut Compiler, plan: &Sandbox) -> Result<()> {
    if !plan.namespaces.contains(Namespaces::MOUNT) {
        c.borrow_donor();
        return Ok(());
    }
    if c.empty.is_none() {
        c.step(op::PRIVATE_ROOT, 0, [0; 3], "make private", "the mounts");
    }
    let pivots = plan.root != Root::Host;
    // What needs nothing from the donor goes first: it works at the same time on the other core.
    let mut ready = Vec::new();
    let (later, now): (Vec<_>, Vec<_>) = plan.mounts.iter().enumerate().partition(|(_, m)| needs_donor(m, c));
    for (place, m) in now {
        ready.push(Ready { place, ..prepare(c, m)? });
    }
    let mut spent = Vec::new();
    let root = match &plan.root {
        Root::Host => None,
        Root::Directory(path) => Some(directory(c, plan, path)?),
        Root::Overlay(overlay) => Some(overlay_root(c, plan, overlay, &mut spent)?),
    };
    for (place, m) in later {
        c.borrow_donor();
        ready.push(Ready { place, ..prepare(c, m)? });
    }
    let bound = bound_devices(c, plan)?;
    if let Some(root) = root {
        if plan.root_attributes != 0 {
            // With what is mounted below a directory.
            c.step(op::ATTR, 1, [root, plan.root_attributes, 0], "restrict", "the root mount");
        }
        switch(c, root, spent);
    }
    // In the order of the plan, in which later ones may lie below or over earlier ones.
    ready.sort_by_key(|m| m.place);
    for m in &ready {
        attach(c, m, pivots);
    }
    for (register, name) in bound {
        let target = Path::new("/dev").join(&name);
        attach(c, &Ready { place: 0, register, target, flags: move_flag::MKFILE }, true);
    }
    small_files(c, &plan.files)
}

/// Makes the mount the root, with nothing of the host below or beside it. No host path is opened from here on.
fn switch(c: &mut Compiler, root: u64, spent: Vec<(u64, PathBuf)>) {
    // What the overlay was made of is of no use any more. Closed while detached, each would wait for a grace
    // period of its own: attached in the old root they go with it at once, and under the new one nobody gets
    // at them.
    let aside = c.text(if c.empty.is_some() { "/" } else { "/proc" });
    if let Some(empty) = c.empty {
        c.step(op::EMPTY, 0, [empty, 0, 0], "create", words(Namespaces::MOUNT));
    }
    for (register, path) in spent {
        c.step(op::MOVE, 0, [register, aside, 0], "put aside the mount of", quoted(&path));
    }
    let how = if c.empty.is_some() { op::ROOT } else { op::PIVOT };
    c.step(how, 0, [root, 0, 0], "switch to", "the root file system");
}

/// What comes after sysctls: they need writable paths that are protected now.
pub(super) fn finish(c: &mut Compiler, plan: &Sandbox) {
    for path in &plan.masked {
        let (at, below) = protected(c, path);
        c.step(op::MASK, 0, [at, below, 0], "mask", quoted(path));
    }
    for path in &plan.read_only {
        let (at, below) = protected(c, path);
        c.step(op::READONLY, 0, [at, below, 0], "make read-only", quoted(path));
    }
}

/// A path, and the mount that it is below.
fn protected(c: &mut Compiler, path: &Path) -> (u64, u64) {
    let own = [("/proc", c.proc), ("/sys", c.sys)];
    let found = own.into_iter().find_map(|(at, mount)| Some((path.strip_prefix(at).ok()?, mount?)));
    match found {
        Some((below, mount)) if !below.as_os_str().is_empty() => (c.text(below), mount),
        _ => (c.text(path), NO_SLOT.into()),
    }
}

fn quoted(path: &Path) -> String {
    format!("{path:?}")
}

/// These belong to a namespace that the donor makes, or their owner is decided by its map.
fn needs_donor(m: &Mount, c: &Compiler) -> bool {
    match &m.kind {
        Kind::Sysfs | Kind::Mqueue => true,
        Kind::Bind { .. } => id_maps_binds(c),
        _ => false,
    }
}

/// Binds of the host show the host's ids to root's containers through an idmapped clone.
fn id_maps_binds(c: &Compiler) -> bool {
    c.users.donor.is_some() && !c.users.rootless
}

/// Opens a path of the host, and has the child check that it is the same object.
fn open(c: &mut Compiler, path: &Path, role: &'static str) -> Result<(u64, std::fs::Metadata)> {
    open_as(c, path, role, false)
}

/// [`open`], where a symbolic link anywhere in the path may be an error.
fn open_as(
    c: &mut Compiler,
    path: &Path,
    role: &'static str,
    exact: bool,
) -> Result<(u64, std::fs::Metadata)> {
    let fail = |source| Error::Path { path: path.to_owned(), role, source };
    let absolute = std::path::absolute(path).map_err(fail)?;
    let resolve = if exact { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
    let fd = rustix::fs::openat2(
        rustix::fs::CWD,
        &absolute,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    );
    let meta = fd.map_err(io::Error::from).and_then(|fd| std::fs::File::from(fd).metadata()).map_err(fail)?;
    let identity = c.longs(&[meta.dev(), meta.ino()]);
    let (text, register) = (c.text(&absolute), c.register());
    c.step(op::OPEN, u32::from(exact), [register, text, identity], "open", quoted(&absolute));
    Ok((register, meta))
}

fn clone_tree(c: &mut Compiler, from: u64, recursive: bool, path: &Path) -> u64 {
    let tree = c.register();
    c.step(op::OPEN_TREE, u32::from(recursive), [tree, from, 0], "clone the mount of", quoted(path));
    if c.empty.is_some() {
        // Cloned from the host's own namespace it would tell the host of what is mounted in it.
        c.step(op::ATTR, u32::from(recursive) | 2, [tree, 0, 0], "make private the mount of", quoted(path));
    }
    tree
}

fn id_map(c: &mut Compiler, tree: u64, recursive: bool, path: &Path) {
    c.borrow_donor();
    c.step(op::IDMAP, u32::from(recursive), [tree, 0, 0], "map the ids of", quoted(path));
}

fn directory(c: &mut Compiler, plan: &Sandbox, path: &Path) -> Result<u64> {
    let (fd, meta) = open(c, path, "the root file system")?;
    if !meta.is_dir() {
        return Err(Error::invalid("root", format!("{path:?} is not a directory")));
    }
    let tree = clone_tree(c, fd, true, path);
    if plan.id_mapped_root && !c.users.rootless {
        id_map(c, tree, true, path);
    }
    Ok(tree)
}

/// The clones of layers that the overlay has taken copies of go to `spent`.
fn overlay_root(
    c: &mut Compiler,
    plan: &Sandbox,
    overlay: &Overlay,
    spent: &mut Vec<(u64, PathBuf)>,
) -> Result<u64> {
    let mut layers = Vec::with_capacity(overlay.layers.len());
    let mapped = plan.id_mapped_root && c.users.donor.is_some() && !c.users.rootless;
    for path in &overlay.layers {
        let (fd, _) = open(c, path, "a layer")?;
        layers.push((fd, path));
    }
    let (upper, _) = open(c, &overlay.upper, "the writable layer")?;
    let (work, _) = open(c, &overlay.work, "the overlay work directory")?;
    if mapped {
        for (fd, path) in &mut layers {
            *fd = clone_tree(c, *fd, false, path);
            id_map(c, *fd, false, path);
            spent.push((*fd, (*path).clone()));
        }
    }
    let fs = c.register();
    let kind = c.text("overlay");
    c.step(op::FS_OPEN, 0, [fs, kind, 0], "create", "an overlay");
    let source = (c.text("source"), c.text("boxship"));
    c.step(op::FS_STRING, 0, [fs, source.0, source.1], "name", "the overlay");
    let key = c.text("lowerdir+");
    for (fd, path) in layers {
        c.step(op::FS_LAYER, 0, [fs, key, fd], "use as a layer", quoted(path));
    }
    for (name, fd, path) in [("upperdir", upper, &overlay.upper), ("workdir", work, &overlay.work)] {
        let key = c.text(name);
        c.step(op::FS_LAYER, 0, [fs, key, fd], "write to", quoted(path));
    }
    // Explicit, whatever the kernel's defaults are: the upper directory holds whole files and
    // whiteouts and nothing else.
    // (With userxattr the kernel takes "nofollow" for "off".)
    let redirect = if c.users.rootless { "nofollow" } else { "off" };
    for (key, value) in [("redirect_dir", redirect), ("metacopy", "off"), ("index", "off")] {
        let pair = (c.text(key), c.text(value));
        c.step(op::FS_STRING, 0, [fs, pair.0, pair.1], "set the overlay option", key);
    }
    for (key, _) in [("userxattr", c.users.rootless), ("volatile", overlay.volatile)].iter().filter(|o| o.1) {
        let at = c.text(key);
        c.step(op::FS_FLAG, 0, [fs, at, 0], "set the overlay option", *key);
    }
    c.step(op::FS_MOUNT, 0, [fs, 0, 0], "mount", "the overlay");
    Ok(fs)
}

/// Makes one detached mount.
fn prepare(c: &mut Compiler, m: &Mount) -> Result<Ready> {
    let mut flags = move_flag::MKDIR;
    let mut attributes = m.attributes;
    if m.read_only {
        attributes |= attribute::RDONLY;
    }
    let register = match &m.kind {
        Kind::Bind { source, recursive, exact } => {
            let (fd, meta) = open_as(c, source, "a bind mount's source", *exact)?;
            if !meta.is_dir() {
                flags = move_flag::MKFILE;
            }
            let tree = clone_tree(c, fd, *recursive, source);
            if id_maps_binds(c) {
                id_map(c, tree, false, source);
            }
            c.step(
                op::ATTR,
                u32::from(*recursive),
                [tree, attributes, 0],
                "restrict the mount of",
                quoted(source),
            );
            tree
        }
        Kind::Tmpfs { size, mode } => {
            let mut options = vec![("mode", format!("{mode:o}"))];
            options.extend(size.map(|s| ("size", s.to_string())));
            owned_tmpfs(c, options, attributes, &m.target)
        }
        Kind::Proc { pids_only } => {
            let options = if *pids_only { vec![("subset", "pid".to_owned())] } else { vec![] };
            flags |= move_flag::NO_SYMLINKS;
            let register = filesystem(c, "proc", options, attributes, &m.target);
            c.proc = Some(register);
            register
        }
        Kind::Sysfs => {
            flags |= move_flag::NO_SYMLINKS;
            // Without a network namespace of its own only the host's may be shown, and rootless not
            // even that by a new mount.
            let register = if c.users.rootless && !c.namespaces.contains(Namespaces::NET) {
                let (fd, _) = open(c, Path::new("/sys"), "sysfs")?;
                let tree = clone_tree(c, fd, true, Path::new("/sys"));
                c.step(op::ATTR, 1, [tree, attributes, 0], "restrict", "/sys");
                tree
            } else {
                filesystem(c, "sysfs", vec![], attributes, &m.target)
            };
            c.sys = Some(register);
            register
        }
        Kind::Devpts => {
            flags |= move_flag::NO_SYMLINKS;
            let mut options =
                vec![("newinstance", String::new()), ("mode", "0620".into()), ("ptmxmode", "0666".into())];
            options.extend(c.users.tty_gid.map(|g| ("gid", g.to_string())));
            filesystem(c, "devpts", options, attributes, &m.target)
        }
        Kind::Mqueue => filesystem(c, "mqueue", vec![], attributes, &m.target),
        Kind::Cgroup2 => filesystem(c, "cgroup2", vec![], attributes, &m.target),
        Kind::Dev => {
            flags |= move_flag::NO_SYMLINKS;
            device_tree(c, attributes)
        }
    };
    Ok(Ready { place: 0, register, target: m.target.clone(), flags })
}

fn filesystem(
    c: &mut Compiler,
    kind: &'static str,
    options: Vec<(&'static str, String)>,
    attributes: u64,
    target: &Path,
) -> u64 {
    let (fs, name) = (c.register(), c.text(kind));
    c.step(op::FS_OPEN, 0, [fs, name, 0], "create a file system:", kind);
    for (key, value) in options {
        let at = c.text(key);
        if value.is_empty() {
            c.step(op::FS_FLAG, 0, [fs, at, 0], "set the mount option", key);
        } else {
            let to = c.text(&value);
            c.step(op::FS_STRING, 0, [fs, at, to], "set the mount option", format!("{key}={value}"));
        }
    }
    c.step(op::FS_MOUNT, 0, [fs, attributes, 0], "mount", format!("{kind} for {target:?}"));
    fs
}

/// A tmpfs whose root belongs to the container's root.
fn owned_tmpfs(
    c: &mut Compiler,
    mut options: Vec<(&'static str, String)>,
    attributes: u64,
    target: &Path,
) -> u64 {
    let (uid, gid) = c.users.root;
    options.extend([("uid", uid.to_string()), ("gid", gid.to_string())]);
    filesystem(c, "tmpfs", options, attributes, target)
}

/// `/dev` on a small tmpfs; its nodes are made here by root and bound from the host otherwise.
fn device_tree(c: &mut Compiler, attributes: u64) -> u64 {
    let options = vec![("mode", "755".to_owned()), ("size", "256k".to_owned())];
    let dev = owned_tmpfs(c, options, attributes, Path::new("/dev"));
    c.dev = Some(dev);
    if c.users.may_mknod {
        for (name, major, minor) in DEVICES {
            node(c, dev, name, 0o020_666, rustix::fs::makedev(major, minor));
        }
    }
    for (name, target) in LINKS {
        let pair = (c.text(name), c.text(target));
        c.step(op::SYMLINK, 0, [dev, pair.0, pair.1], "link", name);
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o755)] {
        let at = c.text(name);
        c.step(op::MKDIR, 0, [dev, at, mode], "make", name);
    }
    dev
}

fn node(c: &mut Compiler, dev: u64, name: &str, mode: u32, device: u64) {
    let at = c.text(name);
    c.step(op::MKNOD, mode, [dev, at, device], "make the device", format!("/dev/{name}"));
}

/// Devices that are bound from the host: all for those who cannot make nodes, and the extra ones.
fn bound_devices(c: &mut Compiler, plan: &Sandbox) -> Result<Vec<(u64, std::ffi::OsString)>> {
    let mut bound = Vec::new();
    if !plan.mounts.iter().any(|m| m.kind == Kind::Dev) {
        return Ok(bound);
    }
    if !c.users.may_mknod {
        for (name, major, minor) in DEVICES {
            let path = Path::new("/dev").join(name);
            let (fd, meta) = open(c, &path, "a device")?;
            if meta.rdev() != rustix::fs::makedev(major, minor) {
                return Err(Error::invalid("device", format!("the host's {path:?} is another device")));
            }
            bound.push((clone_tree(c, fd, false, &path), name.into()));
        }
    }
    for device in &plan.devices {
        let (fd, meta) = open(c, &device.source, "a device")?;
        let kind = rustix::fs::FileType::from_raw_mode(meta.mode());
        if !kind.is_char_device() && !kind.is_block_device() {
            return Err(Error::invalid("device", format!("{:?} is no device node", device.source)));
        }
        if device.name.is_empty() || Path::new(&device.name).components().count() != 1 {
            return Err(Error::invalid("device", format!("{:?} is not a name below /dev", device.name)));
        }
        bound.push((clone_tree(c, fd, false, &device.source), device.name.clone()));
    }
    Ok(bound)
}

fn attach(c: &mut Compiler, m: &Ready, create: bool) {
    let at = c.text(&m.target);
    let flags = if create { m.flags } else { m.flags & !(move_flag::MKDIR | move_flag::MKFILE) };
    c.step(op::MOVE, flags, [m.register, at, 0], "mount at", quoted(&m.target));
}

/// Small files are made on the `/dev` tmpfs, bound where they belong, and then lose their first
/// name: no file system of their own, and nothing of them on disk.
fn small_files(c: &mut Compiler, files: &[SmallFile]) -> Result<()> {
    let dev = match (c.dev, files) {
        (_, []) => return Ok(()),
        (Some(dev), _) => dev,
        (None, _) => return Err(Error::invalid("file", "small files need the /dev mount")),
    };
    for (i, f) in files.iter().enumerate() {
        let name = format!(".file{i}");
        let (at, data) = (c.text(&name), c.blob(&f.content));
        c.step(op::CREATE, 0o644, [dev, at, data], "write", quoted(&f.target));
        // By descriptor: "/dev" may lead into a volume by now (CVE-2025-31133).
        let (tree, to) = (c.register(), c.text(&f.target));
        c.step(op::OPEN_TREE, 0, [tree, dev, at], "clone the mount of", quoted(&f.target));
        c.step(op::ATTR, 0, [tree, attribute::NODEV, 0], "restrict the mount of", quoted(&f.target));
        c.step(op::MOVE, move_flag::MKFILE, [tree, to, 0], "mount at", quoted(&f.target));
        c.step(op::UNLINK, 0, [dev, at, 0], "hide the first name of", quoted(&f.target));
    }
    Ok(())
}
