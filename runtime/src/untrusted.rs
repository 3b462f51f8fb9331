//! What an image says about its containers is data from a stranger (THREATS rule R10).

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::image::Config as Document;

use crate::config::parse_signal;
use crate::error::{Error, Result};

/// The most entries of a list.
const MAX_LIST: usize = 4096;
/// The most bytes of one string, and of all of them: what execve(2) takes is of this order.
const MAX_STRING: usize = 128 << 10;
const MAX_TOTAL: usize = 1 << 20;

/// The configuration of an image before it has been looked at. All that can be done with it is to turn
/// it into [`ImageDefaults`], or into an error.
pub(crate) struct UntrustedImageConfig<'a>(pub(crate) &'a Document);

/// What an image may decide, and nothing else: no path of the host, no label with a meaning, no hook, no
/// device, no log driver, no variable of the host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageDefaults {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) stop_signal: Option<i32>,
}

fn bad(reason: impl Into<String>) -> Error {
    Error::invalid("image configuration", reason)
}

impl UntrustedImageConfig<'_> {
    /// Judges every value; total and bounded.
    pub(crate) fn judge(self) -> Result<ImageDefaults> {
        let empty = Vec::new();
        let c = self.0;
        let [entrypoint, command, env] =
            [c.entrypoint(), c.cmd(), c.env()].map(|list| list.as_ref().unwrap_or(&empty));
        let [workdir, user, signal] =
            [c.working_dir(), c.user(), c.stop_signal()].map(|v| v.as_deref().filter(|s| !s.is_empty()));
        let mut total = 0;
        for list in [entrypoint, command, env] {
            if list.len() > MAX_LIST {
                return Err(bad(format!("a list has more than {MAX_LIST} entries")));
            }
            total += list.iter().map(String::len).sum::<usize>();
        }
        let singles = [workdir, user, signal].into_iter().flatten();
        let mut strings = [entrypoint, command, env].into_iter().flatten().map(String::as_str).chain(singles);
        if strings.any(|s| s.len() > MAX_STRING || s.contains('\0')) || total > MAX_TOTAL {
            return Err(bad("a string has a NUL or more than 128 KiB, or all of them more than 1 MiB"));
        }
        if let Some(dir) = workdir.filter(|d| !d.starts_with('/')) {
            return Err(bad(format!("its working directory {dir:?} is not an absolute path")));
        }
        let stop_signal = signal
            .map(|s| parse_signal(s).ok_or_else(|| bad(format!("its stop signal {s:?} is none"))))
            .transpose()?;
        Ok(ImageDefaults {
            entrypoint: entrypoint.clone(),
            command: command.clone(),
            env: env.iter().map(|line| variable(line)).collect::<Result<_>>()?,
            workdir: workdir.map(PathBuf::from),
            user: user.map(str::to_owned),
            stop_signal,
        })
    }
}

/// Without "=" other engines copied the host's variable (CVE-2026-57231).
fn variable(line: &str) -> Result<(String, String)> {
    let pair = line.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) =
        pair.ok_or_else(|| Error::invalid("image environment", format!("{line:?} is not KEY=value")))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(json: &str) -> Result<ImageDefaults> {
        let document: Document = serde_json::from_str(json).expect("a document");
        UntrustedImageConfig(&document).judge()
    }

    #[test]
    fn everything_else_means_nothing() {
        let d = judge(
            r#"{"Cmd":["a"],"Env":["A=b=c"],"WorkingDir":"/w","User":"0","StopSignal":"SIGINT",
                "Labels":{"io.containerd.runc.v2.log":"binary:///x"},"Volumes":{"/../../etc":{}}}"#,
        );
        let d = d.expect("fine");
        assert_eq!((d.command, d.env["A"].as_str(), d.stop_signal), (vec!["a".to_owned()], "b=c", Some(2)));
    }

    #[test]
    fn bad_documents_are_refused() {
        for json in [
            r#"{"Env":["HOME"]}"#,
            r#"{"Env":["=x"]}"#,
            r#"{"WorkingDir":"relative"}"#,
            r#"{"StopSignal":"SIGNOTHING"}"#,
            r#"{"StopSignal":"99"}"#,
            r#"{"Cmd":["a\u0000b"]}"#,
        ] {
            assert!(matches!(judge(json), Err(Error::Invalid { .. })), "{json}");
        }
        let many = format!(r#"{{"Cmd":[{}"x"]}}"#, r#""x","#.repeat(5000));
        let long = format!(r#"{{"Cmd":["{}"]}}"#, "x".repeat(200_000));
        let all = format!(r#"{{"Cmd":[{}"x"]}}"#, format!(r#""{}","#, "x".repeat(100_000)).repeat(11));
        for json in [many, long, all] {
            assert!(judge(&json).is_err());
        }
    }
}
