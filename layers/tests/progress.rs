//! Long work tells how far it is and can be stopped, also within one large file, and then nothing of it is visible.
//!
//! Red before: a file was one step, however large, and commit, export, fsck and gc told nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test binary")]

use std::path::PathBuf;

use boxship_layers::{
    Check, CommitOptions, Durability, Error, Image, ImageOptions, LoadOptions, Owners, Progress, Result,
    Store,
};

/// Of one file. Compressed it is much smaller.
const SIZE: usize = 24 << 20;
/// Events that work on one such file tells of at least.
const EVENTS: usize = 16;

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes that do not become fewer when they are compressed.
fn noise(seed: u64) -> Vec<u8> {
    let mut n = seed;
    let mut next = || {
        n ^= n << 13;
        n ^= n >> 7;
        n ^= n << 17;
        n.to_le_bytes()
    };
    (0..SIZE / 8).flat_map(|_| next()).collect()
}

fn archive(seed: u64) -> Vec<u8> {
    let data = noise(seed);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "large", &data[..]).expect("written");
    tar.into_inner().expect("whole")
}

type Work<'a> = &'a dyn Fn(&mut dyn FnMut(Progress) -> bool) -> Result<()>;

/// Once to see that it can be stopped at any of the first events, and once to see how often it tells something.
fn observed(what: &str, least: usize, work: Work<'_>, nothing: &dyn Fn()) {
    for last in [1, least / 2, least] {
        let mut left = last;
        let stopped = work(&mut |_| {
            left = left.saturating_sub(1);
            left > 0
        });
        assert!(matches!(stopped, Err(Error::Cancelled)), "{what} at {last}: {stopped:?}");
        nothing();
    }
    let (mut events, mut before) = (0, 0);
    let result = work(&mut |progress| {
        events += 1;
        if let Progress::Read { bytes } = progress {
            assert!(bytes >= before, "{what}: {bytes} after {before}");
            before = bytes;
        }
        true
    });
    assert!(result.is_ok(), "{what}: {result:?}");
    assert!(events >= least, "{what} told {events} times");
}

#[test]
fn work_on_one_large_file_is_told_of_and_can_be_stopped() {
    let dir = Scratch(std::env::temp_dir().join(format!("boxship-progress-{}", std::process::id())));
    std::fs::create_dir_all(&dir.0).expect("made");
    let open = |name: &str| Store::open_with(dir.0.join(name), Durability::Relaxed).expect("a store");
    let store = open("one");
    let names =
        |store: &Store| store.images().expect("listed").into_iter().map(|i| i.name).collect::<Vec<_>>();
    let count = |store: &Store, dir: &str| std::fs::read_dir(store.path().join(dir)).expect("there").count();
    let untouched = |store: &Store, expected: &[&str]| {
        assert_eq!(names(store), expected);
        for dir in ["ingest", "trash"] {
            assert_eq!(count(store, dir), 0, "{dir}");
        }
    };
    let bytes = archive(1);
    let options = ImageOptions::default();
    observed(
        "import",
        EVENTS,
        &|observe| store.import(&bytes[..], "large:1", &options, observe).map(drop),
        &|| {
            untouched(&store, &[]);
            assert_eq!(count(&store, "layers") + count(&store, "blobs/sha256"), 0);
        },
    );
    let base = store.image("large:1").expect("there");
    let made = store.create_snapshot("c", &base, (0, 0)).expect("made");
    std::fs::write(made.upper.join("mine"), noise(2)).expect("written");
    observed(
        "commit",
        EVENTS,
        &|observe| {
            let options = CommitOptions::default();
            store.commit_with("c", &base, Owners::Root, &options, Some("mine:1"), observe).map(drop)
        },
        &|| {
            untouched(&store, &["large:1"]);
            assert_eq!(count(&store, "layers"), 1);
        },
    );
    observed(
        "export",
        EVENTS,
        &|observe| store.export_with("c", base.layers(), Owners::Root, std::io::sink(), observe),
        &|| {},
    );
    let saved = dir.0.join("saved.tar");
    let all = ["large:1".to_owned(), "mine:1".to_owned()];
    observed("save", EVENTS, &|observe| store.save_file(&all, &saved, observe), &|| assert!(!saved.exists()));
    let layout = dir.0.join("layout");
    observed("save as a directory", EVENTS, &|observe| store.save_directory(&all, &layout, observe), &|| {
        assert!(!layout.exists());
    });
    let docker = dir.0.join("docker.tar");
    std::fs::write(&docker, as_docker(&base)).expect("written");
    for (what, path) in [("load", &saved), ("load a directory", &layout), ("load Docker's form", &docker)] {
        let two = open(what);
        observed(
            what,
            EVENTS,
            &|observe| {
                let options = LoadOptions::default();
                if path.is_dir() {
                    two.load_directory(path, &options, observe).map(drop)
                } else {
                    two.load(std::fs::File::open(path).expect("there"), &options, observe).map(drop)
                }
            },
            &|| untouched(&two, &[]),
        );
        assert!(!names(&two).is_empty());
    }
    observed(
        "fsck",
        EVENTS,
        &|observe| store.fsck_with(Check::Content, true, observe).map(|found| assert_eq!(found, [])),
        &|| untouched(&store, &["large:1", "mine:1"]),
    );
    store.discard("snapshots", "c").expect("removed");
    // What is nobody's: the parts of images whose names went to others.
    let others = |seed: &str| -> Image {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(seed.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "file", seed.as_bytes()).expect("written");
        let bytes = tar.into_inner().expect("whole");
        store.import(&bytes[..], "large:1", &options, &mut |_| true).expect("imported")
    };
    for n in 0..8 {
        others(&n.to_string());
    }
    store.remove_image("mine:1").expect("removed");
    observed("gc", 12, &|observe| store.gc_with(false, observe).map(drop), &|| {
        assert_eq!(store.fsck(Check::Structure, false).expect("checked"), []);
        for n in 0..4 {
            others(&format!("more {n}"));
        }
    });
    assert_eq!(store.gc(false).expect("collected").blobs, []);
}

/// What `docker save` writes for an image.
fn as_docker(image: &Image) -> Vec<u8> {
    let manifest: serde_json::Value =
        serde_json::from_slice(&image.manifest().expect("there")).expect("JSON");
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, data).expect("written");
    };
    let blob = |d: &serde_json::Value| {
        let digest = d["digest"].as_str().expect("a digest").parse().expect("a digest");
        std::fs::read(image.store().blob_path(&digest)).expect("there")
    };
    add("config.json", &blob(&manifest["config"]));
    add("layer.tar", &blob(&manifest["layers"][0]));
    add("manifest.json", br#"[{"Config":"config.json","RepoTags":["docker:1"],"Layers":["layer.tar"]}]"#);
    tar.into_inner().expect("whole")
}
