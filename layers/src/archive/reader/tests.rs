use std::io::Write as _;

use proptest::prelude::*;

use super::*;

fn header(name: &str, flag: u8, size: u64, edit: impl FnOnce(&mut [u8; 512])) -> Vec<u8> {
    let mut h = tar::Header::new_ustar();
    h.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    h.set_mode(0o644);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(1);
    h.set_size(size);
    h.set_entry_type(tar::EntryType::new(flag));
    edit(h.as_mut_bytes());
    h.set_cksum();
    h.as_bytes().to_vec()
}

fn with_data(mut head: Vec<u8>, data: &[u8]) -> Vec<u8> {
    head.extend_from_slice(data);
    head.resize(head.len().next_multiple_of(512), 0);
    head
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut len = body + 1;
    while len != body + len.to_string().len() {
        len = body + len.to_string().len();
    }
    format!("{len} {key}={value}\n").into_bytes()
}

fn names(archive: &[u8]) -> Result<Vec<String>> {
    let mut r = Reader::new(archive, Bounds::default());
    let mut all = Vec::new();
    while let Some(e) = r.next()? {
        all.push(String::from_utf8_lossy(&e.path).into_owned());
    }
    Ok(all)
}

fn pax(records: &[Vec<u8>]) -> Vec<u8> {
    let data = records.concat();
    with_data(header("pax", b'x', data.len() as u64, |_| {}), &data)
}

fn refused(archive: &[u8]) -> &'static str {
    match names(archive) {
        Err(Error::Archive { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn hostile_archives_are_refused_by_name() {
    let file = |name: &str| header(name, b'0', 0, |_| {});
    assert_eq!(refused(&file("/etc/passwd")), "an absolute name");
    assert_eq!(refused(&file("a/../../b")), "a name with \"..\"");
    assert_eq!(
        refused(&[pax(&[record("size", "1"), record("size", "2")]), file("a")].concat()),
        "the same PAX record twice"
    );
    assert_eq!(
        refused(&[pax(&[record("size", "700")]), with_data(header("a", b'0', 3, |_| {}), b"abc")].concat()),
        "two different sizes"
    );
    assert_eq!(
        refused(&[pax(&[record("path", "x")]), pax(&[record("path", "y")]), file("a")].concat()),
        "two PAX headers for one entry"
    );
    assert_eq!(refused(&[pax(&[b"99 path=x\n".to_vec()]), file("a")].concat()), "malformed PAX record");
    assert_eq!(
        refused(&[pax(&[record("GNU.sparse.major", "1")]), file("a")].concat()),
        "a sparse file that is not of version 1.0"
    );
    assert_eq!(
        refused(&with_data(header("d", b'5', 5, |_| {}), b"hello")),
        "data behind an entry that has none"
    );
    assert_eq!(refused(&header("a", b'Z', 0, |_| {})), "unknown entry type");
    assert_eq!(refused(&header("a", b'2', 0, |_| {})), "a link with an empty or overlong target");
    assert_eq!(refused(&pax(&[record("path", "x")])), "an extension header without an entry");
    assert_eq!(refused(&file("a")[..300]), "the archive ends inside a header");
    let mut wrong = file("a");
    wrong[0] = b'b';
    assert_eq!(refused(&wrong), "wrong header checksum");
    assert_eq!(refused(&header("a", b'0', 0, |b| b[124] = 0xff)), "malformed size");
}

#[test]
fn long_names_sizes_and_times() {
    let long = "d/".repeat(90) + "file";
    let archive = [
        pax(&[record("path", &long), record("mtime", "-1.25"), record("uid", "3000000000")]),
        header("short", b'0', 0, |_| {}),
    ]
    .concat();
    let mut r = Reader::new(&archive[..], Bounds::default());
    let e = r.next().expect("valid").expect("one entry");
    assert_eq!((e.path, e.mtime, e.uid), (long.into_bytes(), (-2, 750_000_000), 3_000_000_000));
    assert!(r.next().expect("valid").is_none());
}

#[test]
fn times_before_1970_as_gnu_tar_has_them() {
    let gnu = |time: [u8; 12]| header("a", b'0', 0, |b| b[136..148].copy_from_slice(&time));
    let old = gnu([255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 254]);
    assert_eq!(Reader::new(&old[..], Bounds::default()).next().unwrap().unwrap().mtime, (-2, 0));
    assert_eq!(refused(&gnu([255; 12].map(|b| b & 0xbf))), "malformed mtime");
    assert_eq!(refused(&gnu([255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 1])), "malformed mtime");
    assert_eq!(refused(&gnu([255, 0, 255, 255, 255, 0, 0, 0, 0, 0, 0, 1])), "malformed mtime");
}

#[test]
fn a_time_before_all_times_is_refused() {
    let at = |time: &str| [pax(&[record("mtime", time)]), header("a", b'0', 0, |_| {})].concat();
    assert_eq!(refused(&at("-9223372036854775808.5")), "malformed PAX mtime");
    assert_eq!(refused(&at("-9223372036854775809")), "malformed PAX mtime");
    assert_eq!(names(&at("-9223372036854775808")).expect("the earliest"), ["a"]);
}

#[test]
fn what_the_tar_crate_writes_is_read_back() {
    let mut b = tar::Builder::new(Vec::new());
    let name = "x".repeat(180);
    for (name, data) in [("a", &b"hello"[..]), (name.as_str(), b""), ("dir/b", &[7; 1000])] {
        let mut h = tar::Header::new_gnu();
        h.set_size(data.len() as u64);
        h.set_mode(0o755);
        b.append_data(&mut h, name, data).expect("in memory");
    }
    let archive = b.into_inner().expect("in memory");
    assert_eq!(names(&archive).expect("valid"), ["a", &name, "dir/b"]);
}

#[test]
fn gnu_tar_reads_the_same_names() {
    let dir = std::env::temp_dir().join(format!("boxship-tar-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("temporary directory");
    let archive =
        [header("one", b'0', 0, |_| {}), with_data(header("two", b'0', 3, |_| {}), b"abc"), vec![0; 1024]]
            .concat();
    let path = dir.join("a.tar");
    std::fs::File::create(&path).and_then(|mut f| f.write_all(&archive)).expect("written");
    let listed = std::process::Command::new("tar")
        .arg("-tf")
        .arg(&path)
        .output()
        .expect("tar is part of Debian's base");
    std::fs::remove_dir_all(&dir).expect("removed");
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout).lines().collect::<Vec<_>>(),
        names(&archive).expect("valid")
    );
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = names(&bytes);
    }

    #[test]
    fn mutated_archives_never_panic(at in 0usize..2048, byte in any::<u8>(), fix in any::<bool>()) {
        let mut archive = [pax(&[record("path", "some/name")]), with_data(header("a", b'0', 3, |_| {}), b"abc")].concat();
        let at = at % archive.len();
        archive[at] = byte;
        if fix {
            let block = at / 512 * 512;
            archive[block + 148..block + 156].fill(b' ');
            let sum: u32 = archive[block..block + 512].iter().map(|b| u32::from(*b)).sum();
            archive[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        if let Ok(all) = names(&archive) {
            prop_assert!(all.iter().all(|n| !n.starts_with('/') && !n.split('/').any(|p| p == "..")));
        }
    }
}
