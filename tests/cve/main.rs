//! Attacks that broke other engines, one test per CVE, named by its id. Every test also asserts that
//! nothing outside the container changed ([`Sentinel`]), and says where the same attack was seen to
//! work ("Red …"): a test that never failed proves nothing.
//!
//! `cargo test --test cve -- 2024_21626` runs one. `BOXSHIP_RACES=2000` is the big figure of the races.

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
    reason = "a test binary"
)]

mod bundle;
mod descriptors;
mod devices;
mod exec;
mod identity;
#[path = "../suite/need.rs"]
mod need;
mod procfs;
mod profile;
mod races;
mod roles;
mod rootfs;
mod sentinel;
mod swapper;

use std::path::{Path, PathBuf};

use boxship::{ContainerBuilder, Engine, Output};
use libtest_mimic::{Arguments, Failed, Trial};
use need::Need;

pub type Outcome = Result<(), Failed>;

/// Programs of the attacker's image. Perl makes any system call without a compiler.
pub const PROGRAMS: &[&str] = &[
    "/bin/sh",
    "/bin/cat",
    "/bin/ls",
    "/bin/sleep",
    "/bin/touch",
    "/bin/mount",
    "/usr/bin/id",
    "/usr/bin/perl",
    "/usr/bin/unshare",
];

/// Where everything of this process lies.
pub fn home() -> PathBuf {
    std::env::temp_dir().join(format!("boxship-cve-{}", std::process::id()))
}

/// The engine that the tests share, with the image `attack:1`.
pub async fn engine() -> Engine {
    static ENGINE: tokio::sync::OnceCell<Engine> = tokio::sync::OnceCell::const_new();
    ENGINE.get_or_init(|| async { own_engine(&home().join("engine")).await }).await.clone()
}

/// An engine at `root` with the image `attack:1`.
pub async fn own_engine(root: &Path) -> Engine {
    let engine = Engine::open(root).await.expect("an engine");
    let image = engine.image().from_host_programs(PROGRAMS).tag("attack:1");
    image.await.expect("an image of this host's programs");
    engine
}

pub fn sh(engine: &Engine, script: &str) -> ContainerBuilder {
    engine.container().image("attack:1").command(["/bin/sh", "-c", script])
}

pub fn perl(engine: &Engine, script: &str) -> ContainerBuilder {
    engine.container().image("attack:1").command(["/usr/bin/perl", "-e", script])
}

/// What a program that succeeded wrote.
pub fn text(out: boxship::Result<Output>) -> String {
    let out = out.expect("it starts");
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// A start that was refused, with these words in its explanation.
pub fn refused(out: boxship::Result<Output>, words: &str) {
    match out {
        Ok(out) => panic!("started, and wrote {:?}", String::from_utf8_lossy(&out.stdout)),
        Err(e) => assert!(e.chain().contains(words), "{:?} does not name {words:?}", e.chain()),
    }
}

/// Removes a tree, as far as it can be removed. An ordinary user may not look into the directories that
/// overlayfs leaves in a store until their modes are changed.
pub fn remove(dir: &Path) {
    if !is_root() {
        let _ = std::process::Command::new("chmod").args(["-R", "u+rwX"]).arg(dir).output();
    }
    let _ = std::fs::remove_dir_all(dir);
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A test that is an async function.
pub fn test<F: Future<Output = ()>>(
    name: &str,
    needs: &[Need],
    f: impl FnOnce() -> F + Send + 'static,
) -> Trial {
    need::trial(name, needs, move || {
        block_on(f());
        Ok(())
    })
}

pub fn block_on(f: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime").block_on(f);
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(role) = args.get(1).and_then(|a| a.strip_prefix("--as=")) {
        return roles::play(role, &args[2..]);
    }
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for part in [
        identity::tests,
        rootfs::tests,
        devices::tests,
        procfs::tests,
        descriptors::tests,
        exec::tests,
        profile::tests,
        races::tests,
    ] {
        trials.extend(part());
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    remove(&home());
    conclusion.exit();
}
