//! What archives are built of: headers that say anything, records that are well formed or not.

/// The time that entries have unless they say otherwise.
pub const TIME: u64 = 1_000_000_000;

/// A header block. Every field can be set to any bytes; the checksum is right unless it is set, too.
#[derive(Clone)]
pub struct Head {
    block: [u8; 512],
    sum: bool,
}

pub fn head(name: impl AsRef<[u8]>, flag: u8) -> Head {
    let mode = if flag == b'5' { 0o755 } else { 0o644 };
    Head { block: [0; 512], sum: true }
        .put(0, name.as_ref())
        .mode(mode)
        .uid(0)
        .gid(0)
        .size(0)
        .mtime(TIME)
        .put(156, &[flag])
        .put(257, b"ustar\x0000")
}

impl Head {
    pub fn put(mut self, at: usize, bytes: &[u8]) -> Head {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// A field that holds only these bytes.
    pub fn field(self, at: usize, len: usize, bytes: &[u8]) -> Head {
        self.put(at, &vec![0; len]).put(at, bytes)
    }

    fn octal(self, at: usize, len: usize, n: u64) -> Head {
        self.field(at, len, format!("{n:0width$o}", width = len - 1).as_bytes())
    }

    pub fn mode(self, n: u64) -> Head {
        self.octal(100, 8, n)
    }

    pub fn uid(self, n: u64) -> Head {
        self.octal(108, 8, n)
    }

    pub fn gid(self, n: u64) -> Head {
        self.octal(116, 8, n)
    }

    pub fn size(self, n: u64) -> Head {
        self.octal(124, 12, n)
    }

    pub fn mtime(self, n: u64) -> Head {
        self.octal(136, 12, n)
    }

    pub fn link(self, target: impl AsRef<[u8]>) -> Head {
        self.field(157, 100, target.as_ref())
    }

    pub fn prefix(self, bytes: &[u8]) -> Head {
        self.field(345, 155, bytes)
    }

    /// The form before POSIX: no magic.
    pub fn v7(self) -> Head {
        self.field(257, 8, b"")
    }

    pub fn gnu(self) -> Head {
        self.field(257, 8, b"ustar  \0")
    }

    /// A checksum of one's own.
    pub fn sum(mut self, bytes: &[u8]) -> Head {
        self.sum = false;
        self.field(148, 8, bytes)
    }

    pub fn checksum(&self) -> u64 {
        self.block
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) })
            .sum()
    }

    /// The block.
    pub fn alone(self) -> Vec<u8> {
        let sum = self.checksum();
        if self.sum {
            self.field(148, 8, format!("{sum:06o}\0 ").as_bytes()).block.to_vec()
        } else {
            self.block.to_vec()
        }
    }

    /// The block with data behind it, without saying how much.
    pub fn before(self, data: &[u8]) -> Vec<u8> {
        [&self.alone()[..], &padded(data)].concat()
    }

    /// The block with data behind it, and the size in it.
    pub fn with(self, data: &[u8]) -> Vec<u8> {
        self.size(data.len() as u64).before(data)
    }
}

/// Base 256, as GNU writes what does not fit into octal.
pub fn base256(len: usize, n: i64) -> Vec<u8> {
    let mut b = vec![if n < 0 { 0xff } else { 0 }; len];
    b[len - 8..].copy_from_slice(&n.to_be_bytes()[..]);
    b[0] |= 0x80;
    b
}

/// For fields of 8 bytes, of which the first only marks.
pub fn base256_short(n: u64) -> Vec<u8> {
    let mut b = n.to_be_bytes().to_vec();
    b[0] = 0x80;
    b
}

pub fn padded(data: &[u8]) -> Vec<u8> {
    let mut all = data.to_vec();
    all.resize(data.len().next_multiple_of(512), 0);
    all
}

pub fn file(name: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    head(name, b'0').with(data)
}

pub fn dir(name: impl AsRef<[u8]>) -> Vec<u8> {
    head(name, b'5').alone()
}

pub fn sym(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Vec<u8> {
    head(name, b'2').link(target).alone()
}

pub fn hard(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Vec<u8> {
    head(name, b'1').link(target).alone()
}

pub fn fifo(name: impl AsRef<[u8]>) -> Vec<u8> {
    head(name, b'6').alone()
}

/// `/dev/null`'s numbers.
pub fn device(name: impl AsRef<[u8]>) -> Vec<u8> {
    head(name, b'3').put(329, b"0000001\x000000003\0").alone()
}

/// One PAX record, its length right.
pub fn rec(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let (key, value) = (key.as_ref(), value.as_ref());
    let rest = key.len() + value.len() + 3;
    let mut len = rest + rest.to_string().len();
    if len.to_string().len() + rest != len {
        len += 1;
    }
    [len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// A PAX header for the next entry with these bytes as its records.
pub fn pax(records: impl AsRef<[u8]>) -> Vec<u8> {
    head("PaxHeaders/x", b'x').with(records.as_ref())
}

pub fn global(records: impl AsRef<[u8]>) -> Vec<u8> {
    head("PaxHeaders/g", b'g').with(records.as_ref())
}

/// GNU's long name (`L`) or long link target (`K`).
pub fn long(flag: u8, name: impl AsRef<[u8]>) -> Vec<u8> {
    head("././@LongLink", flag).gnu().with(&[name.as_ref(), b"\0"].concat())
}

pub fn end() -> Vec<u8> {
    vec![0; 1024]
}

/// These parts and a proper end.
pub fn tar(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), end()].concat()
}
