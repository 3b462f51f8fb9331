//! A directory tree as a value: what an archive must become, and what it became.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Times that ext4 can hold; the kernel moves others to the nearest.
const TIMES: std::ops::RangeInclusive<i64> = -(1 << 31)..=15_032_385_535;

#[derive(Clone, Debug, PartialEq)]
pub enum Time {
    Exact(i64, u32),
    /// As Python has it.
    About(f64),
    /// These nanoseconds after or before 1970: GNU tar lists both in the same way.
    Around1970(u32),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// `f`, `d`, `l`, `p`, or `w` for a whiteout.
    pub kind: char,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: Time,
    pub size: u64,
    /// The CRC-32 of the content; `None` when the reader does not tell it.
    pub crc: Option<u32>,
    pub link: Vec<u8>,
    /// Likewise.
    pub xattrs: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// The first of the names of the same file.
    pub first: Vec<u8>,
}

pub type Tree = BTreeMap<Vec<u8>, Node>;

pub fn crc(data: &[u8]) -> u32 {
    let mut c = flate2::Crc::new();
    c.update(data);
    c.sum()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Node {
    fn new(kind: char, mode: u32) -> Node {
        let mtime = Time::Exact(1_000_000_000, 0);
        let (uid, gid, size, link, first) = (0, 0, 0, Vec::new(), Vec::new());
        Node { kind, mode, uid, gid, mtime, size, crc: None, link, xattrs: Some(BTreeMap::new()), first }
    }

    pub fn file(data: &[u8]) -> Node {
        Node { size: data.len() as u64, crc: Some(crc(data)), ..Node::new('f', 0o644) }
    }

    pub fn dir() -> Node {
        Node::new('d', 0o755)
    }

    /// One that the archive does not mention.
    pub fn made() -> Node {
        Node::dir().time(0, 0)
    }

    pub fn sym(target: impl AsRef<[u8]>) -> Node {
        Node { link: target.as_ref().to_vec(), ..Node::new('l', 0o777) }
    }

    pub fn fifo() -> Node {
        Node::new('p', 0o644)
    }

    pub fn whiteout() -> Node {
        Node::new('w', 0).time(0, 0)
    }

    pub fn mode(self, mode: u32) -> Node {
        Node { mode, ..self }
    }

    pub fn owner(self, uid: u64, gid: u64) -> Node {
        Node { uid, gid, ..self }
    }

    pub fn time(self, seconds: i64, nanos: u32) -> Node {
        Node { mtime: Time::Exact(seconds, nanos), ..self }
    }

    pub fn xattr(mut self, key: &str, value: &[u8]) -> Node {
        self.xattrs.get_or_insert_default().insert(key.into(), value.to_vec());
        self
    }

    pub fn opaque(self) -> Node {
        self.xattr("opaque", b"y")
    }

    /// The same file as one of an earlier name.
    pub fn same(self, first: &str) -> Node {
        Node { first: first.into(), ..self }
    }
}

fn time_fits(expected: &Time, found: &Time) -> bool {
    let Time::Exact(seconds, nanos) = found else { return false };
    match expected {
        Time::Exact(s, _) if !TIMES.contains(s) => true,
        Time::Exact(s, n) => (s, n) == (seconds, nanos),
        Time::Around1970(n) => (0, *n) == (*seconds, *nanos) || (-1, 1_000_000_000 - n) == (*seconds, *nanos),
        #[allow(clippy::cast_precision_loss, reason = "that is the point")]
        Time::About(t) => {
            let found = *seconds as f64 + f64::from(*nanos) / 1e9;
            (t - found).abs() < 1e-5 || *t < *TIMES.start() as f64 || *t > *TIMES.end() as f64
        }
    }
}

/// The first difference, in words. The root counts only if it is expected.
pub fn differs(expected: &Tree, found: &Tree) -> Option<String> {
    let show = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    for name in found.keys() {
        if !name.is_empty() && !expected.contains_key(name) {
            return Some(format!("{:?} is there and should not be", show(name)));
        }
    }
    for (name, e) in expected {
        let Some(f) = found.get(name) else { return Some(format!("{:?} is missing", show(name))) };
        let (mut e, mut f) = (e.clone(), f.clone());
        if e.first.is_empty() {
            e.first.clone_from(name);
        }
        if !is_root() {
            (e.uid, e.gid) = (f.uid, f.gid);
        }
        if e.crc.is_none() {
            f.crc = None;
        }
        if e.xattrs.is_none() {
            f.xattrs = None;
        }
        if time_fits(&e.mtime, &f.mtime) {
            e.mtime = f.mtime.clone();
        }
        if e != f {
            return Some(format!("{:?} should be\n  {e:?} and is\n  {f:?}", show(name)));
        }
    }
    None
}

/// What is below `dir`, and `dir` itself under the empty name.
pub fn look(dir: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut inodes = BTreeMap::new();
    let fd = std::fs::File::open(dir).expect("opened");
    tree.insert(Vec::new(), node(&[], Path::new("."), &fd, &mut inodes));
    walk(&fd, b"", &mut tree, &mut inodes);
    // The first name is the first in their order, not in that of the directory.
    let mut first = BTreeMap::new();
    for (name, node) in &mut tree {
        node.first = first.entry(node.first.clone()).or_insert_with(|| name.clone()).clone();
    }
    tree
}

/// By descriptors: paths may be too long for the kernel to take them whole.
fn walk(dir: &std::fs::File, at: &[u8], tree: &mut Tree, inodes: &mut BTreeMap<u64, Vec<u8>>) {
    let base = format!("/proc/self/fd/{}", dir.as_raw_fd());
    for entry in std::fs::read_dir(&base).expect("readable") {
        let name = entry.expect("an entry").file_name().into_vec();
        let path = if at.is_empty() { name.clone() } else { [at, b"/", &name].concat() };
        let file = Path::new(OsStr::from_bytes(&name));
        let node = node(&path, file, dir, inodes);
        let is_dir = node.kind == 'd';
        tree.insert(path.clone(), node);
        if is_dir {
            open_up(&Path::new(&base).join(file), 0o700);
            walk(&std::fs::File::open(Path::new(&base).join(file)).expect("opened"), &path, tree, inodes);
        }
    }
}

/// Lets an ordinary user look, whatever the mode, which was noted before.
fn open_up(path: &Path, mode: u32) {
    if !is_root() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode set");
    }
}

fn node(path: &[u8], file: &Path, dir: &std::fs::File, inodes: &mut BTreeMap<u64, Vec<u8>>) -> Node {
    let full = Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(file);
    let m = std::fs::symlink_metadata(&full).expect("there");
    let t = m.file_type();
    let first = inodes.entry(m.ino()).or_insert_with(|| path.to_vec()).clone();
    if t.is_char_device() && m.rdev() == 0 {
        return Node { first, ..Node::whiteout() };
    }
    let kind = match t {
        t if t.is_file() => 'f',
        t if t.is_dir() => 'd',
        t if t.is_symlink() => 'l',
        t if t.is_fifo() => 'p',
        _ => '?',
    };
    let mut crc = None;
    let closed = kind == 'f' && m.mode() & 0o400 == 0;
    if closed {
        open_up(&full, 0o600);
    }
    if kind == 'f' {
        let (mut c, mut part) = (flate2::Crc::new(), [0; 4096]);
        let mut f = std::fs::File::open(&full).expect("readable");
        loop {
            match f.read(&mut part).expect("readable") {
                0 => break,
                n => c.update(&part[..n]),
            }
        }
        crc = Some(c.sum());
    }
    let link = if kind == 'l' {
        std::fs::read_link(&full).expect("a link").into_os_string().into_vec()
    } else {
        vec![]
    };
    let mtime = Time::Exact(m.mtime(), u32::try_from(m.mtime_nsec()).expect("nanoseconds"));
    let size = if kind == 'f' { m.size() } else { 0 };
    let (mode, uid, gid) = (m.mode() & 0o7777, m.uid().into(), m.gid().into());
    let xattrs = Some(xattrs(&full));
    if closed {
        open_up(&full, m.mode() & 0o7777);
    }
    Node { kind, mode, uid, gid, mtime, size, crc, link, xattrs, first }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let n = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut all = BTreeMap::new();
    for name in names[..n].split(|c| *c == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 65536];
        let n = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap_or(0);
        let overlay = [&b"trusted.overlay.opaque"[..], b"user.overlay.opaque"].contains(&name);
        all.insert(if overlay { b"opaque".to_vec() } else { name.to_vec() }, value[..n].to_vec());
    }
    all
}
