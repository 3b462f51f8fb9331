#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod caps;
mod empty;
mod error;
mod exit;
mod failure;
mod idmap;
mod kind;
mod mount;
mod privilege;
mod profile;
mod program;
mod protocol;
mod sandbox;
pub mod seccomp;
mod spawn;
#[allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    reason = "shared with the helper, where each side uses its part"
)]
#[path = "../helper/wire.rs"]
mod wire;

pub use caps::{CapSet, Capabilities, Capability};
pub use error::{Error, Result};
pub use exit::ExitStatus;
pub use idmap::{IdMap, IdRange, parse_subids};
pub use kind::Namespaces;
pub use mount::{Mount, Overlay, Root};
pub use nix::sys::resource::Resource;
pub use privilege::Privilege;
pub use profile::Profile;
pub use protocol::{Attachment, Event, Output};
pub use sandbox::{Cgroups, Device, Discard, MonitorOptions, Rlimit, Sandbox, SmallFile, Stdio, User};
pub use spawn::{Child, Helper, Reaper};
