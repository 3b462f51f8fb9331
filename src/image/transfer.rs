//! Long work on images, with progress.

use std::future::IntoFuture;
use std::pin::Pin;
use std::task::{Context, Poll};

use boxship_layers::Progress;
use tokio::sync::mpsc;

use super::Pending;
use crate::error::{Error, Result};

type Work<T> = Box<dyn FnOnce(&mut dyn FnMut(Progress) -> bool) -> Result<T> + Send>;

/// Long work: images on their way into or out of an engine, a container's files on their way out, the check and the
/// collection of a store. Await it, or follow it with [`events`](Transfer::events).
///
/// # Cancel safety
/// Dropping the future cancels the work within the next mebibyte; nothing that is half done is visible.
#[must_use = "a transfer does nothing until it is awaited"]
pub struct Transfer<T> {
    work: Work<T>,
}

impl<T> std::fmt::Debug for Transfer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfer").finish_non_exhaustive()
    }
}

/// What happens during a [`Transfer`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TransferEvent<T> {
    /// Bytes so far.
    Bytes(u64),
    /// Parts of a store that have been dealt with so far, of how many ([`Engine::fsck`](crate::Engine::fsck) and
    /// [`gc`](crate::Engine::gc) only).
    Parts(u64, u64),
    /// A layer is whole, and being made durable.
    Committing,
    /// It is done: the last event.
    Done(T),
}

impl<T: Send + 'static> Transfer<T> {
    pub(crate) fn new(
        work: impl FnOnce(&mut dyn FnMut(Progress) -> bool) -> Result<T> + Send + 'static,
    ) -> Transfer<T> {
        Transfer { work: Box::new(work) }
    }

    /// Starts and returns the events; the last one is [`TransferEvent::Done`] or an error.
    ///
    /// # Drop
    /// Dropping the stream cancels the work.
    pub fn events(self) -> TransferEvents<T> {
        let (sender, receiver) = mpsc::channel(64);
        tokio::task::spawn_blocking(move || {
            let told = sender.clone();
            let result = (self.work)(&mut |p| {
                let event = match p {
                    Progress::Read { bytes } => TransferEvent::Bytes(bytes),
                    Progress::Parts { done, of } => TransferEvent::Parts(done, of),
                    _ => TransferEvent::Committing,
                };
                // A slow reader misses numbers, not the end; a reader that is gone cancels.
                !matches!(told.try_send(Ok(event)), Err(mpsc::error::TrySendError::Closed(_)))
            });
            // Nobody listens any more: then nobody wants to know.
            let _ = sender.blocking_send(result.map(TransferEvent::Done));
        });
        TransferEvents(receiver)
    }
}

impl<T: Send + 'static> IntoFuture for Transfer<T> {
    type Output = Result<T>;
    type IntoFuture = Pending<T>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut events = self.events();
            while let Some(event) = events.next().await {
                if let TransferEvent::Done(done) = event? {
                    return Ok(done);
                }
            }
            Err(Error::io("finish the transfer", std::io::Error::other("it was stopped")))
        })
    }
}

/// The events of a transfer: a stream, and the same as a method.
#[derive(Debug)]
pub struct TransferEvents<T>(mpsc::Receiver<Result<TransferEvent<T>>>);

impl<T> TransferEvents<T> {
    /// The next event; `None` after the last.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn next(&mut self) -> Option<Result<TransferEvent<T>>> {
        self.0.recv().await
    }
}

impl<T> futures_core::Stream for TransferEvents<T> {
    type Item = Result<TransferEvent<T>>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
