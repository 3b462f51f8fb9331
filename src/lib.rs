#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod blocking;
pub mod container;
mod engine;
mod error;
pub mod image;
mod units;

pub use boxship_layers::{Check, Collected, Defect, DiskUsage, ImageUsage, LayerUsage, SnapshotUsage};
pub use boxship_namespaces::{Capability, ExitStatus, Profile, seccomp};
pub use container::{Container, ContainerBuilder, Mount, Output, Stdin};
pub use engine::Engine;
pub use error::{Error, ErrorKind, Result};
pub use image::Image;
pub use units::{ByteSize, Signal};

pub use boxship_runtime::Network;

/// Registries: clients, credentials and what happens during a pull or push.
#[cfg(feature = "registry")]
pub mod registry {
    pub use boxship_registry::{
        Anonymous, Client, ClientBuilder, CredentialProvider, Credentials, Error, ImageRef, Keyring,
        PullEvent, PullPolicy, PushEvent,
    };
    #[cfg(feature = "server")]
    pub use boxship_registry::{Registry, RegistryBuilder, RegistryHandle, Rights, Swept, TokenAuth, Users};
}
