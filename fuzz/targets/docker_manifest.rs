//! Docker's `manifest.json` in an archive of images: its names are keys, and lead nowhere else.
#![no_main]

use boxship_layers::fuzzing::{docker_manifest, image_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(images) = docker_manifest(data) else { return };
    for (parts, names) in images {
        for part in parts {
            assert!(!part.starts_with('/') && !part.ends_with('/'), "{part:?}");
            assert!(part.is_empty() || part.split('/').all(|p| !matches!(p, "" | "." | "..")), "{part:?}");
        }
        assert!(names.iter().all(|name| image_name(name).as_ref() == Some(name)), "{names:?}");
    }
});
