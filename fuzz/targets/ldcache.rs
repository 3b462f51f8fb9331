//! `/etc/ld.so.cache`.
#![no_main]

use boxship_layers::fuzzing::library;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// A cache with the right magic, whose offsets point to anywhere near.
fn cache(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let entries: u32 = u.int_in_range(0..=6)?;
    let strings = 48 + 24 * entries;
    let mut data = b"glibc-ld.so.cache1.1".to_vec();
    let count = if u.ratio(1u8, 8u8)? { u.arbitrary()? } else { entries };
    data.extend(count.to_ne_bytes());
    data.resize(48, 0);
    for _ in 0..entries {
        let flags: i32 = *u.choose(&[0x0303, 0x0303, 0x0303, 0x0a03, -1])?;
        data.extend(flags.to_ne_bytes());
        for _ in 0..2 {
            let offset: u32 =
                if u.ratio(1u8, 8u8)? { u.arbitrary()? } else { strings + u.int_in_range(0..=40)? };
            data.extend(offset.to_ne_bytes());
        }
        data.extend([0; 12]);
    }
    data.extend(b"libc.so.6\0/lib/libc.so.6\0");
    data.extend(u.bytes(u.len())?);
    Ok(data)
}

fuzz_target!(|data: &[u8]| {
    let _ = library(data, "libc.so.6");
    if let Ok(bytes) = cache(&mut Unstructured::new(data)) {
        let found = library(&bytes, "libc.so.6");
        if let Some(Some(path)) = found {
            let text = path.to_str().expect("UTF-8");
            let at = bytes.windows(text.len().max(1)).any(|w| text.is_empty() || w == text.as_bytes());
            assert!(at, "{path:?} is not in the cache");
        }
    }
});
