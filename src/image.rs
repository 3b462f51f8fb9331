//! Images: making, listing, inspecting, moving and removing them.

#[cfg(feature = "registry")]
mod registry;
mod transfer;

use std::future::{Future, IntoFuture};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use boxship_layers::oci_spec::image::{History, ImageConfiguration};
use boxship_layers::{HostImage, ImageOptions, LoadOptions, Progress};
use tokio::sync::mpsc;

use crate::blocking;
use crate::engine::Engine;
use crate::error::{Error, Result};

pub use boxship_layers::Platform;
#[cfg(feature = "registry")]
pub use registry::{Pull, PullEvents, PullProgress, Push};
pub use transfer::{Transfer, TransferEvent, TransferEvents};

/// A future that a request turns into.
pub(crate) type Pending<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

impl Image {
    pub(crate) fn new(inner: boxship_layers::Image) -> Image {
        Image { inner: inner.into() }
    }
}

/// An image. A handle: cheap to clone, and dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Image {
    inner: std::sync::Arc<boxship_layers::Image>,
}

/// A line of the list of images.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageSummary {
    /// `repository:tag`.
    pub name: String,
    /// The digest of its manifest, `sha256:…`.
    pub digest: String,
    /// Bytes of its layers, as stored.
    pub size: u64,
}

/// What happens during an import.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ImportEvent {
    /// A program of the host was collected.
    Collected {
        /// Its path.
        path: PathBuf,
        /// Files in the image so far.
        files: u64,
    },
    /// Unpacked so far; told of within large files, too.
    Unpacked {
        /// Bytes of the plain archive.
        bytes: u64,
    },
    /// Everything is written, and is being made durable.
    Committing,
    /// The image is there.
    Done(Image),
}

impl Image {
    /// An image of programs of this host, each with the libraries it needs: no network, registry or
    /// package is involved. `/etc/passwd` and `/etc/group` are added.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), boxship::Error> {
    /// let tools = boxship::Image::from_host_programs(["/bin/sh", "/bin/ls"]).tag("tools:1").await?;
    /// # Ok(()) }
    /// ```
    pub fn from_host_programs<I: IntoIterator<Item = P>, P: AsRef<Path>>(programs: I) -> Import {
        ImageApi::new(None).from_host_programs(programs)
    }

    /// An image of a root file system archive: tar, plain or compressed with gzip or zstd.
    pub fn import(archive: impl AsRef<Path>) -> Import {
        ImageApi::new(None).import(archive)
    }

    /// An image of a directory.
    pub fn from_directory(dir: impl AsRef<Path>) -> Import {
        ImageApi::new(None).from_directory(dir)
    }

    /// The image with this name (a missing tag is `latest`) or digest.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind).
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn get(name: &str) -> Result<Image> {
        ImageApi::new(None).get(name).await
    }

    /// All images, by name.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind).
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn list() -> Result<Vec<ImageSummary>> {
        ImageApi::new(None).list().await
    }

    /// Removes this name, and with its last name the image.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`](crate::ErrorKind) when a container was made from it.
    ///
    /// # Cancel safety
    /// The removal goes on.
    pub async fn remove(&self) -> Result<()> {
        let image = self.inner.clone();
        blocking::run(move || {
            let name = image.name().map_or_else(|| image.digest().to_string(), str::to_owned);
            Ok(image.store().remove_image(&name)?)
        })
        .await
    }

    /// Gives it another name as well, taking that from whatever had it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind) for what cannot be a name,
    /// [`NotFound`](crate::ErrorKind) when the image was removed.
    ///
    /// # Cancel safety
    /// The name may have been given.
    pub async fn tag(&self, name: &str) -> Result<Image> {
        let (image, name) = (self.inner.clone(), name.to_owned());
        blocking::run(move || {
            Ok(Image { inner: image.store().tag_image(&image.digest().to_string(), &name)?.into() })
        })
        .await
    }

    /// Writes it to a new file, as [`ImageApi::save`].
    pub fn save(&self, archive: impl AsRef<Path>) -> Transfer<()> {
        let (store, names, path) = (self.inner.store().clone(), self.names(), archive.as_ref().to_owned());
        Transfer::new(move |observe| Ok(store.save_file(&names, &path, observe)?))
    }

    /// Writes it to a directory, as [`ImageApi::save_directory`].
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), boxship::Error> {
    /// let image = boxship::Image::get("tools:1").await?;
    /// image.save_directory("/srv/layout").await?;
    /// let again = boxship::Image::load("/srv/layout").await?;
    /// assert_eq!(again[0].digest(), image.digest());
    /// # Ok(()) }
    /// ```
    pub fn save_directory(&self, dir: impl AsRef<Path>) -> Transfer<()> {
        let (store, names, dir) = (self.inner.store().clone(), self.names(), dir.as_ref().to_owned());
        Transfer::new(move |observe| Ok(store.save_directory(&names, &dir, observe)?))
    }

    fn names(&self) -> Vec<String> {
        vec![self.inner.name().map_or_else(|| self.digest(), str::to_owned)]
    }

    /// The images of an archive, or of a directory that holds an OCI layout, as [`ImageApi::load`].
    pub fn load(archive: impl AsRef<Path>) -> Transfer<Vec<Image>> {
        ImageApi::new(None).load(archive)
    }

    /// How it was made, the first step first.
    #[must_use]
    pub fn history(&self) -> &[History] {
        self.inner.configuration().history().as_deref().unwrap_or_default()
    }

    /// Its name as it was asked for, `None` by digest.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.inner.name()
    }

    /// The digest of its manifest, `sha256:…`.
    #[must_use]
    pub fn digest(&self) -> String {
        self.inner.digest().to_string()
    }

    /// Bytes of its layers, as stored.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner.size()
    }

    /// The digests of its unpacked layers, the lowest first.
    #[must_use]
    pub fn layers(&self) -> Vec<String> {
        self.inner.layers().iter().map(ToString::to_string).collect()
    }

    /// Its OCI configuration: data from whoever made the image.
    #[must_use]
    pub fn inspect(&self) -> &ImageConfiguration {
        self.inner.configuration()
    }
}

/// The images of an engine, see [`Engine::image`].
#[derive(Clone, Debug)]
pub struct ImageApi {
    engine: Option<Engine>,
}

enum Source {
    Host(HostImage),
    Archive(PathBuf),
    Directory(PathBuf),
}

impl ImageApi {
    pub(crate) fn new(engine: Option<Engine>) -> ImageApi {
        ImageApi { engine }
    }

    fn request(&self, source: Source) -> Import {
        Import { engine: self.engine.clone(), source, tag: None, options: ImageOptions::default() }
    }

    /// As [`Image::from_host_programs`].
    pub fn from_host_programs<I: IntoIterator<Item = P>, P: AsRef<Path>>(&self, programs: I) -> Import {
        self.request(Source::Host(HostImage::new(programs)))
    }

    /// As [`Image::import`].
    pub fn import(&self, archive: impl AsRef<Path>) -> Import {
        self.request(Source::Archive(archive.as_ref().to_owned()))
    }

    /// As [`Image::from_directory`].
    pub fn from_directory(&self, dir: impl AsRef<Path>) -> Import {
        self.request(Source::Directory(dir.as_ref().to_owned()))
    }

    /// Adds all images of an archive that `docker save`, `podman save`, `skopeo` or [`save`](ImageApi::save)
    /// wrote, or of a directory that holds an OCI layout.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind) and [`InvalidData`](crate::ErrorKind) for one that is broken
    /// or hostile; the images before the bad one are there.
    pub fn load(&self, archive: impl AsRef<Path>) -> Transfer<Vec<Image>> {
        self.load_for(archive, Platform::default())
    }

    /// The same for another platform than this machine's.
    ///
    /// # Errors
    /// As [`load`](ImageApi::load).
    pub fn load_for(&self, archive: impl AsRef<Path>, platform: Platform) -> Transfer<Vec<Image>> {
        self.load_with(archive.as_ref(), LoadOptions { platform, ..LoadOptions::default() })
    }

    /// [`load`](ImageApi::load), and keeps what there is for other platforms, too: [`save`](ImageApi::save) and
    /// [`save_directory`](ImageApi::save_directory) write it again. Only this machine's is unpacked.
    ///
    /// # Errors
    /// As [`load`](ImageApi::load).
    pub fn load_whole(&self, archive: impl AsRef<Path>) -> Transfer<Vec<Image>> {
        self.load_with(archive.as_ref(), LoadOptions { all_platforms: true, ..LoadOptions::default() })
    }

    fn load_with(&self, archive: &Path, options: LoadOptions) -> Transfer<Vec<Image>> {
        let (api, path) = (self.clone(), archive.to_owned());
        Transfer::new(move |observe| {
            let engine = api.blocking_engine()?;
            let store = engine.runtime().store();
            let images = if path.is_dir() {
                store.load_directory(&path, &options, observe)?
            } else {
                let file = std::fs::File::open(&path)
                    .map_err(|e| Error::io(&format!("open the archive {path:?}"), e))?;
                store.load(file, &options, observe)?
            };
            Ok(images.into_iter().map(|inner| Image { inner: inner.into() }).collect())
        })
    }

    /// Writes images to a new tar file that Docker, Podman, skopeo and [`load`](ImageApi::load) read. The file
    /// appears when it is whole and on the disk; an interrupted one leaves none.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`](crate::ErrorKind) for a file that is there,
    /// [`NotFound`](crate::ErrorKind) for an image that is not.
    pub fn save<I: IntoIterator<Item = S>, S: Into<String>>(
        &self,
        images: I,
        archive: impl AsRef<Path>,
    ) -> Transfer<()> {
        let names: Vec<String> = images.into_iter().map(Into::into).collect();
        let (api, path) = (self.clone(), archive.as_ref().to_owned());
        Transfer::new(move |observe| {
            Ok(api.blocking_engine()?.runtime().store().save_file(&names, &path, observe)?)
        })
    }

    /// Writes images as an OCI layout to a directory that is new or empty, which skopeo, Podman, umoci and
    /// [`load`](ImageApi::load) read. A new one appears when it is whole and on the disk; one that was there is
    /// empty again when it is interrupted.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind) for a directory that holds something,
    /// [`NotFound`](crate::ErrorKind) for an image that is not there.
    pub fn save_directory<I: IntoIterator<Item = S>, S: Into<String>>(
        &self,
        images: I,
        dir: impl AsRef<Path>,
    ) -> Transfer<()> {
        let names: Vec<String> = images.into_iter().map(Into::into).collect();
        let (api, dir) = (self.clone(), dir.as_ref().to_owned());
        Transfer::new(move |observe| {
            Ok(api.blocking_engine()?.runtime().store().save_directory(&names, &dir, observe)?)
        })
    }

    fn blocking_engine(self) -> Result<Engine> {
        self.engine.map_or_else(Engine::default_blocking, Ok)
    }

    /// As [`Image::get`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn get(&self, name: &str) -> Result<Image> {
        let (api, name) = (self.clone(), name.to_owned());
        blocking::run(move || {
            Ok(Image { inner: api.blocking_engine()?.runtime().store().image(&name)?.into() })
        })
        .await
    }

    /// As [`Image::list`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn list(&self) -> Result<Vec<ImageSummary>> {
        let api = self.clone();
        blocking::run(move || {
            let all = api.blocking_engine()?.runtime().store().images()?;
            let summary = |i: boxship_layers::ImageInfo| ImageSummary {
                name: i.name,
                digest: i.digest.to_string(),
                size: i.size,
            };
            Ok(all.into_iter().map(summary).collect())
        })
        .await
    }
}

/// An image to be made. Await it, or follow it with [`events`](Import::events).
///
/// # Cancel safety
/// Dropping the future cancels the import within the next mebibyte; nothing of it stays.
#[must_use = "an import does nothing until it is awaited"]
pub struct Import {
    engine: Option<Engine>,
    source: Source,
    tag: Option<String>,
    options: ImageOptions,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl Import {
    /// Sets the image's name; a missing tag is `latest`. Needed.
    pub fn tag(mut self, name: impl Into<String>) -> Self {
        self.tag = Some(name.into());
        self
    }

    /// Sets the default command (not for images of host programs, whose first program it is).
    pub fn command<I: IntoIterator<Item = S>, S: Into<String>>(mut self, command: I) -> Self {
        self.options.command = command.into_iter().map(Into::into).collect();
        self
    }

    /// Adds a variable to the image's environment.
    pub fn env(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.options.env.push(format!("{}={}", key.as_ref(), value.as_ref()));
        self
    }

    /// Adds a file to an image of host programs.
    pub fn file(mut self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) -> Self {
        if let Source::Host(host) = self.source {
            self.source = Source::Host(host.file(path, content));
        }
        self
    }

    /// Starts the import and returns its events; the last one is [`ImportEvent::Done`] or an error.
    ///
    /// # Drop
    /// Dropping the stream cancels the import.
    pub fn events(self) -> ImportEvents {
        let (sender, receiver) = mpsc::channel(64);
        tokio::task::spawn_blocking(move || {
            let told = sender.clone();
            let result = self.carry_out(&mut |p| {
                let event = match p {
                    Progress::Collected { path, files } => ImportEvent::Collected { path, files },
                    Progress::Read { bytes } => ImportEvent::Unpacked { bytes },
                    _ => ImportEvent::Committing,
                };
                // A slow reader misses numbers, not the end; a reader that is gone cancels.
                !matches!(told.try_send(Ok(event)), Err(mpsc::error::TrySendError::Closed(_)))
            });
            // Nobody listens any more: then nobody wants to know.
            let _ = sender.blocking_send(result.map(ImportEvent::Done));
        });
        ImportEvents(receiver)
    }

    fn carry_out(self, observe: &mut dyn FnMut(Progress) -> bool) -> Result<Image> {
        let name =
            self.tag.ok_or_else(|| Error::invalid("tag", "name the image, for example \"tools:1\""))?;
        let engine = ImageApi { engine: self.engine }.blocking_engine()?;
        let store = engine.runtime().store();
        let inner = match &self.source {
            Source::Host(host) => store.import_host_programs(host, &name, &self.options, observe)?,
            Source::Directory(dir) => store.import_directory(dir, &name, &self.options, observe)?,
            Source::Archive(path) => {
                let file = std::fs::File::open(path)
                    .map_err(|e| Error::io(&format!("open the archive {path:?}"), e))?;
                store.import(file, &name, &self.options, observe)?
            }
        };
        Ok(Image { inner: inner.into() })
    }
}

impl IntoFuture for Import {
    type Output = Result<Image>;
    type IntoFuture = Pending<Image>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut events = self.events();
            while let Some(event) = events.next().await {
                if let ImportEvent::Done(image) = event? {
                    return Ok(image);
                }
            }
            Err(Error::io("finish the import", std::io::Error::other("the import was stopped")))
        })
    }
}

/// The events of an import: a stream, and the same as a method.
#[derive(Debug)]
pub struct ImportEvents(mpsc::Receiver<Result<ImportEvent>>);

impl ImportEvents {
    /// The next event; `None` after the last.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn next(&mut self) -> Option<Result<ImportEvent>> {
        self.0.recv().await
    }
}

impl futures_core::Stream for ImportEvents {
    type Item = Result<ImportEvent>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// What names an image: its name, its digest, or an [`Image`].
pub trait IntoImageRef: sealed::Sealed {
    #[doc(hidden)]
    fn into_image_ref(self) -> String;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for &str {}
    impl Sealed for String {}
    impl Sealed for &String {}
    impl Sealed for &super::Image {}
}

impl IntoImageRef for &str {
    fn into_image_ref(self) -> String {
        self.to_owned()
    }
}
impl IntoImageRef for String {
    fn into_image_ref(self) -> String {
        self
    }
}
impl IntoImageRef for &String {
    fn into_image_ref(self) -> String {
        self.clone()
    }
}
impl IntoImageRef for &Image {
    fn into_image_ref(self) -> String {
        self.name().map_or_else(|| self.digest(), str::to_owned)
    }
}
