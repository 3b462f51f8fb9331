//! Bodies: what comes is taken piece by piece and in time, what goes is read as the other side takes it.

use std::io::{Read, Seek, SeekFrom};
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use tokio::sync::mpsc;

use super::answer::{Body, Refusal, Reply};

/// Bytes that are taken or read at once.
const PIECE: usize = 256 << 10;
/// A sender that is slower than this, in bytes a second, is not waited for.
const SLOWEST: u64 = 1024;

/// The body of a request.
#[derive(Debug)]
pub(super) struct Inbox {
    body: Incoming,
    stall: Duration,
    begun: Instant,
    seen: u64,
}

impl Inbox {
    pub(super) fn new(body: Incoming, stall: Duration) -> Inbox {
        Inbox { body, stall, begun: Instant::now(), seen: 0 }
    }

    /// The length that is announced; `None` for one in chunks.
    pub(super) fn announced(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Reply<Option<Bytes>> {
        loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx));
            let late = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "SIZE_INVALID", "the body does not come");
            let frame = tokio::time::timeout(self.stall, frame).await.map_err(|_| late())?;
            let broken = |_| Refusal::bad_request("SIZE_INVALID", "the body breaks off");
            let Some(frame) = frame.transpose().map_err(broken)? else { return Ok(None) };
            // Trailers have nothing to say here.
            let Ok(data) = frame.into_data() else { continue };
            self.seen += data.len() as u64;
            let over = self.begun.elapsed().saturating_sub(self.stall).as_secs();
            if over.saturating_mul(SLOWEST) > self.seen {
                return Err(late());
            }
            return Ok(Some(data));
        }
    }

    /// Some pieces together; none at the end. Those that came before it broke off are of use, too.
    pub(super) async fn gather(&mut self) -> (Vec<Bytes>, Reply<()>) {
        let (mut pieces, mut size) = (Vec::new(), 0);
        while size < PIECE {
            match self.next().await {
                Ok(Some(piece)) => {
                    size += piece.len();
                    pieces.push(piece);
                }
                Ok(None) => break,
                Err(refusal) => return (pieces, Err(refusal)),
            }
        }
        (pieces, Ok(()))
    }

    /// A small body as a whole.
    pub(super) async fn whole(mut self, max: u64) -> Reply<Vec<u8>> {
        let limit = || Refusal::too_large(format!("more than {max} bytes"));
        if self.announced().is_some_and(|n| n > max) {
            return Err(limit());
        }
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            if (bytes.len() + piece.len()) as u64 > max {
                return Err(limit());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

/// Runs what waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Reply<T> + Send + 'static,
) -> Reply<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(std::io::Error::other(e).into()),
    }
}

/// So many bytes of a file from an offset. No thread waits for the other side.
pub(super) fn of_file(mut file: std::fs::File, from: u64, length: u64) -> Body {
    let (sender, pieces) = mpsc::channel(1);
    if length > 0 {
        tokio::spawn(async move {
            let mut at = from;
            while at < from + length {
                // Nobody takes it: the answer was given up.
                let Ok(place) = sender.reserve().await else { return };
                let want = (from + length - at).min(PIECE as u64);
                let read = tokio::task::spawn_blocking(move || {
                    let mut piece = Vec::with_capacity(PIECE);
                    file.seek(SeekFrom::Start(at))?;
                    (&mut file).take(want).read_to_end(&mut piece)?;
                    Ok::<_, std::io::Error>((file, piece))
                });
                match read.await.map_err(std::io::Error::other).and_then(|result| result) {
                    Ok((_, piece)) if piece.is_empty() => {
                        return place.send(Err(std::io::ErrorKind::UnexpectedEof.into()));
                    }
                    Ok((back, piece)) => {
                        file = back;
                        at += piece.len() as u64;
                        place.send(Ok(piece.into()));
                    }
                    Err(e) => return place.send(Err(e)),
                }
            }
        });
    }
    Body::File { pieces, left: length }
}
