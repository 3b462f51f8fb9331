//! Logs as a stream.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use boxship_runtime::{LogLine, LogReader};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::blocking;
use crate::error::{Error, Result};

/// tokio asks for the raw number besides the safe trait that nix offers.
#[derive(Debug)]
struct Watch(Inotify);

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Which part of a container's logs is wanted.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until stream() or lines() is called"]
pub struct LogsBuilder {
    container: boxship_runtime::Container,
    follow: bool,
    tail: Option<usize>,
    since: Option<String>,
    /// Why what was given is no time.
    refused: Option<String>,
    timestamps: bool,
}

impl LogsBuilder {
    pub(crate) fn new(container: boxship_runtime::Container) -> LogsBuilder {
        LogsBuilder { container, follow: false, tail: None, since: None, refused: None, timestamps: false }
    }

    /// Goes on with new lines until the container has ended.
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// Only the last `n` of the lines that are there.
    pub fn tail(mut self, n: usize) -> Self {
        self.tail = Some(n);
        self
    }

    /// Only lines written at or after this RFC 3339 time in UTC (`2026-11-20T19:13:23Z`; a prefix like
    /// `2026-11-20` will do). Another text is an error of what reads the lines.
    pub fn since(mut self, time: impl Into<String>) -> Self {
        let time: String = time.into();
        let text = time.strip_suffix('Z').unwrap_or(&time);
        if is_time(text) {
            self.since = Some(text.to_owned());
        } else {
            let reason = format!("{time:?} is not a time like \"2026-11-20T19:13:23Z\"");
            self.refused = Some(reason);
        }
        self
    }

    /// Puts the time and a blank before each message.
    pub fn timestamps(mut self, on: bool) -> Self {
        self.timestamps = on;
        self
    }

    /// The lines that are there now.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind).
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn lines(mut self) -> Result<Vec<LogLine>> {
        self.follow = false;
        let mut stream = self.stream();
        let mut all = Vec::new();
        while let Some(line) = stream.next().await {
            all.push(line?);
        }
        Ok(all)
    }

    /// The lines as a stream.
    ///
    /// # Drop
    /// Dropping the stream ends the reading.
    pub fn stream(mut self) -> Logs {
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(async move {
            let result = match self.refused.take() {
                Some(reason) => Err(Error::invalid("since", reason)),
                None => self.pump(&sender).await,
            };
            if let Err(e) = result {
                let _ = sender.send(Err(e)).await;
            }
        });
        Logs(receiver)
    }

    fn wanted(&self, line: &LogLine) -> bool {
        self.since.as_ref().is_none_or(|since| line.time.as_str() >= since.as_str())
    }

    fn finish(&self, mut line: LogLine) -> LogLine {
        if self.timestamps {
            line.message = [line.time.as_bytes(), b" ", &line.message].concat();
        }
        line
    }

    async fn pump(&self, sender: &mpsc::Sender<Result<LogLine>>) -> Result<()> {
        // Watch first, then read: nothing that is written in between is missed.
        let watch = if self.follow { Some(self.watch()?) } else { None };
        let container = self.container.clone();
        let (mut reader, process) =
            blocking::run(move || Ok((container.logs()?, container.exit_fd()?))).await?;
        let process = process.filter(|_| self.follow).map(blocking::watch).transpose();
        let process = process.map_err(|e| Error::io("watch the container", e))?;
        let mut first = true;
        let mut ended = process.is_none();
        loop {
            let (back, lines) = blocking::run(move || drain(reader, ended)).await?;
            reader = back;
            let wanted = lines.into_iter().filter(|l| self.wanted(l));
            let lines: VecDeque<LogLine> = match (first, self.tail) {
                (true, Some(n)) => last(wanted, n),
                _ => wanted.collect(),
            };
            first = false;
            for line in lines {
                if sender.send(Ok(self.finish(line))).await.is_err() {
                    return Ok(());
                }
            }
            match (&watch, &process) {
                (Some(watch), Some(process)) if !ended => {
                    tokio::select! {
                        changed = next_change(watch) => changed?,
                        _ = process.readable() => {
                            // The monitor drains the container's output before it ends itself; what is
                            // read after that is all there is.
                            self.until_ended().await?;
                            ended = true;
                        }
                        () = sender.closed() => return Ok(()),
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    async fn until_ended(&self) -> Result<()> {
        let container = self.container.clone();
        blocking::run(move || match container.wait() {
            Ok(_) | Err(boxship_runtime::Error::NotFound { .. } | boxship_runtime::Error::State { .. }) => {
                Ok(())
            }
            Err(e) => Err(e.into()),
        })
        .await
    }

    fn watch(&self) -> Result<AsyncFd<Watch>> {
        let fail = |e| Error::io("watch the log", std::io::Error::from(e));
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(fail)?;
        let events = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        inotify.add_watch(&self.container.path(), events).map_err(fail)?;
        blocking::watch(Watch(inotify)).map_err(|e| Error::io("watch the log", e))
    }
}

/// Whether a text is the beginning of a time as the log has it.
fn is_time(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00:00:00.000000000";
    let fits = |(c, form): (&u8, &u8)| if *form == b'0' { c.is_ascii_digit() } else { c == form };
    text.len() >= 4 && text.len() <= FORM.len() && text.as_bytes().iter().zip(FORM).all(fits)
}

/// What is there; at the end with lines that do not end.
fn drain(mut reader: LogReader, ended: bool) -> Result<(LogReader, Vec<LogLine>)> {
    let mut lines = Vec::new();
    while let Some(line) = reader.next_line()? {
        lines.push(line);
    }
    if ended {
        lines.extend(std::iter::from_fn(|| reader.unfinished()));
    }
    Ok((reader, lines))
}

fn last(lines: impl Iterator<Item = LogLine>, n: usize) -> VecDeque<LogLine> {
    let mut kept = VecDeque::with_capacity(n.min(1024));
    for line in lines {
        if kept.len() == n {
            kept.pop_front();
        }
        if n > 0 {
            kept.push_back(line);
        }
    }
    kept
}

async fn next_change(watch: &AsyncFd<Watch>) -> Result<()> {
    let fail = |e| Error::io("watch the log", e);
    let mut ready = watch.readable().await.map_err(fail)?;
    match ready.get_inner().0.read_events() {
        Ok(_) => Ok(()),
        Err(nix::errno::Errno::EAGAIN) => {
            ready.clear_ready();
            Ok(())
        }
        Err(e) => Err(fail(e.into())),
    }
}

/// The lines of a log: a stream, and the same as a method.
#[derive(Debug)]
pub struct Logs(mpsc::Receiver<Result<LogLine>>);

impl Logs {
    /// The next line; `None` after the last.
    ///
    /// # Cancel safety
    /// No line is lost.
    pub async fn next(&mut self) -> Option<Result<LogLine>> {
        self.0.recv().await
    }
}

impl futures_core::Stream for Logs {
    type Item = Result<LogLine>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
