#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod error;
mod group;
mod hierarchy;
mod limits;

pub use error::{Error, Result};
pub use group::{Group, Handles, Parent, Reach, Usage};
pub use hierarchy::{Hierarchies, Version};
pub use limits::{CpuQuota, Limits, Swap, weight_to_shares};
