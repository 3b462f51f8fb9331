#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod archive;
mod changes;
mod compress;
mod descent;
mod digest;
mod error;
mod fsx;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod image;
mod interchange;
mod merged;
mod output;
mod snapshot;
mod store;
mod tree;
mod watch;

pub use changes::{Change, ChangeKind, CommitOptions, Owners};
pub use digest::Digest;
pub use error::{Error, Result};
pub use host::HostImage;
pub use image::{Document, Image, ImageInfo, ImageOptions};
pub use interchange::{LoadOptions, Platform};
pub use oci_spec;
pub use output::NewFile;
pub use snapshot::{Base, Snapshot};
pub use store::{
    AddedLayer, Addition, Check, Collected, Defect, DiskUsage, Durability, Expected, ImageUsage, LayerLock,
    LayerUsage, Progress, Publish, SnapshotUsage, Store,
};
pub use tree::TreeRoot;
