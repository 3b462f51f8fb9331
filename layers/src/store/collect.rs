//! What nobody names any more, and what is not as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::ingest::Ingest;
use super::{Expected, Progress, Store, there};
use crate::compress::Compression;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fsx;
use crate::image::{descriptors, parse_manifest};
use crate::merged;
use crate::watch::Watch;

/// What a collection removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Blobs: compressed layers, manifests and configs.
    pub blobs: Vec<Digest>,
    /// Unpacked layers.
    pub layers: Vec<Digest>,
    /// Bytes of the blobs.
    pub bytes: u64,
    /// False when nothing was collected because images are being added.
    pub complete: bool,
}

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Everything that is named is there and has its size; documents have their digests.
    Structure,
    /// Every byte: all blobs have their digests, and all unpacked layers are what their archives say.
    Content,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Defect {
    /// The blob or layer.
    pub digest: Digest,
    /// What is wrong with it.
    pub problem: String,
    /// The images that need it.
    pub images: Vec<String>,
    /// Whether it was set right.
    pub repaired: bool,
}

/// Everything that images and containers name.
#[derive(Default)]
struct Named {
    blobs: BTreeMap<Digest, BTreeSet<String>>,
    layers: BTreeMap<Digest, BTreeSet<String>>,
    /// Which archive a layer was unpacked from.
    archives: BTreeMap<Digest, Digest>,
    sizes: BTreeMap<Digest, u64>,
    broken: Vec<(Digest, String, String)>,
}

/// Whether the kernel refused something.
fn is_refused(e: &Error) -> bool {
    matches!(e, Error::Io { source, .. } if source.raw_os_error().is_some())
}

/// Whether content is bad, and not that this process could not look: that there is no descriptor left or no
/// space to unpack to says nothing about an image.
pub(crate) fn is_damage(e: &Error) -> bool {
    match e {
        Error::Io { source, .. } => {
            !is_refused(e) || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        }
        Error::Cancelled => false,
        _ => true,
    }
}

/// With its cause: this becomes a text.
fn told(e: &Error) -> String {
    std::error::Error::source(e).map_or_else(|| e.to_string(), |source| format!("{e}: {source}"))
}

impl Store {
    /// Removes blobs and layers that no image and no container names. With `dry_run` it only tells which.
    /// While images are being added nothing is removed, and the result is not
    /// [`complete`](Collected::complete).
    ///
    /// # Errors
    /// [`Error::Io`] when the store cannot be read; nothing is removed then. What a damaged image may
    /// need is not known, so a damaged image is an error, too: repair or remove it.
    pub fn gc(&self, dry_run: bool) -> Result<Collected> {
        self.gc_with(dry_run, &mut |_| true)
    }

    /// [`gc`](Store::gc) with progress. Cancelled, what was removed stays removed; the rest is left to the next.
    ///
    /// # Errors
    /// As [`gc`](Store::gc), and [`Error::Cancelled`] when `observe` answers false.
    pub fn gc_with(&self, dry_run: bool, observe: &mut dyn FnMut(Progress) -> bool) -> Result<Collected> {
        if !dry_run {
            self.require_writable()?;
        }
        let mut watch = Watch::new(observe);
        let _names = self.lock()?;
        let Some(_claim) = self.claim_content()? else { return Ok(Collected::default()) };
        let named = self.named()?;
        if let Some((digest, image, problem)) = named.broken.into_iter().next() {
            return Err(Error::Damaged { digest: digest.to_string(), image, problem });
        }
        let mut found = Collected { complete: true, ..Collected::default() };
        for (digest, size) in self.stored("blobs/sha256")? {
            if !named.blobs.contains_key(&digest) {
                found.blobs.push(digest);
                found.bytes += size;
            }
        }
        let layers = self.stored("layers")?.into_iter().map(|(digest, _)| digest);
        found.layers = layers.filter(|l| !named.layers.contains_key(l)).collect();
        if !dry_run {
            let of = (found.layers.len() + found.blobs.len()) as u64;
            let mut done = 0;
            let mut tell = |watch: &mut Watch<'_>| {
                done += 1;
                watch.tell(Progress::Parts { done, of })
            };
            for layer in &found.layers {
                self.set_aside("layers", &layer.hex())?;
                tell(&mut watch)?;
            }
            for blob in &found.blobs {
                self.set_blob_aside(blob)?;
                tell(&mut watch)?;
            }
            // What those left who died between the two steps.
            for (blob, _) in self.stored("pairs")? {
                if !named.blobs.contains_key(&blob) {
                    self.set_blob_aside(&blob)?;
                }
            }
            self.sweep_replaced()?;
            // Who holds both locks is alone in writing documents and the index.
            self.remove_temporaries("")?;
            self.remove_temporaries("blobs/sha256")?;
            drop((_names, _claim));
            self.empty_trash();
        }
        Ok(found)
    }

    /// What lies in a directory of content, with sizes. Other names are nobody's and left alone.
    fn stored(&self, parent: &str) -> Result<Vec<(Digest, u64)>> {
        let path = self.path().join(parent);
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(Error::io("list", &path))? {
            let entry = entry.map_err(Error::io("list", &path))?;
            let name = entry.file_name();
            let Ok(digest) = format!("sha256:{}", name.to_string_lossy()).parse::<Digest>() else { continue };
            all.push((digest, entry.metadata().map_err(Error::io("read", entry.path()))?.len()));
        }
        all.sort_unstable();
        Ok(all)
    }

    fn named(&self) -> Result<Named> {
        let mut named = Named::default();
        for (digest, name) in self.roots()? {
            let image = name.unwrap_or_else(|| digest.to_string());
            named.blobs.entry(digest).or_default().insert(image.clone());
            match self.name_parts(&digest, &image, &mut named) {
                Err(e) if is_damage(&e) => named.broken.push((digest, image, told(&e))),
                other => other?,
            }
        }
        for (index, image) in self.chosen_indexes()? {
            let mut parts = Vec::new();
            let result = self.index_parts(&index, &mut parts);
            for (part, size) in parts {
                named.blobs.entry(part).or_default().insert(image.clone());
                named.sizes.extend(size.map(|size| (part, size)));
            }
            match result {
                Err(e) if is_damage(&e) => named.broken.push((index, image, told(&e))),
                other => other?,
            }
        }
        for standing in self.standing()? {
            let by = format!("container {}", standing.id.chars().take(12).collect::<String>());
            for layer in standing.layers {
                named.layers.entry(layer).or_default().insert(by.clone());
            }
            let Some(manifest) = standing.manifest else { continue };
            named.blobs.entry(manifest).or_default().insert(by.clone());
            match self.name_parts(&manifest, &by, &mut named) {
                // It is told of as missing. Nothing is left to keep: its layers have been named.
                Err(_) if !there(&self.blob_path(&manifest))? => {}
                Err(e) if is_damage(&e) => named.broken.push((manifest, by, told(&e))),
                other => other?,
            }
        }
        Ok(named)
    }

    fn name_parts(&self, digest: &Digest, image: &str, named: &mut Named) -> Result<()> {
        let manifest = parse_manifest(&self.read_document(digest)?)?;
        for (part, size) in descriptors(&manifest)? {
            named.blobs.entry(part).or_default().insert(image.to_owned());
            named.sizes.insert(part, size);
        }
        let found = self.image(&digest.to_string())?;
        for (layer, archive) in found.layers().iter().zip(manifest.layers()) {
            named.layers.entry(*layer).or_default().insert(image.to_owned());
            named.archives.insert(*layer, archive.digest().to_string().parse()?);
        }
        Ok(())
    }

    /// Compares what images and containers name with what is there. With `repair`, layers are unpacked
    /// again from their archives where these are sound. A bad blob can only be added anew; it is set aside, so
    /// that adding its image does so.
    ///
    /// # Errors
    /// [`Error::Io`] when the store cannot be read. What is wrong with its content is the result.
    pub fn fsck(&self, depth: Check, repair: bool) -> Result<Vec<Defect>> {
        self.fsck_with(depth, repair, &mut |_| true)
    }

    /// [`fsck`](Store::fsck) with progress. Cancelled, what was repaired stays repaired.
    ///
    /// # Errors
    /// As [`fsck`](Store::fsck), and [`Error::Cancelled`] when `observe` answers false.
    pub fn fsck_with(
        &self,
        depth: Check,
        repair: bool,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Vec<Defect>> {
        // Comparing content unpacks it once more.
        if repair || depth == Check::Content {
            self.require_writable()?;
        }
        let mut watch = Watch::new(observe);
        let _hold = self.hold_content()?;
        let named = {
            let _names = self.lock_shared()?;
            self.named()?
        };
        let mut defects = Vec::new();
        let mut tell = |digest: Digest, problem: String, images: &BTreeSet<String>, repaired: bool| {
            let images = images.iter().cloned().collect();
            defects.push(Defect { digest, problem, images, repaired });
        };
        for (digest, image, problem) in &named.broken {
            tell(*digest, problem.clone(), &[image.clone()].into(), false);
        }
        let mut bad = BTreeSet::new();
        let of = (named.blobs.len() + named.layers.len()) as u64;
        let mut part = (0..=of).map(|done| Progress::Parts { done, of });
        for (digest, images) in &named.blobs {
            part.next().map_or(Ok(()), |part| watch.tell(part))?;
            let size = named.sizes.get(digest).copied();
            if let Some(problem) = self.blob_problem(digest, size, depth, &mut watch)? {
                bad.insert(*digest);
                if repair {
                    self.set_bad_blob_aside(digest, size, depth)?;
                }
                tell(*digest, problem, images, false);
            }
        }
        for (layer, images) in &named.layers {
            part.next().map_or(Ok(()), |part| watch.tell(part))?;
            let archive = named.archives.get(layer).filter(|a| !bad.contains(a));
            if let Some(problem) = self.layer_problem(layer, archive, depth, &mut watch)? {
                let repaired = match archive {
                    Some(archive) if repair => match self.renew_layer(layer, archive, &mut watch) {
                        Err(e) if is_damage(&e) => false,
                        other => other.map(|()| true)?,
                    },
                    _ => false,
                };
                tell(*layer, problem, images, repaired);
            }
        }
        if repair {
            self.empty_trash();
        }
        Ok(defects)
    }

    /// Looked at once more: whoever adds the image meanwhile may have brought what was missing. Who takes a blob
    /// away has the lock, and nobody puts one in the place of another, so one that is bad now stays so.
    fn set_bad_blob_aside(&self, digest: &Digest, size: Option<u64>, depth: Check) -> Result<()> {
        let _names = self.lock()?;
        let mut observe = |_| true;
        let mut watch = Watch::new(&mut observe);
        if there(&self.blob_path(digest))? && self.blob_problem(digest, size, depth, &mut watch)?.is_some() {
            self.set_blob_aside(digest)?;
        }
        Ok(())
    }

    fn blob_problem(
        &self,
        digest: &Digest,
        size: Option<u64>,
        depth: Check,
        watch: &mut Watch<'_>,
    ) -> Result<Option<String>> {
        let path = self.blob_path(digest);
        let file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Some("it is missing".into())),
            other => other.map_err(Error::io("open", &path))?,
        };
        let found = file.metadata().map_err(Error::io("read", &path))?.len();
        if let Some(size) = size.filter(|size| *size != found) {
            return Ok(Some(format!("it has {found} bytes instead of {size}")));
        }
        if depth == Check::Content {
            match Digest::of_reader(watch.reader(file)).map_err(Error::io_or_own("read", &path)) {
                Ok((real, _)) if real == *digest => {}
                Ok((real, _)) => return Ok(Some(format!("its content has the digest {real}"))),
                Err(e) if is_damage(&e) => return Ok(Some(told(&e))),
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    fn layer_problem(
        &self,
        layer: &Digest,
        archive: Option<&Digest>,
        depth: Check,
        watch: &mut Watch<'_>,
    ) -> Result<Option<String>> {
        let path = self.layer_path(layer);
        if !there(&path)? {
            return Ok(Some("it is not unpacked".into()));
        }
        let (Check::Content, Some(archive)) = (depth, archive) else { return Ok(None) };
        // Unpacked once more and compared: whatever unpacking does, it has to have done.
        let fresh = match self.unpack_again(layer, archive, watch) {
            // The archive has just been read to its end: what the kernel refuses now is to write it once more.
            Err(e) if is_damage(&e) && !is_refused(&e) => {
                return Ok(Some(format!("its archive cannot be unpacked: {}", told(&e))));
            }
            other => other?,
        };
        match merged::difference(&fresh.path.join("fs"), &path, watch) {
            Ok(difference) => Ok(difference.map(|p| format!("{p:?} is not as its archive has it"))),
            Err(e) if is_damage(&e) => Ok(Some(told(&e))),
            Err(e) => Err(e),
        }
    }

    fn unpack_again(&self, layer: &Digest, archive: &Digest, watch: &mut Watch<'_>) -> Result<Ingest> {
        let path = self.blob_path(archive);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let expected = Expected { diff_id: Some(*layer), digest: Some(*archive), size: None };
        let mut part = watch.part();
        // It is not published.
        Ok(self.ingest_layer(file, expected, &mut |p| p == Progress::Committing || part(p))?.0)
    }

    /// Puts a freshly unpacked layer in the place of a bad one, in one step. Containers that run on the bad one
    /// keep it: their files would vanish, so it stays in `replaced` as long as a container stands on the layer.
    fn renew_layer(&self, layer: &Digest, archive: &Digest, watch: &mut Watch<'_>) -> Result<()> {
        let fresh = self.unpack_again(layer, archive, watch)?;
        rustix::fs::syncfs(&fresh.dir).map_err(Error::io("sync", &fresh.path))?;
        let (layers, replaced) = (self.dir("layers")?, self.dir("replaced")?);
        let (name, aside) = (layer.hex(), format!("{}.{}", layer.hex(), fsx::random_name()));
        let fail = || Error::io("publish", self.layer_path(layer));
        rustix::fs::renameat(&fresh.dir, "fs", &replaced, aside.as_str()).map_err(fail())?;
        // Creators of containers hold it together: nobody begins to stand on the layer meanwhile.
        let _names = self.lock()?;
        let (old, new) = (name.as_str(), aside.as_str());
        match rustix::fs::renameat_with(&replaced, new, &layers, old, RenameFlags::EXCHANGE) {
            // There is none.
            Err(Errno::NOENT) => rustix::fs::renameat(&replaced, new, &layers, old).map_err(fail())?,
            other => other.map_err(fail())?,
        }
        rustix::fs::fsync(&layers).map_err(Error::io("sync", Path::new("layers")))?;
        self.sweep_replaced()
    }

    /// Sets replaced layers aside that no container can stand on. The caller holds the lock.
    fn sweep_replaced(&self) -> Result<()> {
        let path = self.path().join("replaced");
        let used: BTreeSet<String> =
            self.standing()?.into_iter().flat_map(|s| s.layers).map(|l| l.hex()).collect();
        for entry in std::fs::read_dir(&path).map_err(Error::io("list", &path))? {
            let name = entry.map_err(Error::io("list", &path))?.file_name();
            let name = name.to_string_lossy();
            if !name.split('.').next().is_some_and(|layer| used.contains(layer)) {
                self.set_aside("replaced", &name)?;
            }
        }
        Ok(())
    }

    /// The plain archive of a layer, bit for bit as it was added.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn layer_archive(&self, blob: &Digest) -> Result<Box<dyn std::io::Read + Send>> {
        let path = self.blob_path(blob);
        let file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound { what: "blob", name: blob.to_string() });
            }
            other => other.map_err(Error::io("open", &path))?,
        };
        let mut input = BufReader::with_capacity(256 << 10, file);
        let start = std::io::BufRead::fill_buf(&mut input).map_err(Error::io("read", &path))?;
        Compression::detect(start).reader(input).map_err(Error::io("decompress", &path))
    }
}
