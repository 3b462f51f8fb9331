//! Connections: accepted, given time and limits, and ended in order.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

use super::state::{Shared, answer};

/// The largest head of a request, and the most that is read at once.
const BUFFER: usize = 64 << 10;
/// Headers of one request.
const MAX_HEADERS: usize = 64;

/// Serves until it is told to close; returns when no connection is left.
pub(super) async fn run(listener: TcpListener, state: Shared, tls: Option<TlsAcceptor>) {
    let places = Arc::new(Semaphore::new(state.limits.connections));
    let mut closed = pin!(state.closed());
    let mut connections = JoinSet::new();
    loop {
        // Those for whom there is no place wait in the kernel's queue.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = closed.as_mut() => break,
            Some(_) = connections.join_next() => {}
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let (state, tls) = (state.clone(), tls.clone());
                    connections.spawn(async move {
                        let _place = place;
                        connection(stream, state, tls).await;
                    });
                }
                Err(error) => {
                    // Descriptors or memory are short, or the other side is gone already.
                    tracing::debug!(%error, "no connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(state.limits.shutdown, rest).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(stream: TcpStream, state: Shared, tls: Option<TlsAcceptor>) {
    let _ = stream.set_nodelay(true);
    let stream = Patient { stream, patience: state.limits.body, waiting: None };
    match tls {
        None => serve(stream, state).await,
        Some(tls) => match tokio::time::timeout(state.limits.header, tls.accept(stream)).await {
            Ok(Ok(stream)) => serve(stream, state).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
            Err(_) => {}
        },
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Shared) {
    let closed = state.closed();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(state.limits.header)
        .max_buf_size(BUFFER)
        .max_headers(MAX_HEADERS);
    let service = service_fn(move |request| answer(state.clone(), request));
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        result = connection.as_mut() => return ended(result),
        () = closed => {}
    }
    // What is being answered is answered, and that was the last.
    connection.as_mut().graceful_shutdown();
    ended(connection.await);
}

fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a connection broke");
    }
}

/// A stream whose other side has to take what is written in time.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        work: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let result = work(Pin::new(&mut self.stream), cx);
        if result.is_ready() {
            self.waiting = None;
            return result;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        std::task::ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.in_time(cx, |stream, cx| stream.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}
