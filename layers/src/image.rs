//! Images: a manifest, a config, layers, and names in the store's index.

mod documents;
mod remove;

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::{
    Arch, Config, ConfigBuilder, Descriptor, HistoryBuilder, ImageConfiguration, ImageConfigurationBuilder,
    ImageIndex, ImageIndexBuilder, MediaType, Os, RootFsBuilder,
};

pub use documents::Document;
pub(crate) use documents::{
    DocumentKind, descriptor, descriptor_of, descriptors, document_kind, manifest_of, name_of, parse_index,
    parse_manifest, size_of,
};
use documents::{chosen_from, documents};
pub(crate) use remove::Parts;

use crate::changes::{Archive, CommitOptions};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::host::HostImage;
use crate::store::{AddedLayer, Expected, Progress, Publish, Store, there};
use crate::watch::Watch;

const INDEX: &str = "index.json";
const NAME: &str = "org.opencontainers.image.ref.name";
/// In the index of the store: the digest of the index that an image was chosen from.
const CHOSEN_FROM: &str = "io.boxship.chosen-from";

/// What an imported image runs by default.
#[derive(Clone, Debug, Default)]
pub struct ImageOptions {
    /// The default command.
    pub command: Vec<String>,
    /// What the command is passed to.
    pub entrypoint: Vec<String>,
    /// Variables, `KEY=value`.
    pub env: Vec<String>,
    /// The working directory.
    pub workdir: Option<String>,
    /// The user, as `USER` in a Dockerfile.
    pub user: Option<String>,
    /// Free labels.
    pub labels: std::collections::HashMap<String, String>,
}

/// An image in the store.
#[derive(Clone, Debug)]
pub struct Image {
    store: Store,
    name: Option<String>,
    digest: Digest,
    config: ImageConfiguration,
    layers: Vec<Digest>,
    size: u64,
}

/// A line of the list of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its name, `repository:tag`.
    pub name: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Bytes of its layers, as stored.
    pub size: u64,
}

/// `name[:tag]` in the store's own form: a missing tag is `latest`.
///
/// Docker Hub's own images go by their short name, as people write them: `docker.io/library/alpine` is
/// `alpine`, and `docker.io/grafana/loki` is `grafana/loki`.
pub(crate) fn normalise(name: &str) -> Result<String> {
    let name = short(name);
    let bad = |reason: &str| Err(Error::invalid("image name", format!("{name:?}: {reason}")));
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, "latest"),
    };
    let path_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:[]".contains(c);
    let tag_ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if path.is_empty() || path.len() > 255 || !path.chars().all(path_ok) || path.split('/').any(str::is_empty)
    {
        return bad("use lower-case letters, digits, '.', '_', '-' and '/'");
    }
    if tag.is_empty() || tag.len() > 128 || !tag.chars().all(tag_ok) || tag.starts_with(['.', '-']) {
        return bad("a tag is 1 to 128 letters, digits, '.', '_' and '-'");
    }
    let full = format!("{path}:{tag}");
    if full.parse::<Digest>().is_ok() {
        // It would be looked up as one, so nobody would ever find the image.
        return bad("it is a digest and no name");
    }
    Ok(full)
}

/// Without what Docker Hub's names may leave out, unless the rest would be read as another registry's.
fn short(name: &str) -> &str {
    let host = |part: &str| part.contains(['.', ':', '[']) || part == "localhost";
    let hub = ["docker.io/", "index.docker.io/"].iter().find_map(|hub| name.strip_prefix(hub));
    let name = hub.filter(|rest| !rest.split_once('/').is_some_and(|(first, _)| host(first))).unwrap_or(name);
    name.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(name)
}

fn oci(what: &'static str) -> impl FnOnce(oci_spec::OciSpecError) -> Error {
    move |e| Error::invalid(what, e.to_string())
}

fn json(what: &'static str) -> impl FnOnce(serde_json::Error) -> Error {
    move |source| Error::Json { what, source }
}

fn now() -> String {
    time_text(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// RFC 3339, in UTC.
fn time_text(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // Howard Hinnant's civil-from-days.
    let day = days + 719_468;
    let (era, doe) = (day / 146_097, day % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let d = doy - (153 * mp + 2) / 5 + 1;
    format!("{year:04}-{month:02}-{d:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

impl Store {
    /// Imports a root file system archive (tar, plain or compressed with gzip or zstd) as an image of
    /// one layer. `observe` is told the progress and cancels by answering false.
    ///
    /// # Errors
    /// [`Error::Archive`] and [`Error::Limit`] for an archive that is hostile or broken,
    /// [`Error::Cancelled`], [`Error::Io`]. Nothing of it is visible then.
    pub fn import(
        &self,
        archive: impl Read + Send,
        name: &str,
        options: &ImageOptions,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Image> {
        let name = normalise(name)?;
        let add = self.begin(Publish::Together)?;
        let layer = add.layer(archive, Expected::default(), observe)?;
        let config = self.config_of(options, &layer.diff_id)?;
        let (config, manifest) = documents(&config, vec![descriptor_of(&layer)?])?;
        add.document(&config)?;
        add.finish(&manifest, Some(&name))
    }

    /// Imports a directory of the host. Ownership is kept when the store can keep it, and so are the attributes that
    /// [`import`](Store::import) keeps. The same tree is the same layer: names are in order. Nothing in the directory
    /// is changed, and what the caller may not read is an error.
    ///
    /// # Errors
    /// As [`import`](Store::import); [`Error::Archive`] for a name that begins with `.wh.`, which would mean a deletion.
    pub fn import_directory(
        &self,
        dir: &Path,
        name: &str,
        options: &ImageOptions,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Image> {
        normalise(name)?;
        if !dir.is_dir() {
            return Err(Error::invalid("directory", format!("{dir:?} is not a directory")));
        }
        let mut watch = Watch::new(observe);
        let mut part = watch.part();
        let written = self.scratch_archive(|out| Archive::of_host(dir, out, Watch::new(&mut part)));
        drop(part);
        let (_guard, archive) = written?;
        self.import(archive, name, options, &mut watch.part())
    }

    /// Makes an image of programs of this host, with the libraries they need, `/etc/passwd` and
    /// `/etc/group`. Without a command of its own it runs the first program; `PATH` is set.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a program or library that is missing, else as [`import`](Store::import).
    pub fn import_host_programs(
        &self,
        host: &HostImage,
        name: &str,
        options: &ImageOptions,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Image> {
        normalise(name)?;
        let collected = host.collect(observe)?;
        let (_guard, archive) = self.scratch_archive(|out| collected.write(out))?;
        let mut options = options.clone();
        if !options.env.iter().any(|line| line.starts_with("PATH=")) {
            options.env.insert(0, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        }
        if options.command.is_empty() && options.entrypoint.is_empty() {
            options.command = host.first().map(|p| p.to_string_lossy().into_owned()).into_iter().collect();
        }
        self.import(archive, name, &options, observe)
    }

    fn config_of(&self, o: &ImageOptions, diff_id: &Digest) -> Result<ImageConfiguration> {
        let mut c = ConfigBuilder::default();
        let some = |v: &Vec<String>| (!v.is_empty()).then(|| v.clone());
        if let Some(v) = some(&o.command) {
            c = c.cmd(v);
        }
        if let Some(v) = some(&o.entrypoint) {
            c = c.entrypoint(v);
        }
        if let Some(v) = some(&o.env) {
            c = c.env(v);
        }
        if let Some(v) = &o.workdir {
            c = c.working_dir(v.clone());
        }
        if let Some(v) = &o.user {
            c = c.user(v.clone());
        }
        if !o.labels.is_empty() {
            c = c.labels(o.labels.clone());
        }
        let history = HistoryBuilder::default().created(now()).created_by("boxship import").build();
        let rootfs = RootFsBuilder::default().typ("layers").diff_ids(vec![diff_id.to_string()]).build();
        let arch = if cfg!(target_arch = "aarch64") { Arch::ARM64 } else { Arch::Amd64 };
        ImageConfigurationBuilder::default()
            .created(now())
            .architecture(arch)
            .os(Os::Linux)
            .config(c.build().map_err(oci("config"))?)
            .rootfs(rootfs.map_err(oci("config"))?)
            .history(vec![history.map_err(oci("config"))?])
            .build()
            .map_err(oci("config"))
    }

    fn index(&self) -> Result<ImageIndex> {
        let path = self.path().join(INDEX);
        match std::fs::read(&path) {
            Ok(text) => parse_index(&text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let builder =
                    ImageIndexBuilder::default().schema_version(2u32).media_type(MediaType::ImageIndex);
                builder.manifests(Vec::<Descriptor>::new()).build().map_err(oci("index"))
            }
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }

    fn write_index(&self, index: &ImageIndex) -> Result<()> {
        self.replace_file(INDEX, &serde_json::to_vec(index).map_err(json("index"))?)
    }

    /// Gives the manifest a name, taking it from whatever had it. Without one it is kept all the same. An image that
    /// was chosen from an index may be asked for by the index's digest.
    pub(crate) fn tag_chosen(
        &self,
        digest: &Digest,
        name: Option<&str>,
        index_digest: Option<&Digest>,
    ) -> Result<()> {
        let document = self.read_document(digest)?;
        let media = parse_manifest(&document)?.media_type().clone().unwrap_or(MediaType::ImageManifest);
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let oci_digest = digest.to_string().parse::<oci_spec::image::Digest>().map_err(oci("digest"))?;
        let known =
            |d: &Descriptor| index_digest.is_none_or(|i| chosen_from(d) == Some(i.to_string().as_str()));
        if name.is_none() && index.manifests().iter().any(|d| d.digest() == &oci_digest && known(d)) {
            return Ok(());
        }
        // A name makes the nameless entry of the same manifest needless.
        let stays = |d: &&Descriptor| match name_of(d) {
            Some(other) => Some(other) != name,
            None => d.digest() != &oci_digest,
        };
        let mut manifests: Vec<Descriptor> = index.manifests().iter().filter(stays).cloned().collect();
        let mut descriptor = Descriptor::new(media, document.len() as u64, oci_digest);
        let named = name.map(|name| (NAME.to_owned(), name.to_owned()));
        let chosen = index_digest.map(|i| (CHOSEN_FROM.to_owned(), i.to_string()));
        let notes: std::collections::HashMap<_, _> = named.into_iter().chain(chosen).collect();
        descriptor.set_annotations((!notes.is_empty()).then_some(notes));
        manifests.push(descriptor);
        index.set_manifests(manifests);
        self.write_index(&index)
    }

    /// Gives an image, by name or digest, another name, taking it from whatever had it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for what cannot be a name.
    pub fn tag_image(&self, image: &str, name: &str) -> Result<Image> {
        self.require_writable()?;
        let name = normalise(name)?;
        let _hold = self.hold_content()?;
        let found = self.image(image)?;
        let whole = self.whole_index(&found)?;
        self.tag_chosen(&found.digest, Some(&name), whole.as_ref())?;
        Ok(found.named(Some(name)))
    }

    /// The manifests that the index holds, with their names.
    pub(crate) fn roots(&self) -> Result<Vec<(Digest, Option<String>)>> {
        let index = self.index()?;
        let root = |d: &Descriptor| Ok((d.digest().to_string().parse()?, name_of(d).map(str::to_owned)));
        index.manifests().iter().map(root).collect()
    }

    /// All images, by name.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Io`].
    pub fn images(&self) -> Result<Vec<ImageInfo>> {
        let mut before = None;
        loop {
            let index = self.index()?;
            match self.listed(&index) {
                // Removed while it was read: then there is another index now.
                Err(Error::NotFound { .. }) if before.as_ref() != Some(&index) => before = Some(index),
                other => return other,
            }
        }
    }

    fn listed(&self, index: &ImageIndex) -> Result<Vec<ImageInfo>> {
        let mut all = Vec::new();
        for d in index.manifests() {
            let (Some(name), Ok(digest)) = (name_of(d), d.digest().to_string().parse::<Digest>()) else {
                continue;
            };
            let size = size_of(&parse_manifest(&self.read_document(&digest)?)?);
            all.push(ImageInfo { name: name.to_owned(), digest, size });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The image with this name (a missing tag is `latest`) or digest: that of its manifest, or of the index
    /// that it was chosen from. A name may have a digest behind it (`alpine@sha256:…`), which then counts.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for what cannot be a name.
    pub fn image(&self, name: &str) -> Result<Image> {
        let pinned = match name.split_once('@') {
            Some((before, digest)) => normalise(before).and_then(|_| digest.parse::<Digest>()).map(Some)?,
            None => name.parse::<Digest>().ok(),
        };
        if let Some(digest) = pinned {
            return match self.image_of(digest, name, None) {
                // It may be that of an index, which is there if it is kept whole.
                Err(e @ (Error::NotFound { .. } | Error::Invalid { .. })) => match self.chosen(digest)? {
                    Some(digest) => self.image_of(digest, name, None),
                    None => Err(e),
                },
                other => other,
            };
        }
        let wanted = normalise(name)?;
        let mut before = None;
        loop {
            let index = self.index()?;
            let named = index.manifests().iter().find(|d| name_of(d) == Some(&wanted));
            let named = named.ok_or_else(|| Error::NotFound { what: "image", name: name.to_owned() })?;
            let digest: Digest = named.digest().to_string().parse()?;
            match self.image_of(digest, name, Some(&wanted)) {
                // The name was given to another image, and this one collected, while it was read.
                Err(Error::NotFound { .. }) if before != Some(digest) => before = Some(digest),
                other => return other,
            }
        }
    }

    fn image_of(&self, digest: Digest, asked: &str, name: Option<&str>) -> Result<Image> {
        let manifest = match self.read_document(&digest) {
            Err(Error::NotFound { .. }) => {
                return Err(Error::NotFound { what: "image", name: asked.to_owned() });
            }
            other => other?,
        };
        let manifest = parse_manifest(&manifest)?;
        let config: Digest = manifest.config().digest().to_string().parse()?;
        let config: ImageConfiguration =
            serde_json::from_slice(&self.read_document(&config)?).map_err(json("config"))?;
        let layers = config.rootfs().diff_ids().iter().map(|d| d.parse()).collect::<Result<Vec<Digest>>>()?;
        let size = size_of(&manifest);
        Ok(Image { store: self.clone(), name: name.map(str::to_owned), digest, config, layers, size })
    }

    /// The manifest that was chosen from an index.
    fn chosen(&self, index: Digest) -> Result<Option<Digest>> {
        let text = index.to_string();
        let index = self.index()?;
        let found = index.manifests().iter().find(|d| chosen_from(d) == Some(&text));
        found.map(|d| d.digest().to_string().parse()).transpose()
    }

    /// The indexes that images were chosen from, with the names of these. Most are not kept.
    pub(crate) fn chosen_indexes(&self) -> Result<Vec<(Digest, String)>> {
        let index = self.index()?;
        let of = |d: &Descriptor| {
            let from = chosen_from(d)?.parse();
            Some(from.map(|from| (from, name_of(d).map_or_else(|| d.digest().to_string(), str::to_owned))))
        };
        index.manifests().iter().filter_map(of).collect()
    }

    /// The index that an image was chosen from, if it is kept.
    pub(crate) fn whole_index(&self, image: &Image) -> Result<Option<Digest>> {
        let (digest, index) = (image.digest.to_string(), self.index()?);
        for d in index.manifests() {
            let is_it =
                d.digest().to_string() == digest && (image.name.is_none() || name_of(d) == image.name());
            if let Some(from) = chosen_from(d).filter(|_| is_it) {
                let from: Digest = from.parse()?;
                if there(&self.blob_path(&from))? {
                    return Ok(Some(from));
                }
            }
        }
        Ok(None)
    }

    /// Adds an index and all that it names, with the sizes that are told, as far as it is here; nothing for one that
    /// is not kept. After an error, what was found so far is there, and the damaged document.
    pub(crate) fn index_parts(&self, index: &Digest, all: &mut Vec<(Digest, Option<u64>)>) -> Result<()> {
        let (mut waiting, mut seen) = (vec![*index], HashSet::new());
        while let Some(digest) = waiting.pop() {
            if !seen.insert(digest) || !there(&self.blob_path(&digest))? {
                continue;
            }
            all.push((digest, None));
            let bytes = self.read_document(&digest)?;
            match document_kind(&bytes)? {
                DocumentKind::Index => {
                    for d in parse_index(&bytes)?.manifests() {
                        waiting.push(d.digest().to_string().parse()?);
                    }
                }
                DocumentKind::Manifest => {
                    for (part, size) in descriptors(&parse_manifest(&bytes)?)? {
                        if there(&self.blob_path(&part))? {
                            all.push((part, Some(size)));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl Image {
    /// The documents of this image with one more layer.
    pub(crate) fn with_layer(&self, layer: &AddedLayer, o: &CommitOptions) -> Result<(Vec<u8>, Vec<u8>)> {
        let manifest = parse_manifest(&self.store.read_document(&self.digest)?)?;
        let mut config = self.config.clone();
        let created = o.created.map_or_else(now, time_text);
        let mut own = config.config().clone().unwrap_or_default();
        let new = &o.options;
        let some = |v: &Vec<String>| (!v.is_empty()).then(|| v.clone());
        if let Some(v) = some(&new.command) {
            own.set_cmd(Some(v));
        }
        if let Some(v) = some(&new.entrypoint) {
            own.set_entrypoint(Some(v));
        }
        let mut env = own.env().clone().unwrap_or_default();
        for line in &new.env {
            let key = line.split('=').next().unwrap_or_default();
            env.retain(|old| old.split('=').next() != Some(key));
            env.push(line.clone());
        }
        own.set_env(Some(env).filter(|e| !e.is_empty()));
        if new.workdir.is_some() {
            own.set_working_dir(new.workdir.clone());
        }
        if new.user.is_some() {
            own.set_user(new.user.clone());
        }
        if !new.labels.is_empty() {
            // Sorted: the same labels are the same bytes.
            let mut labels = own.labels().clone().unwrap_or_default();
            labels.extend(new.labels.clone());
            own.set_labels(Some(labels));
        }
        config.set_config(Some(own));
        config.set_created(Some(created.clone()));
        config.set_author(o.author.clone().or_else(|| config.author().clone()));
        let mut step = HistoryBuilder::default().created(created).created_by("boxship commit");
        if let Some(comment) = &o.comment {
            step = step.comment(comment.clone());
        }
        if let Some(author) = &o.author {
            step = step.author(author.clone());
        }
        let mut history = config.history().clone().unwrap_or_default();
        history.push(step.build().map_err(oci("config"))?);
        config.set_history(Some(history));
        let mut rootfs = config.rootfs().clone();
        rootfs.diff_ids_mut().push(layer.diff_id.to_string());
        config.set_rootfs(rootfs);
        let mut layers = manifest.layers().clone();
        layers.push(descriptor_of(layer)?);
        // By way of a value, whose maps are sorted.
        let value = serde_json::to_value(&config).map_err(json("config"))?;
        let config = serde_json::to_vec(&value).map_err(json("config"))?;
        let manifest = manifest_of(&config, layers)?;
        Ok((config, manifest))
    }

    /// Its manifest as it was added, byte for byte.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed.
    pub fn manifest(&self) -> Result<Vec<u8>> {
        self.store.read_document(&self.digest)
    }

    /// The same image, which has just been given this name.
    pub(crate) fn named(self, name: Option<String>) -> Image {
        Image { name, ..self }
    }

    /// The name it was asked for, `None` by digest.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The digest of its manifest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its configuration: data from whoever made the image, to be treated as such.
    #[must_use]
    pub fn configuration(&self) -> &ImageConfiguration {
        &self.config
    }

    /// The part of the configuration that says how to run it.
    #[must_use]
    pub fn config(&self) -> Option<&Config> {
        self.config.config().as_ref()
    }

    /// The diffIDs of its layers, the lowest first.
    #[must_use]
    pub fn layers(&self) -> &[Digest] {
        &self.layers
    }

    /// Bytes of its layers, as stored.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The store that holds it.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageOptions, Store, normalise, parse_manifest, size_of};

    /// Removing an image read all others. Red before: 15,350 documents for 100.
    #[test]
    fn removing_images_reads_each_only_a_few_times() {
        let dir = std::env::temp_dir().join(format!("boxship-remove-{}", std::process::id()));
        let store = Store::open_with(&dir, crate::Durability::Relaxed).expect("a store");
        let images: u64 = 100;
        for i in 0..images {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_size(2);
            header.set_mode(0o644);
            let content = [u8::try_from(i % 256).expect("small"), u8::try_from(i / 256).expect("small")];
            tar.append_data(&mut header, "file", &content[..]).expect("written");
            let bytes = tar.into_inner().expect("whole");
            store
                .import(&bytes[..], &format!("i:{i}"), &ImageOptions::default(), &mut |_| true)
                .expect("imported");
        }
        let before = store.documents_read();
        for i in 0..images {
            store.remove_image(&format!("i:{i}")).expect("removed");
        }
        let read = store.documents_read() - before;
        for place in ["blobs/sha256", "layers", "pairs"] {
            assert_eq!(std::fs::read_dir(dir.join(place)).expect("there").count(), 0, "{place}");
        }
        let _ = std::fs::remove_dir_all(&dir);
        assert!(read <= images * 8, "{read} documents were read to remove {images} images");
    }

    #[test]
    fn sizes_that_do_not_fit_are_no_panic() {
        let part = |kind: &str| {
            let (digest, size) = ("ab".repeat(32), i64::MAX);
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":{size}}}"#
            )
        };
        let layers = [part("layer.v1.tar"), part("layer.v1.tar"), part("layer.v1.tar")].join(",");
        let config = part("config.v1+json");
        let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
        assert_eq!(size_of(&parse_manifest(text.as_bytes()).expect("a manifest")), u64::MAX);
    }

    #[test]
    fn names() {
        for (given, want) in
            [("tools", "tools:latest"), ("a/b:1", "a/b:1"), ("host:5000/x", "host:5000/x:latest")]
        {
            assert_eq!(normalise(given).ok().as_deref(), Some(want));
        }
        for bad in ["", "al pine", "A", "a:", "a//b", "/a", "a:.x", "a:b c", "../x:\u{0}"] {
            assert!(normalise(bad).is_err(), "{bad:?}");
        }
        assert!(normalise(&format!("sha256:{}", "ab".repeat(32))).is_err(), "it is a digest");
    }
}
