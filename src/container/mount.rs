//! Mounts in the facade's words.

use std::path::Path;
use std::str::FromStr;

use boxship_runtime::{BindMount, MountKind, MountPoint};

use crate::error::{Error, Result};
use crate::units::ByteSize;

/// Something mounted in a container.
///
/// ```
/// use boxship::{ByteSize, Mount};
/// let certificates = Mount::bind("/etc/ssl/certs", "/etc/ssl/certs").read_only();
/// let scratch = Mount::tmpfs("/scratch").size(ByteSize::mib(16));
/// # let _ = (certificates, scratch);
/// ```
///
/// Text is read as Docker's command line reads it, `-v` and `--mount`:
///
/// ```
/// use boxship::{ByteSize, Mount};
/// assert_eq!("/srv/data:/data:ro".parse::<Mount>()?, Mount::bind("/srv/data", "/data").read_only());
/// assert_eq!(
///     "type=tmpfs,destination=/scratch,tmpfs-size=16m".parse::<Mount>()?,
///     Mount::tmpfs("/scratch").size(ByteSize::mib(16))
/// );
/// # Ok::<(), boxship::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount(pub(super) MountPoint);

impl Mount {
    /// A directory or file of the host, without setuid programs and device nodes. Files keep the ids
    /// they have on the host, whatever the container's ids are.
    #[must_use]
    pub fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Mount {
        let bind = BindMount { source: source.as_ref().to_owned(), dangerous: false };
        Mount(MountPoint {
            target: target.as_ref().to_owned(),
            kind: MountKind::Bind(bind),
            read_only: false,
        })
    }

    /// An empty file system in memory.
    #[must_use]
    pub fn tmpfs(target: impl AsRef<Path>) -> Mount {
        let kind = MountKind::Tmpfs { size: None, mode: 0o1777 };
        Mount(MountPoint { target: target.as_ref().to_owned(), kind, read_only: false })
    }

    /// Forbids writing, also in mounts below the source.
    #[must_use]
    pub fn read_only(mut self) -> Mount {
        self.0.read_only = true;
        self
    }

    /// Limits a tmpfs.
    #[must_use]
    pub fn size(mut self, limit: ByteSize) -> Mount {
        if let MountKind::Tmpfs { size, .. } = &mut self.0.kind {
            *size = Some(limit.bytes());
        }
        self
    }

    /// Allows a source that gives the container the host: `/`, `/proc`, `/sys`, `/dev` or boxship's
    /// own store.
    #[must_use]
    pub fn dangerous(mut self) -> Mount {
        if let MountKind::Bind(b) = &mut self.0.kind {
            b.dangerous = true;
        }
        self
    }
}

fn bad(reason: impl std::fmt::Display) -> Error {
    Error::invalid("mount", reason)
}

impl FromStr for Mount {
    type Err = Error;

    /// `/source:/target[:ro|rw]`, or `type=bind|tmpfs,` with `source` (`src`), `target` (`dst`,
    /// `destination`), `readonly` (`ro`), `tmpfs-size`, `tmpfs-mode`. A value with a comma is written as
    /// `"key=value"`. Nothing is ignored: options that Docker knows and boxship does not are errors.
    fn from_str(text: &str) -> Result<Mount> {
        if text.contains('\0') {
            return Err(bad("it contains a NUL"));
        }
        let key = text.trim_start_matches('"').split(['=', ',']).next().unwrap_or_default();
        if text.contains('=') && KEYS.contains(&key) { by_keys(text) } else { by_place(text) }
    }
}

const KEYS: [&str; 10] =
    ["type", "source", "src", "target", "dst", "destination", "readonly", "ro", "tmpfs-size", "tmpfs-mode"];

fn absolute<'a>(what: &str, path: &'a str) -> Result<&'a str> {
    let hint = if what == "source" { "; named volumes do not exist yet" } else { "" };
    let reason = || bad(format!("the {what} {path:?} is no absolute path{hint}"));
    path.starts_with('/').then_some(path).ok_or_else(reason)
}

/// Docker's `-v`.
fn by_place(text: &str) -> Result<Mount> {
    let mut parts = text.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(bad(format!("{text:?} is not source:target")));
    };
    if !source.starts_with('/') {
        return Err(bad(format!(
            "the source {source:?} is no absolute path; named volumes do not exist yet"
        )));
    }
    if !target.starts_with('/') {
        return Err(bad(format!("the target {target:?} is no absolute path")));
    }
    let mut mount = Mount::bind(source, target);
    match (parts.next(), parts.next()) {
        (None | Some("rw"), None) => {}
        (Some("ro"), None) => mount = mount.read_only(),
        (Some(option), None) => return Err(bad(format!("the option {option:?} is not known; use ro or rw"))),
        _ => return Err(bad(format!("{text:?} has too many colons; use type=bind,source=…,target=…"))),
    }
    Ok(mount)
}

/// Fields of a comma-separated line; one in quotes may have commas, and `""` for a quote.
fn fields(text: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let mut rest = text;
    loop {
        let mut field = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next() {
                    Some((_, '"')) if chars.peek().is_some_and(|(_, c)| *c == '"') => {
                        chars.next();
                        field.push('"');
                    }
                    Some((i, '"')) => break i + 1,
                    Some((_, c)) => field.push(c),
                    None => return Err(bad("a quote does not end")),
                }
            };
            rest = &quoted[end..];
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            field.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        all.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Ok(all),
            None => return Err(bad(format!("{rest:?} follows a quote"))),
        }
    }
}

/// Docker's `--mount`.
fn by_keys(text: &str) -> Result<Mount> {
    let (mut kind, mut source, mut target, mut read_only, mut size, mut mode) =
        (None, None, None, None, None, None);
    for field in fields(text)? {
        let (key, value) = field.split_once('=').map_or((&field[..], None), |(k, v)| (k, Some(v)));
        let given = || value.filter(|v| !v.is_empty()).ok_or_else(|| bad(format!("{key} has no value")));
        let twice = match key {
            "type" => kind.replace(given()?.to_owned()).is_some(),
            "source" | "src" => source.replace(given()?.to_owned()).is_some(),
            "target" | "dst" | "destination" => target.replace(given()?.to_owned()).is_some(),
            "readonly" | "ro" => {
                let on = match value {
                    None | Some("true" | "1") => true,
                    Some("false" | "0") => false,
                    Some(other) => return Err(bad(format!("{key} is true or false and not {other:?}"))),
                };
                read_only.replace(on).is_some()
            }
            "tmpfs-size" => size.replace(given()?.parse::<ByteSize>()?).is_some(),
            "tmpfs-mode" => {
                let bits = u32::from_str_radix(given()?, 8).ok().filter(|m| *m <= 0o7777);
                let bits = bits.ok_or_else(|| bad("tmpfs-mode is an octal number up to 7777"))?;
                mode.replace(bits).is_some()
            }
            _ => return Err(bad(format!("the option {key:?} is not known"))),
        };
        if twice {
            return Err(bad(format!("{key} is given twice")));
        }
    }
    let target = target.ok_or_else(|| bad("it has no target"))?;
    let target = absolute("target", &target)?;
    let mut mount = match (kind.as_deref(), &source) {
        (Some("bind"), Some(source)) => Mount::bind(absolute("source", source)?, target),
        (Some("bind"), None) => return Err(bad("a bind mount has a source")),
        (Some("tmpfs"), None) => Mount::tmpfs(target),
        (Some("tmpfs"), Some(_)) => return Err(bad("a tmpfs has no source")),
        (None | Some("volume"), _) => {
            return Err(bad("volumes do not exist yet; use type=bind or type=tmpfs"));
        }
        (Some(other), _) => return Err(bad(format!("the type {other:?} is neither bind nor tmpfs"))),
    };
    mount.0.read_only = read_only.unwrap_or(false);
    match &mut mount.0.kind {
        MountKind::Tmpfs { size: s, mode: m } => {
            *s = size.map(ByteSize::bytes);
            *m = mode.unwrap_or(*m);
        }
        _ if size.is_some() || mode.is_some() => return Err(bad("only a tmpfs has a size and a mode")),
        _ => {}
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_reads_them() {
        let bind = || Mount::bind("/a", "/b");
        for (text, want) in [
            ("/a:/b", bind()),
            ("/a:/b:rw", bind()),
            ("/a:/b:ro", bind().read_only()),
            ("/a=b:/c", Mount::bind("/a=b", "/c")),
            ("type=bind,src=/a,dst=/b", bind()),
            ("target=/b,readonly,source=/a,type=bind", bind().read_only()),
            ("type=bind,source=/a,destination=/b,ro=true", bind().read_only()),
            ("type=bind,source=/a,destination=/b,readonly=0", bind()),
            (r#"type=bind,"source=/a,""x""",target=/b"#, Mount::bind("/a,\"x\"", "/b")),
            ("type=bind,source=/a:b,target=/b", Mount::bind("/a:b", "/b")),
            ("type=tmpfs,target=/t", Mount::tmpfs("/t")),
            ("type=tmpfs,target=/t,tmpfs-size=1k", Mount::tmpfs("/t").size(ByteSize::kib(1))),
        ] {
            assert_eq!(text.parse::<Mount>().ok(), Some(want), "{text:?}");
        }
        let mode = "type=tmpfs,dst=/t,tmpfs-mode=0700,ro".parse::<Mount>().expect("it reads");
        assert_eq!(mode.0.kind, MountKind::Tmpfs { size: None, mode: 0o700 });
        assert!(mode.0.read_only);
    }

    #[test]
    fn what_is_no_mount_says_why() {
        for (text, words) in [
            ("", "source:target"),
            ("/a", "source:target"),
            ("data:/b", "named volumes"),
            ("./a:/b", "absolute"),
            ("/a:b", "absolute"),
            ("/a:/b:z", "\"z\""),
            ("/a:/b:ro,z", "\"ro,z\""),
            ("/a:/b:ro:x", "colons"),
            ("/a\0:/b", "NUL"),
            ("type=bind,src=/a", "target"),
            ("type=bind,dst=/a", "source"),
            ("type=tmpfs,src=/x,dst=/a", "no source"),
            ("type=volume,src=x,dst=/a", "volumes"),
            ("src=/x,dst=/a", "volumes"),
            ("type=npipe,src=/x,dst=/a", "npipe"),
            ("type=bind,src=/a,src=/b,dst=/c", "twice"),
            ("type=bind,src=/a,dst=/c,bind-propagation=shared", "bind-propagation"),
            ("type=bind,src=/a,dst=/c,ro=maybe", "maybe"),
            ("type=bind,src=/a,dst=/c,tmpfs-size=1", "only a tmpfs"),
            ("type=tmpfs,dst=/c,tmpfs-mode=9", "octal"),
            ("type=tmpfs,dst=/c,tmpfs-mode=17777", "octal"),
            ("type=tmpfs,dst=", "no value"),
            ("type=tmpfs,dst=x", "absolute"),
            ("type=bind,src=x,dst=/x", "named volumes"),
            (r#"type=tmpfs,"dst=/c"#, "quote"),
            (r#"type=tmpfs,"dst=/c"x"#, "follows a quote"),
        ] {
            let error = text.parse::<Mount>().expect_err(text);
            assert_eq!(error.kind(), crate::ErrorKind::InvalidInput);
            assert!(error.chain().contains(words), "{text:?}: {}", error.chain());
        }
    }
}
