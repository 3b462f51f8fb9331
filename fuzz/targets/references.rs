//! What registries and their users write: references, challenges, links, and Docker's file of credentials.
#![no_main]

use boxship_registry::fuzzing::{challenge, link};
use boxship_registry::{ImageRef, Keyring};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(r) = text.parse::<ImageRef>() {
        assert!(r.repository().split('/').all(|p| !p.is_empty() && p != "." && p != ".."));
        assert!(!r.repository().contains(|c: char| "?#%@:\\".contains(c) || c.is_whitespace()));
        assert!(!r.registry().contains(|c: char| "/?#@%\\".contains(c) || c.is_whitespace()));
        assert_eq!(r.to_string().parse::<ImageRef>().ok(), Some(r));
    }
    if let Some((realm, service)) = challenge(text) {
        assert!(realm.len() + service.len() <= text.len());
    }
    if let Some(address) = link(text) {
        assert!(text.contains(&address) && !address.contains('>'));
    }
    let _ = Keyring::from_docker_config(text);
});
