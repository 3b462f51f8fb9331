//! A directory that goes with its test.

use std::path::PathBuf;

use boxship_layers::{Durability, Store};

pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    /// `name` is one that no other test has.
    pub(crate) fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("boxship-layers-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("made");
        Scratch(dir)
    }

    pub(crate) fn store(&self, name: &str) -> Store {
        Store::open_with(self.0.join(name), Durability::Relaxed).expect("a store")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
