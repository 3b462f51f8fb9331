//! How long from a name to an image that can be run, back to a registry, and to the first process? boxship
//! against Docker, Podman and skopeo (with umoci, which unpacks) from the same docker-registry, on a fast line
//! and on a slow one (20 ms, 100 MB/s a connection); a new ext4 for each iteration, subjects in turns:
//! `cargo bench --bench pull`; fewer rounds with `-- --quick`, one case with `-- pull-one-big`. Nobody syncs
//! (boxship is `Relaxed`), but boxship does before the first process.

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
#[path = "../layers/disk.rs"]
mod disk;
mod hub;
#[path = "../layers/material.rs"]
mod material;
mod subjects;
#[path = "../layers/tools.rs"]
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use disk::Disk;
use hub::Hub;
use material::{Material, Text};
use subjects::Case;

/// Nanoseconds per (case, subject).
pub type Samples = BTreeMap<(&'static str, &'static str), Vec<u64>>;

/// Each case, its image, and whether the line is slow.
const CASES: [(&str, &str, bool); 10] = [
    ("pull-ten-layers", "ten", false),
    ("pull-ten-layers-slow", "ten", true),
    ("push-ten-layers", "ten", false),
    ("push-ten-layers-slow", "ten", true),
    ("first-process", "ten", false),
    ("first-process-slow", "ten", true),
    ("pull-one-big", "big", false),
    ("pull-one-big-slow", "big", true),
    ("pull-many-small", "many", false),
    ("pull-many-small-slow", "many", true),
];
const SUBJECTS: [&str; 5] = ["boxship", "docker", "podman", "skopeo", "floor"];

/// A program that exits at once, without libc.
const TINY: &str = "void _start(void){\n#if defined(__x86_64__)\n__asm__ volatile(\"mov $60,%eax; xor %edi,%edi; syscall\");\n\
#else\n__asm__ volatile(\"mov x8,#93; mov x0,#0; svc #0\");\n#endif\n}\n";

pub fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).expect("less than five centuries")
}

pub fn median(samples: &[u64]) -> u64 {
    let mut s = samples.to_vec();
    s.sort_unstable();
    s[s.len() / 2]
}

fn tiny(dir: &Path) -> Vec<u8> {
    let (source, program) = (dir.join("tiny.c"), dir.join("tiny"));
    std::fs::write(&source, TINY).expect("written");
    let mut c = Command::new("cc");
    c.args(["-O2", "-nostdlib", "-static", "-o"]).arg(&program).arg(&source);
    assert!(c.status().expect("cc runs").success());
    std::fs::read(program).expect("made")
}

/// Layers of files that compress to a half and of such that do not, in turns; the first has `/bin/true`.
fn image(name: &str, dir: &Path) -> Material {
    let (layers, bytes) = match name {
        "ten" => (10, 30 << 20),
        "big" => (1, 500 << 20),
        _ => (60, 1 << 20),
    };
    std::fs::create_dir_all(dir).expect("made");
    let program = tiny(dir);
    let tars: Vec<PathBuf> = (0..layers)
        .map(|i: u64| {
            let path = dir.join(format!("{i}.tar"));
            let mut text = Text::new(77 + i);
            let count: usize = (bytes / 100_000_usize).max(4);
            let files = (0..count).map(|n| {
                let name = format!("l{i}/d{}/f{n}", n % 20);
                (
                    name,
                    if i.is_multiple_of(2) {
                        text.bytes(2 * bytes / count)
                    } else {
                        text.noise(bytes / count)
                    },
                )
            });
            let first = (i == 0).then(|| ("bin/true".to_owned(), program.clone()));
            material::tar_of(&path, first.into_iter().chain(files));
            path
        })
        .collect();
    material::image(dir, tars, false)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if args.first().is_some_and(|a| a == "--line") {
        return hub::line(args[1].parse().expect("a port"), args[2].parse().expect("a port"));
    }
    if args.iter().any(|a| a == "--test") {
        return;
    }
    let programs = ["docker-registry", "skopeo", "umoci", "curl"];
    let missing = programs.iter().find(|p| Command::new(p).arg("--version").output().is_err());
    if let Some(missing) = missing.filter(|_| rustix::process::geteuid().is_root()) {
        return println!("skipped: {missing} is not installed");
    }
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: new file systems and the peers need root");
    }
    let dir = Path::new("/var/tmp").join(format!("boxship-bench-pull-{}", std::process::id()));
    let rounds = if args.iter().any(|a| a == "--quick") { 1 } else { 5 };
    let wanted = |case: &str| args.iter().all(|a| a.starts_with("--")) || args.iter().any(|a| a == case);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (mut all, mut left_out) = (Samples::new(), BTreeSet::new());
    for wanted_image in ["ten", "big", "many"] {
        let cases: Vec<_> = CASES.iter().filter(|(case, i, _)| *i == wanted_image && wanted(case)).collect();
        if cases.is_empty() {
            continue;
        }
        let material = image(wanted_image, &dir.join(wanted_image));
        let storage = dir.join("registry");
        let hub = Hub::start(&storage, None, false);
        let (from, to) =
            (format!("oci:{}", tools::tag(&material.layout)), format!("docker://{}/bench:1", hub.host));
        let copy = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &from, &to];
        tools::run(Command::new("skopeo").args(copy)).expect("seeded");
        drop(hub);
        for (case, _, slow) in cases {
            let c = Case { image: &material, storage: &storage, slow: *slow, runtime: &runtime };
            measure(case, &c, &dir, rounds, &mut all, &mut left_out);
        }
        let _ = std::fs::remove_dir_all(dir.join(wanted_image));
        let _ = std::fs::remove_dir_all(&storage);
    }
    report(&all, &left_out);
    let _ = std::fs::remove_dir_all(dir);
}

fn measure(
    case: &'static str,
    c: &Case<'_>,
    dir: &Path,
    rounds: usize,
    all: &mut Samples,
    left_out: &mut BTreeSet<String>,
) {
    for round in 0..rounds {
        for subject in SUBJECTS {
            if left_out.iter().any(|l| l.starts_with(&format!("{case}, {subject}:"))) {
                continue;
            }
            let disk = Disk::new(dir);
            let ns = match case {
                _ if case.starts_with("push") => subjects::push(subject, c, &disk),
                _ if case.starts_with("first") => subjects::first_process(subject, c, &disk),
                _ => subjects::pull(subject, c, &disk),
            };
            match ns {
                Ok(ns) => all.entry((case, subject)).or_default().push(ns),
                Err(e) if round == 0 => {
                    left_out.insert(format!("{case}, {subject}: {}", e.lines().last().unwrap_or_default()));
                }
                Err(e) => panic!("{case}, {subject}: {e}"),
            }
        }
    }
}

fn report(all: &Samples, left_out: &BTreeSet<String>) {
    let mut rows = Vec::new();
    println!("\n{:<21} {:<8} {:>10} {:>8}  boxship/it", "case", "subject", "median ms", "samples");
    for ((case, subject), samples) in all {
        let m = median(samples);
        let ours = all.get(&(*case, "boxship")).map_or(0, |s| median(s));
        println!(
            "{case:<21} {subject:<8} {:>10.1} {:>8}  {:.3}",
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
    std::fs::write(out.join("pull.json"), serde_json::to_string_pretty(&rows).expect("plain data"))
        .expect("written");
    let title = "From a registry and to it: median, lower is better";
    std::fs::write(out.join("pull.svg"), chart::bars(all, title)).expect("written");
    println!("\nwritten: {0}/pull.json, {0}/pull.svg", out.display());
}
