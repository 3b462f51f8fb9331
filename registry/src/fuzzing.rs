//! Doors for `fuzz/`: they exist under `cfg(fuzzing)` only, which cargo-fuzz sets.

/// Realm and service of a bearer challenge.
#[must_use]
pub fn challenge(text: &str) -> Option<(String, String)> {
    match crate::auth::parse_challenge(text)? {
        crate::auth::Challenge::Bearer { realm, service, .. } => Some((realm, service.unwrap_or_default())),
        crate::auth::Challenge::Basic => None,
    }
}

/// Where a `Link` header says that a list goes on.
#[must_use]
pub fn link(text: &str) -> Option<String> {
    crate::pull::next_page(text)
}
