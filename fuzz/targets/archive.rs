//! The tar reader: any bytes, and archives whose headers add up.
#![no_main]

use boxship_layers::fuzzing::archive;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const PAX: [&str; 10] = [
    "path",
    "linkpath",
    "size",
    "mtime",
    "uid",
    "gid",
    "SCHILY.xattr.user.a",
    "SCHILY.acl.access",
    "SCHILY.acl.default",
    "comment",
];
const VALUES: [&str; 13] = [
    "user::rwx,user:lisa:r-x:1000,group::r--,mask::r-x,other::---",
    "0",
    "3",
    "700",
    "-1.25",
    "-9223372036854775808.5",
    "4294967295",
    "a/../b",
    "/abs",
    "x\0y",
    "",
    "dir/file",
    "99999999999999999999",
];
const NAMES: [&str; 8] = ["a", "dir/", "dir/b", "../x", "/etc/passwd", "./a", "a//b", "."];

fn field(header: &mut [u8], at: usize, len: usize, value: &[u8]) {
    let n = value.len().min(len);
    header[at..at + n].copy_from_slice(&value[..n]);
}

fn header(u: &mut Unstructured<'_>, flag: u8, size: usize) -> Result<Vec<u8>> {
    let mut h = vec![0; 512];
    let name = *u.choose(&NAMES)?;
    field(&mut h, 0, 100, name.as_bytes());
    field(&mut h, 100, 8, b"0000644\0");
    field(&mut h, 108, 8, b"0000000\0");
    field(&mut h, 116, 8, b"0000000\0");
    field(&mut h, 124, 12, format!("{size:011o}\0").as_bytes());
    field(&mut h, 136, 12, b"00000000001\0");
    h[156] = flag;
    field(&mut h, 157, 100, u.choose(&NAMES)?.as_bytes());
    match u.int_in_range(0..=3)? {
        0 => field(&mut h, 257, 8, b"ustar  \0"),
        1 => {}
        _ => {
            field(&mut h, 257, 8, b"ustar\00000"[..8].as_ref());
            if u.ratio(1u8, 4u8)? {
                field(&mut h, 345, 155, b"prefix");
            }
        }
    }
    if u.ratio(1u8, 4u8)? {
        let (at, byte) = (u.int_in_range(0..=511)?, u.arbitrary()?);
        h[at] = byte;
    }
    h[148..156].fill(b' ');
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    field(&mut h, 148, 8, format!("{sum:06o}\0 ").as_bytes());
    Ok(h)
}

fn record(key: &str, value: &str) -> String {
    let body = key.len() + value.len() + 3;
    let len = (1..).map(|digits| body + digits).find(|n| n.to_string().len() + body == *n);
    format!("{} {key}={value}\n", len.unwrap_or(body))
}

fn tar(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for _ in 0..u.int_in_range(1..=5)? {
        let flag = *u.choose(b"0001234567xxxgLKS\0Z")?;
        let mut data = match flag {
            b'x' | b'g' => {
                let mut records = String::new();
                for _ in 0..u.int_in_range(0..=3)? {
                    records += &record(u.choose(&PAX)?, u.choose(&VALUES)?);
                }
                records.into_bytes()
            }
            b'L' | b'K' => [u.choose(&NAMES)?.as_bytes(), b"\0"].concat(),
            b'0' => u.choose(&["", "abc", "0123456789"])?.as_bytes().to_vec(),
            _ => Vec::new(),
        };
        out.extend(header(u, flag, data.len())?);
        data.resize(data.len().next_multiple_of(512), 0);
        out.extend(data);
    }
    if u.arbitrary()? {
        out.extend([0; 1024]);
    }
    let cut = if u.ratio(1u8, 8u8)? { u.int_in_range(0..=out.len())? } else { out.len() };
    out.truncate(cut);
    Ok(out)
}

fn check(bytes: &[u8]) {
    let Ok(entries) = archive(bytes) else { return };
    let mut total = 0;
    for e in &entries {
        assert!(!e.path.starts_with(b"/") && !e.path.contains(&0) && e.path.len() <= 4095);
        assert!(!e.path.split(|b| *b == b'/').any(|part| part == b".." || part == b"."));
        assert!(!e.link.contains(&0) && e.mode <= 0o7777 && e.mtime.1 < 1_000_000_000);
        assert!(e.owner.0.max(e.owner.1) < u64::from(u32::MAX));
        total += e.data.len();
    }
    assert!(total + 512 * entries.len() <= bytes.len(), "data that is not in the archive");
}

fuzz_target!(|data: &[u8]| {
    check(data);
    if let Ok(bytes) = tar(&mut Unstructured::new(data)) {
        check(&bytes);
    }
});
