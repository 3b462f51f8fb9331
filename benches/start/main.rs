//! How long from the call to a removed container? boxship as a library call against crun, runc,
//! bubblewrap, Podman, Docker, and a floor that makes the same kernel objects with nothing around them.
//! One process, interleaved, ratios, everybody's files on a new ext4 with its journal (TARGETS 3.5: without
//! one, what is made soon after deletions takes many times as long, and each run slows down the next): `cargo bench --bench start`; fewer samples with `-- --quick`, one
//! case with `-- root-plain`, the waterfall of one start with `-- --waterfall`.

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

mod chart;
#[path = "../layers/disk.rs"]
mod disk;
mod peers;
mod waterfall;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use boxship::{Engine, Profile};
use peers::Peers;

/// A program that exits at once, without libc: what is measured is the start and not the payload.
const TINY: &str = "void _start(void){\n#if defined(__x86_64__)\n__asm__ volatile(\"mov $60,%eax; xor %edi,%edi; syscall\");\n\
#else\n__asm__ volatile(\"mov x8,#93; mov x0,#0; svc #0\");\n#endif\n}\n";

/// Nanoseconds per (case, subject).
pub type Samples = BTreeMap<(&'static str, &'static str), Vec<u64>>;

pub struct Bench {
    pub dir: PathBuf,
    pub tiny: PathBuf,
    pub engine: Engine,
    pub runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(dir: PathBuf) -> Bench {
        std::fs::create_dir_all(&dir).expect("a scratch directory");
        let tiny = dir.join("tiny");
        std::fs::write(dir.join("tiny.c"), TINY).expect("written");
        cc(&[dir.join("tiny.c").as_path()], &tiny, &["-nostdlib", "-static"]);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let engine = runtime.block_on(async {
            let engine = Engine::open(dir.join("engine")).await.expect("an engine");
            engine.image().from_host_programs([&tiny]).tag("tiny:1").await.expect("an image");
            engine
        });
        Bench { dir, tiny, engine, runtime }
    }

    /// One container from builder to removed.
    pub async fn start(&self, profile: Profile) {
        let tiny = self.tiny.to_str().expect("UTF-8");
        let out = self
            .engine
            .container()
            .image("tiny:1")
            .profile(profile)
            .command([tiny])
            .output()
            .await
            .expect("it starts");
        assert!(out.status.success());
    }

    fn timed(&self, profile: Profile) -> u64 {
        let begin = Instant::now();
        self.runtime.block_on(self.start(profile));
        nanos(begin.elapsed())
    }
}

pub fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).expect("less than five centuries")
}

/// rustc needs a C compiler to link, so there is one.
pub fn cc(sources: &[&Path], out: &Path, flags: &[&str]) {
    let done =
        Command::new("cc").arg("-O2").args(flags).arg("-o").arg(out).args(sources).status().expect("cc runs");
    assert!(done.success(), "cc {sources:?}");
}

fn median(samples: &[u64]) -> u64 {
    let mut s = samples.to_vec();
    s.sort_unstable();
    s[s.len() / 2]
}

fn p99(samples: &[u64]) -> u64 {
    let mut s = samples.to_vec();
    s.sort_unstable();
    s[(s.len() - 1) * 99 / 100]
}

fn interleaved(
    b: &Bench,
    peers: &mut Peers,
    all: &mut Samples,
    case: &'static str,
    subjects: &[&'static str],
    n: usize,
    pause: Duration,
) {
    let profile = if case == "root-userns" { Profile::Default } else { Profile::Compat };
    for round in 0..n + 2 {
        for subject in subjects {
            // The daemons and engines take a hundred times as long: a tenth of the rounds will do.
            let slow = matches!(*subject, "docker" | "podman");
            if !peers.has(subject) || slow && round % 10 != 2 {
                continue;
            }
            std::thread::sleep(pause);
            let ns = if *subject == "boxship" { b.timed(profile) } else { peers.run(subject) };
            // The first two rounds warm caches.
            if round >= 2 {
                all.entry((case, subject)).or_default().push(ns);
            }
        }
    }
}

/// Nanoseconds per container with `starters` at once, isolated as crun isolates: without a user namespace.
fn rate(b: &Bench, peers: &mut Peers, all: &mut Samples, case: &'static str, starters: usize, n: usize) {
    for _ in 0..5 {
        let begin = Instant::now();
        // A thread each, as the peers have: two futures of one task would take turns.
        std::thread::scope(|scope| {
            for _ in 0..starters {
                scope.spawn(|| {
                    b.runtime.block_on(async {
                        for _ in 0..n / starters {
                            b.start(Profile::Compat).await;
                        }
                    });
                });
            }
        });
        all.entry((case, "boxship")).or_default().push(nanos(begin.elapsed()) / n as u64);
        for subject in ["crun", "runc", "bwrap"].into_iter().filter(|s| peers.has(s)) {
            let begin = Instant::now();
            std::thread::scope(|scope| {
                for worker in 0..starters {
                    let peers = &*peers;
                    scope.spawn(move || {
                        (0..n / 4 / starters).for_each(|i| peers.command(subject, worker * 1_000_000 + i))
                    });
                }
            });
            all.entry((case, subject)).or_default().push(nanos(begin.elapsed()) / (n / 4) as u64);
        }
    }
}

/// The size of the embedding program must not matter.
fn rss(b: &Bench, all: &mut Samples, n: usize) {
    let mut memory = vec![1u8; 16 << 20];
    for round in 0..6 {
        // Alternating, so that a change of the machine's mood meets both.
        let (case, size) = if round % 2 == 0 { ("rss-16m", 16 << 20) } else { ("rss-1g", 1 << 30) };
        memory.clear();
        memory.shrink_to_fit();
        memory.resize(size, 1);
        for i in 0..n / 3 + 1 {
            let ns = b.timed(Profile::Default);
            if i > 0 {
                all.entry((case, "boxship")).or_default().push(ns);
            }
        }
    }
    std::hint::black_box(&memory);
}

/// As an ordinary user: this program again, as nobody, with bubblewrap beside it.
fn rootless(b: &Bench, all: &mut Samples, n: usize) {
    let dir = std::env::temp_dir().join(format!("boxship-bench-rootless-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("made");
    let me = dir.join("bench");
    std::fs::copy(std::env::current_exe().expect("this program"), &me).expect("copied");
    for path in [&dir, &me] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("set");
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&me)
        .args(["--rootless", &n.to_string()])
        .arg(&dir)
        .stderr(Stdio::inherit())
        .output()
        .expect("setpriv runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in text.lines() {
        let Some((subject, ns)) = line.split_once(' ') else { continue };
        let subject = if subject == "boxship" { "boxship" } else { "bwrap" };
        all.entry(("rootless", subject)).or_default().push(ns.parse().expect("a number"));
    }
    assert!(output.status.success(), "the rootless part failed: {text}");
    let _ = std::fs::remove_dir_all(dir);
    let _ = b;
}

fn rootless_child(n: usize, dir: &Path) {
    let b = Bench::new(dir.join("work"));
    let peers = Peers::unprivileged(&b);
    for round in 0..n + 2 {
        let ns = b.timed(Profile::Default);
        let other = peers.has("bwrap").then(|| peers.time("bwrap", round));
        if round >= 2 {
            println!("boxship {ns}");
            other.iter().for_each(|ns| println!("bwrap {ns}"));
        }
    }
}

fn report(all: &Samples, peers: &Peers) {
    let mut rows = Vec::new();
    println!(
        "\n{:<12} {:<13} {:>10} {:>10} {:>8}  boxship / it",
        "case", "subject", "median ms", "p99 ms", "samples"
    );
    for ((case, subject), samples) in all {
        let (m, p) = (median(samples), p99(samples));
        let ours = all.get(&(*case, "boxship")).map_or(0, |s| median(s));
        let ratio =
            if *subject == "boxship" { String::new() } else { format!("{:.3}", ours as f64 / m as f64) };
        println!(
            "{case:<12} {subject:<13} {:>10.2} {:>10.2} {:>8}  {ratio}",
            m as f64 / 1e6,
            p as f64 / 1e6,
            samples.len()
        );
        rows.push(serde_json::json!({"case": case, "subject": subject, "median_ns": m, "p99_ns": p, "samples": samples.len()}));
    }
    for absent in peers.absent() {
        println!("not installed, not measured: {absent}");
    }
    let get = |case, subject| all.get(&(case, subject)).map(|s| median(s) as f64);
    if let (Some(small), Some(large)) = (get("rss-16m", "boxship"), get("rss-1g", "boxship")) {
        println!("rss-1g / rss-16m: {:.3}", large / small);
    }
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&out).expect("made");
    std::fs::write(out.join("start.json"), serde_json::to_string_pretty(&rows).expect("plain data"))
        .expect("written");
    std::fs::write(out.join("start.svg"), chart::bars(all, "Start to removed: median, lower is better"))
        .expect("written");
    println!("\nwritten: {0}/start.json, {0}/start.svg", out.display());
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if args.first().is_some_and(|a| a == "--rootless") {
        return rootless_child(args[1].parse().expect("a number"), Path::new(&args[2]));
    }
    if args.iter().any(|a| a == "--test") {
        // `cargo test --benches` only wants to know that it builds.
        return;
    }
    let dir = std::env::temp_dir().join(format!("boxship-bench-{}", std::process::id()));
    if !rustix::process::geteuid().is_root() {
        println!(
            "skipped: the comparison needs root (the peers do); as a user: -- --rootless 50 /tmp/some-directory"
        );
        return;
    }
    let hugetlb = peers::complete_hierarchies();
    let disk = disk::Disk::new(&dir);
    let b = Bench::new(disk.at.join("bench"));
    let quick = args.iter().any(|a| a == "--quick");
    let n = if quick { 20 } else { 100 };
    if args.iter().any(|a| a == "--waterfall") {
        waterfall::draw(&b);
    } else {
        let wanted = |case: &str| args.iter().all(|a| a.starts_with("--")) || args.iter().any(|a| a == case);
        let mut peers = Peers::new(&b);
        let mut all = Samples::new();
        let everyone = ["boxship", "floor", "crun", "crun-seccomp", "runc", "bwrap", "podman", "docker"];
        if wanted("root-plain") {
            interleaved(&b, &mut peers, &mut all, "root-plain", &everyone, n, Duration::ZERO);
        }
        if wanted("root-userns") {
            interleaved(&b, &mut peers, &mut all, "root-userns", &["boxship", "crun"], n, Duration::ZERO);
        }
        if wanted("sporadic") {
            let subjects = ["boxship", "floor", "crun", "runc"];
            interleaved(
                &b,
                &mut peers,
                &mut all,
                "sporadic",
                &subjects,
                n / 4 + 5,
                Duration::from_millis(100),
            );
        }
        if wanted("rss") {
            rss(&b, &mut all, n);
        }
        if wanted("rate") {
            rate(&b, &mut peers, &mut all, "rate-1", 1, 2 * n);
            rate(&b, &mut peers, &mut all, "rate-2", 2, 2 * n);
        }
        if wanted("rootless") {
            rootless(&b, &mut all, n);
        }
        report(&all, &peers);
    }
    drop(b);
    drop(disk);
    drop(hugetlb);
    let _ = std::fs::remove_dir_all(dir);
}
