//! What must be the same after an attack as before.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::home;

/// A tree outside the container. When it goes out of scope, every name, mode, owner, size, number of
/// links, time of change and content in it must be what it was, and nothing may be mounted on it.
pub struct Sentinel {
    dir: PathBuf,
    before: Vec<String>,
}

impl Sentinel {
    /// The names are those that runtimes make, open, replace or remove in a root: the tree is meant to
    /// be the target of an attacker's symlink.
    pub fn new(name: &str) -> Sentinel {
        let dir = home().join(format!("{name}-outside"));
        let make = |name: &str, content: &str, mode: u32| {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().expect("below dir")).expect("made");
            std::fs::write(&path, content).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("mode set");
        };
        for name in ["ptmx", "null", "console", "hosts", "hostname", "resolv.conf", "fd", "stdin"] {
            make(name, &format!("the host's {name}\n"), 0o644);
        }
        make("secret", "secret\n", 0o600);
        make("tool", "#!/bin/sh\n", 0o4755);
        make("self/attr/exec", "unconfined\n", 0o666);
        make("sys/kernel/core_pattern", "core\n", 0o644);
        std::fs::create_dir(dir.join("empty")).expect("made");
        std::fs::hard_link(dir.join("hosts"), dir.join("hosts.link")).expect("linked");
        symlink("secret", dir.join("link")).expect("linked");
        let mut s = Sentinel { dir, before: Vec::new() };
        s.rebase();
        s
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Takes the tree as it is now: for what the test itself adds to it.
    pub fn rebase(&mut self) {
        self.before = look(&self.dir);
    }

    /// Fails with the first difference.
    pub fn check(&self) {
        let after = look(&self.dir);
        let differs = self.before.iter().zip(&after).find(|(b, a)| b != a);
        assert!(differs.is_none(), "outside the container something changed: {differs:?}");
        assert_eq!(self.before.len(), after.len(), "outside the container: {:?} {after:?}", self.before);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
        let dir = self.dir.to_str().expect("UTF-8");
        let on_it = mounts.lines().find(|l| l.split(' ').nth(4).is_some_and(|m| m.starts_with(dir)));
        assert_eq!(on_it, None, "something is mounted outside the container");
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A line for everything below `dir`, in the order of the names.
fn look(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let m = std::fs::symlink_metadata(&path).expect("there");
        let content = if m.is_dir() {
            todo.extend(std::fs::read_dir(&path).expect("readable").map(|e| e.expect("an entry").path()));
            Vec::new()
        } else if m.is_symlink() {
            std::fs::read_link(&path).expect("readable").into_os_string().into_encoded_bytes()
        } else if m.is_file() {
            std::fs::read(&path).expect("readable")
        } else {
            Vec::new()
        };
        lines.push(format!(
            "{path:?} mode {:o} owner {}:{} size {} links {} device {} changed {}.{} modified {}.{} content {:?}",
            m.mode(),
            m.uid(),
            m.gid(),
            m.size(),
            m.nlink(),
            m.rdev(),
            m.ctime(),
            m.ctime_nsec(),
            m.mtime(),
            m.mtime_nsec(),
            String::from_utf8_lossy(&content)
        ));
    }
    lines.sort();
    lines
}
