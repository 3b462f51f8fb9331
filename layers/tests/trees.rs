//! Trees that are hard to walk: deeper than there are descriptors, and with modes that keep their owner out.
//!
//! Each test runs in a process of its own: with few descriptors, and as an ordinary user.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test binary")]

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use boxship_layers::{
    Change, ChangeKind, Check, CommitOptions, Durability, Error, Image, ImageOptions, Owners, Store,
};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::{Resource, Rlimit};

/// Set in the process that does it.
const CHILD: &str = "BOXSHIP_TREES";
/// Fewer than any tree here is deep or wide, and more than a walk holds.
const DESCRIPTORS: u64 = 200;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = Command::new("chmod").arg("-R").arg("u+rwx").arg(&self.0).output();
        let _ = Command::new("rm").arg("-rf").arg(&self.0).output();
    }
}

/// Runs the test `name` in a process of its own; true in that process.
fn alone(name: &str, ordinary: bool) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(CHILD) {
        let all = rustix::process::getrlimit(Resource::Nofile);
        let few = Rlimit { current: Some(DESCRIPTORS), maximum: all.maximum };
        rustix::process::setrlimit(Resource::Nofile, few).expect("fewer");
        return Some(dir.into());
    }
    let scratch = Scratch(std::env::temp_dir().join(format!("boxship-trees-{}-{name}", std::process::id())));
    std::fs::create_dir(&scratch.0).expect("made");
    std::fs::set_permissions(&scratch.0, Permissions::from_mode(0o777)).expect("set");
    // Where an ordinary user can execute it.
    let program = scratch.0.join("program");
    // By another program: what another test starts meanwhile would inherit our open file, which could then not
    // be executed.
    let me = std::env::current_exe().expect("known");
    assert!(Command::new("cp").arg(me).arg(&program).status().is_ok_and(|s| s.success()), "cp");
    let mut command = Command::new(&program);
    command.args(["--exact", name, "--nocapture"]).env(CHILD, scratch.0.join("store")).current_dir("/");
    if ordinary && rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let out = command.output().expect("it runs");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
    None
}

fn open(dir: &Path) -> Store {
    Store::open_with(dir, Durability::Relaxed).expect("a store")
}

fn archive(entries: &[(String, u32, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, content) in entries {
        let mut header = tar::Header::new_gnu();
        let kind = if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular };
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        tar.append_data(&mut header, path, content.as_bytes()).expect("written");
    }
    tar.into_inner().expect("whole")
}

fn import(store: &Store, name: &str, entries: &[(String, u32, &str)]) -> Image {
    store.import(&archive(entries)[..], name, &ImageOptions::default(), &mut |_| true).expect("imported")
}

/// A chain of directories below `top`.
fn chain(top: &Path, depth: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::open(top, flags, Mode::empty()).expect("open");
    for _ in 0..depth {
        rustix::fs::mkdirat(&dir, "d", Mode::RWXU).expect("made");
        dir = rustix::fs::openat(&dir, "d", flags, Mode::empty()).expect("open");
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::openat(&dir, "f", flags, Mode::RUSR).expect("made");
}

fn names_in(archive: &[u8]) -> BTreeSet<String> {
    let mut tar = tar::Archive::new(archive);
    let name = |e: std::io::Result<tar::Entry<'_, &[u8]>>| {
        e.expect("readable").path().expect("a path").to_string_lossy().trim_end_matches('/').to_owned()
    };
    tar.entries().expect("readable").map(name).collect()
}

fn nothing_left(store: &Store) {
    for dir in ["trash", "ingest"] {
        let left = std::fs::read_dir(store.path().join(dir)).expect("readable").count();
        assert_eq!(left, 0, "{dir}");
    }
}

/// Red before: "Too many open files", as each level took a descriptor, or three.
#[test]
fn a_deep_tree_is_removed() {
    let Some(dir) = alone("a_deep_tree_is_removed", false) else { return };
    let store = open(&dir);
    let made = store.create_snapshot("c", &[][..], (0, 0)).expect("made");
    chain(&made.upper, 10_000);
    store.discard("snapshots", "c").expect("discarded");
    nothing_left(&store);
}

/// As above.
#[test]
fn a_deep_tree_is_listed_and_exported() {
    let Some(dir) = alone("a_deep_tree_is_listed_and_exported", false) else { return };
    let store = open(&dir);
    let path = ["d"; 500].join("/");
    let base = import(&store, "base:1", &[(format!("{path}/old"), 0o644, "old")]);
    assert_eq!(store.fsck(Check::Content, false).expect("checked"), []);
    let made = store.create_snapshot("c", &base, (0, 0)).expect("made");
    chain(&made.upper, 1500);
    let changes = store.diff("c", base.layers()).expect("compared");
    assert_eq!(changes.len(), 1501);
    assert_eq!(changes[0], Change { path: "/d".into(), kind: ChangeKind::Modified });
    assert_eq!(changes[1500].path, Path::new("/").join(["d"; 1500].join("/")).join("f"));
    let mut out = Vec::new();
    store.export("c", base.layers(), Owners::Root, &mut out).expect("exported");
    let names = names_in(&out);
    assert_eq!(names.len(), 1502);
    assert!(names.contains(&format!("{path}/old")));
    let usage = store.disk_usage().expect("measured");
    assert_eq!((usage.snapshots[0].entries, usage.layers[0].entries), (1501, 501));
    // An image with paths that nobody can name is refused by name.
    std::fs::create_dir(made.upper.join("e")).expect("made");
    chain(&made.upper.join("e"), 3000);
    for result in [
        store.export("c", base.layers(), Owners::Root, std::io::sink()).err(),
        store.diff("c", base.layers()).err(),
        store.commit("c", &base, Owners::Root, &CommitOptions::default(), None).err(),
    ] {
        assert!(matches!(result, Some(Error::Limit { .. })), "{result:?}");
    }
    store.discard("snapshots", "c").expect("discarded");
    nothing_left(&store);
}

/// Red before: all subdirectories of a directory, in all layers, were open at once.
#[test]
fn a_wide_tree_of_many_layers_is_exported() {
    let Some(dir) = alone("a_wide_tree_of_many_layers_is_exported", false) else { return };
    let store = open(&dir);
    let file = |n: usize, layer: usize| (format!("a/{n}/{layer}"), 0o644, "x");
    let mut image = import(&store, "l:0", &(0..300).map(|n| file(n, 0)).collect::<Vec<_>>());
    for layer in 1..60 {
        let made = store.create_snapshot("up", &image, (0, 0)).expect("made");
        let all: &[usize] = if layer < 3 { &[0, 1, 2, 3, 4, 5, 6, 7, 8, 199] } else { &[7] };
        for n in all {
            let dir = made.upper.join(format!("a/{n}"));
            std::fs::create_dir_all(&dir).expect("made");
            std::fs::write(dir.join(layer.to_string()), "x").expect("written");
        }
        let name = format!("l:{layer}");
        image = store
            .commit("up", &image, Owners::Root, &CommitOptions::default(), Some(&name))
            .expect("committed");
        store.discard("snapshots", "up").expect("discarded");
    }
    store.create_snapshot("c", &image, (0, 0)).expect("made");
    let mut out = Vec::new();
    store.export("c", image.layers(), Owners::Root, &mut out).expect("exported");
    let names = names_in(&out);
    assert_eq!(names.len(), 1 + 300 + 300 + 2 * 9 + 59);
    assert!(names.contains("a/7/59") && names.contains("a/199/2"));
    assert_eq!(store.diff("c", image.layers()).expect("compared"), []);
}

fn locked() -> Vec<(String, u32, &'static str)> {
    // The root's mode, too, and those of what is in the ones that nobody may enter.
    [
        ("./", 0o555, ""),
        ("open", 0o644, "open"),
        ("shadow", 0o000, "secret"),
        ("write-only", 0o200, "written"),
        ("none/", 0o000, ""),
        ("none/file", 0o000, "below"),
        ("none/inner/", 0o000, ""),
        ("none/inner/file", 0o644, "below that"),
        ("listed/", 0o400, ""),
        ("listed/file", 0o600, "x"),
        ("searched/", 0o100, ""),
        ("searched/file", 0o600, "x"),
    ]
    .map(|(path, mode, content)| (path.to_owned(), mode, content))
    .into()
}

/// The modes below a directory, seen by its owner, who puts them back.
fn modes(dir: &Path) -> Vec<(PathBuf, u32)> {
    let mut all = Vec::new();
    let mut entries: Vec<_> =
        std::fs::read_dir(dir).expect("readable").map(|e| e.expect("read").path()).collect();
    entries.sort();
    for path in entries {
        let meta = std::fs::symlink_metadata(&path).expect("there");
        all.push((path.clone(), meta.permissions().mode() & 0o7777));
        if meta.is_dir() {
            std::fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("set");
            all.extend(modes(&path));
            std::fs::set_permissions(&path, meta.permissions()).expect("set");
        }
    }
    all
}

/// Red before: an ordinary user could neither publish, check, commit nor export them: "Permission denied".
#[test]
fn an_owner_is_not_kept_out_by_modes() {
    let Some(dir) = alone("an_owner_is_not_kept_out_by_modes", true) else { return };
    assert!(!rustix::process::geteuid().is_root(), "an ordinary user");
    let store = open(&dir);
    let base = import(&store, "base:1", &locked());
    let layer = store.snapshot("x", base.layers()).layers[1].clone();
    let before = modes(&layer);
    assert!(before.contains(&(layer.join("none/inner"), 0)), "{before:?}");
    assert_eq!(store.fsck(Check::Content, false).expect("checked"), []);
    store.disk_usage().expect("measured");
    let made = store.create_snapshot("c", &base, (0, 0)).expect("made");
    let unpacked = |image: &Image, n: usize| {
        let path = store.snapshot("x", &image.layers()[n..=n]).layers[1].clone();
        (modes(&path).into_iter().map(|(p, m)| (p.strip_prefix(&path).expect("below").to_owned(), m)))
            .collect::<Vec<_>>()
    };
    let lock = |top: &Path| {
        std::fs::create_dir_all(top.join("mine/inner")).expect("made");
        std::fs::write(top.join("mine/inner/file"), "mine").expect("written");
        for name in ["mine/inner/file", "mine/inner", "mine"] {
            std::fs::set_permissions(top.join(name), Permissions::from_mode(0o000)).expect("set");
        }
    };
    lock(&made.upper);
    // The container's "/", too.
    std::fs::set_permissions(&made.upper, Permissions::from_mode(0o000)).expect("set");
    let changes = store.diff("c", base.layers()).expect("compared");
    assert_eq!(changes.len(), 3, "{changes:?}");
    let mut out = Vec::new();
    store.export("c", base.layers(), Owners::Root, &mut out).expect("exported");
    let names = names_in(&out);
    assert_eq!(names.len(), locked().len() - 1 + 3);
    assert!(names.contains("none/inner/file") && names.contains("mine/inner/file"));
    let image =
        store.commit("c", &base, Owners::Root, &CommitOptions::default(), Some("mine:1")).expect("committed");
    assert_eq!(
        unpacked(&image, 1),
        [("mine", 0), ("mine/inner", 0), ("mine/inner/file", 0)].map(|(p, m)| (PathBuf::from(p), m))
    );
    assert_eq!(store.fsck(Check::Content, false).expect("checked"), []);
    // All has the mode that it had.
    assert_eq!(modes(&layer), before);
    let mode = |path: &Path| std::fs::symlink_metadata(path).expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode(&made.upper), 0);
    std::fs::set_permissions(&made.upper, Permissions::from_mode(0o755)).expect("set");
    assert_eq!(modes(&made.upper).iter().map(|(_, m)| *m).collect::<Vec<_>>(), [0, 0, 0]);
    // A bad one is found, repaired, and gone when nobody needs it.
    let secret = layer.join("shadow");
    std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("set");
    std::fs::write(&secret, "SECRET").expect("written");
    std::fs::set_permissions(&secret, Permissions::from_mode(0o000)).expect("set");
    assert!(store.fsck(Check::Content, true).expect("checked")[0].repaired);
    store.discard("snapshots", "c").expect("discarded");
    store.remove_image("mine:1").expect("removed");
    store.remove_image("base:1").expect("removed");
    assert_eq!(store.fsck(Check::Content, true).expect("checked"), []);
    store.gc(false).expect("collected");
    nothing_left(&store);
    for dir in ["layers", "replaced", "blobs/sha256"] {
        assert_eq!(std::fs::read_dir(store.path().join(dir)).expect("readable").count(), 0, "{dir}");
    }
}

/// A link that has the name of what was looked at changes nothing of what it leads to.
#[test]
fn a_symlink_lends_nobody_a_mode() {
    let Some(dir) = alone("a_symlink_lends_nobody_a_mode", true) else { return };
    let store = open(&dir);
    let made = store.create_snapshot("c", &[][..], (0, 0)).expect("made");
    let victim = dir.with_file_name("victim");
    drop(File::create(&victim).expect("made"));
    std::fs::set_permissions(&victim, Permissions::from_mode(0o000)).expect("set");
    std::os::unix::fs::symlink(&victim, made.upper.join("link")).expect("made");
    assert_eq!(store.diff("c", &[]).expect("compared").len(), 1);
    store.export("c", &[], Owners::Root, std::io::sink()).expect("exported");
    store.discard("snapshots", "c").expect("discarded");
    let stat = rustix::fs::statat(rustix::fs::CWD, &victim, AtFlags::empty()).expect("there");
    assert_eq!(stat.st_mode & 0o7777, 0);
}
