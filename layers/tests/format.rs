//! Stores of newer versions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test binary")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use boxship_layers::{
    Check, CommitOptions, Digest, Durability, Error, HostImage, ImageOptions, LoadOptions, Owners, Publish,
    Result, Store,
};

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(dir: &Path) -> Result<Store> {
    Store::open_with(dir, Durability::Relaxed)
}

/// Everything below, with times of directories and content.
fn everything(dir: &Path, all: &mut BTreeMap<PathBuf, (std::time::SystemTime, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        let meta = std::fs::symlink_metadata(&path).expect("there");
        let content = if meta.is_file() { std::fs::read(&path).expect("readable") } else { Vec::new() };
        all.insert(path.clone(), (meta.modified().expect("a time"), content));
        if meta.is_dir() {
            everything(&path, all);
        }
    }
}

/// Red before: all stores with features were refused.
#[test]
fn a_store_with_features() {
    let dir = Scratch(std::env::temp_dir().join(format!("boxship-format-{}", std::process::id())));
    let root = dir.0.join("store");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &b"x"[..]).expect("written");
    let archive = tar.into_inner().expect("whole");
    let import = |store: &Store| store.import(&archive[..], "a:1", &ImageOptions::default(), &mut |_| true);
    let store = open(&root).expect("a store");
    let image = import(&store).expect("imported");
    store.create_snapshot("c", &image, (0, 0)).expect("made");
    // A file of work that is still going on for all that this version knows.
    std::fs::create_dir(root.join("ingest/somebodys")).expect("made");
    drop(store);
    let format = |lists: [&str; 3]| {
        let [compatible, read_only, incompatible] =
            lists.map(|l| if l.is_empty() { String::new() } else { format!("{l:?}") });
        let text = format!(
            r#"{{"version":1,"compatible":[{compatible}],"read_only_compatible":[{read_only}],"incompatible":[{incompatible}]}}"#
        );
        std::fs::write(root.join("format"), text).expect("written");
    };
    for lists in [["", "", "x"], ["x", "x", "x"], ["", "y", "x"]] {
        format(lists);
        let result = open(&root);
        assert!(matches!(&result, Err(Error::Format { found, .. }) if found.contains("\"x\"")), "{result:?}");
    }
    // Found by the fuzzer: it was read as version 1 without features.
    std::fs::write(root.join("format"), "[1]").expect("written");
    assert!(matches!(open(&root), Err(Error::Json { .. })));
    format(["c", "x", ""]);
    let mut before = BTreeMap::new();
    everything(&root, &mut before);
    let store = open(&root).expect("it can be read");
    // Reads.
    assert_eq!(store.images().expect("listed").len(), 1);
    let image = store.image("a:1").expect("there");
    assert!(!image.manifest().expect("there").is_empty());
    assert_eq!(store.fsck(Check::Structure, false).expect("checked"), []);
    assert!(store.gc(true).expect("looked").complete);
    store.disk_usage().expect("measured");
    store.diff("c", image.layers()).expect("compared");
    store.export("c", image.layers(), Owners::Root, std::io::sink()).expect("exported");
    let mut saved = Vec::new();
    store.save(&["a:1".into()], &mut saved, &mut |_| true).expect("saved");
    assert_eq!(store.snapshots().expect("listed"), ["c"]);
    store.empty_trash();
    // Writes.
    let (digest, programs) = (Digest::of(b""), HostImage::new(["/bin/sh"]));
    let refused = [
        import(&store).err(),
        store.import_directory(Path::new("/etc/ssl"), "b:1", &ImageOptions::default(), &mut |_| true).err(),
        store.import_host_programs(&programs, "b:1", &ImageOptions::default(), &mut |_| true).err(),
        store.load(&saved[..], &LoadOptions::default(), &mut |_| true).err(),
        store.tag_image("a:1", "b:1").err(),
        store.remove_image("a:1").err(),
        store.gc(false).err(),
        store.fsck(Check::Structure, true).err(),
        store.fsck(Check::Content, false).err(),
        store.begin(Publish::Each).err(),
        store.try_lock_layer(&digest).err(),
        store.create_snapshot("d", &image, (0, 0)).err(),
        store.renew_snapshot("c").err(),
        store.remove_snapshot("c").err(),
        store.discard("snapshots", "c").err(),
        store.commit("c", &image, Owners::Root, &CommitOptions::default(), None).err(),
    ];
    for (i, error) in refused.iter().enumerate() {
        assert!(matches!(error, Some(Error::ReadOnly { feature, .. }) if feature == "x"), "{i}: {error:?}");
    }
    let mut after = BTreeMap::new();
    everything(&root, &mut after);
    assert!(before == after, "something was written");
    // What is compatible is nobody's concern.
    format(["c", "", ""]);
    let store = open(&root).expect("a store");
    store.tag_image("a:1", "b:1").expect("tagged");
}
