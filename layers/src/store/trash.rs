//! Emptying the trash.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, RawDir};

use super::Store;
use crate::fsx;

/// What a container that wrote nothing leaves of its snapshot; what is below `work` is overlayfs's, of a
/// volatile mount.
const SNAPSHOT: [(&str, AtFlags); 8] = [
    ("layers", AtFlags::empty()),
    ("upper", AtFlags::REMOVEDIR),
    ("work/work/incompat/volatile/dirty", AtFlags::empty()),
    ("work/work/incompat/volatile", AtFlags::REMOVEDIR),
    ("work/work/incompat", AtFlags::REMOVEDIR),
    ("work/work", AtFlags::REMOVEDIR),
    ("work", AtFlags::REMOVEDIR),
    ("", AtFlags::REMOVEDIR),
];
/// And of its own directory.
const CONTAINER: [(&str, AtFlags); 3] =
    [("monitor", AtFlags::empty()), ("container.json", AtFlags::empty()), ("", AtFlags::REMOVEDIR)];

impl Store {
    /// A name in the trash that nobody else uses, for whoever moves something there from below `parent`.
    #[must_use]
    pub fn trash_name(&self, parent: &str) -> String {
        format!("{parent}.{}", fsx::random_name()).replace('/', "-")
    }

    /// Frees what was set aside. One at a time does so, of all threads and processes: who comes while
    /// another is at it has nothing to do, and what it leaves is removed by the next.
    pub fn empty_trash(&self) {
        if self.require_writable().is_err() {
            return;
        }
        let Ok(trash) = self.dir("trash") else { return };
        if rustix::fs::flock(&trash, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove_the_usual(&trash);
            // What stays is tried again by the next.
            let _ = rustix::fs::seek(&trash, rustix::fs::SeekFrom::Start(0));
            let _ = fsx::empty_directory(&trash);
            // Said, and not left to closing: a process that is being spawned may have a copy.
            let _ = rustix::fs::flock(&trash, FlockOperation::Unlock);
        }
    }
}

/// Most of what is set aside are short-lived containers. Their files are known, and need not be searched for
/// in seven directories. Only of those, by the name that they got here: in the tree of a layer somebody else
/// decides what is called `work`, and where that leads. What is not as expected stays.
fn remove_the_usual(trash: &OwnedFd) {
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut entries = RawDir::new(trash, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        let usual = match name.split_once('.') {
            Some(("snapshots", _)) => &SNAPSHOT[..],
            Some(("containers", _)) => &CONTAINER[..],
            _ => continue,
        };
        let _ = usual.iter().try_for_each(|(rest, flags)| {
            let path = if rest.is_empty() { name.to_owned() } else { format!("{name}/{rest}") };
            rustix::fs::unlinkat(trash.as_fd(), path, *flags)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer whose tree looks like a used snapshot, with a link out of the store where that has its work
    /// directory.
    #[test]
    fn what_looks_like_a_snapshot_leads_nowhere() {
        let dir = std::env::temp_dir().join(format!("boxship-trash-{}", std::process::id()));
        let outside = dir.join("outside/work/incompat/volatile");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("dirty"), "kept").unwrap();
        let store = Store::open(dir.join("store")).unwrap();
        for parent in ["layers", "snapshots"] {
            let tree = store.path().join(parent).join("hostile");
            std::fs::create_dir_all(tree.join("upper")).unwrap();
            std::fs::write(tree.join("layers"), "").unwrap();
            match parent {
                "layers" => std::os::unix::fs::symlink(dir.join("outside"), tree.join("work")).unwrap(),
                // And one that a container filled.
                _ => std::fs::write(tree.join("upper/file"), "").unwrap(),
            }
            store.discard(parent, "hostile").unwrap();
            assert_eq!(std::fs::read_dir(store.path().join("trash")).unwrap().count(), 0, "{parent}");
        }
        assert_eq!(std::fs::read_to_string(outside.join("dirty")).unwrap(), "kept");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
