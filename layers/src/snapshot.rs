//! Snapshots: a container's writable layer above an image's layers.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{Gid, Mode, Uid};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::store::{Store, there};

/// The directories of one container's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Read-only directories, the topmost (boxship's own mount points) first.
    pub layers: Vec<PathBuf>,
    /// The writable directory.
    pub upper: PathBuf,
    /// overlayfs's work directory.
    pub work: PathBuf,
}

/// Digests in one symlink, whose text has at most 4095 bytes.
const LINKED: usize = 60;

fn link_name(i: usize) -> String {
    if i == 0 { "layers".to_owned() } else { format!("layers.{i}") }
}

impl Store {
    /// Makes the writable layer `id` above `layers` (lowest first), owned by the host ids `owner`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a layer that is not in the store, [`Error::Io`].
    pub fn create_snapshot(&self, id: &str, layers: &[Digest], owner: (u32, u32)) -> Result<Snapshot> {
        let snapshot = self.snapshot(id, layers);
        let base = self.path().join("snapshots").join(id);
        let dir = self.dir("snapshots")?;
        let make = |name: &str, mode: u32| {
            rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode))
                .map_err(Error::io("make", base.join(name)))
        };
        // Who removes layers has the lock alone: what is there now stays until it is named, and then, too.
        let _lock = self.lock_shared()?;
        for layer in layers {
            if !there(&self.layer_path(layer))? {
                return Err(Error::NotFound { what: "layer", name: layer.to_string() });
            }
        }
        make(id, 0o700)?;
        let build = || -> Result<()> {
            // Names the layers for whoever wants to remove an image. A symlink is there with its text or not at
            // all, also after a power cut, and nothing has to be synced for that. The first comes last.
            for (i, part) in layers.chunks(LINKED).enumerate().rev() {
                let text: Vec<String> = part.iter().map(Digest::hex).collect();
                rustix::fs::symlinkat(text.join(":"), &dir, format!("{id}/{}", link_name(i)))
                    .map_err(Error::io("make", base.join(link_name(i))))?;
            }
            make(&format!("{id}/upper"), 0o755)?;
            make(&format!("{id}/work"), 0o700)?;
            let upper = crate::fsx::open_dir(dir.as_fd(), OsStr::new(&format!("{id}/upper")));
            let upper = upper.map_err(Error::io("open", &snapshot.upper))?;
            if owner != (0, 0) && self.keeps_owners() {
                let (uid, gid) = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
                rustix::fs::fchown(&upper, uid, gid).map_err(Error::io("set the owner of", &base))?;
            }
            // Whatever the umask: the upper directory's mode is the container's "/".
            rustix::fs::fchmod(&upper, Mode::from_raw_mode(0o755))
                .map_err(Error::io("set the mode of", &base))
        };
        match build() {
            Ok(()) => Ok(snapshot),
            Err(e) => {
                let _ = self.remove_snapshot(id);
                Err(e)
            }
        }
    }

    /// The paths of a snapshot, without looking whether it exists.
    #[must_use]
    pub fn snapshot(&self, id: &str, layers: &[Digest]) -> Snapshot {
        let base = self.path().join("snapshots").join(id);
        let own = std::iter::once(self.path().join("top"));
        // overlayfs refuses a directory that it has twice. What a layer has is decided where it is highest:
        // what it says further down is hidden by the same above.
        let highest = |(i, l): &(usize, &Digest)| !layers[i + 1..].contains(l);
        let kept = layers.iter().enumerate().rev().filter(highest);
        Snapshot {
            layers: own.chain(kept.map(|(_, l)| self.layer_path(l))).collect(),
            upper: base.join("upper"),
            work: base.join("work"),
        }
    }

    /// Makes a used work directory fit for another start: a volatile overlay leaves a mark that says
    /// its upper directory cannot be trusted after a crash.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn renew_snapshot(&self, id: &str) -> Result<()> {
        let work = format!("{id}/work");
        let dir = self.dir("snapshots")?;
        let path = || self.path().join("snapshots").join(&work);
        crate::fsx::remove_tree(dir.as_fd(), OsStr::new(&work)).map_err(Error::io("renew", path()))?;
        rustix::fs::mkdirat(&dir, work.as_str(), Mode::RWXU).map_err(Error::io("renew", path()))
    }

    /// Removes a snapshot (into the trash); one that is gone is no error.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_snapshot(&self, id: &str) -> Result<()> {
        self.set_aside("snapshots", id)
    }

    /// The ids of all snapshots.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn snapshots(&self) -> Result<Vec<String>> {
        let path = self.path().join("snapshots");
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(Error::io("list", &path))? {
            // One that is not seen would lose its layers.
            let entry = entry.map_err(Error::io("list", &path))?;
            ids.extend(entry.file_name().into_string());
        }
        Ok(ids)
    }

    /// A snapshot that stands on one of these layers.
    pub(crate) fn snapshot_using(&self, layers: &[Digest]) -> Result<Option<String>> {
        let all = self.snapshot_layers()?;
        Ok(all.into_iter().find(|(_, own)| own.iter().any(|l| layers.contains(l))).map(|(id, _)| id))
    }

    /// The snapshots and the layers that they stand on. One that cannot be read is an error: it may need
    /// anything.
    pub(crate) fn snapshot_layers(&self) -> Result<Vec<(String, Vec<Digest>)>> {
        let mut all = Vec::new();
        for id in self.snapshots()? {
            let base = self.path().join("snapshots").join(&id);
            let mut layers = Vec::new();
            for i in 0.. {
                let path = base.join(link_name(i));
                let text = match std::fs::read_link(&path) {
                    // The end; or gone; or being made, but not while somebody has the lock alone.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => break,
                    other => other.map_err(Error::io("read", path))?,
                };
                for hex in text.to_string_lossy().split(':') {
                    layers.push(format!("sha256:{hex}").parse()?);
                }
            }
            all.push((id, layers));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_comes_twice_is_where_it_is_highest() {
        let dir = std::env::temp_dir().join(format!("boxship-snapshot-{}", std::process::id()));
        let store = Store::open(&dir).unwrap();
        let [a, b, c] = [b"a", b"b", b"c"].map(|x| Digest::of(x));
        let found = store.snapshot("x", &[a, b, a, c, b]).layers;
        let _ = std::fs::remove_dir_all(&dir);
        let own = store.path().join("top");
        assert_eq!(found, [own, store.layer_path(&b), store.layer_path(&c), store.layer_path(&a)]);
    }

    #[test]
    fn many_layers_have_their_names() -> Result<()> {
        let root = std::env::temp_dir().join(format!("boxship-snapshot-names-{}", std::process::id()));
        let store = Store::open(&root)?;
        let layers: Vec<Digest> = (0..500).map(|i: u32| Digest::of(&i.to_le_bytes())).collect();
        for layer in &layers {
            std::fs::create_dir(store.layer_path(layer)).map_err(Error::io("make", "a layer"))?;
        }
        for n in [0, 1, LINKED, LINKED + 1, 500] {
            store.create_snapshot("a", &layers[..n], (0, 0))?;
            assert_eq!(store.snapshot_layers()?, [("a".to_owned(), layers[..n].to_vec())]);
            store.discard("snapshots", "a")?;
        }
        let _ = std::fs::remove_dir_all(root);
        Ok(())
    }
}
