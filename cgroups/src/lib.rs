#![doc = include_str!("../README.md")]

mod error;
mod group;
mod hierarchy;
mod limits;

pub use error::{Error, Result};
pub use group::{Group, Handles, Parent, Usage};
pub use hierarchy::{Hierarchies, Version};
pub use limits::{CpuQuota, Limits, Swap, weight_to_shares};
