//! Writes archives that are the same for the same tree: PAX form, nothing of this machine or moment in
//! them, and every header readable by GNU tar, Go, Python and our own strict reader alike.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::acl::{Acl, FORMS};

/// What an entry is made of.
pub(crate) struct Item<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) kind: EntryType,
    /// The target of a link.
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) size: u64,
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Item<'a> {
    pub(crate) fn new(path: &'a [u8], kind: EntryType, mode: u32) -> Item<'a> {
        let (link, xattrs) = (&[][..], &[][..]);
        Item { path, kind, link, mode, uid: 0, gid: 0, mtime: (0, 0), device: (0, 0), size: 0, xattrs }
    }
}

pub(crate) struct Writer<W: Write> {
    out: W,
}

/// The largest number of an octal field.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;

/// One record; its length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(len.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Writer<W> {
        Writer { out }
    }

    /// One entry with `item.size` bytes of data.
    pub(crate) fn put(&mut self, item: &Item<'_>, data: impl Read) -> io::Result<()> {
        let mut records = Vec::new();
        let mut header = Header::new_ustar();
        self.names(item, &mut header, &mut records);
        for (key, value, set) in [
            (&b"uid"[..], item.uid, Header::set_uid as fn(&mut Header, u64)),
            (b"gid", item.gid, Header::set_gid),
        ] {
            set(&mut header, if value > OCTAL_7 { 0 } else { value });
            if value > OCTAL_7 {
                record(&mut records, key, value.to_string().as_bytes());
            }
        }
        header.set_size(if item.size > OCTAL_11 { 0 } else { item.size });
        if item.size > OCTAL_11 {
            record(&mut records, b"size", item.size.to_string().as_bytes());
        }
        let (seconds, nanos) = item.mtime;
        match u64::try_from(seconds).ok().filter(|s| *s <= OCTAL_11) {
            Some(s) => header.set_mtime(s),
            None => header.set_mtime(0),
        }
        if nanos != 0 || !(0..=OCTAL_11.cast_signed()).contains(&seconds) {
            record(&mut records, b"mtime", pax_time(seconds, nanos).as_bytes());
        }
        for (key, value) in item.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &key[..]].concat(), value);
            // In words, too: some know only these, and some only the others.
            if let Some((words, _)) = FORMS.iter().find(|(_, attribute)| attribute == key)
                && let Some(acl) = Acl::of_bytes(value)
            {
                record(&mut records, words, &acl.to_text());
            }
        }
        header.set_mode(item.mode & 0o7777);
        header.set_entry_type(item.kind);
        if matches!(item.kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(item.device.0)?;
            header.set_device_minor(item.device.1)?;
        }
        header.set_cksum();
        if !records.is_empty() {
            let mut extension = Header::new_ustar();
            extension.as_mut_bytes()[..12].copy_from_slice(b"PaxHeaders/0");
            extension.set_entry_type(EntryType::XHeader);
            extension.set_size(records.len() as u64);
            extension.set_mode(0o644);
            extension.set_mtime(0);
            extension.set_uid(0);
            extension.set_gid(0);
            extension.set_cksum();
            self.out.write_all(extension.as_bytes())?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.out.write_all(header.as_bytes())?;
        // One byte more would tell that the file grows: what is announced is what is written.
        let written = io::copy(&mut data.take(item.size), &mut self.out)?;
        if written != item.size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter meanwhile"));
        }
        self.pad(written)
    }

    fn names(&self, item: &Item<'_>, header: &mut Header, records: &mut Vec<u8>) {
        let fields: [(&[u8], &[u8], usize); 2] = [(b"path", item.path, 0), (b"linkpath", item.link, 157)];
        for (key, value, at) in fields {
            let fits = value.len() <= 100 && value.is_ascii();
            if !fits {
                record(records, key, value);
            }
            let short = &value[..value.len().min(100)];
            header.as_mut_bytes()[at..at + short.len()].copy_from_slice(short);
        }
    }

    fn pad(&mut self, len: u64) -> io::Result<()> {
        #[allow(clippy::cast_possible_truncation, reason = "below 512")]
        let rest = (512 - len % 512) as usize % 512;
        self.out.write_all(&[0; 512][..rest])
    }

    /// The end of the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 1024])?;
        Ok(self.out)
    }
}

/// Seconds with their fraction, which counts downwards before 1970.
fn pax_time(seconds: i64, nanos: u32) -> String {
    let (sign, whole, nanos) = match (seconds < 0, nanos) {
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, n) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - n),
        (false, n) => ("", seconds.unsigned_abs(), n),
    };
    match nanos {
        0 => format!("{sign}{whole}"),
        n => format!("{sign}{whole}.{n:09}").trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Bounds;
    use crate::archive::reader::{Kind, Reader};
    use proptest::prelude::*;

    proptest! {
        /// Whatever is written is read back as it was.
        #[test]
        fn round_trip(
            path in "[a-z\u{e4}\u{20ac} .-]{1,40}(/[a-z]{1,90}){0,3}",
            link in "[a-z/\u{e4}]{1,150}",
            ids in (0u64..0xffff_ffff, 0u64..0xffff_ffff),
            mtime in (-(1i64 << 36)..1i64 << 36, 0u32..1_000_000_000),
            data in prop::collection::vec(any::<u8>(), 0..1500),
            value in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assume!(path.split('/').all(|p| !matches!(p, "." | "..")) );
            let xattrs = [(b"user.x".to_vec(), value.clone())];
            let mut w = Writer::new(Vec::new());
            let base = Item::new(path.as_bytes(), EntryType::Regular, 0o4755);
            let file = Item { uid: ids.0, gid: ids.1, mtime, size: data.len() as u64, xattrs: &xattrs, ..base };
            w.put(&file, &data[..]).unwrap();
            let base = Item::new(b"link", EntryType::Symlink, 0o777);
            w.put(&Item { link: link.as_bytes(), ..base }, io::empty()).unwrap();
            let bytes = w.finish().unwrap();
            let mut r = Reader::new(&bytes[..], Bounds::default());
            let e = r.next().unwrap().unwrap();
            prop_assert_eq!((e.kind, &e.path[..], e.mode, e.uid, e.gid, e.mtime),
                (Kind::File, path.as_bytes(), 0o4755, ids.0, ids.1, mtime));
            prop_assert_eq!(&e.xattrs[&b"user.x"[..]], &value);
            let mut found = vec![0; data.len() + 1];
            let mut have = 0;
            loop { match r.read(&mut found[have..]).unwrap() { 0 => break, n => have += n } }
            prop_assert_eq!(&found[..have], &data[..]);
            let e = r.next().unwrap().unwrap();
            prop_assert_eq!((e.kind, &e.link[..]), (Kind::Symlink, link.as_bytes()));
            prop_assert!(r.next().unwrap().is_none());
        }
    }
}
