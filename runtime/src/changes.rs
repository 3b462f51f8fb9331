//! What a container changed, its tree, and images made of it.

use std::io::Write;

use boxship_layers::{Change, CommitOptions, Image, Owners, Progress};
use boxship_namespaces::Privilege;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::ids;
use crate::status::Status;

impl Container {
    fn owners(&self) -> Owners {
        match self.id_slot() {
            _ if !self.runtime().store().keeps_owners() => Owners::Root,
            Some(slot) => Owners::From(ids::first(slot)),
            None if Privilege::detect().is_rootless() => Owners::Root,
            None => Owners::AsTheyAre,
        }
    }

    fn require_image(&self) -> Result<()> {
        if self.config().rootfs.is_some() {
            let reason = "it runs on a directory of the host, which holds all its changes";
            return Err(Error::Unsupported { control: "changes of a container without an image", reason });
        }
        Ok(())
    }

    /// What it changed in its image's files, parents first.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a container without an image, [`Error::Layers`].
    pub fn diff(&self) -> Result<Vec<Change>> {
        self.require_image()?;
        Ok(self.runtime().store().diff(self.id(), &self.config().layers)?)
    }

    /// Writes its whole tree as a tar archive, with the ids that it sees itself. What is mounted in it is
    /// left out.
    ///
    /// # Errors
    /// As [`diff`](Container::diff).
    pub fn export(&self, out: impl Write) -> Result<()> {
        self.export_with(out, &mut |_| true)
    }

    /// [`export`](Container::export) with progress.
    ///
    /// # Errors
    /// As [`export`](Container::export), and [`Error::Layers`] with `Cancelled` when `observe` answers false.
    pub fn export_with(&self, out: impl Write, observe: &mut dyn FnMut(Progress) -> bool) -> Result<()> {
        self.require_image()?;
        let store = self.runtime().store();
        let layers = &self.config().layers;
        self.still(|| Ok(store.export_with(self.id(), layers, self.owners(), out, observe)?))
    }

    /// Makes an image of its image and what it changed. A running container stands still meanwhile, where
    /// the host has cgroups for that.
    ///
    /// # Errors
    /// [`Error::Layers`] with `NotFound` when its image was removed, which no version does that records the
    /// image of a container, and as [`diff`](Container::diff).
    pub fn commit(&self, options: &CommitOptions, name: Option<&str>) -> Result<Image> {
        self.commit_with(options, name, &mut |_| true)
    }

    /// [`commit`](Container::commit) with progress.
    ///
    /// # Errors
    /// As [`commit`](Container::commit), and [`Error::Layers`] with `Cancelled` when `observe` answers false.
    pub fn commit_with(
        &self,
        options: &CommitOptions,
        name: Option<&str>,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Image> {
        self.require_image()?;
        let store = self.runtime().store();
        let asked = match &self.config().manifest {
            Some(digest) => digest.to_string(),
            None => self.config().image.clone().unwrap_or_default(),
        };
        let base = store.image(&asked)?;
        if base.layers() != self.config().layers {
            let reason = format!("{asked:?} is another image by now than the one that it was made from");
            return Err(Error::invalid("image", reason));
        }
        self.still(|| Ok(store.commit_with(self.id(), &base, self.owners(), options, name, observe)?))
    }

    /// Does something while nothing of the container runs.
    fn still<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let paused = self.state()?.status == Status::Running
            && match self.pause() {
                Ok(()) => true,
                // No cgroups, or it has ended: what is read is then what is there.
                Err(Error::Unsupported { .. } | Error::State { .. }) => false,
                Err(e) => return Err(e),
            };
        let done = work();
        if paused {
            match self.resume() {
                Ok(()) | Err(Error::State { .. }) => {}
                Err(e) => return done.and(Err(e)),
            }
        }
        done
    }
}
