//! Numbers and times as text, without an allocator.

/// Writes `n` in decimal at `at` and returns the end; stops at the end of the buffer.
pub fn decimal(b: &mut [u8], at: usize, mut n: u64) -> usize {
    let mut digits = [0u8; 20];
    let mut i = digits.len();
    loop {
        i -= 1;
        digits[i] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    append(b, at, &digits[i..])
}

/// Copies `s` to `at` and returns the end; stops at the end of the buffer.
pub fn append(b: &mut [u8], at: usize, s: &[u8]) -> usize {
    let n = s.len().min(b.len().saturating_sub(at));
    b[at..at + n].copy_from_slice(&s[..n]);
    at + n
}

fn padded(b: &mut [u8], at: usize, n: u64, width: usize) -> usize {
    let mut rest = n;
    for i in (0..width).rev() {
        b[at + i] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    at + width
}

/// Length of an RFC 3339 time with nanoseconds.
pub const TIME_LEN: usize = 30;

/// `2026-11-20T19:13:23.123456789Z` from nanoseconds since 1970 (Howard Hinnant's civil-from-days).
pub fn rfc3339(b: &mut [u8; TIME_LEN], ns: u64) {
    let seconds = ns / 1_000_000_000;
    let day = seconds / 86400 + 719_468;
    let era = day / 146_097;
    let doe = day - era * 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let mut at = 0;
    for (n, width, end) in [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (doy - (153 * mp + 2) / 5 + 1, 2, b'T'),
        (seconds / 3600 % 24, 2, b':'),
        (seconds / 60 % 60, 2, b':'),
        (seconds % 60, 2, b'.'),
        (ns % 1_000_000_000, 9, b'Z'),
    ] {
        at = padded(b, at, n, width);
        b[at] = end;
        at += 1;
    }
}

/// The number after `key ` in a "key value" file, or the first number when `key` is empty.
pub fn number_after(text: &[u8], key: &[u8]) -> Option<u64> {
    for line in text.split(|c| *c == b'\n') {
        let rest = if key.is_empty() { Some(line) } else { line.strip_prefix(key).and_then(|r| r.strip_prefix(b" ")) };
        if let Some(rest) = rest {
            let digits = rest.iter().take_while(|c| c.is_ascii_digit());
            return digits.fold(None, |n, c| Some(n.unwrap_or(0u64).wrapping_mul(10).wrapping_add(u64::from(c - b'0'))));
        }
    }
    None
}
