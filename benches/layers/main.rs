//! How long from an image's archive to its files? boxship's store against Docker, Podman, umoci, skopeo
//! (which unpacks nothing), tar, and floors: decompressing, hashing, writing alone. A new ext4 for each
//! iteration, subjects in turns: `cargo bench --bench layers`; fewer rounds with `-- --quick`, one case with
//! `-- debian-gzip`. The peers do not sync what they write: compare them with `boxship-relaxed`;
//! `boxship-full` returns when everything is on the disk.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::missing_panics_doc,
    reason = "a benchmark stops at the first surprise"
)]

#[path = "../start/chart.rs"]
mod chart;
mod disk;
mod material;
mod subjects;
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use disk::Disk;
use material::Material;

/// Nanoseconds per (case, subject).
pub type Samples = BTreeMap<(&'static str, &'static str), Vec<u64>>;

const CASES: [&str; 7] =
    ["debian-gzip", "debian-zstd", "small-files-gzip", "big-file", "twelve-layers", "commit-1000", "gc-200"];
const SUBJECTS: [&str; 10] = [
    "boxship-relaxed",
    "boxship-full",
    "docker",
    "podman",
    "umoci",
    "skopeo",
    "tar",
    "floor-decompress",
    "floor-hash",
    "floor-write",
];

pub fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).expect("less than five centuries")
}

pub fn median(samples: &[u64]) -> u64 {
    let mut s = samples.to_vec();
    s.sort_unstable();
    s[s.len() / 2]
}

/// The images of a case.
fn materials(case: &str, dir: &Path) -> Option<Vec<Material>> {
    let small = |name: &str, seed: u64| {
        let path = dir.join(format!("{name}.tar"));
        material::small(&path, seed);
        material::image(&dir.join(name), vec![path], false)
    };
    match case {
        "commit-1000" => Some(vec![small("base", 1)]),
        "gc-200" => Some((0..200).map(|i| small(&format!("i{i}"), 1000 + i)).collect()),
        _ => {
            let tars = material::archives(case, dir)?;
            Some(vec![material::image(&dir.join("image"), tars, case == "debian-zstd")])
        }
    }
}

fn case(name: &'static str, dir: &Path, rounds: usize, all: &mut Samples, left_out: &mut BTreeSet<String>) {
    std::fs::create_dir_all(dir).expect("made");
    let Some(images) = materials(name, &dir.join(name)) else {
        left_out.insert(format!("{name}: there is no target/debian.tar, `bash .ci/debian` makes it"));
        return;
    };
    for round in 0..rounds {
        for subject in SUBJECTS {
            if left_out.iter().any(|l| l.starts_with(&format!("{name}, {subject}:"))) {
                continue;
            }
            let disk = Disk::new(dir);
            let ns = match name {
                "commit-1000" => subjects::commit(subject, &images[0], &disk),
                "gc-200" => subjects::collect(subject, &images, &disk),
                _ => subjects::unpack(subject, &images[0], &disk),
            };
            match ns {
                Ok(ns) => all.entry((name, subject)).or_default().push(ns),
                Err(e) if round == 0 => {
                    left_out.insert(format!("{name}, {subject}: {}", e.lines().last().unwrap_or_default()));
                }
                Err(e) => panic!("{name}, {subject}: {e}"),
            }
        }
    }
    if !matches!(name, "commit-1000" | "gc-200") {
        let disk = Disk::new(dir);
        println!(
            "{name}: peak memory of boxship {} MiB",
            subjects::memory(&images[0].layout, &disk.at) >> 20
        );
    }
    drop(images);
    let _ = std::fs::remove_dir_all(dir.join(name));
}

fn report(all: &Samples, left_out: &BTreeSet<String>) {
    let mut rows = Vec::new();
    println!(
        "\n{:<17} {:<17} {:>10} {:>8} {:>17}  synced",
        "case", "subject", "median ms", "samples", "boxship-relaxed/it"
    );
    for ((case, subject), samples) in all {
        let m = median(samples);
        let ours = all.get(&(*case, "boxship-relaxed")).map_or(0, |s| median(s));
        let synced = if *subject == "boxship-full" { "yes" } else { "no" };
        println!(
            "{case:<17} {subject:<17} {:>10.1} {:>8} {:>17.3}  {synced}",
            m as f64 / 1e6,
            samples.len(),
            ours as f64 / m as f64
        );
        rows.push(serde_json::json!({"case": case, "subject": subject, "median_ns": m,
            "p99_ns": samples.iter().max(), "samples": samples.len()}));
    }
    for line in left_out {
        println!("not measured: {line}");
    }
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&out).expect("made");
    std::fs::write(out.join("layers.json"), serde_json::to_string_pretty(&rows).expect("plain data"))
        .expect("written");
    let title = "From an image's archive to its files: median, lower is better";
    std::fs::write(out.join("layers.svg"), chart::bars(all, title)).expect("written");
    println!("\nwritten: {0}/layers.json, {0}/layers.svg", out.display());
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if args.first().is_some_and(|a| a == "--load") {
        return println!("{}", subjects::load_and_tell(Path::new(&args[1]), Path::new(&args[2])));
    }
    if args.iter().any(|a| a == "--test") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: new file systems and the peers need root");
        return;
    }
    // Podman takes no path of more than 50 characters.
    let dir = Path::new("/var/tmp").join(format!("bench-{}", std::process::id()));
    let rounds = if args.iter().any(|a| a == "--quick") { 2 } else { 5 };
    let wanted = |case: &str| args.iter().all(|a| a.starts_with("--")) || args.iter().any(|a| a == case);
    let (mut all, mut left_out) = (Samples::new(), BTreeSet::new());
    for name in CASES.into_iter().filter(|c| wanted(c)) {
        case(name, &dir, rounds, &mut all, &mut left_out);
    }
    report(&all, &left_out);
    let _ = std::fs::remove_dir_all(dir);
}
