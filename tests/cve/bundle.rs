//! A root file system that its owner prepared for an attack.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use boxship::{ContainerBuilder, Engine};

use crate::{engine, home};

/// A plain directory with the attacker's programs, which any part of may be replaced.
pub struct Bundle {
    pub engine: Engine,
    dir: PathBuf,
}

impl Bundle {
    pub async fn new(name: &str) -> Bundle {
        let engine = engine().await;
        let dir = home().join(format!("{name}-bundle"));
        std::fs::create_dir_all(&dir).expect("made");
        let image = engine.image().get("attack:1").await.expect("the shared image");
        let layer = engine.root().join("layers").join(image.layers()[0].trim_start_matches("sha256:"));
        let copied = std::process::Command::new("cp").arg("-a").arg(layer).arg(dir.join("fs")).status();
        assert!(copied.expect("cp is part of every host").success());
        for part in ["dev/pts", "dev/shm", "proc", "sys", "data"] {
            std::fs::create_dir_all(dir.join("fs").join(part)).expect("made");
        }
        std::fs::create_dir(dir.join("volume")).expect("made");
        Bundle { engine, dir }
    }

    pub fn fs(&self) -> PathBuf {
        self.dir.join("fs")
    }

    /// A directory outside the root that tests mount.
    pub fn volume(&self) -> PathBuf {
        self.dir.join("volume")
    }

    /// Puts a symlink in the place of whatever is at `path` of the root.
    pub fn link(&self, path: &str, target: impl AsRef<Path>) {
        replace_by_link(&self.fs().join(path), target.as_ref());
    }

    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.fs().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(&path, content).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("mode set");
    }

    pub fn sh(&self, script: &str) -> ContainerBuilder {
        self.engine.container().rootfs(self.fs()).command(["/bin/sh", "-c", script])
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn replace_by_link(path: &Path, target: &Path) {
    match std::fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => std::fs::remove_dir_all(path).expect("removed"),
        Ok(_) => std::fs::remove_file(path).expect("removed"),
        Err(_) => {}
    }
    symlink(target, path).expect("linked");
}
