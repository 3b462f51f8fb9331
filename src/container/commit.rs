//! What a container changed, and images of it.

use std::future::IntoFuture;
use std::path::Path;
use std::time::SystemTime;

use boxship_layers::NewFile;
use boxship_runtime::CommitOptions;

use super::{Container, Pending};
use crate::error::Result;
use crate::image::{Image, Transfer, TransferEvents};

pub use boxship_runtime::{Change, ChangeKind};

impl Container {
    /// What it changed in the files of its image, parents first.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind) for a container on a directory of the host.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn diff(&self) -> Result<Vec<Change>> {
        self.with(boxship_runtime::Container::diff).await
    }

    /// Writes its whole tree to a new tar file, with the owners that it sees itself and without what is
    /// mounted in it. A running container stands still meanwhile, where the host has cgroups. The file appears
    /// when it is whole and on the disk; an interrupted export leaves none.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`](crate::ErrorKind) for a file that is there, and as
    /// [`diff`](Container::diff).
    ///
    /// # Cancel safety
    /// As [`Transfer`] says.
    pub fn export(&self, archive: impl AsRef<Path>) -> Transfer<()> {
        let (container, path) = (self.inner.clone(), archive.as_ref().to_owned());
        Transfer::new(move |observe| {
            let mut file = NewFile::create(&path)?;
            container.export_with(&mut file, observe)?;
            Ok(file.publish()?)
        })
    }

    /// Makes an image of its image and what it changed.
    ///
    /// ```no_run
    /// # async fn f(c: boxship::Container) -> Result<(), boxship::Error> {
    /// let image = c.commit().tag("mine:1").command(["/bin/serve"]).comment("with data").await?;
    /// # Ok(()) }
    /// ```
    pub fn commit(&self) -> Commit {
        Commit { container: self.clone(), name: None, options: CommitOptions::default() }
    }
}

/// An image to be made of a container; await it, or follow it with [`events`](Commit::events). A running container stands still meanwhile, where the
/// host has cgroups.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::ErrorKind) when the container's image was removed,
/// [`Unsupported`](crate::ErrorKind) for a container on a directory of the host.
///
/// # Cancel safety
/// Dropping the future cancels the commit within the next mebibyte; nothing of it is visible.
#[derive(Debug)]
#[must_use = "a commit does nothing until it is awaited"]
pub struct Commit {
    container: Container,
    name: Option<String>,
    options: CommitOptions,
}

impl Commit {
    /// Names the image.
    pub fn tag(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the default command; the image's own by default.
    pub fn command<I: IntoIterator<Item = S>, S: Into<String>>(mut self, command: I) -> Self {
        self.options.options.command = command.into_iter().map(Into::into).collect();
        self
    }

    /// Sets what the command is passed to.
    pub fn entrypoint<I: IntoIterator<Item = S>, S: Into<String>>(mut self, entrypoint: I) -> Self {
        self.options.options.entrypoint = entrypoint.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable of the image's environment.
    pub fn env(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.options.options.env.push(format!("{}={}", key.as_ref(), value.as_ref()));
        self
    }

    /// Sets the working directory.
    pub fn workdir(mut self, dir: impl Into<String>) -> Self {
        self.options.options.workdir = Some(dir.into());
        self
    }

    /// Sets the user.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.options.options.user = Some(user.into());
        self
    }

    /// Adds a label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.options.labels.insert(key.into(), value.into());
        self
    }

    /// Says who made it.
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.options.author = Some(author.into());
        self
    }

    /// Adds a line to its history.
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.options.comment = Some(comment.into());
        self
    }

    /// Sets its time, and the latest that its new files may have: the same state then gives the same
    /// digest. Programs that honour `SOURCE_DATE_EPOCH` pass it here. A time before 1970 counts as 1970.
    pub fn created(mut self, time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.options.created = Some(since.as_secs());
        self
    }
}

impl Commit {
    /// Starts and returns the events; the last one is [`TransferEvent::Done`](crate::image::TransferEvent) or an
    /// error.
    ///
    /// # Drop
    /// Dropping the stream cancels the commit.
    pub fn events(self) -> TransferEvents<Image> {
        self.transfer().events()
    }

    fn transfer(self) -> Transfer<Image> {
        let Commit { container, name, options } = self;
        Transfer::new(move |observe| {
            Ok(Image::new(container.inner.commit_with(&options, name.as_deref(), observe)?))
        })
    }
}

impl IntoFuture for Commit {
    type Output = Result<Image>;
    type IntoFuture = Pending<Image>;
    fn into_future(self) -> Self::IntoFuture {
        self.transfer().into_future()
    }
}
