//! The documents of an archive of images that name each other: the manifest that is chosen for a platform, and the
//! chains of Docker's first form. However they are tangled, looking at them ends.
#![no_main]

use boxship_layers::Document;
use boxship_layers::fuzzing::{image_name, load_graph};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let platform = "linux/arm64/v8".parse().expect("a platform");
    let (chosen, old) = load_graph(text, &platform);
    if let Ok(Some(manifest)) = chosen {
        assert!(matches!(Document::parse(&manifest), Ok(Document::Manifest(_))));
    }
    for (names, layers) in old.into_iter().flatten() {
        assert!(!names.is_empty() && names.iter().all(|name| image_name(name).as_ref() == Some(name)));
        // Each document once.
        assert!((1..=10).contains(&layers), "{layers}");
    }
});
