//! Lines of a container's log (CRI format), which hold what the payload wrote.
#![no_main]

use boxship_runtime::{LogLine, LogStream};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for line in data.split(|b| *b == b'\n') {
        let Some(l) = LogLine::parse(line) else { continue };
        let stream = if l.stream == LogStream::Stdout { "stdout" } else { "stderr" };
        let flag = if l.partial { "P" } else { "F" };
        let written = [format!("{} {stream} {flag} ", l.time).as_bytes(), &l.message].concat();
        assert_eq!(written, line, "nothing is lost");
    }
    // Whatever a payload writes is the message, and nothing else of the record.
    let record = [b"2026-11-20T19:13:23.123456789Z stdout F ", data].concat();
    let l = LogLine::parse(&record).expect("a record");
    assert_eq!((l.stream, l.partial, &l.message[..]), (LogStream::Stdout, false, data));
});
