//! Disks of our own: file systems on loop devices, in a mount namespace that ends with its process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;
use nix::sys::signal::Signal;

use crate::check::scratch;

/// Runs `--as=<name>-driver` with a directory and these arguments, and with mounts of its own, which end with
/// it whatever happens to this process.
pub fn in_own_mounts(name: &str, args: &[String]) -> Result<String, Failed> {
    let dir = scratch(name, 2048);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a directory");
    let driver = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().expect("this program"))
        .arg(format!("--as={name}-driver"))
        .arg(&dir)
        .args(args)
        .output();
    let _ = std::fs::remove_dir_all(&dir);
    let output = driver.expect("unshare");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{}\n{}", text(&output.stdout), text(&output.stderr)).into()),
    }
}

pub fn die_with_parent() {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("prctl");
}

pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect(program);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub struct Disk {
    pub dir: PathBuf,
    mounted: Vec<PathBuf>,
}

impl Disk {
    pub fn none(dir: &Path) -> Disk {
        Disk { dir: dir.to_owned(), mounted: Vec::new() }
    }

    /// `store/`, and the file system that its file lies on.
    pub fn two(dir: &Path) -> Disk {
        let mut disk = Disk::none(dir);
        // No journal: only its freezing is needed.
        disk.make("outer.img", 1024, "outer", &["-O", "^has_journal"]);
        disk.make("outer/store.img", 512, "store", &[]);
        disk
    }

    /// The store's disk at this instant, in a file.
    pub fn copy(&self, compare: bool) -> String {
        let (outer, copy) = (self.path("outer"), self.path("copy.img"));
        let compare = if compare { "cmp \"$1/store.img\" \"$2\"" } else { "true" };
        // One child for all of it: it thaws whatever happens to this process.
        let script = format!(
            "fsfreeze --freeze \"$1\" || exit 1; cp --sparse=always \"$1/store.img\" \"$2\" && {compare}; \
             result=$?; fsfreeze --unfreeze \"$1\"; exit $result"
        );
        run("sh", &["-c", &script, "sh", &outer, &copy]);
        copy
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn make(&mut self, image: &str, megabytes: u64, at: &str, options: &[&str]) {
        let image = self.path(image);
        File::create(&image).and_then(|f| f.set_len(megabytes << 20)).expect("a file");
        run("mkfs.ext4", &[&["-q", "-F"], options, &[image.as_str()]].concat());
        self.mount(&image, at);
    }

    pub fn mount(&mut self, image: &str, at: &str) {
        let at = self.path(at);
        std::fs::create_dir_all(&at).expect("a directory");
        run("mount", &["-o", "loop", image, &at]);
        self.mounted.push(at.into());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        while let Some(at) = self.mounted.pop() {
            let _ = Command::new("umount").arg(at).output();
        }
    }
}
