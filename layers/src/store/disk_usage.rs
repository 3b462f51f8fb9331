//! What takes the space of a store, and whose it is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::Store;
use crate::descent::{Descent, Opened};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::parse_manifest;
use crate::merged;
use crate::snapshot::Standing;

/// The space that a store takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskUsage {
    /// Images, by name; those without one last.
    pub images: Vec<ImageUsage>,
    /// Layers, by diffID.
    pub layers: Vec<LayerUsage>,
    /// Writable layers of containers.
    pub snapshots: Vec<SnapshotUsage>,
}

/// The space of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageUsage {
    /// Its name; `None` for one that is kept by digest only.
    pub name: Option<String>,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its layers, the lowest first.
    pub layers: Vec<Digest>,
    /// Bytes on disk of layers that other images have, too (under another digest: two names of one image
    /// share nothing).
    pub shared: u64,
    /// Bytes on disk of layers that no other image has: what removing it frees.
    pub unique: u64,
}

/// The space of one layer, which is stored once however many images have it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerUsage {
    /// The digest of its plain archive.
    pub diff_id: Digest,
    /// Bytes of the archive as it came, which is kept.
    pub archive: u64,
    /// Bytes on disk of its unpacked files, with what their file system rounds up.
    pub unpacked: u64,
    /// Unpacked files and directories.
    pub entries: u64,
    /// How many images have it.
    pub images: usize,
    /// How many containers stand on it.
    pub containers: usize,
}

/// The space of a container's writable layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotUsage {
    /// The container's id.
    pub id: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and directories.
    pub entries: u64,
}

impl Store {
    /// What takes space here. It reads the inodes of all layers, so it takes a moment, in which nothing is
    /// locked: what comes or goes meanwhile is counted or not.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Json`] for a damaged image.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let mut layers: BTreeMap<Digest, LayerUsage> = BTreeMap::new();
        let mut having: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
        let mut usage = DiskUsage::default();
        for (image, archives) in self.described()? {
            for (diff_id, archive) in image.layers.iter().zip(archives) {
                having.entry(*diff_id).or_default().insert(image.digest);
                if !layers.contains_key(diff_id) {
                    layers.insert(*diff_id, self.layer_usage(diff_id, archive)?);
                }
            }
            usage.images.push(image);
        }
        for Standing { id, layers: below, .. } in self.standing()? {
            for layer in below {
                if let Some(layer) = layers.get_mut(&layer) {
                    layer.containers += 1;
                }
            }
            let (bytes, entries) = self.measure(&format!("snapshots/{id}/upper"))?;
            usage.snapshots.push(SnapshotUsage { id, bytes, entries });
        }
        for image in &mut usage.images {
            // An image may have one layer twice: it is there once.
            for layer in image.layers.iter().collect::<BTreeSet<_>>() {
                let Some(found) = layers.get_mut(layer) else { continue };
                let owners = having.get(layer).map_or(0, BTreeSet::len);
                found.images = owners;
                let bytes = found.unpacked + found.archive;
                *(if owners > 1 { &mut image.shared } else { &mut image.unique }) += bytes;
            }
        }
        usage.images.sort_by(|a, b| {
            (a.name.is_none(), &a.name, a.digest).cmp(&(b.name.is_none(), &b.name, b.digest))
        });
        usage.layers = layers.into_values().collect();
        Ok(usage)
    }

    /// The images and the sizes of their archives, as they are at one moment. Measuring takes longer: what is
    /// removed meanwhile takes no space.
    fn described(&self) -> Result<Vec<(ImageUsage, Vec<u64>)>> {
        let _lock = self.lock_shared()?;
        let mut all = Vec::new();
        for (digest, name) in self.roots()? {
            let manifest = parse_manifest(&self.read_document(&digest)?)?;
            let archives = manifest.layers().iter().map(oci_spec::image::Descriptor::size).collect();
            let layers = self.image(&digest.to_string())?.layers().to_vec();
            all.push((ImageUsage { name, digest, layers, shared: 0, unique: 0 }, archives));
        }
        Ok(all)
    }

    fn layer_usage(&self, diff_id: &Digest, archive: u64) -> Result<LayerUsage> {
        let (unpacked, entries) = self.measure(&format!("layers/{}", diff_id.hex()))?;
        Ok(LayerUsage { diff_id: *diff_id, archive, unpacked, entries, images: 0, containers: 0 })
    }

    /// Bytes on disk and entries below; nothing for what is gone by now.
    fn measure(&self, below: &str) -> Result<(u64, u64)> {
        let path = self.path().join(below);
        let root = match merged::open_root(&path) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok((0, 0));
            }
            other => other?,
        };
        let mut sum = Sum::default();
        sum.add(root).map_err(|e| Error::io("measure", &path)(e))?;
        Ok((sum.bytes, sum.entries))
    }
}

#[derive(Default)]
struct Sum {
    bytes: u64,
    entries: u64,
    /// Files with several names that were counted: once is enough.
    seen: BTreeSet<u64>,
}

impl Sum {
    /// By descriptors, as a container may exchange its directories meanwhile.
    fn add(&mut self, root: Opened) -> Result<(), Errno> {
        let mut descent = Descent::new([root])?;
        let mut levels = vec![names_of(&descent)?];
        while let Some(names) = levels.last_mut() {
            let Some(name) = names.next() else {
                levels.pop();
                descent.leave()?;
                continue;
            };
            let stat = match rustix::fs::statat(
                descent.dir(0)?,
                OsStr::from_bytes(&name),
                AtFlags::SYMLINK_NOFOLLOW,
            ) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !directory && stat.st_nlink > 1 && !self.seen.insert(stat.st_ino) {
                continue;
            }
            self.entries += 1;
            self.bytes += stat.st_blocks.unsigned_abs() * 512;
            if directory {
                match descent.enter(&name, &[0]) {
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    other => {
                        other?;
                        levels.push(names_of(&descent)?);
                    }
                }
            }
        }
        Ok(())
    }
}

fn names_of(descent: &Descent) -> Result<std::vec::IntoIter<Vec<u8>>, Errno> {
    match merged::names(descent.dir(0)?) {
        // It was removed after it was opened.
        Err(Errno::NOENT) => Ok(Vec::new().into_iter()),
        other => Ok(other?.into_iter()),
    }
}
