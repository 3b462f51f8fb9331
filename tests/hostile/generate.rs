//! Archives made at random of the pieces that the named ones are made of, then damaged or not. The same
//! number always makes the same archive.

use crate::Outcome;
use crate::case::{Scratch, text};
use crate::pieces::*;
use crate::readers::{self, Question};
use crate::sentinel::Sentinel;

/// Archives that the other readers are asked about at once.
const BATCH: u64 = 1000;

/// Splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).expect("small")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

const NAMES: &[&[u8]] = &[
    b"a",
    b"a",
    b"b",
    b"c",
    b"d",
    b"d",
    b"d/a",
    b"d/b",
    b"d/e",
    b"d/e/f",
    b"./a",
    b"d//a",
    b"d/./e",
    b"l",
    b"l",
    b"l/a",
    b"a/b",
    b"n n",
    b"\xff\xfe",
    b"x\ny",
    b"\xc3\xa9",
    b"...",
    b"q\"q\\",
    b"usr/bin/env",
];
const ODD: &[&[u8]] = &[
    b"..",
    b"../a",
    b"/a",
    b"/",
    b"",
    b".",
    b"./",
    b"a/..",
    b"d/",
    b"a/",
    b".wh.a",
    b".wh.d",
    b"d/.wh.a",
    b"d/.wh..wh..opq",
    b".wh.",
    b".wh...",
    b".wh..wh.x",
    b".wh.d/a",
    b"d/../a",
    b"a\0b",
];
const TARGETS: &[&[u8]] = &[
    b"a",
    b"a",
    b"b",
    b"d/a",
    b"d",
    b"d/e/f",
    b"./a",
    b"/a",
    b"l",
    b"missing",
    b"../../hostile-outside/secret",
    b"/etc",
    b"..",
    b"\xff",
];
const NUMBERS: &[&[u8]] = &[
    b"",
    b"0",
    b"       ",
    b"            ",
    b"-1",
    b"+1",
    b"8",
    b"0x1",
    b"1 2",
    b" 1",
    b"1 ",
    b"\x001",
    b"1\0z",
    b"7777777",
    b"\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x80\0\0\0\0\0\0\x05",
    b"\x80\0\0\0\0\0\0\0\0\0\0\x05",
    b"\x80\0\0\0\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
];
/// Where numbers and texts of a header are.
const FIELDS: &[(usize, usize)] = &[
    (0, 100),
    (100, 8),
    (108, 8),
    (116, 8),
    (124, 12),
    (136, 12),
    (148, 8),
    (156, 1),
    (157, 100),
    (257, 8),
    (265, 32),
    (297, 32),
    (329, 8),
    (337, 8),
    (345, 155),
    (500, 12),
];
const KEYS: &[&str] = &[
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "atime",
    "ctime",
    "uname",
    "gname",
    "comment",
    "hdrcharset",
    "SCHILY.xattr.user.k",
    "SCHILY.xattr.trusted.overlay.opaque",
    "SCHILY.xattr.user.overlay.opaque",
    "GNU.sparse.map",
    "GNU.sparse.major",
    "VENDOR.x",
    "",
];
const VALUES: &[&[u8]] = &[
    b"",
    b"a",
    b"0",
    b"1",
    b"5",
    b"-1",
    b"+5",
    b"1.5",
    b"-1.5",
    b"-0.25",
    b"1e3",
    b" 5",
    b"512",
    b"1536",
    b"nan",
    b"1.",
    b".5",
    b"4294967294",
    b"4294967295",
    b"99999999999999999999",
    b"d/new",
    b"../x",
    b"/x",
    b"a\0b",
    b"\xff",
    b"x/",
    b"BINARY",
    b"1234567890.123456789",
    b"1234567890.9999999999",
    b"007",
    b"1_0",
];

fn long_name(d: &mut Dice) -> Vec<u8> {
    let len = [1, 50, 99, 100, 101, 154, 155, 156, 255, 256][d.below(10)];
    let name = vec![b'n'; len];
    if d.one_in(2) { [b"d/", &name[..]].concat() } else { name }
}

fn name(d: &mut Dice, odd: bool) -> Vec<u8> {
    if odd && d.one_in(6) {
        d.of(ODD).to_vec()
    } else if d.one_in(12) {
        long_name(d)
    } else {
        d.of(NAMES).to_vec()
    }
}

/// An entry with its extensions; with `odd`, one that may be wrong in any way.
fn entry(d: &mut Dice, odd: bool) -> Vec<u8> {
    let mut all = Vec::new();
    let path = name(d, odd);
    let flags = if odd { &b"00001256734\0xgLKSDVMX9"[..] } else { b"0000012256\0" };
    let flag = flags[d.below(flags.len())];
    let data = vec![b'a' + (d.below(26) as u8); [0, 0, 1, 5, 511, 512, 513, 1500][d.below(8)]];
    let target = d.of(TARGETS).to_vec();
    let mut short = path.clone();
    if path.len() > 100 || d.one_in(6) {
        match d.below(3) {
            0 => all.extend(long(b'L', &path)),
            1 => all.extend(pax(rec("path", &path))),
            _ if odd => all.extend(global(rec("path", &path))),
            _ => all.extend(long(b'L', &path)),
        }
        short = d.of(NAMES).to_vec();
    }
    if d.one_in(5) {
        let mut records = Vec::new();
        for _ in 0..=d.below(3) {
            let (key, value) = if odd {
                (d.of(KEYS), d.of(VALUES))
            } else {
                let good: [(&str, &[u8]); 7] = [
                    ("mtime", b"1234567890.123456789"),
                    ("mtime", b"-1.5"),
                    ("uid", b"4294967294"),
                    ("gid", b"5"),
                    ("comment", b"c"),
                    ("SCHILY.xattr.user.k", b"v\0v"),
                    ("atime", b"1.5"),
                ];
                good[d.below(7)]
            };
            records.extend(rec(key, value));
        }
        let header = if odd && d.one_in(8) { b'g' } else { b'x' };
        all.extend(head("pax", header).with(&records));
    }
    if d.one_in(20) {
        all.extend(long(b'K', &target));
    }
    let mut h = head(&short[..short.len().min(100)], flag).link(&target);
    h = h.mode([0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1777, 0o100_644][d.below(7)]);
    h = h.uid([0, 0, 5, 1000, 0o7_777_777][d.below(5)]).gid([0, 0, 5, 1000][d.below(4)]);
    h = h.mtime([0, 1, TIME, TIME, 0o37_777_777_777][d.below(5)]);
    h = match d.below(6) {
        0 => h.v7(),
        1 => h.gnu(),
        2 if short.len() < 50 => h.prefix(d.of(&[&b"d"[..], b"p/q", b"d/"])),
        _ => h,
    };
    if d.one_in(10) {
        h = h.field(108, 8, &base256_short(70_000));
    }
    if d.one_in(10) {
        h = h.field(136, 12, &base256(12, 1 << 33));
    }
    if odd && d.one_in(3) {
        let (at, len) = FIELDS[d.below(FIELDS.len())];
        let value = d.of(NUMBERS);
        h = h.field(at, len, &value[..value.len().min(len)]);
        all.extend(h.before(&data));
    } else if matches!(flag, b'0' | b'7' | 0 | b'x' | b'g' | b'L' | b'K') || odd && d.one_in(8) {
        all.extend(h.with(&data));
    } else {
        all.extend(h.alone());
    }
    all
}

/// Damage that a checksum or its absence does not always tell.
fn damage(d: &mut Dice, all: &mut Vec<u8>) {
    if all.is_empty() {
        return;
    }
    let at = d.below(all.len());
    let block = at / 512 * 512;
    match d.below(9) {
        0 => all.truncate(at),
        1 => all.truncate(block),
        2 => all[at] ^= 1 << d.below(8),
        3 => all[at] = d.roll() as u8,
        4 => drop(all.splice(block..block, [0; 512])),
        5 => {
            let copy = all[block..(block + 512).min(all.len())].to_vec();
            let to = d.below(all.len() / 512 + 1) * 512;
            all.splice(to..to, copy);
        }
        6 => drop(all.drain(block..(block + 512).min(all.len()))),
        7 => all.extend((0..d.below(1200)).map(|i| i as u8)),
        // A byte of a header, its checksum put right again.
        _ => {
            all[at] = d.of(&[&b"\0"[..], b" ", b"/", b"7", b"8", b"-", b"\x80", b"\xff", b"x", b"L"])[0];
            if let Some(b) = all.get_mut(block..block + 512) {
                let sum: u64 = b
                    .iter()
                    .enumerate()
                    .map(|(i, c)| if (148..156).contains(&i) { 32 } else { u64::from(*c) })
                    .sum();
                b[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
    }
}

pub fn archive(seed: u64) -> Vec<u8> {
    let mut d = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    // A third is right, a third has odd entries, a third is damaged, too.
    let odd = !d.one_in(3);
    let mut all: Vec<u8> = (0..=d.below(6)).flat_map(|_| entry(&mut d, odd)).collect();
    all.extend(vec![0; if d.one_in(10) { 512 * d.below(4) } else { 1024 }]);
    if odd && d.one_in(2) {
        for _ in 0..=d.below(2) {
            damage(&mut d, &mut all);
        }
    }
    all
}

pub fn run(count: u64, first: u64, sentinel: &Sentinel) -> Outcome {
    let started = std::time::Instant::now();
    let (mut taken, mut compared) = (0, 0);
    let mut differences = Vec::new();
    let mut next = first;
    while next < first + count {
        let until = (next + BATCH).min(first + count);
        let scratch = Scratch::new(&format!("random-{next}"));
        let mut questions = Vec::new();
        for seed in next..until {
            let archive = archive(seed);
            match scratch.unpacked(&archive) {
                Ok(tree) => questions.push(Question { name: format!("seed {seed}"), archive, tree }),
                Err(e) => {
                    let words = text(&e);
                    let named = words.contains("entry \"")
                        || words.contains("passes the limit")
                        || words.starts_with("cannot ");
                    if !named {
                        differences
                            .push(format!("seed {seed}: the error names no entry or no reason: {words}"));
                    }
                }
            }
        }
        scratch.assert_empty("random");
        drop(scratch);
        sentinel.check();
        taken += questions.len();
        let (n, d) = readers::ask(&questions);
        compared += n;
        differences.extend(d);
        next = until;
        if differences.len() > 20 {
            break;
        }
    }
    let shown = differences.len().min(20);
    assert!(differences.is_empty(), "{}", differences[..shown].join("\n"));
    // Otherwise the comparison compares little.
    assert!(taken as u64 * 5 > count, "only {taken} of {count} archives were read");
    println!(
        "{count} archives, {taken} read, {compared} comparisons with other readers, none differs, {:?}",
        started.elapsed()
    );
    Ok(())
}
