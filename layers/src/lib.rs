#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod archive;
mod compress;
mod digest;
mod error;
mod fsx;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod image;
mod snapshot;
mod store;
mod tree;

pub use digest::Digest;
pub use error::{Error, Result};
pub use host::HostImage;
pub use image::{Image, ImageInfo, ImageOptions};
pub use oci_spec;
pub use snapshot::Snapshot;
pub use store::{Durability, Progress, Store};
pub use tree::TreeRoot;
