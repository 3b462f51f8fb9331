//! Extended attributes and access control lists, on their way in and out; and directories of the host as images.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test binary")]

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use boxship_layers::{Check, CommitOptions, Error, Image, ImageOptions, Owners, Result, Store};
use rustix::fs::XattrFlags;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

mod support;

use support::Scratch;

/// The kernel's form: user rwx, user `id` r-x, group r--, mask r-x, other none.
fn acl(id: u32) -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 5, id), (4, 4, u32::MAX), (16, 5, u32::MAX), (32, 0, u32::MAX)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend([&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    bytes
}

fn get(path: &Path, key: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1000];
    let n = rustix::fs::lgetxattr(path, key, &mut value[..]).ok()?;
    value.truncate(n);
    Some(value)
}

fn set(path: &Path, key: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()).expect("set");
}

fn layer_of(store: &Store, image: &Image, n: usize) -> PathBuf {
    store.snapshot("x", &image.layers()[n..=n]).layers[1].clone()
}

fn entry(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, records: &[(&str, &[u8])]) {
    tar.append_pax_extensions(records.iter().copied()).expect("written");
    let mut header = tar::Header::new_ustar();
    let kind = if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular };
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(mode);
    tar.append_data(&mut header, path, &b""[..]).expect("written");
}

fn import(store: &Store, tar: tar::Builder<Vec<u8>>, name: &str) -> Result<Image> {
    let bytes = tar.into_inner().expect("whole");
    store.import(&bytes[..], name, &ImageOptions::default(), &mut |_| true)
}

type Records = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

fn records(archive: &[u8]) -> Records {
    let mut tar = tar::Archive::new(archive);
    let mut all = BTreeMap::new();
    for entry in tar.entries().expect("readable") {
        let mut entry = entry.expect("readable");
        let path = entry.path().expect("a path").to_string_lossy().trim_end_matches('/').to_owned();
        let extensions = entry.pax_extensions().expect("readable");
        let record = |r: std::io::Result<tar::PaxExtension<'_>>| {
            let r = r.expect("readable");
            (r.key().expect("UTF-8").to_owned(), r.value_bytes().to_vec())
        };
        all.insert(path, extensions.into_iter().flatten().map(record).collect());
    }
    all
}

/// Red before: they were dropped.
#[test]
fn access_control_lists_come_in_and_go_out() {
    let dir = Scratch::new("acl");
    let store = dir.store("store");
    let words = "user::rwx,user:1000:r-x,group::r--,mask::r-x,other::---";
    let named = "user::rwx,user:lisa:r-x:1000,group::r--,mask::r-x,other::---";
    let mut tar = tar::Builder::new(Vec::new());
    entry(
        &mut tar,
        "d/",
        0o750,
        &[("SCHILY.acl.access", words.as_bytes()), ("SCHILY.acl.default", words.as_bytes())],
    );
    entry(&mut tar, "d/plain", 0o644, &[]);
    entry(&mut tar, "d/inner/", 0o755, &[]);
    entry(&mut tar, "bytes", 0o750, &[(&format!("SCHILY.xattr.{ACCESS}"), &acl(1000))]);
    entry(&mut tar, "words", 0o750, &[("SCHILY.acl.access", named.as_bytes())]);
    entry(
        &mut tar,
        "unknown",
        0o640,
        &[("SCHILY.acl.access", b"user::rw-,user:lisa:r--,group::r--,mask::r--,other::---")],
    );
    // One that was a directory with a list, and is a file: nothing is handed on by it.
    entry(&mut tar, "was/", 0o755, &[("SCHILY.acl.default", words.as_bytes())]);
    entry(&mut tar, "was", 0o644, &[]);
    let image = import(&store, tar, "acl:1").expect("imported");
    assert_eq!(store.fsck(Check::Content, false).expect("checked"), []);
    let layer = layer_of(&store, &image, 0);
    let kept = store.keeps_owners().then(|| acl(1000));
    for (path, key) in [("d", ACCESS), ("d", DEFAULT), ("bytes", ACCESS), ("words", ACCESS)] {
        assert_eq!(get(&layer.join(path), key), kept, "{path} {key}");
    }
    for (path, mode) in
        [("d", 0o750), ("d/plain", 0o644), ("d/inner", 0o755), ("unknown", 0o640), ("bytes", 0o750)]
    {
        let meta = std::fs::metadata(layer.join(path)).expect("there");
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{path}");
        if path != "d" && path != "bytes" {
            assert_eq!(
                (get(&layer.join(path), ACCESS), get(&layer.join(path), DEFAULT)),
                (None, None),
                "{path}"
            );
        }
    }
    // What is ambiguous or none is refused.
    let other = "user::rwx,user:1001:r-x,group::r--,mask::r-x,other::---";
    let both: [(&str, &[u8]); 2] =
        [("SCHILY.acl.access", other.as_bytes()), ("SCHILY.xattr.system.posix_acl_access", &acl(1000))];
    for bad in [
        &both[..],
        &[("SCHILY.acl.access", b"user::rwx")],
        &[("SCHILY.xattr.system.posix_acl_default", b"\x02\0\0\0x")],
    ] {
        let mut tar = tar::Builder::new(Vec::new());
        entry(&mut tar, "bad", 0o644, bad);
        let result = import(&store, tar, "bad:1");
        assert!(
            matches!(&result, Err(Error::Archive { reason, .. }) if reason.contains("access control")),
            "{result:?}"
        );
    }
    if !store.keeps_owners() {
        return;
    }
    // Of a container whose ids begin at 100000.
    let made = store.create_snapshot("c", &image, (100_000, 100_000)).expect("made");
    let mine = made.upper.join("mine");
    std::fs::create_dir(&mine).expect("made");
    set(&mine, ACCESS, &acl(100_007));
    set(&mine, DEFAULT, &acl(7));
    std::fs::write(made.upper.join("nobodys"), "").expect("written");
    set(&made.upper.join("nobodys"), ACCESS, &acl(3_000_000));
    let owners = Owners::From(100_000);
    let mut out = Vec::new();
    store.export("c", image.layers(), owners, &mut out).expect("exported");
    let records = records(&out);
    let binary = format!("SCHILY.xattr.{ACCESS}");
    let seven = words.replace("1000", "7").into_bytes();
    assert_eq!(records["mine"][&binary], acl(7));
    assert_eq!(records["mine"]["SCHILY.acl.access"], seven);
    assert_eq!(records["mine"]["SCHILY.acl.default"], seven);
    assert_eq!(records["bytes"][&binary], acl(1000), "what the image brought");
    assert_eq!(records["nobodys"]["SCHILY.acl.access"], b"user::rwx,group::r--,mask::r-x,other::---");
    let committed =
        store.commit("c", &image, owners, &CommitOptions::default(), Some("mine:1")).expect("committed");
    let layer = layer_of(&store, &committed, 1);
    assert_eq!(get(&layer.join("mine"), ACCESS), Some(acl(7)));
    assert_eq!(get(&layer.join("mine"), DEFAULT), Some(acl(7)));
    // What was written is read again as it was.
    let flat = store.import(&out[..], "flat:1", &ImageOptions::default(), &mut |_| true).expect("imported");
    assert_eq!(get(&layer_of(&store, &flat, 0).join("mine"), DEFAULT), Some(acl(7)));
    assert_eq!(store.fsck(Check::Content, false).expect("checked"), []);
}

fn tree(dir: &Path, backwards: bool) {
    let mut names: Vec<String> = (0..60).map(|n| format!("f{n}")).collect();
    if backwards {
        names.reverse();
    }
    std::fs::create_dir(dir).expect("made");
    for name in &names {
        std::fs::write(dir.join(name), name).expect("written");
    }
    std::fs::hard_link(dir.join("f1"), dir.join("link")).expect("linked");
    set(&dir.join("f2"), "user.kept", b"value");
    set(&dir.join("f2"), "user.overlay.opaque", b"y");
    std::os::unix::fs::symlink("f3", dir.join("symlink")).expect("linked");
    std::fs::create_dir(dir.join("sub")).expect("made");
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
    for name in names.iter().map(String::as_str).chain(["sub", ""]) {
        std::fs::File::open(dir.join(name)).and_then(|f| f.set_modified(time)).expect("set");
    }
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let stamp = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 };
    let both = rustix::fs::Timestamps { last_access: stamp, last_modification: stamp };
    rustix::fs::utimensat(rustix::fs::CWD, dir.join("symlink"), &both, flags).expect("set");
    std::fs::File::open(dir).and_then(|f| f.set_modified(time)).expect("set");
}

/// Red before: neither attributes nor hard links came, and names in the order of the directory, which differs between file
/// systems.
#[test]
fn a_directory_is_the_same_layer_wherever_it_is() {
    let dir = Scratch::new("directory");
    let store = dir.store("store");
    let import =
        |path: &Path, name: &str| store.import_directory(path, name, &ImageOptions::default(), &mut |_| true);
    tree(&dir.0.join("one"), false);
    tree(&dir.0.join("two"), true);
    let one = import(&dir.0.join("one"), "one:1").expect("imported");
    let two = import(&dir.0.join("two"), "two:1").expect("imported");
    assert_eq!(one.layers(), two.layers());
    let layer = layer_of(&store, &one, 0);
    assert_eq!(get(&layer.join("f2"), "user.kept").as_deref(), Some(&b"value"[..]));
    assert_eq!(get(&layer.join("f2"), "user.overlay.opaque"), None);
    let meta = |name: &str| std::fs::symlink_metadata(layer.join(name)).expect("there");
    assert_eq!(meta("f1").ino(), meta("link").ino());
    assert_eq!((meta("f5").mtime(), meta("f5").mtime_nsec()), (1_000_000_000, 5));
    assert_eq!(std::fs::read_link(layer.join("symlink")).expect("a link"), Path::new("f3"));
    // By way of a link, and nothing that would mean something else in a layer.
    std::os::unix::fs::symlink("one", dir.0.join("way")).expect("linked");
    assert_eq!(import(&dir.0.join("way"), "way:1").expect("imported").layers(), one.layers());
    std::fs::write(dir.0.join("two/.wh.f1"), "").expect("written");
    assert!(matches!(import(&dir.0.join("two"), "bad:1"), Err(Error::Archive { .. })));
    assert!(import(&dir.0.join("one/f1"), "bad:1").is_err());
    assert_eq!(store.fsck(Check::Content, false).expect("checked"), []);
}
