//! A new ext4 for each iteration: files made soon after many were deleted are slower there by far.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An empty file system of its own; unmounted and removed with this.
pub struct Disk {
    image: PathBuf,
    pub at: PathBuf,
}

fn run(c: &mut Command) {
    let out = c.stdin(Stdio::null()).output().expect("installed");
    assert!(out.status.success(), "{c:?}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Disk {
    pub fn new(dir: &Path) -> Disk {
        let disk = Disk { image: dir.join("disk.img"), at: dir.join("disk") };
        std::fs::create_dir_all(&disk.at).expect("made");
        let file = std::fs::File::create(&disk.image).expect("made");
        file.set_len(12 << 30).expect("sparse");
        // No background work of the file system itself while something is measured.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=0,nodiscard"])
            .arg(&disk.image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&disk.image).arg(&disk.at));
        disk
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What a peer mounted below goes first, and at once.
        let _ = Command::new("umount").args(["-R", "-q"]).arg(&self.at).status();
        let _ = std::fs::remove_file(&self.image);
    }
}
