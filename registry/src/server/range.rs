//! Ranges: of a blob that is read (RFC 9110), and of a chunk that is sent (the specification's own form).

/// What part of a blob is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it: nothing, or nothing that we understand, was said.
    Whole,
    /// From the first to the last of these bytes.
    Bytes(u64, u64),
    /// None of it is there.
    Outside,
}

/// Reads a `Range` header. Several ranges at once, which nobody needs here, are answered with everything.
pub(crate) fn part(header: Option<&str>, size: u64) -> Part {
    let Some(range) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else { return Part::Whole };
    let Some((first, last)) = range.trim().split_once('-') else { return Part::Whole };
    let end = size.saturating_sub(1);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Part::Whole,
        (Some(first), _) if first >= size && (last.is_empty() || number(last).is_some()) => Part::Outside,
        (Some(first), Some(last)) => Part::Bytes(first, last.min(end)),
        (Some(first), None) if last.is_empty() => Part::Bytes(first, end),
        (None, Some(0)) if first.is_empty() => Part::Outside,
        (None, Some(_)) if first.is_empty() && size == 0 => Part::Outside,
        (None, Some(n)) if first.is_empty() => Part::Bytes(size.saturating_sub(n), end),
        _ => Part::Whole,
    }
}

/// Reads the `Content-Range` of a chunk: `first-last`, and as some clients write it `bytes first-last/size`.
pub(crate) fn chunk(header: &str) -> Option<(u64, u64)> {
    let text = header.trim();
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let (first, last) = text.split('/').next()?.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < u64::MAX).then_some((first, last))
}

/// Digits only: no sign and no space.
pub(crate) fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts() {
        for (header, want) in [
            ("bytes=0-9", Part::Bytes(0, 9)),
            ("bytes=0-999", Part::Bytes(0, 99)),
            ("bytes=90-", Part::Bytes(90, 99)),
            ("bytes=-10", Part::Bytes(90, 99)),
            ("bytes=-1000", Part::Bytes(0, 99)),
            ("bytes=100-", Part::Outside),
            ("bytes=100-200", Part::Outside),
            ("bytes=-0", Part::Outside),
            ("bytes=9-0", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("items=0-1", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-2", Part::Whole),
        ] {
            assert_eq!(part(Some(header), 100), want, "{header:?}");
        }
        assert_eq!(part(None, 100), Part::Whole);
        assert_eq!(part(Some("bytes=0-"), 0), Part::Outside);
        assert_eq!(part(Some("bytes=-5"), 0), Part::Outside);
    }

    #[test]
    fn chunks() {
        assert_eq!(chunk("0-9"), Some((0, 9)));
        assert_eq!(chunk("bytes 5-9/10"), Some((5, 9)));
        assert_eq!(chunk("bytes=5-9"), Some((5, 9)));
        for bad in
            ["", "-", "0-", "-1", "9-5", "a-b", "0-18446744073709551615", "0-99999999999999999999", "+0-1"]
        {
            assert_eq!(chunk(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_inside(header in "(bytes=)?[0-9,-]{0,12}", size in 0u64..200) {
            if let Part::Bytes(first, last) = part(Some(&header), size) {
                prop_assert!(first <= last && last < size);
            }
            let _ = chunk(&header);
        }
    }
}
