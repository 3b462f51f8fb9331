//! Snapshots: a container's writable layer above an image's layers.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Uid};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::Image;
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

/// What a snapshot stands on: an [`Image`], whose documents and archives then stay as long as the snapshot, so
/// that it can be committed whatever becomes of the image's names; or layers alone, the lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base<'a> {
    layers: &'a [Digest],
    manifest: Option<&'a Digest>,
}

impl<'a> Base<'a> {
    /// The image with this manifest and these layers.
    #[must_use]
    pub fn new(manifest: Option<&'a Digest>, layers: &'a [Digest]) -> Base<'a> {
        Base { layers, manifest }
    }
}

impl<'a> From<&'a Image> for Base<'a> {
    fn from(image: &'a Image) -> Base<'a> {
        Base::new(Some(image.digest()), image.layers())
    }
}

impl<'a> From<&'a [Digest]> for Base<'a> {
    fn from(layers: &'a [Digest]) -> Base<'a> {
        Base::new(None, layers)
    }
}

/// A snapshot and what it keeps from being collected.
pub(crate) struct Standing {
    pub(crate) id: String,
    /// The lowest first.
    pub(crate) layers: Vec<Digest>,
    /// The manifest of its image; older versions did not record it.
    pub(crate) manifest: Option<Digest>,
}

/// The symlink that names the manifest.
const MANIFEST: &str = "manifest";
/// Digests in one symlink, whose text has at most 4095 bytes.
const LINKED: usize = 60;

fn link_name(i: usize) -> String {
    if i == 0 { "layers".to_owned() } else { format!("layers.{i}") }
}

impl Store {
    /// Makes the writable layer `id` above an image or its layers, owned by the host ids `owner`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a manifest or layer that is not in the store, [`Error::Io`].
    pub fn create_snapshot<'a>(
        &self,
        id: &str,
        base: impl Into<Base<'a>>,
        owner: (u32, u32),
    ) -> Result<Snapshot> {
        self.require_writable()?;
        let Base { layers, manifest } = base.into();
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
        if let Some(manifest) = manifest
            && !there(&self.blob_path(manifest))?
        {
            return Err(Error::NotFound { what: "image", name: manifest.to_string() });
        }
        make(id, 0o700)?;
        let build = || -> Result<()> {
            if let Some(manifest) = manifest {
                rustix::fs::symlinkat(manifest.hex(), &dir, format!("{id}/{MANIFEST}"))
                    .map_err(Error::io("make", base.join(MANIFEST)))?;
            }
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
        self.require_writable()?;
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

    /// A snapshot that stands on this image; where it does not say on which, on one of these layers, which no
    /// other image has.
    pub(crate) fn snapshot_using(&self, image: &Digest, layers: &[Digest]) -> Result<Option<String>> {
        let uses = |s: &Standing| match &s.manifest {
            Some(manifest) => manifest == image,
            None => s.layers.iter().any(|l| layers.contains(l)),
        };
        Ok(self.standing()?.into_iter().find(uses).map(|s| s.id))
    }

    /// The snapshots and what they stand on. One that cannot be read is an error: it may need
    /// anything.
    pub(crate) fn standing(&self) -> Result<Vec<Standing>> {
        let mut all = Vec::new();
        for id in self.snapshots()? {
            let base = self.path().join("snapshots").join(&id);
            let mut layers = Vec::new();
            for i in 0.. {
                // The end; or gone; or being made, but not while somebody has the lock alone.
                let Some(part) = digests(&base.join(link_name(i)))? else { break };
                layers.extend(part);
            }
            let manifest = digests(&base.join(MANIFEST))?.and_then(|all| all.first().copied());
            all.push(Standing { id, layers, manifest });
        }
        Ok(all)
    }
}

/// What a symlink of a snapshot names; `None` where there is none.
fn digests(link: &Path) -> Result<Option<Vec<Digest>>> {
    let text = match std::fs::read_link(link) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::io("read", link))?,
    };
    text.to_string_lossy()
        .split(':')
        .map(|hex| format!("sha256:{hex}").parse())
        .collect::<Result<_>>()
        .map(Some)
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
            let found: Vec<_> = store.standing()?.into_iter().map(|s| (s.id, s.layers, s.manifest)).collect();
            assert_eq!(found, [("a".to_owned(), layers[..n].to_vec(), None)]);
            store.discard("snapshots", "a")?;
        }
        let _ = std::fs::remove_dir_all(root);
        Ok(())
    }

    /// Another image takes the name of the one that a container was made from. Before snapshots held their
    /// image, `gc` took its manifest, config and archives, and the commit failed (seen without the symlink).
    #[test]
    fn an_image_without_a_name_can_be_committed_upon() -> Result<()> {
        let root = std::env::temp_dir().join(format!("boxship-snapshot-held-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let store = Store::open_with(&root, crate::Durability::Relaxed)?;
        let import = |name: &str, content: &str| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append_data(&mut header, "file", content.as_bytes()).unwrap();
            let bytes = tar.into_inner().unwrap();
            store.import(&bytes[..], name, &crate::ImageOptions::default(), &mut |_| true)
        };
        let base = import("a:1", "one")?;
        store.tag_image("a:1", "b:1")?;
        let snapshot = store.create_snapshot("c", &base, (0, 0))?;
        std::fs::write(snapshot.upper.join("new"), "new").map_err(Error::io("write", "new"))?;
        // One name goes, as there is another. The last one cannot be removed; it goes to another image.
        store.remove_image("b:1")?;
        assert!(matches!(store.remove_image("a:1"), Err(Error::InUse { .. })));
        import("a:1", "two")?;
        // An image that has parts in common goes, with the parts that nobody else has.
        let other =
            store.commit("c", &base, crate::Owners::Root, &crate::CommitOptions::default(), Some("d:1"))?;
        store.remove_image("d:1")?;
        assert!(!store.blob_path(other.digest()).exists());
        assert!(store.gc(false)?.complete);
        let held = store.image(&base.digest().to_string())?;
        store.commit("c", &held, crate::Owners::Root, &crate::CommitOptions::default(), Some("d:1"))?;
        assert_eq!(store.fsck(crate::Check::Content, false)?, []);
        // When the container is gone, its image goes.
        store.remove_image("d:1")?;
        store.discard("snapshots", "c")?;
        assert!(store.gc(false)?.blobs.contains(base.digest()));
        // What an older version collected keeps nothing else from being collected.
        let base = store.image("a:1")?;
        store.create_snapshot("c", &base, (0, 0))?;
        std::fs::remove_file(store.blob_path(base.digest())).map_err(Error::io("remove", "a blob"))?;
        store.remove_image("a:1")?;
        assert!(store.gc(false)?.complete);
        assert_eq!(store.fsck(crate::Check::Structure, false)?[0].images, ["container c"]);
        let _ = std::fs::remove_dir_all(root);
        Ok(())
    }
}
