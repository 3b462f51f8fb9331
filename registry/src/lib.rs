#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod auth;
mod client;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod pull;
mod push;
mod reference;
#[cfg(feature = "server")]
mod server;
mod tls;

pub use auth::{Anonymous, CredentialProvider, Credentials, Keyring};
pub use client::{Client, ClientBuilder};
pub use error::{Error, Result};
pub use pull::{PullEvent, PullOptions, PullPolicy};
pub use push::PushEvent;
pub use reference::ImageRef;
#[cfg(feature = "server")]
pub use server::{Registry, RegistryBuilder, RegistryHandle, Rights, Swept, TokenAuth, Users};
