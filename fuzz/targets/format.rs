//! The file `format` of a store: what is not known is not written to, and what must be known is not read.
#![no_main]

use boxship_layers::fuzzing::format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(access) = format(data) else { return };
    let value: serde_json::Value = serde_json::from_slice(data).expect("it was read");
    let has = |key: &str| value.get(key).and_then(|v| v.as_array()).is_some_and(|v| !v.is_empty());
    let wanted = match (value.get("version").and_then(serde_json::Value::as_u64), has("incompatible")) {
        (Some(1), false) if has("read_only_compatible") => "read",
        (Some(1), false) => "full",
        _ => "none",
    };
    assert_eq!(access, wanted);
});
