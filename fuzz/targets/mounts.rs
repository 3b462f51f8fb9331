//! Mounts as Docker's command line writes them.
#![no_main]

use boxship::Mount;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(mount) = text.parse::<Mount>() else { return };
    assert!(!text.contains('\0') && text.contains('/'));
    // The other form of what the short one says.
    if let Some((source, rest)) = text.split_once(':').filter(|(s, _)| s.starts_with('/')) {
        let (target, option) = rest.split_once(':').unwrap_or((rest, "rw"));
        let quoted = |key: &str, value: &str| format!("\"{key}={}\"", value.replace('"', "\"\""));
        let long = format!("type=bind,{},{}", quoted("source", source), quoted("target", target));
        let long = if option == "ro" { format!("{long},ro") } else { long };
        assert_eq!(long.parse::<Mount>().ok(), Some(mount), "{text:?} {long:?}");
    }
});
