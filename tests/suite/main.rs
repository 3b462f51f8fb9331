//! The suite against the real kernel. Each test names what it needs; one that lacks it is reported as
//! ignored with the reason, and `BOXSHIP_REQUIRE=root,userns,…` (or `all`) turns that into a failure.
//!
//! `cargo test --test suite -- <part of a name>` runs a part. The big figures: `BOXSHIP_CYCLES=1000`
//! and `BOXSHIP_KILLS=100`.

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

mod basics;
mod crash;
mod daemon;
mod exec;
mod hosts;
mod images;
mod input;
mod interop;
mod lifecycle;
mod need;
mod real;
mod registry;
mod software;
mod token;
mod trace;

use std::path::PathBuf;
use std::sync::OnceLock;

use boxship::{ContainerBuilder, Engine, ErrorKind};
use libtest_mimic::{Arguments, Failed, Trial};
use need::Need;

pub type Outcome = Result<(), Failed>;

/// Programs of the test image.
pub const PROGRAMS: &[&str] = &[
    "/bin/sh",
    "/bin/cat",
    "/bin/ls",
    "/bin/echo",
    "/bin/sleep",
    "/bin/true",
    "/usr/bin/id",
    "/bin/touch",
    "/usr/bin/unshare",
    "/bin/stty",
    "/usr/bin/head",
    "/bin/mkdir",
    "/bin/rm",
    "/bin/ln",
    "/bin/mv",
    "/bin/chmod",
    "/usr/bin/mkfifo",
];

/// A directory of this process's own that is removed at the end.
pub struct Root(pub PathBuf);

impl Root {
    pub fn new(name: &str) -> Root {
        let dir = std::env::temp_dir().join(format!("boxship-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        Root(dir)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes a directory. overlayfs leaves some in it that an ordinary user has to open first.
fn remove(dir: &std::path::Path) {
    if std::fs::remove_dir_all(dir).is_err() && dir.exists() {
        let _ = std::process::Command::new("chmod").args(["-R", "u+rwx"]).arg(dir).status();
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// The engine that tests without special wishes share, with the image `tools:1`.
pub async fn engine() -> Engine {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    static ENGINE: tokio::sync::OnceCell<Engine> = tokio::sync::OnceCell::const_new();
    let make = || async {
        let root =
            ROOT.get_or_init(|| std::env::temp_dir().join(format!("boxship-suite-{}", std::process::id())));
        own_engine(root).await
    };
    ENGINE.get_or_init(make).await.clone()
}

/// An engine at `root` with the image `tools:1`.
pub async fn own_engine(root: &std::path::Path) -> Engine {
    let engine = Engine::open(root).await.expect("an engine");
    engine
        .image()
        .from_host_programs(PROGRAMS)
        .tag("tools:1")
        .await
        .expect("an image of this host's programs");
    engine
}

pub fn sh(engine: &Engine, script: &str) -> ContainerBuilder {
    engine.container().image("tools:1").command(["/bin/sh", "-c", script])
}

/// Runs a script and returns what it wrote to stdout.
pub async fn run(engine: &Engine, script: &str) -> String {
    text(sh(engine, script).output().await.expect("it starts"))
}

pub fn text(out: boxship::Output) -> String {
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

pub fn kind<T: std::fmt::Debug>(r: boxship::Result<T>) -> ErrorKind {
    r.expect_err("an error was expected").kind()
}

pub fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn block_on<F: Future<Output = ()>>(f: F) -> Outcome {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(f);
    Ok(())
}

/// A test that is an async function.
pub fn test<F: Future<Output = ()>>(
    name: &str,
    needs: &[Need],
    f: impl FnOnce() -> F + Send + 'static,
) -> Trial {
    need::trial(name, needs, move || block_on(f()))
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(role) = args.get(1).and_then(|a| a.strip_prefix("--as=")) {
        return hosts::play(role, &args[2..]);
    }
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for part in [
        basics::tests,
        exec::tests,
        input::tests,
        lifecycle::tests,
        crash::tests,
        hosts::tests,
        images::tests,
        interop::tests,
        real::tests,
        registry::tests,
        software::tests,
        trace::tests,
    ] {
        trials.extend(part());
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    interop::stop();
    remove(&std::env::temp_dir().join(format!("boxship-suite-{}", std::process::id())));
    conclusion.exit();
}
