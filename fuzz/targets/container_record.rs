//! `container.json`, and the OCI `config.json` that is made of it.
#![no_main]

use boxship_runtime::fuzzing::record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(spec) = record(data) else { return };
    let value: serde_json::Value = serde_json::from_str(&spec).expect("JSON");
    assert_eq!(value["ociVersion"], "1.2.0");
    assert!(value["linux"]["maskedPaths"].as_array().is_some_and(|m| !m.is_empty()));
    assert!(
        value["process"]["capabilities"]
            .get("inheritable")
            .is_none_or(|c| c.as_array().is_none_or(Vec::is_empty))
    );
});
