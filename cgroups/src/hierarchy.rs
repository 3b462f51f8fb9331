//! Which cgroup hierarchies the host has, from the text of `/proc/self/mountinfo`.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// The arrangement of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// Only v1 hierarchies.
    V1,
    /// One v2 tree with the controllers.
    V2,
    /// v1 hierarchies with the controllers, and a v2 tree beside them.
    Hybrid,
}

/// The mounted hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// v1: controllers (or `name=…`) and mount point.
    pub(crate) v1: Vec<(Vec<String>, PathBuf)>,
    /// v2.
    pub(crate) unified: Option<PathBuf>,
}

/// Flags of a mount that are not controllers.
const FLAGS: &[&str] = &["rw", "ro", "xattr", "noprefix", "clone_children", "none"];

impl Hierarchies {
    /// Reads the caller's mounts.
    ///
    /// # Errors
    /// [`Error::Io`] when `/proc/self/mountinfo` cannot be read.
    pub fn detect() -> Result<Hierarchies> {
        let path = "/proc/self/mountinfo";
        let text = std::fs::read(path).map_err(|source| Error::Io {
            operation: "read",
            path: path.into(),
            source,
        })?;
        // Who may mount (with FUSE, any user) chooses names that need not be UTF-8.
        Ok(Hierarchies::parse(&String::from_utf8_lossy(&text)))
    }

    /// Parses mountinfo text, proc_pid_mountinfo(5). Lines that do not parse, and mounts of a part of
    /// a hierarchy, are skipped.
    ///
    /// ```
    /// use boxship_cgroups::{Hierarchies, Version};
    /// let text = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    /// assert_eq!(Hierarchies::parse(text).version(), Some(Version::V2));
    /// ```
    #[must_use]
    pub fn parse(mountinfo: &str) -> Hierarchies {
        let mut found = Hierarchies::default();
        // Not str::lines: a name may end with a carriage return, which the kernel does not escape.
        for line in mountinfo.split('\n') {
            let Some((mount, fs)) = line.split_once(" - ") else { continue };
            let (mut mount, mut fs) = (mount.split(' ').skip(3), fs.split(' '));
            let (Some(root), Some(point), Some(kind)) = (mount.next(), mount.next(), fs.next()) else {
                continue;
            };
            if root != "/" {
                continue;
            }
            let point = PathBuf::from(unescape(point));
            match kind {
                "cgroup2" if found.unified.is_none() => found.unified = Some(point),
                "cgroup" => {
                    let options = fs.nth(1).unwrap_or_default();
                    let names: Vec<String> = options
                        .split(',')
                        .filter(|o| !o.is_empty() && !FLAGS.contains(o) && !o.starts_with("release_agent="))
                        .map(str::to_owned)
                        .collect();
                    if !names.is_empty() && !found.v1.iter().any(|(other, _)| *other == names) {
                        found.v1.push((names, point));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// The arrangement, `None` when no hierarchy is mounted.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        match (self.v1.is_empty(), &self.unified) {
            (true, None) => None,
            (true, Some(_)) => Some(Version::V2),
            (false, None) => Some(Version::V1),
            (false, Some(_)) => Some(Version::Hybrid),
        }
    }
}

/// Spaces, tabs, newlines and backslashes appear as `\ooo`.
fn unescape(s: &str) -> String {
    let mut out = Vec::with_capacity(s.len());
    let mut rest = s.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        // from_str_radix would take a sign for the first digit.
        let digits = tail.get(..3).filter(|d| d.iter().all(|c| (b'0'..=b'7').contains(c)));
        let octal = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HYBRID: &str = "\
36 29 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
37 29 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
38 29 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
39 29 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
40 29 0:31 /docker/x /mnt rw - cgroup cgroup rw,memory
41 29 0:40 / /with\\040space rw - cgroup cgroup rw,pids
";

    #[test]
    fn hybrid_host() {
        let h = Hierarchies::parse(HYBRID);
        assert_eq!(h.version(), Some(Version::Hybrid));
        assert_eq!(h.v1.len(), 4);
        assert_eq!(h.v1[0].0, ["cpu", "cpuacct"]);
        assert_eq!(h.v1[2].0, ["name=systemd"]);
        assert_eq!(h.v1[3].1, PathBuf::from("/with space"));
        assert_eq!(Hierarchies::parse("").version(), None);
        let odd = Hierarchies::parse("1 2 0:3 / /a\r rw - cgroup2 cgroup2 rw\r\n");
        assert_eq!(odd.unified, Some(PathBuf::from("/a\r")));
    }

    #[test]
    fn only_what_the_kernel_escapes_is_unescaped() {
        assert_eq!(unescape(r"a\040b\134c\"), r"a b\c\");
        assert_eq!(unescape(r"\+12\777\08"), r"\+12\777\08");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "([ -~]{0,80}\n){0,6}", tail in ".{0,60}") {
            let _ = Hierarchies::parse(&text);
            let _ = Hierarchies::parse(&format!("1 2 0:1 / {tail} - cgroup cgroup {tail}"));
        }
    }
}
