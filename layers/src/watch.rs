//! Telling how far long work is, and being told to stop, also within one large file.

use std::io::{self, BufRead, Read};

use crate::error::{Error, Result};
use crate::store::Progress;

/// Told about progress; answering false cancels.
pub(crate) type Observer<'a> = &'a mut dyn FnMut(Progress) -> bool;

/// Bytes between two that are told of.
const STEP: u64 = 1 << 20;
/// What an entry without data counts for: many of them take their time, too.
const ENTRY: u64 = 4 << 10;

/// Counts bytes, and tells of them now and then.
pub(crate) struct Watch<'a> {
    observe: Observer<'a>,
    bytes: u64,
    /// What was done since something was told.
    since: u64,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(observe: Observer<'a>) -> Watch<'a> {
        Watch { observe, bytes: 0, since: 0 }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So many bytes more.
    pub(crate) fn add(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        self.step(bytes)
    }

    /// Something without data.
    pub(crate) fn entry(&mut self) -> Result<()> {
        self.step(ENTRY)
    }

    fn step(&mut self, cost: u64) -> Result<()> {
        self.since += cost;
        if self.since < STEP {
            return Ok(());
        }
        self.since = 0;
        self.tell(Progress::Read { bytes: self.bytes })
    }

    pub(crate) fn tell(&mut self, progress: Progress) -> Result<()> {
        if (self.observe)(progress) { Ok(()) } else { Err(Error::Cancelled) }
    }

    /// An observer of a part of the work, whose bytes come on top.
    pub(crate) fn part(&mut self) -> impl FnMut(Progress) -> bool {
        let base = self.bytes;
        move |progress| {
            let progress = match progress {
                Progress::Read { bytes } => {
                    self.bytes = base + bytes;
                    Progress::Read { bytes: self.bytes }
                }
                other => other,
            };
            self.tell(progress).is_ok()
        }
    }

    /// What a reader gives is counted.
    pub(crate) fn reader<R>(&mut self, input: R) -> Watched<'_, 'a, R> {
        Watched { input, watch: self, consumed: 0 }
    }
}

/// See [`Watch::reader`]. When it is told to stop it fails with [`Error::Cancelled`], wrapped.
pub(crate) struct Watched<'w, 'a, R> {
    input: R,
    watch: &'w mut Watch<'a>,
    /// What was consumed and not told yet.
    consumed: u64,
}

impl<R> Watched<'_, '_, R> {
    pub(crate) fn into_inner(self) -> R {
        self.input
    }
}

impl<R: Read> Read for Watched<'_, '_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.watch.add(n as u64).map_err(io::Error::other)?;
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Watched<'_, '_, R> {
    /// Telling is for the read before: what is not consumed may be asked for again.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.watch.add(std::mem::take(&mut self.consumed)).map_err(io::Error::other)?;
        self.input.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.consumed += n as u64;
        self.input.consume(n);
    }
}
