//! sha256 digests, and writers and readers that compute them on the way.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::Error;

/// A sha256 digest in the form `sha256:<64 lower-case hex digits>`.
///
/// ```
/// use boxship_layers::Digest;
/// let digest = Digest::of(b"hello");
/// assert_eq!(digest.to_string().parse::<Digest>()?, digest);
/// assert!("sha256:../../etc/passwd".parse::<Digest>().is_err());
/// # Ok::<(), boxship_layers::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digest of what these make together.
    pub(crate) fn of_pieces<B: AsRef<[u8]>>(pieces: impl Iterator<Item = std::sync::Arc<B>>) -> Digest {
        let mut hash = Sha256::new();
        pieces.for_each(|piece| hash.update((*piece).as_ref()));
        Digest(hash.finalize().into())
    }

    /// The digest of all that a reader gives, and how much that is.
    pub(crate) fn of_reader(input: impl Read) -> io::Result<(Digest, u64)> {
        let mut tee = Tee::new(input, io::sink());
        io::copy(&mut io::BufReader::with_capacity(256 << 10, &mut tee), &mut io::sink())?;
        let (digest, len, _) = tee.finish();
        Ok((digest, len))
    }

    /// The 64 hex digits: also the name of the blob's file.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut s, b| {
            use fmt::Write as _;
            let _ = write!(s, "{b:02x}");
            s
        })
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(s: &str) -> Result<Digest, Error> {
        let bad = || Error::invalid("digest", format!("{s:?} is not sha256: and 64 lower-case hex digits"));
        let hex = s.strip_prefix("sha256:").filter(|h| h.len() == 64).ok_or_else(bad)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let nibble = |c: u8| match c {
                b'0'..=b'9' => Some(c - b'0'),
                b'a'..=b'f' => Some(c - b'a' + 10),
                _ => None,
            };
            *byte = nibble(pair[0]).zip(nibble(pair[1])).map(|(h, l)| h << 4 | l).ok_or_else(bad)?;
        }
        Ok(Digest(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;
    fn try_from(s: String) -> Result<Digest, Error> {
        s.parse()
    }
}

impl From<Digest> for String {
    fn from(d: Digest) -> String {
        d.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hashes and counts what is read through it, and copies it to a writer.
pub(crate) struct Tee<R, W> {
    inner: R,
    copy: W,
    hash: Sha256,
    len: u64,
}

impl<R: Read, W: io::Write> Tee<R, W> {
    pub(crate) fn new(inner: R, copy: W) -> Self {
        Tee { inner, copy, hash: Sha256::new(), len: 0 }
    }

    /// Digest and length of everything that was read, and the copy.
    pub(crate) fn finish(self) -> (Digest, u64, W) {
        (Digest(self.hash.finalize().into()), self.len, self.copy)
    }
}

impl<R: Read, W: io::Write> Read for Tee<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        self.copy.write_all(&buf[..n])?;
        self.len += n as u64;
        Ok(n)
    }
}
