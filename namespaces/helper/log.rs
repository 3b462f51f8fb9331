//! The container's log: the CRI format that Kubernetes reads, one record per line,
//! `<RFC 3339 time> <stdout|stderr> <F|P> <text>`; `P` marks a line that continues.

use crate::format::{self, TIME_LEN};
use crate::sys::{self, *};

pub struct Log {
    dir: i32,
    fd: i32,
    size: u64,
    max_size: u64,
    max_files: u32,
    out: [u8; 6144],
    used: usize,
}

const HEADER: usize = TIME_LEN + b" stdout F ".len();

impl Log {
    pub const fn none() -> Log {
        Log { dir: -1, fd: -1, size: 0, max_size: 0, max_files: 0, out: [0; 6144], used: 0 }
    }

    pub fn open(&mut self, dir: i32, max_size: u64, max_files: u32) -> Result<()> {
        self.dir = dir;
        self.max_size = max_size;
        self.max_files = max_files;
        self.fd = sys::openat(dir, Text::literal(c"log"), O_CREAT | O_APPEND | O_WRONLY | O_NOFOLLOW, 0o600)?;
        self.size = sys::fstat(self.fd)?.2;
        Ok(())
    }

    /// Appends what was read from a stream at one moment.
    pub fn append(&mut self, stream: u32, data: &[u8]) {
        if self.fd < 0 {
            return;
        }
        let mut time = [0u8; TIME_LEN];
        format::rfc3339(&mut time, sys::now());
        let name: &[u8] = if stream == 2 { b" stderr " } else { b" stdout " };
        for line in data.split_inclusive(|c| *c == b'\n') {
            let (text, tag): (_, &[u8]) = match line.split_last() {
                Some((b'\n', text)) => (text, b"F "),
                _ => (line, b"P "),
            };
            if self.used + HEADER + text.len() + 1 > self.out.len() {
                self.flush();
            }
            for part in [&time[..], name, tag, text, b"\n"] {
                self.used = format::append(&mut self.out, self.used, part);
            }
        }
        self.flush();
    }

    /// A log that cannot be written must not stop the container: what does not fit is dropped.
    fn flush(&mut self) {
        let n = self.used;
        self.used = 0;
        if sys::write_all(self.fd, self.out.get(..n).unwrap_or(&[])).is_ok() {
            self.size += n as u64;
        }
        if self.max_size > 0 && self.size >= self.max_size {
            self.rotate();
        }
    }

    /// `log.1` is the newest rotated file; the oldest of `max_files` falls off.
    fn rotate(&mut self) {
        let mut from = [0u8; 16];
        let mut to = [0u8; 16];
        for n in (0..self.max_files).rev() {
            let (Some(f), Some(t)) = (name(&mut from, n), name(&mut to, n + 1)) else { return };
            let _ = sys::renameat(self.dir, f, self.dir, t);
        }
        let flags = O_CREAT | O_TRUNC | O_APPEND | O_WRONLY | O_NOFOLLOW;
        if let Ok(fd) = sys::openat(self.dir, Text::literal(c"log"), flags, 0o600) {
            sys::close(self.fd);
            self.fd = fd;
            self.size = 0;
        }
    }
}

fn name(b: &mut [u8; 16], n: u32) -> Option<Text> {
    let mut end = format::append(b, 0, b"log");
    if n > 0 {
        end = format::append(b, end, b".");
        end = format::decimal(b, end, u64::from(n));
    }
    *b.get_mut(end)? = 0;
    Text::from_buf(b)
}
