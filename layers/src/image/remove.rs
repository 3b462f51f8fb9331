//! Removing images: a name, and with the last one what nothing else needs.

use std::collections::HashSet;
use std::sync::Arc;

use oci_spec::image::Descriptor;

use super::documents::{chosen_from, descriptors, name_of, parse_manifest};
use super::{INDEX, Image, json, normalise};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::store::{Store, is_damage, there};

impl Store {
    /// Removes a name, and with the last name of a manifest everything that no other image and no
    /// container uses.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InUse`] when a container was made from it.
    pub fn remove_image(&self, name: &str) -> Result<()> {
        self.require_writable()?;
        // Before the name is looked up: what it stands for must be what is removed.
        let _lock = self.lock()?;
        let image = match self.image(name) {
            Err(e) if is_damage(&e) => return self.remove_name(name),
            other => other?,
        };
        let whole = self.whole_index(&image)?;
        let mut index = self.index()?;
        let digest = image.digest.to_string();
        let is_target = |d: &&Descriptor| match &image.name {
            Some(name) => name_of(d) == Some(name),
            None => d.digest().to_string() == digest,
        };
        let rest: Vec<Descriptor> = index.manifests().iter().filter(|d| !is_target(d)).cloned().collect();
        let last = !rest.iter().any(|d| d.digest().to_string() == digest);
        let needed = if last { Some(self.needed(&rest)?) } else { None };
        if let Some(needed) = &needed {
            let own =
                image.layers.iter().filter(|l| !needed.layers.contains(*l)).copied().collect::<Vec<_>>();
            if let Some(by) = self.snapshot_using(&image.digest, &own)? {
                return Err(Error::InUse { image: name.to_owned(), by: format!("container {by}") });
            }
        }
        index.set_manifests(rest);
        self.replace_file_when_full(INDEX, &serde_json::to_vec(&index).map_err(json("index"))?)?;
        // While somebody adds an image it may build on these: then they are left to a later collection. What a damaged
        // image needs is not known.
        let swept = match needed.filter(|needed| needed.whole) {
            Some(needed) => match self.claim_content()? {
                Some(_claim) => match self.sweep(&image, whole.as_ref(), &needed) {
                    Err(e) if is_damage(&e) => Ok(()),
                    other => other,
                },
                None => Ok(()),
            },
            None => Ok(()),
        };
        self.make_reserve();
        swept
    }

    /// Removes the name, or the manifest, of what is no whole image any more. What it needed is left to a
    /// collection, which knows by the containers what has to stay. The caller has the lock.
    fn remove_name(&self, name: &str) -> Result<()> {
        let wanted = match name.parse::<Digest>() {
            Ok(_) => name.to_owned(),
            Err(_) => normalise(name)?,
        };
        let mut index = self.index()?;
        let stays = |d: &&Descriptor| name_of(d) != Some(&wanted) && d.digest().to_string() != wanted;
        let rest: Vec<Descriptor> = index.manifests().iter().filter(stays).cloned().collect();
        if rest.len() == index.manifests().len() {
            return Err(Error::NotFound { what: "image", name: name.to_owned() });
        }
        index.set_manifests(rest);
        self.replace_file_when_full(INDEX, &serde_json::to_vec(&index).map_err(json("index"))?)?;
        self.make_reserve();
        Ok(())
    }

    /// What images and containers need, but for what `rest` does not have any more. The caller has the lock.
    fn needed(&self, rest: &[Descriptor]) -> Result<Needed> {
        let mut needed = Needed { whole: true, ..Needed::default() };
        for d in rest {
            needed.add(self.parts_of(&d.digest().to_string().parse()?))?;
            if let Some(index) = chosen_from(d) {
                let mut parts = Vec::new();
                let result = self.index_parts(&index.parse()?, &mut parts);
                needed.blobs.extend(parts.into_iter().map(|(part, _)| part));
                needed.add(result.map(|()| Arc::default()))?;
            }
        }
        for standing in self.standing()? {
            needed.held.extend(standing.layers);
            let Some(manifest) = standing.manifest else { continue };
            match self.parts_of(&manifest) {
                // An older version has collected it.
                Err(_) if !there(&self.blob_path(&manifest))? => {}
                other => {
                    needed.add(other.map(|parts| Parts { layers: Vec::new(), ..(*parts).clone() }.into()))?
                }
            }
        }
        Ok(needed)
    }

    /// Removes blobs and layers of a removed image that nothing else needs.
    fn sweep(&self, image: &Image, index: Option<&Digest>, needed: &Needed) -> Result<()> {
        let mut own = self.parts_of(&image.digest)?.blobs.clone();
        let mut parts = Vec::new();
        index.map_or(Ok(()), |index| self.index_parts(index, &mut parts))?;
        own.extend(parts.into_iter().map(|(part, _)| part));
        for blob in own.into_iter().filter(|b| !needed.blobs.contains(b)) {
            self.set_blob_aside(&blob)?;
            self.empty_trash();
        }
        let unused = |l: &&Digest| !needed.layers.contains(*l) && !needed.held.contains(*l);
        for layer in image.layers.iter().filter(unused) {
            self.discard("layers", &layer.hex())?;
        }
        Ok(())
    }

    /// What an image consists of. It is remembered: the digest says it for good.
    fn parts_of(&self, digest: &Digest) -> Result<Arc<Parts>> {
        if let Some(parts) = self.remembered().get(digest) {
            return Ok(Arc::clone(parts));
        }
        let manifest = parse_manifest(&self.read_document(digest)?)?;
        let blobs = descriptors(&manifest)?.into_iter().map(|(digest, _)| digest);
        let blobs = std::iter::once(*digest).chain(blobs).collect();
        let layers = self.image(&digest.to_string())?.layers;
        let parts = Arc::new(Parts { blobs, layers });
        let mut all = self.remembered();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(*digest, Arc::clone(&parts));
        Ok(parts)
    }
}

/// Images whose parts are remembered.
const REMEMBERED: usize = 4096;

/// What an image consists of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    /// Its manifest, its config and its archives.
    blobs: Vec<Digest>,
    /// Its unpacked layers.
    layers: Vec<Digest>,
}

/// See [`Store::needed`].
#[derive(Default)]
struct Needed {
    blobs: HashSet<Digest>,
    /// Layers of images.
    layers: HashSet<Digest>,
    /// Layers that containers stand on.
    held: HashSet<Digest>,
    /// False: there is a damaged image, and what that needs is not known.
    whole: bool,
}

impl Needed {
    fn add(&mut self, parts: Result<Arc<Parts>>) -> Result<()> {
        match parts {
            Err(e) if is_damage(&e) => self.whole = false,
            other => {
                let parts = other?;
                self.blobs.extend(&parts.blobs);
                self.layers.extend(&parts.layers);
            }
        }
        Ok(())
    }
}
