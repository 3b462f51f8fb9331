//! Archives that are small and ask for much. Each is imported by a process of its own whose peak memory is
//! read at its end. What is announced is made while it is read: nothing of it is in memory before.

use std::io::Read;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use boxship_layers::{Durability, Expected, Publish, Store};
use libtest_mimic::Trial;

use crate::case::text;
use crate::pieces::*;

/// What a process may use at its peak, in KiB.
const PEAK: u64 = 64 << 10;
/// What it should take at most, in milliseconds. How long that is depends on the machine and on what else it does: it
/// is told of, and nobody fails for it.
const TIME: u64 = 2000;
static SLOW: AtomicU64 = AtomicU64::new(0);
static SLOWEST: AtomicU64 = AtomicU64::new(0);

/// How long they took.
pub fn summary() -> Option<String> {
    let slowest = SLOWEST.load(Ordering::Relaxed);
    let slow = SLOW.load(Ordering::Relaxed);
    (slowest > 0).then(|| format!("bombs: the slowest took {slowest} ms, {slow} took more than {TIME} ms"))
}

/// A stream that is made piece by piece.
struct Made<F>(F, Vec<u8>, usize, u64);

impl<F: FnMut(u64) -> Option<Vec<u8>>> Read for Made<F> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.2 == self.1.len() {
            let Some(next) = (self.0)(self.3) else { return Ok(0) };
            (self.1, self.2) = (next, 0);
            self.3 += 1;
        }
        let n = buf.len().min(self.1.len() - self.2);
        buf[..n].copy_from_slice(&self.1[self.2..self.2 + n]);
        self.2 += n;
        Ok(n)
    }
}

type Stream = Box<dyn Read + Send>;

fn made(f: impl FnMut(u64) -> Option<Vec<u8>> + Send + 'static) -> Stream {
    Box::new(Made(f, Vec::new(), 0, 0))
}

/// `count` entries and an end.
fn entries(count: u64, f: impl Fn(u64) -> Vec<u8> + Send + 'static) -> Stream {
    made(move |i| match i.cmp(&count) {
        std::cmp::Ordering::Less => Some(f(i)),
        std::cmp::Ordering::Equal => Some(end()),
        std::cmp::Ordering::Greater => None,
    })
}

fn gzip(of: Stream) -> Stream {
    Box::new(flate2::read::GzEncoder::new(of, flate2::Compression::best()))
}

/// One file of `gib` GiB of zeros.
fn zeros(gib: u64) -> Stream {
    made(move |i| match i {
        0 => Some(head("zeros", b'0').field(124, 12, &base256(12, (gib << 30).cast_signed())).alone()),
        i if i <= gib << 10 => Some(vec![0; 1 << 20]),
        _ => None,
    })
}

/// A zstd frame with this window whose first block holds `start`, and then zeros, 128 KiB of them in four
/// bytes: the best ratio that the format has.
fn zstd_zeros(log: u8, start: Vec<u8>, blocks: u64) -> Stream {
    made(move |i| match i {
        0 => {
            let size = u32::try_from(start.len()).expect("small") << 3;
            let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3];
            Some([&frame[..], &size.to_le_bytes()[..3], &start].concat())
        }
        i if i <= blocks => {
            let header: u32 = (128 << 10) << 3 | 1 << 1 | u32::from(i == blocks);
            Some([&header.to_le_bytes()[..3], &[0]].concat())
        }
        _ => None,
    })
}

fn full() -> bool {
    crate::number("BOXSHIP_HOSTILE", 2000) >= 100_000
}

/// The big figure, or the slice of it that CI runs.
fn scale(big: u64, slice: u64) -> u64 {
    if full() { big } else { slice }
}

/// A deep path whose last part is `i`.
fn deep(i: u64, part: &str, depth: usize) -> String {
    format!("{}{i}", format!("{part}/").repeat(depth))
}

struct Bomb {
    name: &'static str,
    make: fn() -> Stream,
    /// Words of the error; `None` when it is read.
    refused: Option<&'static str>,
}

const RATIO: Option<&str> = Some("compressed");

const BOMBS: &[Bomb] = &[
    Bomb { name: "gzip_of_a_large_file", make: || gzip(zeros(20)), refused: RATIO },
    Bomb { name: "gzip_of_gzip_of_zeros", make: || gzip(gzip(zeros(1))), refused: Some("checksum") },
    Bomb {
        name: "gzip_of_zeros_after_the_end",
        make: || gzip(made(|i| Some(vec![0; if i == 0 { 1024 } else { 1 << 20 }]))),
        refused: Some("passes the limit"),
    },
    Bomb {
        name: "zstd_of_a_large_file",
        make: || {
            zstd_zeros(23, head("zeros", b'0').field(124, 12, &base256(12, 60 << 30)).alone(), 480 << 10)
        },
        refused: RATIO,
    },
    Bomb {
        name: "zstd_of_zeros_after_the_end",
        make: || zstd_zeros(23, end(), 1 << 30),
        refused: Some("passes the limit"),
    },
    // Twice the window goes through it, so that all of it is touched.
    Bomb { name: "zstd_with_a_window_of_32_mib", make: || zstd_zeros(25, end(), 500), refused: None },
    Bomb {
        name: "zstd_with_a_window_of_64_mib",
        make: || zstd_zeros(26, end(), 500),
        refused: Some("the archive"),
    },
    Bomb {
        name: "zstd_with_a_window_of_128_mib",
        make: || zstd_zeros(27, end(), 500),
        refused: Some("the archive"),
    },
    Bomb {
        name: "zstd_with_a_window_of_two_gib",
        make: || zstd_zeros(31, end(), 500),
        refused: Some("the archive"),
    },
    Bomb {
        name: "more_files_than_all_may_have",
        make: || made(|i| Some(head(format!("{i}"), b'0').field(124, 12, &base256(12, 65 << 30)).alone())),
        refused: Some("size of all files"),
    },
    Bomb {
        name: "sparse_map_of_pax_01",
        make: || {
            entries(1, |_| [pax(rec("GNU.sparse.map", "0,1,".repeat(260_000))), file("s", b"x")].concat())
        },
        refused: Some("sparse"),
    },
    Bomb {
        name: "sparse_map_of_pax_10",
        make: || {
            made(|i| {
                Some(match i {
                    0 => [
                        pax([rec("GNU.sparse.major", "1"), rec("GNU.sparse.minor", "0")].concat()),
                        head("s", b'0').size(1 << 32).alone(),
                    ]
                    .concat(),
                    _ => b"1\n".repeat(1 << 19),
                })
            })
        },
        refused: Some("sparse"),
    },
    Bomb {
        name: "sparse_of_old_gnu",
        make: || {
            made(|i| {
                Some(if i == 0 {
                    head("s", b'S').gnu().put(482, b"\x01").size(1 << 32).alone()
                } else {
                    vec![1; 512]
                })
            })
        },
        refused: Some("sparse"),
    },
    Bomb {
        name: "pax_headers_of_a_mebibyte",
        make: || {
            gzip_slow(
                |i| [pax(rec("comment", "c".repeat(1_048_000))), file(format!("{i}"), b"")].concat(),
                scale(2000, 20),
            )
        },
        refused: None,
    },
    Bomb {
        name: "pax_header_of_small_records",
        make: || {
            entries(scale(100, 2), |i| {
                let records: Vec<u8> = (0..70_000).flat_map(|n| rec(format!("k{n:05}"), "")).collect();
                [pax(records), file(format!("{i}"), b"")].concat()
            })
        },
        refused: None,
    },
    Bomb {
        name: "pax_header_of_four_gib_announced",
        make: || {
            made(|i| Some(if i == 0 { head("p", b'x').size(4 << 30).alone() } else { vec![b'1'; 1 << 20] }))
        },
        refused: Some("extension header"),
    },
    Bomb {
        name: "gnu_name_of_four_gib_announced",
        make: || {
            made(|i| Some(if i == 0 { head("p", b'L').size(4 << 30).alone() } else { vec![b'1'; 1 << 20] }))
        },
        refused: Some("extension header"),
    },
    Bomb {
        name: "gnu_names_without_end",
        make: || made(|_| Some(long(b'L', "n"))),
        refused: Some("two GNU long names"),
    },
    Bomb {
        name: "pax_headers_without_end",
        make: || made(|_| Some(pax(rec("comment", "c")))),
        refused: Some("two PAX headers"),
    },
    Bomb {
        name: "names_of_4_kib_of_files",
        make: || {
            entries(scale(100_000, 1000), |i| {
                [long(b'L', format!("{}/{i}", ["d".repeat(250).as_str(); 16].join("/"))), file("f", b"")]
                    .concat()
            })
        },
        refused: None,
    },
    Bomb {
        name: "names_of_4_kib_of_directories",
        make: || {
            entries(scale(100_000, 9000), |i| {
                [long(b'L', format!("{}/{i}", ["d".repeat(250).as_str(); 16].join("/"))), dir("d")].concat()
            })
        },
        refused: None,
    },
    Bomb {
        name: "attributes_of_one_file",
        make: || {
            entries(1, |_| {
                [
                    pax((0..30_000)
                        .flat_map(|n| rec(format!("SCHILY.xattr.user.{n}"), "v"))
                        .collect::<Vec<u8>>()),
                    file("f", b""),
                ]
                .concat()
            })
        },
        refused: Some("extended attribute"),
    },
    Bomb {
        name: "attributes_of_many_directories",
        make: || {
            entries(scale(100_000, 2000), |i| {
                [pax(rec("SCHILY.xattr.user.a", vec![b'v'; 3000])), dir(format!("{i}"))].concat()
            })
        },
        refused: None,
    },
    Bomb {
        name: "access_control_lists_of_many_directories",
        make: || {
            entries(scale(50_000, 2000), |i| {
                let list = "user::rwx,user:7:r-x,group::r--,mask::r-x,other::---";
                let both = [rec("SCHILY.acl.access", list), rec("SCHILY.acl.default", list)].concat();
                [pax(both), dir(format!("{i}"))].concat()
            })
        },
        refused: None,
    },
    Bomb {
        name: "files",
        make: || entries(scale(1_000_000, 2500), |i| file(format!("d{}/{i}", i / 1000), b"")),
        refused: None,
    },
    Bomb {
        name: "directories",
        make: || entries(scale(1_000_000, 2500), |i| dir(format!("d{}/{i}", i / 1000))),
        refused: None,
    },
    Bomb {
        name: "directories_with_long_names",
        make: || {
            entries(scale(1_000_000, 2500), |i| {
                [long(b'L', format!("{}{}/{}{i}", "p".repeat(240), i / 1000, "n".repeat(240))), dir("d")]
                    .concat()
            })
        },
        refused: None,
    },
    Bomb {
        name: "directories_not_mentioned",
        make: || entries(scale(300_000, 1500), |i| file(format!("d{}/{i}/f", i / 1000), b"")),
        refused: None,
    },
    Bomb {
        name: "one_directory_many_times",
        make: || entries(scale(1_000_000, 2500), |_| dir("d")),
        refused: None,
    },
    Bomb {
        name: "file_and_directory_in_turns",
        make: || {
            entries(scale(200_000, 1500), |i| match i % 3 {
                0 => dir("d"),
                1 => file("d/x/y", b""),
                _ => file("d", b""),
            })
        },
        refused: None,
    },
    Bomb {
        name: "symlinks",
        make: || entries(scale(1_000_000, 2500), |i| sym(format!("{i}"), "../".repeat(30))),
        refused: None,
    },
    Bomb {
        name: "whiteouts",
        make: || entries(scale(1_000_000, 2500), |i| file(format!(".wh.{i}"), b"")),
        refused: None,
    },
    Bomb {
        name: "hard_link_farm",
        make: || {
            entries(scale(1_000_000, 2500), |i| {
                if i % 1000 == 0 {
                    file(format!("{i}"), b"x")
                } else {
                    hard(format!("{i}"), format!("{}", i / 1000 * 1000))
                }
            })
        },
        refused: None,
    },
    Bomb {
        name: "depth_of_512_in_many_branches",
        make: || {
            entries(scale(2000, 8), |i| {
                [long(b'L', format!("b{i}/{}", deep(0, "a", 510))), file("f", b"")].concat()
            })
        },
        refused: None,
    },
    Bomb {
        name: "depth_without_end",
        make: || {
            made(|i| {
                Some([long(b'L', "a/".repeat(usize::try_from(i).expect("small") + 1)), dir("d")].concat())
            })
        },
        refused: Some("depth"),
    },
    Bomb {
        name: "parents_in_turns",
        make: || entries(scale(500_000, 2000), |i| file(format!("{}/{}/{i}", i % 50, i % 49), b"")),
        refused: None,
    },
    Bomb {
        name: "devices",
        make: || entries(scale(1_000_000, 2500), |i| device(format!("{i}"))),
        refused: None,
    },
];

/// Too many for the slice: what needs millions of headers, or the limits of a file system.
const LARGE: &[Bomb] = &[
    // ext4 allows 65,000.
    Bomb {
        name: "hard_links_to_one_file",
        make: || entries(1_000_000, |i| if i == 0 { file("f", b"x") } else { hard(format!("{i}"), "f") }),
        refused: Some("hard link"),
    },
    Bomb {
        name: "global_headers_without_end",
        make: || made(|_| Some(global(rec("comment", "c")))),
        refused: Some("number of entries"),
    },
    Bomb {
        name: "devices_without_end",
        make: || made(|i| Some(device(format!("{i}")))),
        refused: Some("number of entries"),
    },
];

/// Entries that compress well, compressed: the input is small, too.
fn gzip_slow(f: impl Fn(u64) -> Vec<u8> + Send + 'static, count: u64) -> Stream {
    // Noise between, so that the ratio is not what stops it.
    let noise = |i: u64| {
        let mut n = i + 1;
        let data: Vec<u8> = (0..4096)
            .map(|_| {
                n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (n >> 56) as u8
            })
            .collect();
        file("noise", &data)
    };
    gzip(entries(count, move |i| [noise(i), f(i)].concat()))
}

pub fn tests() -> Vec<Trial> {
    let large = if full() { LARGE } else { &[] };
    let trial = |b: &'static Bomb| {
        Trial::test(format!("bombs::{}", b.name), move || {
            let out = Command::new(std::env::current_exe()?)
                .arg(format!("--as={}", b.name))
                .env("BOXSHIP_HOSTILE_HOME", scratch())
                .output()?;
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            let mut lines = said.lines();
            let (result, peak, ms) = (
                lines.next().unwrap_or_default(),
                lines.next().unwrap_or_default(),
                lines.next().unwrap_or_default(),
            );
            assert!(out.status.success(), "{said} {}", String::from_utf8_lossy(&out.stderr));
            let time = ms.parse::<u64>()?;
            SLOWEST.fetch_max(time.max(1), Ordering::Relaxed);
            SLOW.fetch_add(u64::from(time > TIME), Ordering::Relaxed);
            let long = if time > TIME { "  (long)" } else { "" };
            println!("{:32} {:>6} KiB at the peak {ms:>6} ms  {result}{long}", b.name, peak);
            match b.refused {
                None => assert_eq!(result, "read"),
                Some(words) => assert!(
                    result.starts_with("refused: ") && result.contains(words),
                    "{result} does not say {words:?}"
                ),
            }
            assert!(peak.parse::<u64>()? <= PEAK, "{peak} KiB");
            Ok(())
        })
    };
    BOMBS.iter().chain(large).map(trial).collect()
}

/// On a disk: its limits are some of the bounds.
fn scratch() -> PathBuf {
    std::env::temp_dir().join(format!("boxship-hostile-bombs-{}", std::process::id()))
}

/// Removes what a bomb that was killed left.
pub fn clean() {
    let _ = std::fs::remove_dir_all(scratch());
}

/// The process of one bomb.
pub fn play(name: &str) {
    let bomb = BOMBS.iter().chain(LARGE).find(|b| b.name == name).expect("a known bomb");
    let dir = PathBuf::from(std::env::var_os("BOXSHIP_HOSTILE_HOME").expect("set")).join(name);
    std::fs::create_dir_all(dir.parent().expect("below home")).expect("made");
    let store = Store::open_with(&dir, Durability::Relaxed).expect("a store");
    let started = std::time::Instant::now();
    let add = store.begin(Publish::Together).expect("begun");
    let result = add.layer((bomb.make)(), Expected::default(), &mut |_| true);
    let ms = started.elapsed().as_millis();
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let peak = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .expect("VmHWM")
        .trim()
        .trim_end_matches(" kB")
        .to_owned();
    match result {
        Ok(_) => println!("read"),
        Err(e) => println!("refused: {}", text(&e)),
    }
    println!("{peak}\n{ms}");
    drop(add);
    drop(store);
    let _ = std::fs::remove_dir_all(dir);
}
