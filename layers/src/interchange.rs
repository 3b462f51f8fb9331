//! Archives that other tools write and read: OCI layouts and Docker's own form, several images in one.

pub(crate) mod load;
mod old;
mod parallel;
mod save;

use std::str::FromStr;

use crate::error::{Error, Result};

/// The platform that an image is for.
///
/// ```
/// use boxship_layers::Platform;
/// let p: Platform = "linux/arm64/v8".parse()?;
/// assert_eq!(p.to_string(), "linux/arm64/v8");
/// assert!("arm64".parse::<Platform>().is_err());
/// # Ok::<(), boxship_layers::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// "linux".
    pub os: String,
    /// Go's name of the processor: "amd64", "arm64", …
    pub architecture: String,
    /// "v7", "v8", …
    pub variant: Option<String>,
}

impl Default for Platform {
    /// This machine's.
    fn default() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: None }
    }
}

impl FromStr for Platform {
    type Err = Error;
    fn from_str(s: &str) -> Result<Platform> {
        let parts: Vec<&str> = s.split('/').collect();
        match parts[..] {
            [os, arch] if !os.is_empty() && !arch.is_empty() => {
                Ok(Platform { os: os.into(), architecture: arch.into(), variant: None })
            }
            [os, arch, variant] if parts.iter().all(|p| !p.is_empty()) => {
                Ok(Platform { os: os.into(), architecture: arch.into(), variant: Some(variant.into()) })
            }
            _ => Err(Error::invalid("platform", format!("{s:?} is not os/architecture[/variant]"))),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}

impl Platform {
    /// How well something made for these suits: higher is better, `None` not at all.
    #[must_use]
    pub fn fits(&self, os: &str, architecture: &str, variant: Option<&str>) -> Option<u32> {
        // arm64 is v8 unless it says otherwise.
        let plain = |v: Option<&str>| match (self.architecture.as_str(), v) {
            ("arm64", Some("v8")) => None,
            (_, v) => v.map(str::to_owned),
        };
        if os != self.os || architecture != self.architecture {
            return None;
        }
        let (wanted, has) = (plain(self.variant.as_deref()), plain(variant));
        match (wanted, has) {
            (a, b) if a == b => Some(2),
            // Any will do for who asked for none; who asked for one may take what says nothing.
            (None, _) => Some(1),
            (Some(_), None) => Some(1),
            _ => None,
        }
    }
}

/// How an archive is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Which image of one for several platforms; this machine's by default.
    pub platform: Platform,
    /// Keep what there is for other platforms, too, so that it can be saved whole. It is stored as it came and not
    /// unpacked; it stays as long as an image that was chosen from it.
    pub all_platforms: bool,
}
