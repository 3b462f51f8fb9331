//! `user[:group]` in passwd and group files. A number is a number: it never becomes a name's id, and
//! no id is ever one that the kernel takes for "unchanged".
#![no_main]

use boxship_runtime::fuzzing::user;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 8] = ["root", "user", "0", "1000", "4294967295", "4294967296", "-1", "+1"];
const IDS: [&str; 10] =
    ["0", "1", "1000", "2147483648", "4294967294", "4294967295", "4294967296", "-1", "", "0x0"];

fn pick<'a>(u: &mut Unstructured<'a>, from: &[&'static str]) -> Result<&'a str> {
    if u.ratio(1u8, 8u8)? { u.arbitrary() } else { u.choose(from).copied() }
}

fn files(u: &mut Unstructured<'_>) -> Result<(String, String, String)> {
    let (mut passwd, mut group) = (String::new(), String::new());
    for _ in 0..u.int_in_range(0..=5)? {
        let (name, uid, gid) = (pick(u, &NAMES)?, pick(u, &IDS)?, pick(u, &IDS)?);
        let home = u.choose(&["/root", "", "relative", "/home/../x"])?;
        passwd += &format!("{name}:x:{uid}:{gid}:gecos:{home}:/bin/sh\n");
    }
    for _ in 0..u.int_in_range(0..=5)? {
        let (name, gid, member) = (pick(u, &NAMES)?, pick(u, &IDS)?, pick(u, &NAMES)?);
        group += &format!("{name}:x:{gid}:{member},{}\n", pick(u, &NAMES)?);
    }
    let who = if u.arbitrary()? { pick(u, &NAMES)? } else { pick(u, &IDS)? };
    let spec = match u.int_in_range(0..=2)? {
        0 => who.to_owned(),
        1 => format!("{who}:{}", pick(u, &NAMES)?),
        _ => format!("{who}:{}", pick(u, &IDS)?),
    };
    Ok((spec, passwd, group))
}

/// The id that digits say, or that they say none.
fn number(text: &str) -> Option<Option<u32>> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok().filter(|n| *n != u32::MAX))
}

fn check(spec: &str, passwd: &str, group: &str) {
    let (name, own_group) = spec.split_once(':').map_or((spec, None), |(u, g)| (u, Some(g)));
    let result = user(spec, passwd, group);
    if let Some(None) = number(name) {
        assert!(result.is_err(), "{spec:?} is beyond the ids");
    }
    let Ok((uid, gid, groups, home)) = result else { return };
    assert!(uid != u32::MAX && gid != u32::MAX && groups.iter().all(|g| *g != u32::MAX));
    assert!(home.is_none_or(|h| h.starts_with('/')));
    match number(name) {
        Some(n) => assert_eq!(Some(uid), n, "{spec:?}"),
        // A name needs a line of its own; nobody becomes root by a text that is not there.
        None if !name.is_empty() => {
            assert!(passwd.lines().any(|l| l.split(':').next() == Some(name)), "{spec:?}");
        }
        None => assert_eq!(uid, 0),
    }
    if let Some(g) = own_group {
        assert!(groups.is_empty(), "a named group is the only one");
        match number(g) {
            Some(n) => assert_eq!(Some(gid), n, "{spec:?}"),
            None => assert!(group.lines().any(|l| l.split(':').next() == Some(g)), "{spec:?}"),
        }
    }
    // What was found names the same again.
    let again = user(&format!("{uid}:{gid}"), passwd, group).expect("numbers always resolve");
    assert_eq!((again.0, again.1), (uid, gid));
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        // spec, passwd and group, separated by a line of "%"
        let mut parts = text.splitn(3, "\n%\n");
        let mut next = || parts.next().unwrap_or_default();
        check(next(), next(), next());
    }
    if let Ok((spec, passwd, group)) = files(&mut Unstructured::new(data)) {
        check(&spec, &passwd, &group);
    }
});
