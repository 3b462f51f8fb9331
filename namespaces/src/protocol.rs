//! Messages of the control socket, from the library's side, and the connection of attached processes.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::error::{Error, Result};
use crate::exit::ExitStatus;
use crate::wire::{self, Exit, MAGIC, Message, report, request};

/// Output of a container, as an attached process receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// 1 = stdout (or the terminal), 2 = stderr.
    pub stream: u8,
    /// The bytes.
    pub data: Vec<u8>,
}

/// What comes over a control socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Output of the container.
    Output(Output),
    /// The container ended.
    Exited(ExitStatus),
    /// The monitor has cleaned up and is gone.
    Closed,
}

pub(crate) fn message(kind: u32, a: u64, b: u64) -> Message {
    Message { magic: MAGIC, kind, a, b, exit: Exit::default() }
}

const MESSAGE_LEN: usize = size_of::<Message>();

fn encode(m: &Message) -> [u8; MESSAGE_LEN] {
    let mut bytes = [0; MESSAGE_LEN];
    let words = [m.magic, m.kind].into_iter().flat_map(u32::to_ne_bytes);
    let longs = [m.a, m.b].into_iter().flat_map(u64::to_ne_bytes);
    bytes.iter_mut().zip(words.chain(longs)).for_each(|(to, from)| *to = from);
    bytes
}

fn decode(b: &[u8]) -> Option<Message> {
    let word = |at: usize| Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(b.get(at..at + 8)?.try_into().ok()?));
    let exit = Exit {
        code: word(24)?.cast_signed(),
        status: word(28)?.cast_signed(),
        oom_kills: long(32)?,
        cpu_ns: long(40)?,
        memory_peak: long(48)?,
        started_ns: long(56)?,
        finished_ns: long(64)?,
    };
    let m = Message { magic: word(0)?, kind: word(4)?, a: long(8)?, b: long(16)?, exit };
    (m.magic == MAGIC).then_some(m)
}

pub(crate) fn send(
    socket: BorrowedFd<'_>,
    m: &Message,
    tail: &[u8],
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::FDS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let head = encode(m);
    loop {
        match rustix::net::sendmsg(
            socket,
            &[IoSlice::new(&head), IoSlice::new(tail)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// A message, its data, and a descriptor if one came.
pub(crate) type Received = (Message, Vec<u8>, Option<OwnedFd>);

/// The next message; `None` at the end.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Option<Received>> {
    let mut buffer = [0u8; MESSAGE_LEN + 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let n = loop {
        let iov = &mut [IoSliceMut::new(&mut buffer)];
        match rustix::net::recvmsg(socket, iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => break 0,
            other => break other.map_err(Error::io("read the control socket"))?.bytes,
        }
    };
    if n == 0 {
        return Ok(None);
    }
    let fd = control.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let m = decode(&buffer[..n]).ok_or(Error::MonitorLost)?;
    Ok(Some((m, buffer[MESSAGE_LEN..n].to_vec(), fd)))
}

pub(crate) fn next_event(socket: BorrowedFd<'_>) -> Result<Event> {
    loop {
        let Some((m, data, _)) = receive(socket)? else { return Ok(Event::Closed) };
        match m.kind {
            report::EXITED => return Ok(Event::Exited(ExitStatus::from_wire(&m.exit))),
            #[allow(clippy::cast_possible_truncation, reason = "1 or 2")]
            report::OUTPUT => return Ok(Event::Output(Output { stream: m.a as u8, data })),
            _ => {}
        }
    }
}

/// A connection to the monitor of a container that some process started.
#[derive(Debug)]
pub struct Attachment(OwnedFd);

impl Attachment {
    /// Wraps a connected `SOCK_SEQPACKET` socket of the monitor's listener.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Attachment {
        Attachment(socket)
    }

    /// Waits for the next message; blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket fails.
    pub fn next_event(&self) -> Result<Event> {
        next_event(self.0.as_fd())
    }

    /// Passes up to 4096 bytes to the container's stdin or terminal.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more, [`Error::Io`] when the monitor is gone.
    pub fn input(&self, data: &[u8]) -> Result<()> {
        if data.len() > 4096 {
            return Err(Error::invalid("input", "at most 4096 bytes at a time"));
        }
        send(self.0.as_fd(), &message(request::INPUT, 0, 0), data, &[])
            .map_err(Error::io("talk to the monitor"))
    }

    /// Closes the container's stdin.
    ///
    /// # Errors
    /// [`Error::Io`] when the monitor is gone.
    pub fn close_input(&self) -> Result<()> {
        send(self.0.as_fd(), &message(request::CLOSE_INPUT, 0, 0), &[], &[])
            .map_err(Error::io("talk to the monitor"))
    }

    /// Has the monitor send a signal to the container's first process.
    ///
    /// # Errors
    /// [`Error::Io`] when the monitor is gone.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let number = u64::from(signal.cast_unsigned());
        send(self.0.as_fd(), &message(request::KILL, number, 0), &[], &[])
            .map_err(Error::io("talk to the monitor"))
    }

    /// Sets the size of the terminal.
    ///
    /// # Errors
    /// [`Error::Io`] when the monitor is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = u64::from(rows) << 16 | u64::from(columns);
        send(self.0.as_fd(), &message(request::RESIZE, size, 0), &[], &[])
            .map_err(Error::io("talk to the monitor"))
    }
}

impl AsFd for Attachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
