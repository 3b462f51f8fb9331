//! Units with names.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// A number of bytes.
///
/// ```
/// use boxship::ByteSize;
/// assert_eq!(ByteSize::mib(64).bytes(), 67_108_864);
/// assert_eq!("64m".parse::<ByteSize>()?, ByteSize::mib(64));
/// assert_eq!(ByteSize::mib(1536).to_string(), "1.5 GiB");
/// # Ok::<(), boxship::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ByteSize(u64);

impl ByteSize {
    /// Exactly this many bytes.
    #[must_use]
    pub const fn b(bytes: u64) -> ByteSize {
        ByteSize(bytes)
    }

    /// Units of 1024 bytes.
    #[must_use]
    pub const fn kib(n: u64) -> ByteSize {
        ByteSize(n.saturating_mul(1 << 10))
    }

    /// Units of 1024² bytes.
    #[must_use]
    pub const fn mib(n: u64) -> ByteSize {
        ByteSize(n.saturating_mul(1 << 20))
    }

    /// Units of 1024³ bytes.
    #[must_use]
    pub const fn gib(n: u64) -> ByteSize {
        ByteSize(n.saturating_mul(1 << 30))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = Error;
    /// Reads `512`, `64k`, `64m`, `2g` and the same with `b` behind, as Docker does (powers of 1024).
    fn from_str(s: &str) -> Result<ByteSize, Error> {
        let bad = || Error::invalid("size", format!("{s:?} is not a number of bytes like \"64m\""));
        let lower = s.to_ascii_lowercase();
        let text = lower.strip_suffix('b').unwrap_or(&lower);
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'k') => (&text[..text.len() - 1], 10),
            Some(b'm') => (&text[..text.len() - 1], 20),
            Some(b'g') => (&text[..text.len() - 1], 30),
            Some(b't') => (&text[..text.len() - 1], 40),
            _ => (text, 0),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).map(ByteSize).ok_or_else(bad)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.iter().find(|(shift, _)| self.0 >> shift > 0) {
            Some((shift, unit)) => {
                let tenths = (u128::from(self.0) * 10) >> shift;
                if tenths % 10 == 0 {
                    write!(f, "{} {unit}", tenths / 10)
                } else {
                    write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
                }
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

/// A signal, signal(7).
///
/// ```
/// use boxship::Signal;
/// assert_eq!("SIGTERM".parse::<Signal>()?, Signal::TERM);
/// # Ok::<(), boxship::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal(i32);

impl Signal {
    /// Hang up.
    pub const HUP: Signal = Signal(1);
    /// Interrupt, as Ctrl-C sends.
    pub const INT: Signal = Signal(2);
    /// Quit.
    pub const QUIT: Signal = Signal(3);
    /// Kill: cannot be caught.
    pub const KILL: Signal = Signal(9);
    /// First user-defined signal.
    pub const USR1: Signal = Signal(10);
    /// Second user-defined signal.
    pub const USR2: Signal = Signal(12);
    /// Please end.
    pub const TERM: Signal = Signal(15);

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = Error;
    fn from_str(s: &str) -> Result<Signal, Error> {
        boxship_runtime::parse_signal(s).map(Signal).ok_or_else(|| {
            Error::invalid("signal", format!("{s:?} is neither the name nor the number of a signal"))
        })
    }
}
