//! A strict streaming tar reader: ustar, PAX and GNU long names. Where implementations differ in
//! how they read an archive, it is an error: a file that two tools see differently hides something.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use fields::{field, header_name, mode, number, plain_number, seconds, time};

use super::Bounds;
use super::acl::{Acl, FORMS, Fault};
use crate::error::{Error, Result};

mod fields;
mod sparse;

const BLOCK: usize = 512;
const MTIME: usize = 136;
/// The numbers of a header: where, how long, and what they are when they are none.
const NUMBERS: [(usize, usize, &str); 7] = [
    (100, 8, "malformed mode"),
    (108, 8, "malformed number of the owner"),
    (116, 8, "malformed number of the group"),
    (124, 12, "malformed size"),
    (MTIME, 12, "malformed mtime"),
    (329, 8, "malformed device numbers"),
    (337, 8, "malformed device numbers"),
];

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry, its extensions applied.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where a sparse file has data: [`Reader::read`] gives these pieces, one after the other.
    pub(crate) pieces: Option<sparse::Map>,
}

#[derive(Default)]
struct Extensions {
    pax: BTreeMap<Vec<u8>, Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_empty() && self.long_name.is_none() && self.long_link.is_none()
    }
}

/// Reads entries one after the other; the data of each must be taken before the next.
pub(crate) struct Reader<R> {
    input: R,
    bounds: Bounds,
    /// The name of the header that was read last, for errors.
    at: Vec<u8>,
    started: bool,
    remaining: u64,
    padding: usize,
    entries: u64,
    total: u64,
}

fn bad(entry: &[u8], reason: &'static str) -> Error {
    Error::archive(entry, reason)
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(input: R, bounds: Bounds) -> Self {
        Reader {
            input,
            bounds,
            at: Vec::new(),
            started: false,
            remaining: 0,
            padding: 0,
            entries: 0,
            total: 0,
        }
    }

    /// Gives the input back, to hash what follows the archive.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        self.skip()?;
        let mut ext = Extensions::default();
        let mut alone = false;
        loop {
            let Some(header) = self.header()? else {
                return if ext.is_empty() && !alone {
                    Ok(None)
                } else {
                    Err(bad(&self.at, "an extension header without an entry"))
                };
            };
            self.entries += 1;
            if self.entries > self.bounds.entries {
                return Err(Error::Limit { what: "the number of entries", limit: self.bounds.entries });
            }
            let name = field(&header, 0, 100);
            self.at = name.to_vec();
            let size = number(&header[124..136]).ok_or_else(|| bad(name, "malformed size"))?;
            match header[156] {
                b'x' | b'g' => {
                    let records = parse_pax(&self.extension(name, size)?, name)?;
                    let global = header[156] == b'g';
                    if !global && !ext.pax.is_empty() {
                        return Err(bad(name, "two PAX headers for one entry"));
                    }
                    // Some readers apply it to all that follows, some to the next entry, some never.
                    if global && records.keys().any(|k| k != b"comment") {
                        return Err(bad(
                            name,
                            "a global PAX header that changes names, sizes, owners or times",
                        ));
                    }
                    if global && !ext.is_empty() {
                        return Err(bad(
                            name,
                            "a global PAX header between an extension header and its entry",
                        ));
                    }
                    if !global {
                        ext.pax = records;
                    }
                    alone = global;
                }
                b'L' => self.long(&mut ext.long_name, name, size)?,
                b'K' => self.long(&mut ext.long_link, name, size)?,
                flag => return self.entry(&header, flag, size, ext).map(Some),
            }
        }
    }

    fn long(&mut self, slot: &mut Option<Vec<u8>>, name: &[u8], size: u64) -> Result<()> {
        if slot.is_some() {
            return Err(bad(name, "two GNU long names for one entry"));
        }
        let mut text = self.extension(name, size)?;
        if text.pop() != Some(0) || text.contains(&0) {
            return Err(bad(name, "a GNU long name without its NUL, or with more than one"));
        }
        *slot = Some(text);
        Ok(())
    }

    fn extension(&mut self, name: &[u8], size: u64) -> Result<Vec<u8>> {
        if size == 0 {
            return Err(bad(name, "an empty extension header"));
        }
        if size > self.bounds.extension {
            return Err(Error::Limit { what: "an extension header", limit: self.bounds.extension });
        }
        let mut data = Vec::new();
        (&mut self.input).take(size).read_to_end(&mut data).map_err(read_error)?;
        if data.len() as u64 != size {
            return Err(bad(name, "the archive ends inside an extension header"));
        }
        self.remaining = 0;
        self.padding = padding(size);
        self.skip()?;
        Ok(data)
    }

    fn entry(&mut self, header: &[u8; BLOCK], flag: u8, size: u64, ext: Extensions) -> Result<Entry> {
        let mut name = header_name(header)?;
        let slash = name.last() == Some(&b'/');
        let mut link = field(header, 157, 100).to_vec();
        if ext.long_name.is_some() && ext.pax.contains_key(&b"path"[..])
            || ext.long_link.is_some() && ext.pax.contains_key(&b"linkpath"[..])
        {
            return Err(bad(&name, "both a GNU and a PAX name"));
        }
        name = ext.long_name.unwrap_or(name);
        link = ext.long_link.unwrap_or(link);
        let pax = |key: &[u8]| ext.pax.get(key);
        let holes = sparse::of_pax(&ext.pax).map_err(|reason| bad(&name, reason))?;
        name = pax(b"path").or(holes.as_ref().map(|(name, _)| name)).cloned().unwrap_or(name);
        link = pax(b"linkpath").cloned().unwrap_or(link);
        let shown = name.clone();
        self.at.clone_from(&shown);
        let decimal = |key: &[u8], old: Option<u64>| match pax(key) {
            Some(v) => plain_number(v).ok_or_else(|| bad(&shown, "malformed PAX number")),
            None => old.ok_or_else(|| bad(&shown, "malformed number")),
        };
        let size = match pax(b"size") {
            // Readers disagree on which of two different sizes counts.
            Some(v) => match plain_number(v) {
                Some(n) if size == 0 || n == size || n > 0o77_777_777_777 => n,
                Some(_) => return Err(bad(&shown, "two different sizes")),
                None => return Err(bad(&shown, "malformed PAX size")),
            },
            None => size,
        };
        let kind = match flag {
            // The header's own name says whether an old entry is a directory, or the final one does.
            0 if slash != name.ends_with(b"/") => {
                return Err(bad(&shown, "one of its two names ends in a slash"));
            }
            0 if slash && name.iter().all(|c| *c == b'/') => {
                return Err(bad(&shown, "the root as something else than a directory"));
            }
            0 if slash => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'S' if holes.is_none() && &header[257..265] == b"ustar  \0" => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(bad(&shown, "unknown entry type")),
        };
        if kind != Kind::File && holes.is_some() {
            return Err(bad(&shown, "a sparse file that is no file"));
        }
        let foreign =
            |k: &[u8]| k.starts_with(b"GNU.") && !k.starts_with(b"GNU.sparse.") || k == b"SCHILY.realsize";
        if ext.pax.keys().any(|k| foreign(k)) {
            return Err(bad(&shown, "PAX records of volumes, dumps or sparse files are not supported"));
        }
        if kind != Kind::Directory && name.ends_with(b"/") {
            return Err(bad(&shown, "a slash behind the name of what is no directory"));
        }
        if pax(b"hdrcharset").is_some_and(|v| v != b"BINARY" && v != b"ISO-IR 10646 2000 UTF-8") {
            return Err(bad(&shown, "an unknown PAX hdrcharset"));
        }
        if [&b"atime"[..], b"ctime"].iter().filter_map(|k| pax(k)).any(|v| time(v).is_none()) {
            return Err(bad(&shown, "malformed PAX atime or ctime"));
        }
        if kind != Kind::File && size != 0 {
            return Err(bad(&shown, "data behind an entry that has none"));
        }
        let (size, stored, pieces) = self.pieces(header, flag, size, holes, &shown)?;
        let entry = Entry {
            kind,
            mode: mode(&header[100..108]).ok_or_else(|| bad(&shown, "malformed mode"))?,
            uid: decimal(b"uid", number(&header[108..116]))?,
            gid: decimal(b"gid", number(&header[116..124]))?,
            size,
            mtime: match pax(b"mtime") {
                Some(v) => time(v).ok_or_else(|| bad(&shown, "malformed PAX mtime"))?,
                None => (seconds(&header[MTIME..148]).ok_or_else(|| bad(&shown, "malformed mtime"))?, 0),
            },
            xattrs: attributes(&ext.pax, &shown)?,
            path: clean(name, &self.bounds)?,
            link,
            pieces,
        };
        self.check(&entry)?;
        self.remaining = stored;
        self.padding = padding(stored);
        Ok(entry)
    }

    /// The size of a file, how much of it is stored, and where that belongs if it has holes.
    fn pieces(
        &mut self,
        header: &[u8; BLOCK],
        flag: u8,
        size: u64,
        holes: Option<(Vec<u8>, u64)>,
        shown: &[u8],
    ) -> Result<(u64, u64, Option<sparse::Map>)> {
        let fault = |f| match f {
            sparse::Fault::Bad(reason) => bad(shown, reason),
            sparse::Fault::Io(e) => e,
        };
        let (whole, stored, map) = match holes {
            None if flag != b'S' => return Ok((size, size, None)),
            None => {
                let (whole, map) = sparse::of_gnu(header, &mut self.input).map_err(fault)?;
                (whole, size, map)
            }
            Some((_, whole)) => {
                let (taken, map) = sparse::map_of_pax(&mut self.input, size).map_err(fault)?;
                (whole, size - taken, map)
            }
        };
        if !sparse::fits(&map, whole, stored) {
            return Err(bad(shown, "a map of a sparse file that does not fit it"));
        }
        Ok((whole, stored, Some(map)))
    }

    fn check(&mut self, e: &Entry) -> Result<()> {
        if e.path.is_empty() && e.kind != Kind::Directory {
            return Err(bad(&self.at, "the root as something else than a directory"));
        }
        if matches!(e.kind, Kind::HardLink | Kind::Symlink)
            && (e.link.is_empty() || e.link.len() > self.bounds.path)
        {
            return Err(bad(&e.path, "a link with an empty or overlong target"));
        }
        if e.link.contains(&0) {
            return Err(bad(&e.path, "a NUL byte in a link target"));
        }
        if e.uid > u64::from(u32::MAX - 1) || e.gid > u64::from(u32::MAX - 1) {
            return Err(bad(&e.path, "an owner beyond the 32-bit ids"));
        }
        self.total = self.total.saturating_add(e.size);
        if self.total > self.bounds.bytes {
            return Err(Error::Limit { what: "the size of all files", limit: self.bounds.bytes });
        }
        Ok(())
    }

    /// The data of the current entry.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let want = buf.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = loop {
            match self.input.read(&mut buf[..want]) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other.map_err(read_error)?,
            }
        };
        if n == 0 {
            return Err(bad(&self.at, "the archive ends inside a file"));
        }
        self.remaining -= n as u64;
        Ok(n)
    }

    /// The next of the data of the current entry, as it lies in the reader's buffer; nothing at its end. What is
    /// used has to be [`consume`](Reader::consume)d.
    pub(crate) fn data(&mut self) -> Result<&[u8]> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        // (The borrow checker takes the first answer for lent in the loop, so it is asked for twice.)
        loop {
            match self.input.fill_buf() {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(read_error(e)),
                Ok([]) => return Err(bad(&self.at, "the archive ends inside a file")),
                Ok(_) => break,
            }
        }
        let bytes = self.input.fill_buf().map_err(read_error)?;
        Ok(&bytes[..bytes.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX))])
    }

    /// Counts so much of [`data`](Reader::data) as used.
    pub(crate) fn consume(&mut self, n: usize) {
        self.input.consume(n);
        self.remaining -= n as u64;
    }

    fn skip(&mut self) -> Result<()> {
        loop {
            match self.data()?.len() {
                0 => break,
                n => self.consume(n),
            }
        }
        let mut waste = [0; BLOCK];
        let pad = std::mem::take(&mut self.padding);
        self.input.read_exact(&mut waste[..pad]).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => bad(&self.at, "the archive ends inside a block"),
            _ => read_error(e),
        })
    }

    /// The next header block; `None` at the end (two zero blocks, or the end of the input).
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut b = [0u8; BLOCK];
        if !self.block(&mut b)? {
            return if self.started { Ok(None) } else { Err(bad(b"", "an empty file is no archive")) };
        }
        if b == [0; BLOCK] {
            let mut second = [0u8; BLOCK];
            if self.block(&mut second)? && second != [0; BLOCK] {
                return Err(bad(&self.at, "data after a zero block"));
            }
            return Ok(None);
        }
        let name = field(&b, 0, 100);
        // Octal only: not all readers take another form here.
        let stored = number(&b[148..156]).filter(|_| b[148] & 0x80 == 0);
        let stored = stored.ok_or_else(|| bad(name, "malformed checksum"))?;
        // As if its own field held blanks.
        let sum = |bytes: &[u8]| bytes.iter().map(|v| u64::from(*v)).sum::<u64>();
        let sum = sum(&b) - sum(&b[148..156]) + 8 * 32;
        if stored != sum {
            return Err(bad(name, "wrong header checksum"));
        }
        // Also those that nobody needs, or that a PAX record replaces: some readers refuse a header in which
        // they are no numbers.
        for (at, len, reason) in NUMBERS {
            let f = &b[at..at + len];
            // Only a time may be negative.
            let valid = if at == MTIME { seconds(f).is_some() } else { number(f).is_some() };
            if !valid {
                return Err(bad(name, reason));
            }
        }
        Ok(Some(b))
    }

    /// Fills one block; false at the clean end of the input.
    fn block(&mut self, b: &mut [u8; BLOCK]) -> Result<bool> {
        let mut have = 0;
        while have < BLOCK {
            match self.input.read(&mut b[have..]) {
                Ok(0) if have == 0 => return Ok(false),
                Ok(0) => return Err(bad(&self.at, "the archive ends inside a header")),
                Ok(n) => {
                    have += n;
                    self.started = true;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(read_error(e)),
            }
        }
        Ok(true)
    }
}

/// Why there is no more of the archive. Whoever decompresses it may have found a limit.
pub(crate) fn read_error(source: std::io::Error) -> Error {
    Error::io_or_own("read", "the archive")(source)
}

/// The extended attributes of an entry. Access control lists may be told in words, and what is told twice has to be
/// the same.
fn attributes(pax: &BTreeMap<Vec<u8>, Vec<u8>>, shown: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let attribute =
        |(k, v): (&Vec<u8>, &Vec<u8>)| Some((k.strip_prefix(b"SCHILY.xattr.")?.to_vec(), v.clone()));
    let mut all: BTreeMap<Vec<u8>, Vec<u8>> = pax.iter().filter_map(attribute).collect();
    for (words, key) in FORMS {
        let malformed = || bad(shown, "a malformed access control list");
        let bytes = all.get(key).map(|v| Acl::of_bytes(v).ok_or_else(malformed)).transpose()?;
        let told = match pax.get(words).filter(|v| !v.is_empty()).map(|v| Acl::of_text(v)) {
            Some(Err(Fault::Malformed)) => return Err(malformed()),
            Some(Ok(acl)) => Some(acl),
            // Whom it is about only the host knew that wrote it.
            Some(Err(Fault::Names)) | None => None,
        };
        if bytes.is_some() && told.is_some() && bytes != told {
            return Err(bad(shown, "two different access control lists"));
        }
        if let Some(acl) = bytes.or(told) {
            all.insert(key.to_vec(), acl.to_bytes());
        }
    }
    Ok(all)
}

fn padding(size: u64) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "below 512")]
    let rest = (size % BLOCK as u64) as usize;
    (BLOCK - rest) % BLOCK
}

/// `<length> <key>=<value>\n`, each exactly as long as it says, no key twice.
fn parse_pax(data: &[u8], name: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut records = BTreeMap::new();
    let mut rest = data;
    while !rest.is_empty() {
        let malformed = || bad(name, "malformed PAX record");
        let space = rest.iter().position(|c| *c == b' ').ok_or_else(malformed)?;
        let len = plain_number(&rest[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(malformed)?;
        let record = rest.get(space + 1..len).ok_or_else(malformed)?;
        let (last, record) = record.split_last().ok_or_else(malformed)?;
        let equals = record.iter().position(|c| *c == b'=').filter(|e| *e > 0).ok_or_else(malformed)?;
        if *last != b'\n' {
            return Err(malformed());
        }
        let (key, value) = (record[..equals].to_vec(), record[equals + 1..].to_vec());
        let is_xattr = key.starts_with(b"SCHILY.xattr.");
        if key.contains(&0) || !is_xattr && value.contains(&0) {
            return Err(bad(name, "a NUL byte in a PAX record"));
        }
        if records.insert(key, value).is_some() {
            return Err(bad(name, "the same PAX record twice"));
        }
        rest = &rest[len..];
    }
    Ok(records)
}

/// Normalises a name: no absolute path, no `..`, no NUL; `./` and doubled slashes go.
fn clean(name: Vec<u8>, bounds: &Bounds) -> Result<Vec<u8>> {
    if name.is_empty() {
        return Err(bad(&name, "an empty name"));
    }
    if name.contains(&0) {
        return Err(bad(&name, "a NUL byte in the name"));
    }
    if name.len() > bounds.path {
        return Err(Error::Limit { what: "a path", limit: bounds.path as u64 });
    }
    let parts: Vec<&[u8]> = name.split(|c| *c == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
    if name.first() == Some(&b'/') && !parts.is_empty() {
        return Err(bad(&name, "an absolute name"));
    }
    if parts.contains(&&b".."[..]) {
        return Err(bad(&name, "a name with \"..\""));
    }
    if parts.len() > bounds.depth {
        return Err(Error::Limit { what: "the depth of a path", limit: bounds.depth as u64 });
    }
    if parts.iter().any(|p| p.len() > 255) {
        return Err(bad(&name, "a name longer than 255 bytes"));
    }
    Ok(parts.join(&b'/'))
}

#[cfg(test)]
mod tests;
