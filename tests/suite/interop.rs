//! Images to and from Docker, Podman, skopeo and umoci: equal configs, layers and files.

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    Vec::new()
}
