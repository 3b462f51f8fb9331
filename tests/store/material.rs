//! Layers whose every byte follows from a number, so that whoever looks knows what must be there.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use boxship_layers::{Digest, Store};

type Files = Arc<Vec<(String, Vec<u8>)>>;

/// The regular files of the layer with this number.
pub fn files(seed: u64) -> Files {
    // Asked for again and again, and slow to make without optimisation.
    static MADE: Mutex<BTreeMap<u64, Files>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().expect("nobody panics with it");
    if made.len() > 100 {
        made.clear();
    }
    Arc::clone(made.entry(seed).or_insert_with(|| Arc::new(make(seed))))
}

fn make(seed: u64) -> Vec<(String, Vec<u8>)> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    // Small, empty, and one of more than a piece that travels between the store's threads.
    let sizes = [next() % 300, next() % 9_000, 0, 130_000 + next() % 50_000, next() % 30_000];
    // More small ones on request: more system calls to attack.
    let more = crate::number("BOXSHIP_STORE_FILES", 0);
    let more: Vec<u64> = (0..more).map(|_| next() % 300).collect();
    let mut all = Vec::new();
    for (i, size) in sizes.into_iter().chain(more).enumerate() {
        let bytes: Vec<u8> = std::iter::repeat_with(|| next().to_le_bytes())
            .flatten()
            .take(usize::try_from(size).expect("small"))
            .collect();
        all.push((format!("d{}-{seed}/f{i}", i % 2), bytes));
    }
    all
}

/// The archive of this layer: its files, a symlink and a hard link, something deleted, a directory that hides
/// what is below it, and a directory that is told of once more when it is full.
pub fn archive(seed: u64) -> Vec<u8> {
    written(seed, true)
}

/// The same without what not everybody reads.
pub fn simple_archive(seed: u64) -> Vec<u8> {
    written(seed, false)
}

fn written(seed: u64, full: bool) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: usize| {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_mode(mode);
        h.set_size(size as u64);
        h.set_mtime(1_700_000_000 + seed);
        h
    };
    for i in 0..2 {
        let mut h = header(tar::EntryType::Directory, 0o750, 0);
        tar.append_data(&mut h, format!("d{i}-{seed}/"), std::io::empty()).expect("memory");
    }
    let all = files(seed);
    for (path, bytes) in all.iter() {
        let mut h = header(tar::EntryType::Regular, 0o640, bytes.len());
        tar.append_data(&mut h, path, &bytes[..]).expect("memory");
    }
    let mut h = header(tar::EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut h, format!("symbolic-{seed}"), &all[0].0).expect("memory");
    let mut h = header(tar::EntryType::Link, 0o640, 0);
    tar.append_link(&mut h, format!("hard-{seed}"), &all[1].0).expect("memory");
    for (kind, mode, path) in [
        (tar::EntryType::Regular, 0o644, format!(".wh.gone-{seed}")),
        (tar::EntryType::Directory, 0o750, format!("closed-{seed}/")),
        (tar::EntryType::Regular, 0o644, format!("closed-{seed}/.wh..wh..opq")),
        (tar::EntryType::Directory, 0o750, format!("d0-{seed}/")),
    ]
    .into_iter()
    .filter(|_| full)
    {
        tar.append_data(&mut header(kind, mode, 0), path, std::io::empty()).expect("memory");
    }
    tar.into_inner().expect("memory")
}

/// The same tree as somebody who works in a container leaves it.
pub fn write(dir: &Path, seed: u64) -> std::io::Result<()> {
    let all = files(seed);
    for (path, bytes) in all.iter() {
        let path = dir.join(path);
        let parent = path.parent().expect("it is below");
        std::fs::create_dir_all(parent)?;
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o750))?;
        let mut file = std::fs::File::create(&path)?;
        file.write_all(bytes)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o640))?;
    }
    std::os::unix::fs::symlink(&all[0].0, dir.join(format!("symbolic-{seed}")))?;
    std::fs::hard_link(dir.join(&all[1].0), dir.join(format!("hard-{seed}")))?;
    let deleted = dir.join(format!("gone-{seed}"));
    use rustix::fs::{CWD, FileType, Mode, XattrFlags};
    rustix::fs::mknodat(CWD, deleted, FileType::CharacterDevice, Mode::empty(), 0)?;
    let closed = dir.join(format!("closed-{seed}"));
    std::fs::create_dir(&closed)?;
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o750))?;
    Ok(rustix::fs::setxattr(&closed, opaque(), b"y", XattrFlags::empty())?)
}

fn opaque() -> &'static str {
    if rustix::process::geteuid().is_root() { "trusted.overlay.opaque" } else { "user.overlay.opaque" }
}

/// Which layer this tree is, by its symlink.
pub fn number_of(dir: &Path) -> Option<u64> {
    let mut names = std::fs::read_dir(dir).ok()?.flatten().map(|e| e.file_name());
    names.find_map(|n| n.to_str()?.strip_prefix("symbolic-")?.parse().ok())
}

/// What of this tree is not as it should be.
pub fn differs(dir: &Path, seed: u64) -> Option<String> {
    let all = files(seed);
    let mut expected = vec![format!("symbolic-{seed}"), format!("hard-{seed}"), format!("gone-{seed}")];
    for (path, bytes) in all.iter() {
        expected.push(path.clone());
        let full = dir.join(path);
        match std::fs::read(&full) {
            Ok(found) if found == *bytes => {}
            Ok(found) => return Some(format!("{full:?}: other content, {} bytes", found.len())),
            Err(e) => return Some(format!("{full:?}: {e}")),
        }
        let mode = |p: &Path| std::fs::metadata(p).map(|m| m.mode() & 0o7777).unwrap_or_default();
        let (file, parent) = (mode(&full), mode(full.parent().expect("below")));
        if (file, parent) != (0o640, 0o750) {
            return Some(format!("{full:?}: mode {file:o} in {parent:o}"));
        }
    }
    let link = std::fs::read_link(dir.join(&expected[0]));
    if link.as_ref().ok() != Some(&PathBuf::from(&all[0].0)) {
        return Some(format!("the symlink: {link:?}"));
    }
    let inode = |path: &str| std::fs::metadata(dir.join(path)).map(|m| m.ino()).ok();
    if inode(&expected[1]).is_none() || inode(&expected[1]) != inode(&all[1].0) {
        return Some("the hard link is none".to_owned());
    }
    let deleted = std::fs::symlink_metadata(dir.join(&expected[2])).ok();
    if !deleted.is_some_and(|m| m.file_type().is_char_device() && m.rdev() == 0) {
        return Some("what was deleted is not".to_owned());
    }
    let mut value = [0u8; 1];
    let closed = rustix::fs::getxattr(dir.join(format!("closed-{seed}")), opaque(), &mut value[..]);
    if closed != Ok(1) || value[0] != b'y' {
        return Some("the directory that hides what is below it does not".to_owned());
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.sort();
    expected.sort();
    (found != expected).then(|| format!("{found:?} instead of {expected:?}"))
}

fn walk(top: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(top, &path, found);
        } else {
            found.push(path.strip_prefix(top).expect("below").to_string_lossy().into_owned());
        }
    }
}

/// Where the store has the files of a layer.
pub fn layer_dir(store: &Store, diff_id: &Digest) -> PathBuf {
    store.path().join("layers").join(diff_id.hex())
}

/// What is wrong with an image whose topmost layer has this number; `None` as digest: any.
pub fn image_differs(store: &Store, name: &str, digest: Option<&str>, seed: u64) -> Option<String> {
    let image = match store.image(name) {
        Ok(image) => image,
        Err(e) => return Some(format!("{name}: {e}")),
    };
    if digest.is_some_and(|d| d != image.digest().to_string()) {
        return Some(format!("{name} is {}, not {digest:?}", image.digest()));
    }
    let Some(top) = image.layers().last() else { return Some(format!("{name} has no layers")) };
    differs(&layer_dir(store, top), seed).map(|what| format!("{name}: {what}"))
}
