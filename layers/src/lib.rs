#![doc = include_str!("../README.md")]

mod archive;
mod compress;
mod digest;
mod error;
mod fsx;
mod host;
mod image;
mod snapshot;
mod store;

pub use digest::Digest;
pub use error::{Error, Result};
pub use host::HostImage;
pub use image::{Image, ImageInfo, ImageOptions};
pub use oci_spec;
pub use snapshot::Snapshot;
pub use store::{Durability, Progress, Store};
