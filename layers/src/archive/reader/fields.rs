//! The fields of a header and the numbers of PAX records: where readers take them for different values,
//! they have none.

use super::{BLOCK, bad};
use crate::error::Result;

/// The name in a header, which may be in two parts, cut in the same place by all readers.
pub(super) fn header_name(header: &[u8; BLOCK]) -> Result<Vec<u8>> {
    let (name, prefix) = (field(header, 0, 100), field(header, 345, 155));
    match &header[257..265] {
        b"ustar\x0000" => {}
        // Some read a prefix here nevertheless, some times.
        b"ustar  \0" | b"\0\0\0\0\0\0\0\0" if prefix.is_empty() => {}
        b"ustar  \0" | b"\0\0\0\0\0\0\0\0" => return Err(bad(name, "a prefix in a header that has none")),
        _ => return Err(bad(name, "an unknown magic number")),
    }
    // The header of star has a shorter prefix and two times behind it.
    if &header[508..] == b"tar\0" && (prefix.len() > 130 || header[476..500].iter().any(|b| *b != 0)) {
        return Err(bad(name, "a prefix that may be one of star's"));
    }
    Ok(if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() })
}

/// Permission bits, with or without those of the type above them.
pub(super) fn mode(f: &[u8]) -> Option<u32> {
    number(f).and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= 0o7_777_777).map(|n| n & 0o7777)
}

/// A field up to its first NUL.
pub(super) fn field(b: &[u8; BLOCK], start: usize, len: usize) -> &[u8] {
    let f = &b[start..start + len];
    &f[..f.iter().position(|c| *c == 0).unwrap_or(len)]
}

/// Octal with blanks and NULs around it, or GNU's base 256.
pub(super) fn number(f: &[u8]) -> Option<u64> {
    if f[0] & 0x80 != 0 {
        // Negative numbers (0xff…) and such beyond 63 bits have no meaning here.
        let (first, rest) = f.split_first()?;
        let high = rest.len().saturating_sub(8);
        if first & 0x7f != 0 || rest[..high].iter().any(|b| *b != 0) {
            return None;
        }
        return Some(rest[high..].iter().fold(0u64, |n, b| n << 8 | u64::from(*b)))
            .filter(|n| *n <= i64::MAX as u64);
    }
    let text = &f[f.iter().take_while(|c| **c == b' ').count()..];
    let (digits, tail) = text.split_at(text.iter().take_while(|c| c.is_ascii_digit()).count());
    // Nothing at all is 0, but only blanks are no number to some.
    let blank = digits.is_empty() && f.contains(&b' ');
    if blank || digits.iter().any(|d| *d > b'7') || tail.iter().any(|c| *c != b' ' && *c != 0) {
        return None;
    }
    digits.iter().try_fold(0u64, |n, d| n.checked_mul(8)?.checked_add(u64::from(d - b'0')))
}

/// A time of a header. Before 1970 it is a negative number in GNU's base 256.
pub(super) fn seconds(f: &[u8]) -> Option<i64> {
    if f[0] != 0xff {
        return number(f).map(u64::cast_signed);
    }
    let (high, low) = f.split_at(f.len().checked_sub(8)?);
    let n = i64::from_be_bytes(low.try_into().ok()?);
    (n < 0 && high.iter().all(|b| *b == 0xff)).then_some(n)
}

pub(super) fn plain_number(v: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(v).ok()?;
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// `seconds[.fraction]`, possibly negative.
pub(super) fn time(v: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(v).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    // Below zero, what is cut off would change the seconds.
    let cut = whole.starts_with('-') && fraction.len() > 9;
    if cut || whole.starts_with('+') || fraction.bytes().any(|b| !b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos =
        fraction.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |n, b| n * 10 + u32::from(b - b'0'));
    // -1.25 is 1.25 s before 1970: the fraction counts downwards.
    match (whole.starts_with('-'), nanos) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((seconds, nanos)),
    }
}
