//! Detection and decompression of layers, and the archive inside.
#![no_main]

use boxship_layers::fuzzing::{archive, decompress};
use libfuzzer_sys::fuzz_target;

const LIMIT: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Ok((kind, plain)) = decompress(data, LIMIT) else { return };
    assert!(plain.len() as u64 <= LIMIT);
    if kind == "application/vnd.oci.image.layer.v1.tar" {
        assert_eq!(plain, data, "what is not compressed stays as it is");
    }
    let _ = archive(&plain[..]);
});
