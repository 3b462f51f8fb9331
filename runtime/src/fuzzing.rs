//! Doors for `fuzz/`: they exist under `cfg(fuzzing)` only, which cargo-fuzz sets.

use boxship_namespaces::Privilege;

use crate::config::Config;
use crate::runtime::Record;
use crate::user::Identity;

/// Uid, gid, supplementary groups and home of `user[:group]` in these files.
///
/// # Errors
/// As the runtime.
pub fn user(spec: &str, passwd: &str, group: &str) -> crate::Result<(u32, u32, Vec<u32>, Option<String>)> {
    let Identity { uid, gid, groups, home } = crate::user::resolve(spec, passwd, group)?;
    Ok((uid, gid, groups, home))
}

/// Reads a `container.json` and makes everything of it that does not touch the host: the OCI
/// specification as JSON, when its values pass.
#[must_use]
pub fn record(text: &[u8]) -> Option<String> {
    let record = Record::parse(text).ok()?;
    let first = record.id_slot.map(crate::ids::first);
    let _ = record.id_slot.map(crate::ids::map);
    let _ = record.config.validate();
    let spec = crate::bundle::spec(&record.config, &Identity::default(), first, Privilege::Host).ok()?;
    serde_json::to_string(&spec).ok()
}

/// What an image's configuration sets.
#[must_use]
pub fn image_config(text: &[u8], command: Vec<String>) -> Option<crate::Result<Config>> {
    let document: oci_spec::image::ImageConfiguration = serde_json::from_slice(text).ok()?;
    let empty = oci_spec::image::Config::default();
    let mut config = Config::default();
    let applied = config.apply_document(document.config().as_ref().unwrap_or(&empty), None, command);
    Some(applied.map(|()| config))
}

/// The start time in the bytes of `/proc/<pid>/stat`.
#[must_use]
pub fn start_time(stat: &[u8]) -> Option<u64> {
    crate::container::parse_start_time(stat)
}
