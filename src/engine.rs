//! An engine: one root directory with its images and containers.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use boxship_layers::{Check, Collected, Defect, DiskUsage};
use boxship_runtime::Runtime;

use crate::blocking;
use crate::container::{Container, ContainerBuilder, ListContainers};
use crate::error::{Error, Result};
use crate::image::{ImageApi, Transfer};

/// An engine: images and containers below one directory. Several engines, and several processes
/// with the same one, may be used at once. Cheap to clone; dropping it changes nothing.
///
/// ```no_run
/// # async fn f() -> Result<(), boxship::Error> {
/// use boxship::Engine;
/// let ci = Engine::open("/srv/ci/boxship").await?;
/// ci.image().from_host_programs(["/bin/sh"]).tag("tools:1").await?;
/// let out = ci.container().image("tools:1").command(["/bin/sh", "-c", "echo hi"]).output().await?;
/// assert_eq!(out.stdout, b"hi\n");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Engine {
    runtime: Runtime,
}

impl Engine {
    /// Opens the engine at `root`, making the directory if needed, and removes what dead processes
    /// left in it.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`](crate::ErrorKind) when the directory may not be used,
    /// [`Unsupported`](crate::ErrorKind) when a newer boxship made it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves a usable root.
    pub async fn open(root: impl AsRef<Path>) -> Result<Engine> {
        let root = root.as_ref().to_owned();
        blocking::run(move || Engine::open_blocking(&root)).await
    }

    fn open_blocking(root: &Path) -> Result<Engine> {
        Ok(Engine { runtime: Runtime::open(root)? })
    }

    /// The engine that [`Container::builder`] and [`Image`](crate::Image) use: at
    /// `/var/lib/boxship` for root, at `~/.local/share/boxship` of the user's entry in `/etc/passwd`
    /// else (at `/var/tmp/boxship-<uid>` without one). Opened once per process; no environment
    /// variable has a say.
    ///
    /// # Errors
    /// As [`open`](Engine::open).
    ///
    /// # Cancel safety
    /// As [`open`](Engine::open).
    pub async fn default_engine() -> Result<Engine> {
        match DEFAULT.get() {
            Some(engine) => Ok(engine.clone()),
            None => blocking::run(Engine::default_blocking).await,
        }
    }

    pub(crate) fn default_blocking() -> Result<Engine> {
        if let Some(engine) = DEFAULT.get() {
            return Ok(engine.clone());
        }
        let engine = Engine::open_blocking(&default_root()?)?;
        Ok(DEFAULT.get_or_init(|| engine).clone())
    }

    /// Where its state is.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.runtime.store().path()
    }

    /// A container of this engine to be.
    pub fn container(&self) -> ContainerBuilder {
        ContainerBuilder::new(Some(self.clone()))
    }

    /// The images of this engine.
    #[must_use]
    pub fn image(&self) -> ImageApi {
        ImageApi::new(Some(self.clone()))
    }

    /// The containers of this engine.
    pub fn containers(&self) -> ListContainers {
        ListContainers::new(self.clone())
    }

    /// The container with this name, id, or unique start of an id.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind).
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn get(&self, name: &str) -> Result<Container> {
        let (runtime, name) = (self.runtime.clone(), name.to_owned());
        blocking::run(move || Ok(Container::new(runtime.container(&name)?))).await
    }

    /// Removes the parts of images that no image and no container needs; with `dry_run` it only tells
    /// which. Removing an image does so for its own parts; what interrupted work left is found here.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`](crate::ErrorKind) when an image is damaged: then it is not known what it
    /// needs, and nothing is removed.
    ///
    /// # Cancel safety
    /// What was removed stays removed; the rest is removed by the next.
    pub fn gc(&self, dry_run: bool) -> Transfer<Collected> {
        let runtime = self.runtime.clone();
        Transfer::new(move |observe| Ok(runtime.store().gc_with(dry_run, observe)?))
    }

    /// What takes space: images with what they share, layers, and the writable layers of containers.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind), [`InvalidData`](crate::ErrorKind) for a damaged image.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        let runtime = self.runtime.clone();
        blocking::run(move || Ok(runtime.store().disk_usage()?)).await
    }

    /// Compares images and layers with what they should be; with `repair`, unpacked layers that are not are
    /// made anew from their archives. What is wrong is the result and no error.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind) when the store cannot be read.
    ///
    /// # Cancel safety
    /// What was repaired stays repaired.
    pub fn fsck(&self, depth: Check, repair: bool) -> Transfer<Vec<Defect>> {
        let runtime = self.runtime.clone();
        Transfer::new(move |observe| Ok(runtime.store().fsck_with(depth, repair, observe)?))
    }

    /// Removes what dead processes left behind; opening an engine does so, too.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind).
    ///
    /// # Cancel safety
    /// What was removed stays removed; the rest is removed next time.
    pub async fn recover(&self) -> Result<()> {
        let runtime = self.runtime.clone();
        blocking::run(move || {
            runtime.reap();
            Ok(runtime.recover()?)
        })
        .await
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

static DEFAULT: OnceLock<Engine> = OnceLock::new();

fn default_root() -> Result<PathBuf> {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return Ok("/var/lib/boxship".into());
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.as_raw().to_string();
    let home = passwd.lines().find_map(|l| {
        let fields: Vec<&str> = l.split(':').collect();
        (fields.get(2) == Some(&number.as_str())).then(|| fields.get(5).copied())?
    });
    if let Some(home) = home.map(Path::new).filter(|h| h.is_absolute() && is_mine(h)) {
        return Ok(home.join(".local/share/boxship"));
    }
    let shared = PathBuf::from(format!("/var/tmp/boxship-{number}"));
    // Anyone may make this name first; a directory of somebody else is not ours to use.
    if shared.exists() && !is_mine(&shared) {
        return Err(Error::invalid(
            "default engine",
            format!("{shared:?} belongs to another user; use Engine::open"),
        ));
    }
    Ok(shared)
}

fn is_mine(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path)
        .is_ok_and(|m| m.is_dir() && m.uid() == rustix::process::geteuid().as_raw())
}
