//! `/proc/self/mountinfo`: any text, and text that the kernel could have written.
#![no_main]

use boxship_cgroups::{Hierarchies, Version};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// A mount point as the kernel writes it.
fn escaped(path: &str) -> String {
    path.chars().fold(String::from("/"), |text, c| match c {
        ' ' | '\t' | '\n' | '\\' => format!("{text}\\{:03o}", c as u32),
        c => text + c.encode_utf8(&mut [0; 4]),
    })
}

/// Lines of mounts, and how many v1 hierarchies and v2 trees are among them.
fn mounts(u: &mut Unstructured<'_>) -> Result<(String, usize, Option<String>)> {
    let (mut text, mut v1, mut unified) = (String::new(), 0, None);
    for (i, controller) in ["cpu,cpuacct", "memory", "pids", "name=systemd"].iter().enumerate() {
        let point: String = u.arbitrary()?;
        let at = escaped(&point);
        let optional = if u.arbitrary()? { " shared:7 master:1" } else { "" };
        let whole = u.ratio(3u8, 4u8)?;
        let root = if whole { "/" } else { "/docker/x" };
        if u.arbitrary()? {
            text += &format!("{i} 1 0:{i} {root} {at} rw,nosuid{optional} - cgroup2 cgroup2 rw\n");
            if whole && unified.is_none() {
                unified = Some(format!("/{point}"));
            }
        } else {
            text += &format!("{i} 1 0:{i} {root} {at} ro{optional} - cgroup none rw,xattr,{controller}\n");
            v1 += usize::from(whole);
        }
    }
    Ok((text, v1, unified))
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let found = Hierarchies::parse(text);
        // The same mounts twice are the same hierarchies.
        assert_eq!(found, Hierarchies::parse(&format!("{text}\n{text}")));
    }
    let Ok((text, v1, unified)) = mounts(&mut Unstructured::new(data)) else { return };
    let found = Hierarchies::parse(&text);
    let want = match (v1, &unified) {
        (0, None) => None,
        (0, Some(_)) => Some(Version::V2),
        (_, None) => Some(Version::V1),
        (_, Some(_)) => Some(Version::Hybrid),
    };
    assert_eq!(found.version(), want, "{text}");
    if let Some(path) = unified {
        assert!(format!("{found:?}").contains(&format!("{:?}", std::path::Path::new(&path))), "{text}");
    }
});
