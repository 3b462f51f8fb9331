//! What a monitor and the kernel leave to be read: the exit record and `/proc/<pid>/stat`, whose
//! second field is any bytes that the payload likes.
#![no_main]

use boxship_namespaces::ExitStatus;
use boxship_runtime::fuzzing::start_time;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(status) = ExitStatus::parse(text)
    {
        assert_ne!(status.code().is_some(), status.signal().is_some(), "one of both");
        assert_eq!(status.success(), status.code() == Some(0));
        assert!(!status.to_string().is_empty());
        assert_eq!(ExitStatus::parse(&format!("{text}\n{text}")).ok(), Some(status), "the first line counts");
    }
    let _ = start_time(data);
    let name = &data[..data.len().min(15)];
    let tail = b") S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1 18446744073709551615\n";
    assert_eq!(start_time(&[b"7 (", name, tail].concat()), Some(4711), "{name:?}");
});
