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
    /// Whether the line goes on in the next one.
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
    /// The file that is being read; it stays the same one whatever it is called by now.
    current: Option<BufReader<File>>,
    /// A record whose end is not written yet.
    pending: Vec<u8>,
    /// The beginnings of lines that came in several records, of stdout and stderr.
    begun: [Option<LogLine>; 2],
}

/// Longer lines are given in parts, as Docker does.
const LONGEST: usize = 16 << 10;

fn identity(m: &std::fs::Metadata) -> (u64, u64) {
    (m.dev(), m.ino())
}

impl LogReader {
    pub(crate) fn open(dir: PathBuf) -> Result<LogReader> {
        Ok(LogReader { dir, current: None, pending: Vec::new(), begun: [None, None] })
    }

    /// The next line that is completely written, or a part of one of more than 16 KiB; `None` when there is
    /// none yet.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn next_line(&mut self) -> Result<Option<LogLine>> {
        loop {
            if self.read_line()? {
                let record = LogLine::parse(&self.pending);
                self.pending.clear();
                if let Some(line) = record.and_then(|r| self.join(r)) {
                    return Ok(Some(line));
                }
                continue;
            }
            let Some(next) = self.next_file()? else { return Ok(None) };
            // Nothing more is written to a file that has a successor; what came since the last look is read.
            if self.read_rest()? {
                continue;
            }
            self.current = Some(next);
        }
    }

    /// A line whose end is not written yet, at most one of each stream: all that there is of it when its
    /// container has ended.
    pub fn unfinished(&mut self) -> Option<LogLine> {
        self.begun.iter_mut().find_map(Option::take)
    }

    /// The monitor writes what it reads; where that ends in the middle of a line is an accident.
    fn join(&mut self, record: LogLine) -> Option<LogLine> {
        let begun = &mut self.begun[usize::from(record.stream == LogStream::Stderr)];
        let line = match begun.take() {
            Some(mut line) => {
                line.message.extend_from_slice(&record.message);
                LogLine { partial: record.partial, ..line }
            }
            None => record,
        };
        if line.partial && line.message.len() < LONGEST {
            *begun = Some(line);
            return None;
        }
        Some(line)
    }

    /// Takes what is there up to the end of a line, which is left out. False at the end of the file.
    fn read_line(&mut self) -> Result<bool> {
        let Some(reader) = &mut self.current else { return Ok(false) };
        reader.read_until(b'\n', &mut self.pending).map_err(Error::io("read the log in", &self.dir))?;
        Ok(self.pending.pop_if(|last| *last == b'\n').is_some())
    }

    /// Whether the file has more after all.
    fn read_rest(&mut self) -> Result<bool> {
        let Some(reader) = &mut self.current else { return Ok(false) };
        Ok(!reader.fill_buf().map_err(Error::io("read the log in", &self.dir))?.is_empty())
    }

    /// The file that follows the one being read; at first, and when that one is no longer kept, the oldest.
    /// `None` while there is none.
    fn next_file(&self) -> Result<Option<BufReader<File>>> {
        let fail = || Error::io::<std::io::Error>("read the log in", &self.dir);
        let ours = self.current.as_ref().map(|r| r.get_ref().metadata().map(|m| identity(&m)));
        let ours = ours.transpose().map_err(fail())?;
        loop {
            let Some(file) = self.successor(ours)? else { return Ok(None) };
            let found = identity(&file.metadata().map_err(fail())?);
            // A rotation between looking and opening gives the name to another file.
            let again = self.successor(ours)?.map(|f| f.metadata().map(|m| identity(&m)));
            if again.transpose().map_err(fail())? == Some(found) {
                return Ok(Some(BufReader::new(file)));
            }
        }
    }

    fn successor(&self, ours: Option<(u64, u64)>) -> Result<Option<File>> {
        let mut older = None;
        // `log` is the newest, `log.1` the one before it.
        for n in 0.. {
            let name = if n == 0 { "log".to_owned() } else { format!("log.{n}") };
            let path = self.dir.join(name);
            let file = match File::open(&path) {
                // While it is rotated there is no `log` for a moment.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && n == 0 => continue,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => break,
                other => other.map_err(Error::io("open", path))?,
            };
            let found = identity(&file.metadata().map_err(Error::io("read the log in", &self.dir))?);
            if ours == Some(found) {
                break;
            }
            older = Some(file);
        }
        Ok(older)
    }

    /// The container's directory, for watching.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.dir
    }
}
