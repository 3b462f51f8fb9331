//! The one bridge between async callers and the synchronous crates.

use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};

/// Runs blocking work on tokio's blocking pool. Dropping the future does not stop the work; its result
/// is then dropped, and whatever that owns cleans up after itself.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(e) => Err(Error::io("run blocking work: the runtime is shutting down", std::io::Error::other(e))),
    }
}

/// Watches a descriptor for readability.
#[expect(
    deprecated,
    reason = "its replacement is unsafe; every type used here owns one descriptor for its whole life"
)]
pub(crate) fn watch<T: AsRawFd>(fd: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
