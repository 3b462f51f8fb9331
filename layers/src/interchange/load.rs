//! Reading archives of images. Nothing in one is trusted: names are keys and never paths of the host, every
//! part is compared with its digest before anything is visible.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use rustix::fs::OFlags;
use serde::Deserialize;

use super::parallel::{self, Tell};
use super::{LoadOptions, Platform, old};
use crate::archive::Bounds;
use crate::archive::reader::{Kind, Reader, read_error};
use crate::compress::Compression;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{
    DocumentKind, Image, descriptor_of, document_kind, manifest_of, normalise, parse_index, parse_manifest,
};
use crate::store::ingest::{Ingest, Taken, ratio};
use crate::store::{AddedLayer, Addition, Expected, Progress, Publish, Store};
use crate::tree::TreeRoot;
use crate::watch::Watch;

const MAX_DOCUMENT: u64 = 4 << 20;
/// Indexes may name indexes; nobody nests deeper.
const MAX_NESTING: usize = 4;
/// Documents that are looked at to find one image.
pub(super) const MAX_DOCUMENTS: usize = 1000;
/// Entries of an archive of images.
const MAX_PARTS: u64 = 50_000;
/// Links to other entries in a row.
const MAX_LINKS: usize = 8;

/// Where the parts of an archive are.
pub(super) enum Parts {
    /// Spooled from a stream: the number of a file in a private directory, or a link to another entry.
    Spooled(Ingest, BTreeMap<String, Part>),
    /// A directory, which a stranger may have made.
    Directory(TreeRoot),
    /// Documents that a fuzzer made.
    #[cfg(fuzzing)]
    Memory(BTreeMap<String, Vec<u8>>),
}

pub(super) enum Part {
    File(usize),
    Link(String),
}

/// A part of Docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn invalid(reason: impl Into<String>) -> Error {
    Error::invalid("archive of images", reason)
}

/// A name as a key: no `.`, no empty part; `..` is resolved, and not beyond the top.
fn key(base: &str, name: &str) -> Result<String> {
    let mut parts: Vec<&str> = base.split('/').filter(|p| !p.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(|| invalid(format!("{name:?} leads out of it")))?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

impl Parts {
    fn spool(store: &Store, input: impl Read, watch: &mut Watch<'_>) -> Result<Parts> {
        let ingest = Ingest::new(store)?;
        let fail = |source| Error::Io { operation: "read", path: "the archive".into(), source };
        let mut input = BufReader::with_capacity(1 << 20, input);
        let compression = Compression::detect(input.fill_buf().map_err(fail)?);
        let stored = AtomicU64::new(0);
        let plain = compression.local_reader(Taken::new(input, &stored)).map_err(fail)?;
        // An image has a few files for each layer; each entry costs a file here.
        let bounds = Bounds { entries: MAX_PARTS, ..Bounds::default() };
        let mut reader = Reader::new(BufReader::with_capacity(256 << 10, plain), bounds);
        let mut parts = BTreeMap::new();
        let mut buffer = vec![0; 256 << 10];
        while let Some(e) = reader.next()? {
            let name = String::from_utf8_lossy(&e.path).into_owned();
            let (above, _) = name.rsplit_once('/').unwrap_or(("", &name));
            let link = || String::from_utf8_lossy(&e.link).into_owned();
            let part = match e.kind {
                Kind::File if e.pieces.is_some() => {
                    return Err(Error::archive(&e.path, "a sparse file in an archive of images"));
                }
                Kind::File => {
                    let n = parts.len();
                    let path = ingest.path.join(n.to_string());
                    let mut file = File::create_new(&path).map_err(Error::io("create", &path))?;
                    loop {
                        match reader.read(&mut buffer)? {
                            0 => break,
                            n => {
                                file.write_all(&buffer[..n]).map_err(Error::io("write", &path))?;
                                watch.add(n as u64)?;
                                ratio(watch.bytes(), &stored)?;
                            }
                        }
                    }
                    Part::File(n)
                }
                Kind::Symlink => Part::Link(key(above, &link())?),
                Kind::HardLink => Part::Link(key("", &link())?),
                _ => continue,
            };
            if parts.insert(name.clone(), part).is_some() {
                return Err(invalid(format!("it has {name:?} twice")));
            }
            watch.tell(Progress::Read { bytes: watch.bytes() })?;
        }
        Ok(Parts::Spooled(ingest, parts))
    }

    fn open(&self, name: &str) -> Result<Option<File>> {
        let name = key("", name)?;
        match self {
            #[cfg(fuzzing)]
            Parts::Memory(_) => Ok(None),
            Parts::Directory(root) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                let fd = match root.entry(name.as_bytes(), flags) {
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
                    other => other.map_err(Error::io("open", &name))?,
                };
                let stat = rustix::fs::fstat(fd.as_fd()).map_err(Error::io("read", &name))?;
                match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
                    rustix::fs::FileType::RegularFile => Ok(Some(fd.into())),
                    _ => Err(invalid(format!("{name:?} is not a regular file"))),
                }
            }
            Parts::Spooled(ingest, parts) => {
                let mut name = name;
                for _ in 0..MAX_LINKS {
                    match parts.get(&name) {
                        None => return Ok(None),
                        Some(Part::Link(to)) => name.clone_from(to),
                        Some(Part::File(n)) => {
                            let path = ingest.path.join(n.to_string());
                            return File::open(&path).map(Some).map_err(Error::io("open", path));
                        }
                    }
                }
                Err(invalid(format!("{name:?} is a link of links")))
            }
        }
    }

    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        #[cfg(fuzzing)]
        if let Parts::Memory(all) = self {
            return Ok(all.get(&key("", name)?).cloned());
        }
        let Some(file) = self.open(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(Error::io("read", name))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::Limit { what: "a manifest or config", limit: MAX_DOCUMENT });
        }
        Ok(Some(bytes))
    }

    /// A document by its digest, compared with it.
    fn blob(&self, d: &Descriptor) -> Result<Option<Vec<u8>>> {
        let digest: Digest = d.digest().to_string().parse()?;
        let Some(bytes) = self.document(&format!("blobs/sha256/{}", digest.hex()))? else { return Ok(None) };
        match Digest::of(&bytes) {
            found if found == digest => Ok(Some(bytes)),
            found => Err(Error::DigestMismatch { expected: digest.to_string(), found: found.to_string() }),
        }
    }
}

impl Store {
    /// Adds all images of an archive that `docker save`, `podman save`, `skopeo copy` or [`save`](Store::save)
    /// wrote: an OCI layout or Docker's form, also as it was before Docker 1.10, plain or compressed.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Json`], [`Error::Archive`], [`Error::Limit`] for an archive that is broken,
    /// hostile or of another kind; [`Error::DigestMismatch`]; [`Error::NotFound`] for a missing part or
    /// platform; [`Error::Cancelled`]; [`Error::Io`]. Images before the bad one are there. The bytes that are told of
    /// are those of the archive, and then those of the layers as they are unpacked.
    pub fn load(
        &self,
        archive: impl Read,
        options: &LoadOptions,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Vec<Image>> {
        let mut watch = Watch::new(observe);
        let parts = Parts::spool(self, archive, &mut watch)?;
        self.load_parts(&parts, options, &mut watch)
    }

    /// The same from a directory that holds an OCI layout.
    ///
    /// # Errors
    /// As [`load`](Store::load).
    pub fn load_directory(
        &self,
        dir: &Path,
        options: &LoadOptions,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Vec<Image>> {
        self.load_parts(&Parts::Directory(TreeRoot::open(dir)?), options, &mut Watch::new(observe))
    }

    fn load_parts(&self, parts: &Parts, options: &LoadOptions, watch: &mut Watch<'_>) -> Result<Vec<Image>> {
        if parts.open("oci-layout")?.is_some()
            && let Some(index) = parts.document("index.json")?
        {
            return self.load_layout(parts, &index, options, watch);
        }
        if let Some(list) = parts.document("manifest.json")? {
            return self.load_docker(parts, &list, watch);
        }
        match parts.document("repositories")? {
            Some(list) => self.load_old(parts, &list, watch),
            None => Err(invalid("it has neither an OCI layout nor Docker's manifest.json or repositories")),
        }
    }

    fn load_layout(
        &self,
        parts: &Parts,
        index: &[u8],
        options: &LoadOptions,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        for d in parse_index(index)?.manifests() {
            let mut documents = 0;
            let Some((bytes, manifest)) = choose(parts, d, &options.platform, 0, &mut documents)? else {
                let platform = options.platform.to_string();
                return Err(Error::NotFound { what: "image for the platform", name: platform });
            };
            let add = self.begin(Publish::Together)?;
            let config = parts.blob(manifest.config())?.ok_or_else(|| missing(manifest.config()))?;
            let diff_ids = diff_ids(&config)?;
            if diff_ids.len() != manifest.layers().len() {
                return Err(invalid("a manifest and its config have different numbers of layers"));
            }
            let (mut jobs, mut known) = (Vec::new(), Vec::new());
            for (layer, diff_id) in manifest.layers().iter().zip(&diff_ids) {
                let digest: Digest = layer.digest().to_string().parse()?;
                let expected =
                    Expected { digest: Some(digest), size: Some(layer.size()), diff_id: Some(*diff_id) };
                if !add.has_layer(&digest, diff_id) && !known.contains(&(digest, *diff_id)) {
                    known.push((digest, *diff_id));
                    let add = &add;
                    // Opened when it is its turn: an image may have more layers than we may have files open.
                    jobs.push(move |tell: Tell<'_>| {
                        let file = parts.open(&format!("blobs/sha256/{}", digest.hex()))?;
                        add.layer(file.ok_or_else(|| missing(layer))?, expected, tell)
                    });
                }
            }
            parallel::all(jobs, &mut watch.part())?;
            add.document(&config)?;
            let index = if options.all_platforms { keep_index(&add, parts, d, watch)? } else { None };
            images.push(add.finish_chosen(&bytes, tag_of(d)?.as_deref(), index.as_ref())?);
        }
        Ok(images)
    }

    fn load_docker(&self, parts: &Parts, list: &[u8], watch: &mut Watch<'_>) -> Result<Vec<Image>> {
        let list = docker_images(list)?;
        let mut images = Vec::new();
        for image in list {
            let not_found =
                |name: &str| Error::NotFound { what: "part of the archive", name: name.to_owned() };
            let config = parts.document(&image.config)?.ok_or_else(|| not_found(&image.config))?;
            let diff_ids = diff_ids(&config)?;
            if diff_ids.len() != image.layers.len() {
                return Err(invalid("a config and its manifest have different numbers of layers"));
            }
            let tags: Vec<String> =
                image.repo_tags.iter().flatten().map(|t| normalise(t)).collect::<Result<_>>()?;
            let add = self.begin(Publish::Together)?;
            let mut jobs = Vec::new();
            for (name, diff_id) in image.layers.iter().zip(&diff_ids) {
                let add = &add;
                let expected = Expected { diff_id: Some(*diff_id), ..Expected::default() };
                jobs.push(move |tell: Tell<'_>| {
                    let file = parts.open(name)?.ok_or_else(|| not_found(name))?;
                    known_or_added(add, file, expected, tell)
                });
            }
            let added = parallel::all(jobs, &mut watch.part())?;
            let layers = added.iter().map(descriptor_of).collect::<Result<_>>()?;
            add.document(&config)?;
            let manifest = manifest_of(&config, layers)?;
            let added = add.finish(&manifest, tags.first().map(String::as_str))?;
            for tag in tags.iter().skip(1) {
                images.push(self.tag_image(&added.digest().to_string(), tag)?);
            }
            images.push(added);
        }
        Ok(images)
    }

    fn load_old(&self, parts: &Parts, list: &[u8], watch: &mut Watch<'_>) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        // Images of one archive have layers in common, and nothing tells their digests before they are read.
        let mut known: BTreeMap<String, AddedLayer> = BTreeMap::new();
        for image in old::images(parts, list)? {
            let add = self.begin(Publish::Together)?;
            let is_new = |id: &&String| !known.contains_key(*id);
            let new: Vec<&String> = image.layers.iter().filter(is_new).collect();
            let job = |id: &String| {
                let (add, name) = (&add, format!("{id}/layer.tar"));
                move |tell: Tell<'_>| {
                    let missing = || Error::NotFound { what: "part of the archive", name: name.clone() };
                    add.layer(parts.open(&name)?.ok_or_else(missing)?, Expected::default(), tell)
                }
            };
            let added = parallel::all(new.iter().map(|id| job(id)).collect(), &mut watch.part())?;
            known.extend(new.into_iter().cloned().zip(added));
            let added: Vec<AddedLayer> =
                image.layers.iter().filter_map(|id| known.get(id)).copied().collect();
            let config = image.config(&added)?;
            add.document(&config)?;
            let manifest = manifest_of(&config, added.iter().map(descriptor_of).collect::<Result<_>>()?)?;
            let done = add.finish(&manifest, image.names.first().map(String::as_str))?;
            for name in image.names.iter().skip(1) {
                images.push(self.tag_image(&done.digest().to_string(), name)?);
            }
            images.push(done);
        }
        Ok(images)
    }
}

fn docker_images(list: &[u8]) -> Result<Vec<DockerImage>> {
    serde_json::from_slice(list).map_err(|source| Error::Json { what: "manifest", source })
}

/// What `manifest.json` names: for each image the names of its parts as they are looked up, and its own.
#[cfg(fuzzing)]
pub(crate) fn docker_parts(list: &[u8]) -> Result<Vec<(Vec<String>, Vec<String>)>> {
    let mut all = Vec::new();
    for image in docker_images(list)? {
        let parts = image.layers.iter().chain([&image.config]).map(|name| key("", name));
        let names = image.repo_tags.iter().flatten().map(|tag| normalise(tag));
        all.push((parts.collect::<Result<_>>()?, names.collect::<Result<_>>()?));
    }
    Ok(all)
}

/// What a load finds in documents: the manifest for a platform below the last one, and the names and layers of the
/// images that `repositories` names.
#[cfg(fuzzing)]
pub(crate) fn graph(
    documents: &[Vec<u8>],
    repositories: &[u8],
    platform: &Platform,
) -> (Result<Option<Vec<u8>>>, Result<Vec<(Vec<String>, usize)>>) {
    let mut all = BTreeMap::new();
    for (i, bytes) in documents.iter().enumerate() {
        all.insert(format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes.clone());
        all.insert(format!("{i}/json"), bytes.clone());
    }
    let parts = Parts::Memory(all);
    let chosen = || {
        let Some(last) = documents.last() else { return Ok(None) };
        let media = oci_spec::image::MediaType::ImageIndex;
        let d = crate::image::descriptor(media, last.len() as u64, &Digest::of(last))?;
        let found = choose(&parts, &d, platform, 0, &mut 0)?;
        if let Some((_, manifest)) = &found {
            let _ = parts.blob(manifest.config())?.map(|config| diff_ids(&config)).transpose()?;
        }
        let _ = tag_of(&d)?;
        Ok(found.map(|(bytes, _)| bytes))
    };
    let old = || {
        let images = old::images(&parts, repositories)?;
        images.into_iter().map(|i| i.config(&[]).map(|_| (i.names, i.layers.len()))).collect()
    };
    (chosen(), old())
}

/// Stores an index and all that it names, as far as the archive has it. `None` for what is no index.
fn keep_index(
    add: &Addition,
    parts: &Parts,
    d: &Descriptor,
    watch: &mut Watch<'_>,
) -> Result<Option<Digest>> {
    let Some(bytes) = parts.blob(d)? else { return Ok(None) };
    if document_kind(&bytes)? != DocumentKind::Index {
        return Ok(None);
    }
    let mut waiting = vec![(d.clone(), 0)];
    let mut documents = 0;
    while let Some((d, depth)) = waiting.pop() {
        documents += 1;
        if depth > MAX_NESTING || documents > MAX_DOCUMENTS {
            return Err(Error::Limit { what: "documents of one image", limit: MAX_DOCUMENTS as u64 });
        }
        // An archive may leave out some platforms.
        let Some(bytes) = parts.blob(&d)? else { continue };
        match document_kind(&bytes)? {
            DocumentKind::Index => {
                waiting.extend(parse_index(&bytes)?.manifests().iter().map(|m| (m.clone(), depth + 1)));
            }
            DocumentKind::Manifest => {
                let manifest = parse_manifest(&bytes)?;
                for part in std::iter::once(manifest.config()).chain(manifest.layers()) {
                    let digest: Digest = part.digest().to_string().parse()?;
                    let file = parts.open(&format!("blobs/sha256/{}", digest.hex()))?;
                    if let Some(file) = file {
                        add.blob(file, &digest, part.size(), watch)?;
                    }
                }
            }
        }
        add.document(&bytes)?;
    }
    Ok(Some(d.digest().to_string().parse()?))
}

/// Docker's form does not say the digest of a layer as it is stored, so finding it costs a reading.
fn known_or_added(
    add: &Addition,
    mut file: File,
    expected: Expected,
    observe: &mut dyn FnMut(Progress) -> bool,
) -> Result<AddedLayer> {
    let Some(diff_id) = expected.diff_id.filter(|d| add.store().layer_path(d).exists()) else {
        return add.layer(file, expected, observe);
    };
    let fail = |source| Error::Io { operation: "read", path: "the archive".into(), source };
    let mut start = [0u8; 4];
    let n = file.read(&mut start).map_err(fail)?;
    let media_type = Compression::detect(&start[..n]).media_type();
    std::io::Seek::rewind(&mut file).map_err(fail)?;
    let (digest, size) = Digest::of_reader(Watch::new(observe).reader(&file)).map_err(read_error)?;
    if add.has_layer(&digest, &diff_id) {
        return Ok(AddedLayer { diff_id, digest, size, media_type });
    }
    std::io::Seek::rewind(&mut file).map_err(fail)?;
    add.layer(file, expected, observe)
}

fn missing(d: &Descriptor) -> Error {
    Error::NotFound { what: "part of the archive", name: d.digest().to_string() }
}

fn diff_ids(config: &[u8]) -> Result<Vec<Digest>> {
    let config: ImageConfiguration =
        serde_json::from_slice(config).map_err(|source| Error::Json { what: "config", source })?;
    config.rootfs().diff_ids().iter().map(|d| d.parse()).collect()
}

/// The full name of an image: `BuildKit`'s and containerd's annotation has it, the standard one may have the
/// tag only. A tool that knows the standard one alone, as umoci, gives an image another name and leaves the
/// full one as it was: then the two do not belong together.
fn tag_of(d: &Descriptor) -> Result<Option<String>> {
    let Some(all) = d.annotations() else { return Ok(None) };
    let standard = all.get("org.opencontainers.image.ref.name");
    let full = all.get("io.containerd.image.name").map(|name| normalise(name)).transpose()?;
    let belongs = |full: &String| {
        standard.is_none_or(|tag| {
            full.ends_with(&format!(":{tag}")) || normalise(tag).is_ok_and(|name| name == *full)
        })
    };
    match full.filter(belongs) {
        Some(full) => Ok(Some(full)),
        None => standard.map(|name| normalise(name)).transpose(),
    }
}

/// The manifest for this platform below a descriptor.
fn choose(
    parts: &Parts,
    d: &Descriptor,
    platform: &Platform,
    depth: usize,
    documents: &mut usize,
) -> Result<Option<(Vec<u8>, ImageManifest)>> {
    if depth > MAX_NESTING {
        return Err(invalid("its indexes are nested too deeply"));
    }
    // The same ones again and again, even.
    *documents += 1;
    if *documents > MAX_DOCUMENTS {
        return Err(Error::Limit { what: "documents looked at for one image", limit: MAX_DOCUMENTS as u64 });
    }
    // An archive may leave out the platforms that nobody asked for.
    let Some(bytes) = parts.blob(d)? else { return Ok(None) };
    match document_kind(&bytes)? {
        DocumentKind::Manifest => Ok(Some((bytes.clone(), parse_manifest(&bytes)?))),
        DocumentKind::Index => {
            let index = parse_index(&bytes)?;
            let mut fitting: Vec<(u32, &Descriptor)> =
                index.manifests().iter().filter_map(|m| Some((fit(m, platform)?, m))).collect();
            // The best first, and of equals the first: as the index has them.
            fitting.sort_by_key(|(fit, _)| std::cmp::Reverse(*fit));
            for (_, m) in fitting {
                if let Some(found) = choose(parts, m, platform, depth + 1, documents)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        }
    }
}

/// How well a member of an index suits; one that does not say what it is for might.
fn fit(d: &Descriptor, wanted: &Platform) -> Option<u32> {
    match d.platform() {
        None => Some(0),
        Some(p) => {
            let (os, arch) = (p.os().to_string(), p.architecture().to_string());
            wanted.fits(&os, &arch, p.variant().as_deref())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_belong_together() {
        let name = |full: Option<&str>, standard: Option<&str>| {
            let mut d =
                crate::image::descriptor(oci_spec::image::MediaType::ImageManifest, 1, &Digest::of(b"x"))
                    .ok()?;
            let keys = [("io.containerd.image.name", full), ("org.opencontainers.image.ref.name", standard)];
            d.set_annotations(Some(
                keys.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect(),
            ));
            tag_of(&d).ok()?
        };
        for (full, standard, wanted) in [
            (Some("docker.io/library/tools:1"), Some("1"), Some("tools:1")),
            (Some("r.example:5000/tools:1"), Some("r.example:5000/tools:1"), Some("r.example:5000/tools:1")),
            (Some("docker.io/library/tools"), Some("latest"), Some("tools:latest")),
            (Some("tools:1"), None, Some("tools:1")),
            (None, Some("tools:1"), Some("tools:1")),
            (Some("tools:1"), Some("new"), Some("new:latest")),
            (Some("tools:1"), Some("other:1"), Some("other:1")),
            (None, None, None),
        ] {
            assert_eq!(name(full, standard).as_deref(), wanted, "{full:?} {standard:?}");
        }
    }

    /// Indexes that name the same ones many times: little to read, and looked at without end.
    #[test]
    fn a_thicket_of_indexes_is_refused() -> Result<()> {
        let root = std::env::temp_dir().join(format!("boxship-thicket-{}", std::process::id()));
        let layout = root.join("layout");
        let blobs = layout.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).map_err(Error::io("make", &blobs))?;
        let index = |members: &[String]| {
            let kind = "application/vnd.oci.image.index.v1+json";
            format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{}]}}"#, members.join(","))
        };
        let mut text = index(&[]);
        for _ in 0..3 {
            let digest = Digest::of(text.as_bytes());
            let path = blobs.join(digest.hex());
            std::fs::write(&path, &text).map_err(Error::io("write", path))?;
            let kind = "application/vnd.oci.image.index.v1+json";
            let one = format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{}}}"#, text.len());
            text = index(&vec![one; 100]);
        }
        for (name, text) in [("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), ("index.json", &text)] {
            std::fs::write(layout.join(name), text).map_err(Error::io("write", name))?;
        }
        let store = Store::open(root.join("store"))?;
        let result = store.load_directory(&layout, &LoadOptions::default(), &mut |_| true);
        let _ = std::fs::remove_dir_all(&root);
        assert!(matches!(result, Err(Error::Limit { .. })), "{result:?}");
        Ok(())
    }

    #[test]
    fn names_are_keys() {
        assert_eq!(key("a/b", "../c/layer.tar").ok().as_deref(), Some("a/c/layer.tar"));
        assert_eq!(key("", "./x//y").ok().as_deref(), Some("x/y"));
        assert!(key("a", "../../x").is_err());
        assert!(key("", "/../etc/passwd").is_err());
    }
}
