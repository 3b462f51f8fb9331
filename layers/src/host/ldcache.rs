//! `/etc/ld.so.cache`: names of libraries and where they are (glibc's `dl-cache.h`, format 1.1).

use std::collections::HashMap;
use std::path::PathBuf;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// FLAG_ELF_LIBC6 with the bits of the 64-bit ABI of each architecture.
const FLAGS: i32 = if cfg!(target_arch = "aarch64") { 0x0a03 } else { 0x0303 };

#[derive(Default)]
pub(crate) struct Cache(HashMap<String, PathBuf>);

impl Cache {
    /// Reads the host's cache; without one (musl) libraries are found in the system's directories.
    pub(crate) fn load() -> Cache {
        std::fs::read("/etc/ld.so.cache").ok().and_then(|data| Cache::parse(&data)).unwrap_or_default()
    }

    /// `None` for data that is not a cache of the known format.
    pub(crate) fn parse(data: &[u8]) -> Option<Cache> {
        // An old-format cache may come first.
        let start = data.windows(MAGIC.len()).position(|w| w == MAGIC)?;
        let data = &data[start..];
        let word = |at: usize| Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?));
        let text = |at: u32| {
            let rest = data.get(at as usize..)?;
            std::str::from_utf8(rest.split(|b| *b == 0).next()?).ok()
        };
        let mut map = HashMap::new();
        for i in 0..word(MAGIC.len())? as usize {
            let at = HEADER + i.checked_mul(ENTRY)?;
            if word(at)?.cast_signed() == FLAGS
                && let (Some(key), Some(value)) = (text(word(at + 4)?), text(word(at + 8)?))
            {
                map.entry(key.to_owned()).or_insert_with(|| PathBuf::from(value));
            }
        }
        Some(Cache(map))
    }

    pub(crate) fn lookup(&self, name: &str) -> Option<&PathBuf> {
        self.0.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn libc_is_found_where_ldconfig_says() {
        let Ok(data) = std::fs::read("/etc/ld.so.cache") else { return };
        let cache = Cache::parse(&data).expect("this system's cache");
        assert!(cache.lookup("libc.so.6").is_some_and(|p| p.is_absolute()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Cache::parse(&[MAGIC, &tail].concat());
            let _ = Cache::parse(&tail);
        }
    }
}
