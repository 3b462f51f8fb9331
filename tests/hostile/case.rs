//! A named archive, what must become of it, and the check of both.

use std::path::PathBuf;
use std::sync::OnceLock;

use boxship_layers::{Durability, Error, Expected, ImageOptions, Publish, Store};

use crate::sentinel::Sentinel;
use crate::tree::{self, Node, Tree};

pub enum Expect {
    /// An error whose text holds all of these.
    Refused(Vec<String>),
    /// Exactly this tree.
    Read(Tree),
}

pub struct Case {
    pub name: String,
    pub archive: Vec<u8>,
    pub expect: Expect,
}

/// It must be refused, with these words in the error.
pub fn refused(name: &str, archive: Vec<u8>, words: &[&str]) -> Case {
    let words = words.iter().map(|w| (*w).to_owned()).collect();
    Case { name: name.into(), archive, expect: Expect::Refused(words) }
}

/// It must become this tree.
pub fn read(name: &str, archive: Vec<u8>, nodes: &[(&str, Node)]) -> Case {
    read_bytes(name, archive, nodes.iter().map(|(n, node)| (n.as_bytes().to_vec(), node.clone())).collect())
}

pub fn read_bytes(name: &str, archive: Vec<u8>, nodes: Vec<(Vec<u8>, Node)>) -> Case {
    let expect = Expect::Read(nodes.into_iter().collect());
    Case { name: name.into(), archive, expect }
}

/// The error and its causes in one line.
pub fn text(e: &Error) -> String {
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(c) = cause {
        text += &format!(": {c}");
        cause = c.source();
    }
    text
}

/// A store that goes when this does.
pub struct Scratch {
    pub store: Store,
    pub dir: PathBuf,
}

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static EMPTY: OnceLock<PathBuf> = OnceLock::new();
        let empty = EMPTY.get_or_init(|| {
            let dir = crate::home().join("stores/empty");
            std::fs::create_dir_all(dir.parent().expect("below home")).expect("made");
            Store::open(&dir).expect("a store");
            dir
        });
        // The format is synced when it is written, which is slower than all the rest.
        let dir = crate::home().join("stores").join(name);
        std::fs::create_dir(&dir).expect("made");
        for file in ["format", "oci-layout"] {
            std::fs::copy(empty.join(file), dir.join(file)).expect("copied");
        }
        Scratch { store: Store::open_with(&dir, Durability::Relaxed).expect("a store"), dir }
    }

    fn names(&self, part: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.join(part)).expect("readable");
        entries.map(|e| e.expect("an entry").path()).collect()
    }

    /// Imports a layer that stays private, and tells what became of it.
    pub fn unpacked(&self, archive: &[u8]) -> Result<Tree, Error> {
        let add = self.store.begin(Publish::Together)?;
        add.layer(archive, Expected::default(), &mut |_| true)?;
        let ingests = self.names("ingest");
        assert_eq!(ingests.len(), 1, "{ingests:?}");
        Ok(tree::look(&ingests[0].join("fs")))
    }

    /// Nothing may be left of an archive that was refused.
    pub fn assert_empty(&self, name: &str) {
        for part in ["ingest", "layers", "blobs/sha256", "trash"] {
            assert_eq!(self.names(part), Vec::<PathBuf>::new(), "{name}: left in {part}");
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // An ordinary user may not remove what an archive made unreadable until its mode is changed.
        if !tree::is_root() {
            let _ = std::process::Command::new("chmod").args(["-R", "u+rwX"]).arg(&self.dir).output();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Case {
    /// Imports it as a layer and as an image, and compares.
    pub fn check(&self, sentinel: &Sentinel) {
        let scratch = Scratch::new(&self.name);
        let add = scratch.store.begin(Publish::Each).expect("begun");
        let layer = add.layer(&self.archive[..], Expected::default(), &mut |_| true);
        drop(add);
        sentinel.check();
        let options = ImageOptions::default();
        match (&self.expect, layer) {
            (Expect::Refused(words), Err(e)) => {
                let text = text(&e);
                for word in words {
                    assert!(text.contains(word.as_str()), "{text:?} does not say {word:?}");
                }
                scratch.assert_empty(&self.name);
                let again = scratch.store.import(&self.archive[..], "hostile:1", &options, &mut |_| true);
                let again = again.map(|_| ()).expect_err("refused as a layer and not as an image");
                assert_eq!(crate::case::text(&again), text);
                scratch.assert_empty(&self.name);
            }
            (Expect::Read(expected), Ok(layer)) => {
                let at = scratch.dir.join("layers").join(layer.diff_id.hex());
                if let Some(difference) = tree::differs(expected, &tree::look(&at)) {
                    panic!("{difference}");
                }
                let image = scratch.store.import(&self.archive[..], "hostile:1", &options, &mut |_| true);
                assert_eq!(image.expect("an image").layers(), [layer.diff_id]);
            }
            (Expect::Refused(_), Ok(layer)) => {
                let at = scratch.dir.join("layers").join(layer.diff_id.hex());
                panic!("it was read: {:#?}", tree::look(&at));
            }
            (Expect::Read(_), Err(e)) => panic!("it was refused: {}", text(&e)),
        }
        drop(scratch);
        sentinel.check();
    }
}
