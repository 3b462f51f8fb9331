//! Reading logs: rotated files first, then the current one, and on as it grows.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written: RFC 3339 in UTC with nanoseconds, which sorts as text.
    pub time: String,
    /// Where it came from.
    pub stream: LogStream,
    /// The text without its line break.
    pub message: Vec<u8>,
    /// Whether the line goes on in the next record.
    pub partial: bool,
}

impl LogLine {
    /// Parses one line of a CRI log; `None` for what is none.
    ///
    /// ```
    /// use boxship_runtime::{LogLine, LogStream};
    /// let line = LogLine::parse(b"2026-11-20T19:13:23.123456789Z stderr F hello").unwrap();
    /// assert_eq!((line.stream, &line.message[..]), (LogStream::Stderr, &b"hello"[..]));
    /// ```
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<LogLine> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?.to_owned();
        let stream = match parts.next()? {
            b"stdout" => LogStream::Stdout,
            b"stderr" => LogStream::Stderr,
            _ => return None,
        };
        let partial = match parts.next()? {
            b"F" => false,
            b"P" => true,
            _ => return None,
        };
        Some(LogLine { time, stream, message: parts.next()?.to_vec(), partial })
    }
}

/// Reads a container's log record by record.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    older: Vec<PathBuf>,
    current: Option<BufReader<File>>,
    /// A record whose end is not written yet.
    pending: Vec<u8>,
}

impl LogReader {
    pub(crate) fn open(dir: PathBuf) -> Result<LogReader> {
        let mut older: Vec<PathBuf> =
            (1..).map(|n| dir.join(format!("log.{n}"))).take_while(|p| p.exists()).collect();
        // The highest number is the oldest, and is read first: popped from the end.
        older.insert(0, dir.join("log"));
        Ok(LogReader { dir, older, current: None, pending: Vec::new() })
    }

    /// The next record that is completely written; `None` when there is none yet.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn next_line(&mut self) -> Result<Option<LogLine>> {
        loop {
            if self.current.is_none() && !self.advance()? {
                return Ok(None);
            }
            let Some(reader) = &mut self.current else { return Ok(None) };
            let n = reader
                .read_until(b'\n', &mut self.pending)
                .map_err(Error::io("read the log in", &self.dir))?;
            if self.pending.last() == Some(&b'\n') {
                self.pending.pop();
                let line = LogLine::parse(&self.pending);
                self.pending.clear();
                if let Some(line) = line {
                    return Ok(Some(line));
                }
            } else if n == 0 && !self.rotated()? {
                return Ok(None);
            }
        }
    }

    /// At the end of a file: goes on with the one that replaced it. False when it is still the newest.
    fn rotated(&mut self) -> Result<bool> {
        if !self.older.is_empty() {
            self.current = None;
            return Ok(true);
        }
        let Some(reader) = &self.current else { return Ok(false) };
        let identity = |m: std::fs::Metadata| (m.dev(), m.ino());
        let ours =
            reader.get_ref().metadata().map(identity).map_err(Error::io("read the log in", &self.dir))?;
        match std::fs::metadata(self.dir.join("log")).map(identity) {
            Ok(newest) if newest != ours => {
                self.older.push(self.dir.join("log"));
                self.current = None;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn advance(&mut self) -> Result<bool> {
        while let Some(path) = self.older.pop() {
            match File::open(&path) {
                Ok(f) => {
                    self.current = Some(BufReader::new(f));
                    return Ok(true);
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    // Not written yet: look again next time.
                    if self.older.is_empty() {
                        self.older.push(path);
                        return Ok(false);
                    }
                }
                Err(e) => return Err(Error::io("open", path)(e)),
            }
        }
        Ok(false)
    }

    /// The container's directory, for watching.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.dir
    }
}
