//! Id maps of user namespaces: the container's ids on the left, the host's on the right.

use std::fmt::Write as _;

use crate::error::{Error, Result};

/// The kernel's limit of lines in `uid_map` (user_namespaces(7)).
const MAX_RANGES: usize = 340;

/// One line of an id map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// First id inside the container.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many ids.
    pub count: u32,
}

/// A map of container ids to host ids, checked to be free of overlaps.
///
/// ```
/// use boxship_namespaces::IdMap;
/// let map = IdMap::range(100_000, 65_536)?;
/// assert_eq!(map.host(0), Some(100_000));
/// assert_eq!(map.container(100_005), Some(5));
/// assert_eq!(map.host(65_536), None);
/// # Ok::<(), boxship_namespaces::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdMap(Vec<IdRange>);

impl IdMap {
    /// Maps container id 0 alone to `host`: what an ordinary user may do without help.
    #[must_use]
    pub fn single(host: u32) -> IdMap {
        IdMap(vec![IdRange { container: 0, host, count: 1 }])
    }

    /// Maps `0..count` to `host..host + count`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the range is empty or leaves the 32-bit ids.
    pub fn range(host: u32, count: u32) -> Result<IdMap> {
        IdMap::new(vec![IdRange { container: 0, host, count }])
    }

    /// Checks ranges: at least one, at most 340, none empty, none beyond 2³²-2, no overlap on
    /// either side.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the offending range.
    pub fn new(ranges: Vec<IdRange>) -> Result<IdMap> {
        let bad = |reason: String| Err(Error::invalid("id map", reason));
        if ranges.is_empty() || ranges.len() > MAX_RANGES {
            return bad(format!("it has {} ranges; 1 to {MAX_RANGES} are allowed", ranges.len()));
        }
        let end = |first: u32, r: &IdRange| u64::from(first) + u64::from(r.count);
        for (i, r) in ranges.iter().enumerate() {
            if r.count == 0 || end(r.container, r).max(end(r.host, r)) > u64::from(u32::MAX) {
                return bad(format!("{r:?} is empty or passes 4294967294"));
            }
            for other in &ranges[..i] {
                let overlaps = |a: u32, b: u32| u64::from(a) < end(b, other) && u64::from(b) < end(a, r);
                if overlaps(r.container, other.container) || overlaps(r.host, other.host) {
                    return bad(format!("{r:?} overlaps {other:?}"));
                }
            }
        }
        Ok(IdMap(ranges))
    }

    /// The ranges in the order given.
    #[must_use]
    pub fn ranges(&self) -> &[IdRange] {
        &self.0
    }

    /// The host id of a container id.
    #[must_use]
    pub fn host(&self, id: u32) -> Option<u32> {
        self.0
            .iter()
            .find(|r| id >= r.container && id - r.container < r.count)
            .map(|r| r.host + (id - r.container))
    }

    /// The container id of a host id.
    #[must_use]
    pub fn container(&self, id: u32) -> Option<u32> {
        self.0.iter().find(|r| id >= r.host && id - r.host < r.count).map(|r| r.container + (id - r.host))
    }

    /// The text that `/proc/<pid>/uid_map` takes.
    pub(crate) fn kernel_text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, r| {
            let _ = writeln!(text, "{} {} {}", r.container, r.host, r.count);
            text
        })
    }

    /// The same container ids mapped to themselves, for a namespace nested in this one.
    pub(crate) fn nested(&self) -> IdMap {
        IdMap(self.0.iter().map(|r| IdRange { host: r.container, ..*r }).collect())
    }
}

/// The ranges that `/etc/subuid` or `/etc/subgid` text delegates to a user, by name or number
/// (subuid(5)). Lines that do not parse are skipped, as newuidmap does.
#[must_use]
pub fn parse_subids(text: &str, user: &str, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().splitn(3, ':');
            let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
            (owner == user || owner == number).then_some(())?;
            Some((first.parse().ok()?, count.parse().ok()?))
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overlaps_and_ends_are_refused() {
        let r = |container, host, count| IdRange { container, host, count };
        assert!(IdMap::new(vec![]).is_err());
        assert!(IdMap::new(vec![r(0, 0, 0)]).is_err());
        assert!(IdMap::new(vec![r(0, u32::MAX, 1)]).is_err());
        assert!(IdMap::new(vec![r(0, 1000, 10), r(5, 5000, 10)]).is_err());
        assert!(IdMap::new(vec![r(0, 1000, 10), r(10, 1009, 1)]).is_err());
        assert!(IdMap::new(vec![r(0, 1000, 10), r(10, 1010, 1)]).is_ok());
    }

    #[test]
    fn subids_by_name_and_number() {
        let text = "alice:100000:65536\n1000:300000:10\nbob:1:1\nbroken\nalice:x:1\n";
        assert_eq!(parse_subids(text, "alice", 1000), [(100_000, 65_536), (300_000, 10)]);
    }

    proptest! {
        #[test]
        fn mapping_is_a_bijection(host in 0u32..4_000_000_000, count in 1u32..200_000_000, id in any::<u32>()) {
            if let Ok(map) = IdMap::range(host, count) {
                match map.host(id) {
                    Some(h) => prop_assert_eq!(map.container(h), Some(id)),
                    None => prop_assert!(id >= count),
                }
            }
        }

        #[test]
        fn subid_text_never_panics(text in ".{0,200}", user in ".{0,10}") {
            let _ = parse_subids(&text, &user, 7);
        }
    }
}
