//! Names of repositories, tags and uploads. What is one of these types is safe in a path.

use std::fmt;

/// The longest name of a repository.
const MAX_NAME: usize = 255;
/// The longest tag.
const MAX_TAG: usize = 128;

/// The name of a repository: no part is empty, begins with `_` or `.`, or is `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(String);

/// A tag: it does not begin with a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag(String);

/// What an upload is called: 32 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct UploadId(String);

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_part(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(|b| word(*b)) && bytes.last().is_some_and(|b| word(*b));
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends && separators
        .filter(|s| !s.is_empty())
        .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

impl Name {
    pub(crate) fn parse(text: &str) -> Option<Name> {
        (text.len() <= MAX_NAME && text.split('/').all(is_part)).then(|| Name(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    pub(crate) fn parse(text: &str) -> Option<Tag> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let fits = text.len() <= MAX_TAG
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        fits.then(|| Tag(text.to_owned()))
    }
}

impl UploadId {
    pub(crate) fn parse(text: &str) -> Option<UploadId> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 32 && text.bytes().all(hex)).then(|| UploadId(text.to_owned()))
    }

    /// Nobody can guess it.
    pub(super) fn random() -> std::io::Result<UploadId> {
        let mut bytes = [0u8; 16];
        fill(&mut bytes)?;
        Ok(UploadId(hex(&bytes)))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Random bytes of the kernel.
pub(super) fn fill(mut bytes: &mut [u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => bytes = &mut bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        use fmt::Write as _;
        let _ = write!(s, "{b:02x}");
        s
    })
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        let longest = "a/".repeat(127) + "a";
        for good in ["a", "a/b", "team/app-1.2", "a__b", "a---b", "0/1/2", &longest] {
            assert!(Name::parse(good).is_some(), "{good:?}");
        }
        let long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "a//b", ".", "..", "a/..", "../a", "_a", "a_", "a..b", "a._b", "a___b", "A",
            "a b", "a\0", "ä", "a%2f", "a/_tags", "-a", "a-", ".a", &long,
        ] {
            assert!(Name::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn tags() {
        for good in ["a", "_", "A.b-c_d", "1.2", &"x".repeat(128)] {
            assert!(Tag::parse(good).is_some(), "{good:?}");
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a:b", "a\n", "ä", &"x".repeat(129)] {
            assert!(Tag::parse(bad).is_none(), "{bad:?}");
        }
    }

    proptest! {
        /// Whatever parses stays below its directory, and meets none of the directories that are ours.
        #[test]
        fn nothing_escapes(s in "[a-z0-9A-Z._/-]{0,40}") {
            if let Some(name) = Name::parse(&s) {
                prop_assert!(name.as_str().split('/').all(|p| !p.is_empty() && !p.starts_with(['.', '_'])));
            }
            if let Some(tag) = Tag::parse(&s) {
                let tag = tag.to_string();
                prop_assert!(!tag.contains('/') && !tag.starts_with('.'));
            }
        }
    }
}
