//! Images: a manifest, a config, layers, and names in the store's index.

use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::{
    Arch, Config, ConfigBuilder, Descriptor, HistoryBuilder, ImageConfiguration, ImageConfigurationBuilder,
    ImageIndex, ImageIndexBuilder, ImageManifest, ImageManifestBuilder, MediaType, Os, RootFsBuilder,
};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::host::HostImage;
use crate::store::{Progress, Store};

const NAME: &str = "org.opencontainers.image.ref.name";

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
pub(crate) fn normalise(name: &str) -> Result<String> {
    let bad = |reason: &str| Err(Error::invalid("image name", format!("{name:?}: {reason}")));
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, "latest"),
    };
    let path_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:".contains(c);
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

fn oci(what: &'static str) -> impl FnOnce(oci_spec::OciSpecError) -> Error {
    move |e| Error::invalid(what, e.to_string())
}

fn json(what: &'static str) -> impl FnOnce(serde_json::Error) -> Error {
    move |source| Error::Json { what, source }
}

fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
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
        archive: impl Read,
        name: &str,
        options: &ImageOptions,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Image> {
        let name = normalise(name)?;
        let layer = self.ingest_layer(archive, observe)?;
        let config = self.config_of(options, &layer.diff_id)?;
        let config_digest = self.write_document(&serde_json::to_vec(&config).map_err(json("config"))?)?;
        let config_size = self.read_document(&config_digest)?.len() as u64;
        let descriptor = |media: MediaType, size: u64, digest: &Digest| -> Result<Descriptor> {
            let digest = digest.to_string().parse::<oci_spec::image::Digest>().map_err(oci("digest"))?;
            Ok(Descriptor::new(media, size, digest))
        };
        let media = MediaType::Other(layer.media_type.to_owned());
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(descriptor(MediaType::ImageConfig, config_size, &config_digest)?)
            .layers(vec![descriptor(media, layer.blob_size, &layer.blob)?])
            .build()
            .map_err(oci("manifest"))?;
        let digest = self.write_document(&serde_json::to_vec(&manifest).map_err(json("manifest"))?)?;
        self.tag(&digest, &name)?;
        self.image(&name)
    }

    /// Imports a directory of the host. Ownership is kept when the store can keep it.
    ///
    /// # Errors
    /// As [`import`](Store::import).
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
        let (_guard, archive) = self.scratch_archive(|out| {
            let mut builder = tar::Builder::new(out);
            builder.follow_symlinks(false);
            builder
                .append_dir_all(".", dir)
                .and_then(|()| builder.finish())
                .map_err(Error::io("archive", dir))
        })?;
        self.import(archive, name, options, observe)
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
        let path = self.path().join("index.json");
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
        self.replace_file("index.json", &serde_json::to_vec(index).map_err(json("index"))?)
    }

    /// Gives the manifest a name, taking it from whatever had it.
    pub(crate) fn tag(&self, digest: &Digest, name: &str) -> Result<()> {
        let size = self.read_document(digest)?.len() as u64;
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let mut manifests: Vec<Descriptor> =
            index.manifests().iter().filter(|d| name_of(d) != Some(name)).cloned().collect();
        let oci_digest = digest.to_string().parse::<oci_spec::image::Digest>().map_err(oci("digest"))?;
        let mut descriptor = Descriptor::new(MediaType::ImageManifest, size, oci_digest);
        descriptor.set_annotations(Some([(NAME.to_owned(), name.to_owned())].into()));
        manifests.push(descriptor);
        index.set_manifests(manifests);
        self.write_index(&index)
    }

    /// All images, by name.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Io`].
    pub fn images(&self) -> Result<Vec<ImageInfo>> {
        let mut all = Vec::new();
        for d in self.index()?.manifests() {
            let (Some(name), Ok(digest)) = (name_of(d), d.digest().to_string().parse::<Digest>()) else {
                continue;
            };
            let size = size_of(&parse_manifest(&self.read_document(&digest)?)?);
            all.push(ImageInfo { name: name.to_owned(), digest, size });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The image with this name (a missing tag is `latest`) or manifest digest.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for what cannot be a name.
    pub fn image(&self, name: &str) -> Result<Image> {
        let not_found = || Error::NotFound { what: "image", name: name.to_owned() };
        let (digest, found) = match name.parse::<Digest>() {
            Ok(digest) => (digest, None),
            Err(_) => {
                let wanted = normalise(name)?;
                let index = self.index()?;
                let d =
                    index.manifests().iter().find(|d| name_of(d) == Some(&wanted)).ok_or_else(not_found)?;
                (d.digest().to_string().parse()?, Some(wanted))
            }
        };
        let manifest = match self.read_document(&digest) {
            Err(Error::NotFound { .. }) => return Err(not_found()),
            other => other?,
        };
        let manifest = parse_manifest(&manifest)?;
        let config: Digest = manifest.config().digest().to_string().parse()?;
        let config: ImageConfiguration =
            serde_json::from_slice(&self.read_document(&config)?).map_err(json("config"))?;
        let layers = config.rootfs().diff_ids().iter().map(|d| d.parse()).collect::<Result<Vec<Digest>>>()?;
        let size = size_of(&manifest);
        Ok(Image { store: self.clone(), name: found, digest, config, layers, size })
    }

    /// Removes a name, and with the last name of a manifest everything that no other image and no
    /// container uses.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InUse`] when a container was made from it.
    pub fn remove_image(&self, name: &str) -> Result<()> {
        let image = self.image(name)?;
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let digest = image.digest.to_string();
        let is_target = |d: &&Descriptor| match &image.name {
            Some(name) => name_of(d) == Some(name),
            None => d.digest().to_string() == digest,
        };
        let rest: Vec<Descriptor> = index.manifests().iter().filter(|d| !is_target(d)).cloned().collect();
        let last = !rest.iter().any(|d| d.digest().to_string() == digest);
        let doomed = if last { self.layers_only_of(&image, &rest)? } else { Vec::new() };
        if let Some(by) = self.snapshot_using(&doomed)? {
            return Err(Error::InUse { image: name.to_owned(), by: format!("container {by}") });
        }
        index.set_manifests(rest);
        self.write_index(&index)?;
        if last { self.sweep(&image) } else { Ok(()) }
    }

    /// The layers that no image in `others` has.
    fn layers_only_of(&self, image: &Image, others: &[Descriptor]) -> Result<Vec<Digest>> {
        let mut layers = image.layers.clone();
        for other in others {
            let other = self.image(other.digest().as_ref())?;
            layers.retain(|l| !other.layers.contains(l));
        }
        Ok(layers)
    }

    /// Removes blobs and layers of a removed image that nothing else names.
    fn sweep(&self, image: &Image) -> Result<()> {
        let mut kept = std::collections::HashSet::new();
        let mut kept_layers = std::collections::HashSet::new();
        for info in self.images()? {
            let other = self.image(&info.name)?;
            kept.extend(self.blobs_of(&other.digest)?);
            kept_layers.extend(other.layers);
        }
        for blob in self.blobs_of(&image.digest)?.into_iter().filter(|b| !kept.contains(b)) {
            self.discard("blobs/sha256", &blob.hex())?;
        }
        for layer in image.layers.iter().filter(|l| !kept_layers.contains(*l)) {
            self.discard("layers", &layer.hex())?;
        }
        Ok(())
    }

    fn blobs_of(&self, digest: &Digest) -> Result<Vec<Digest>> {
        let manifest = parse_manifest(&self.read_document(digest)?)?;
        let inner = manifest.layers().iter().chain([manifest.config()]);
        std::iter::once(Ok(*digest)).chain(inner.map(|d| d.digest().to_string().parse())).collect()
    }
}

pub(crate) fn parse_manifest(text: &[u8]) -> Result<ImageManifest> {
    serde_json::from_slice(text).map_err(json("manifest"))
}

pub(crate) fn parse_index(text: &[u8]) -> Result<ImageIndex> {
    serde_json::from_slice(text).map_err(json("index"))
}

/// Bytes of all layers. The numbers are a stranger's: their sum need not fit.
pub(crate) fn size_of(manifest: &ImageManifest) -> u64 {
    manifest.layers().iter().map(Descriptor::size).fold(0, u64::saturating_add)
}

pub(crate) fn name_of(d: &Descriptor) -> Option<&str> {
    d.annotations().as_ref()?.get(NAME).map(String::as_str)
}

impl Image {
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
    use super::{normalise, parse_manifest, size_of};

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
