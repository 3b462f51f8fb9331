//! Id maps and the text of `/etc/subuid`.
#![no_main]

use boxship_namespaces::{IdMap, IdRange, parse_subids};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fn ranges(u: &mut Unstructured<'_>) -> Result<Vec<IdRange>> {
    let mut all = Vec::new();
    for _ in 0..u.int_in_range(0..=6)? {
        let mut id = || -> Result<u32> {
            let near: u32 = u.int_in_range(0..=8)?;
            Ok(*u.choose(&[near, u32::MAX - near, near * 1000, 1 << 31])?)
        };
        all.push(IdRange { container: id()?, host: id()?, count: id()? });
    }
    Ok(all)
}

fn check(all: Vec<IdRange>) {
    let Ok(map) = IdMap::new(all.clone()) else { return };
    assert_eq!(map.ranges(), all);
    for r in &all {
        assert!(r.count > 0);
        for offset in [0, r.count / 2, r.count - 1] {
            let (inside, outside) = (r.container + offset, r.host + offset);
            assert_ne!(inside.max(outside), u32::MAX);
            assert_eq!(map.host(inside), Some(outside));
            assert_eq!(map.container(outside), Some(inside));
        }
    }
    assert_eq!((map.host(u32::MAX), map.container(u32::MAX)), (None, None));
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        for (first, count) in parse_subids(text, "alice", 1000) {
            assert!(count > 0);
            if let Ok(map) = IdMap::range(first, count) {
                assert_eq!(map.host(count - 1), Some(first + (count - 1)));
            }
        }
    }
    if let Ok(all) = ranges(&mut Unstructured::new(data)) {
        check(all);
    }
});
