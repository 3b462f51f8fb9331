//! Short strings that people type: sizes, signals, image names, digests, capabilities.
#![no_main]

use boxship::{ByteSize, Capability, Signal};
use boxship_layers::Digest;
use boxship_layers::fuzzing::image_name;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.bytes().to_string().parse::<ByteSize>().ok(), Some(size));
        assert!(text.as_bytes()[0].is_ascii_digit());
        assert!(!size.to_string().is_empty());
    }
    if let Ok(signal) = text.parse::<Signal>() {
        // What C libraries keep for themselves is in between.
        assert!((1..=31).contains(&signal.number()) || (34..=64).contains(&signal.number()));
    }
    if let Ok(capability) = text.parse::<Capability>() {
        assert_eq!(capability.to_string().parse::<Capability>().ok(), Some(capability));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        assert!(digest.hex().len() == 64 && digest.hex().bytes().all(|b| b.is_ascii_hexdigit()));
    }
    if let Some(name) = image_name(text) {
        assert_eq!(image_name(&name).as_deref(), Some(&name[..]), "normal form");
        let (path, _) = name.rsplit_once(':').unwrap_or_default();
        assert!(text.contains(path) && name.is_ascii() && !name.contains(char::is_whitespace));
        assert!(name.parse::<Digest>().is_err(), "a name that is looked up as a digest: {name}");
    }
});
