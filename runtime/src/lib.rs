#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod bundle;
mod busy;
mod changes;
mod config;
mod container;
mod error;
mod exec;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod launch;
mod logs;
mod plan;
mod processes;
mod runtime;
mod status;
mod untrusted;
mod user;

pub use boxship_cgroups::{CpuQuota, Limits, Swap, Usage};
pub use boxship_layers::{Change, ChangeKind, CommitOptions, Digest, Image, Store};
pub use boxship_namespaces::{Attachment, Capability, Event, ExitStatus, Output, Privilege, Profile};
pub use config::{
    BindMount, Config, DeviceNode, LogOptions, MountKind, MountPoint, Network, Ulimit, parse_signal,
};
pub use container::Container;
pub use error::{Error, Result};
pub use exec::{Exec, ExecConfig};
pub use launch::{Running, Streams};
pub use logs::{LogLine, LogReader, LogStream};
pub use processes::Process;
pub use runtime::Runtime;
pub use status::{Operation, State, Status};
