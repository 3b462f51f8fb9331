//! Hostile and odd archives against the import of layers. Whatever an archive says, nothing outside the
//! store changes ([`Sentinel`]), a refused one leaves nothing behind, and one that is read is read as GNU tar,
//! Python and Go's archive/tar read it.
//!
//! `cargo test --test hostile -- links` runs a part; `BOXSHIP_HOSTILE=100000` is the big figure of the
//! archives that are made at random, and `BOXSHIP_HOSTILE_SEED` where they begin.

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

mod bombs;
mod case;
mod cases;
mod generate;
mod model;
#[path = "../suite/need.rs"]
mod need;
mod pieces;
mod readers;
#[path = "../cve/sentinel.rs"]
mod sentinel;
mod tree;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use need::Need;
use sentinel::Sentinel;

pub type Outcome = Result<(), Failed>;

/// Where everything of this process lies: in memory, where that keeps extended attributes.
pub fn home() -> PathBuf {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    let choose = || {
        let name = format!("boxship-hostile-{}", std::process::id());
        let memory = PathBuf::from("/dev/shm").join(&name);
        let flags = rustix::fs::XattrFlags::empty();
        if std::fs::create_dir(&memory).is_ok() {
            if rustix::fs::setxattr(&memory, "user.test", b"v", flags).is_ok() {
                return memory;
            }
            let _ = std::fs::remove_dir(&memory);
        }
        std::env::temp_dir().join(name)
    };
    HOME.get_or_init(choose).clone()
}

/// The tree that archives try to reach: the sentinel, beside the stores.
pub fn outside() -> String {
    home().join("hostile-outside").to_str().expect("UTF-8").to_owned()
}

pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(role) = args.get(1).and_then(|a| a.strip_prefix("--as=")) {
        return match role.strip_prefix("seed=") {
            // The archive of one number, to look at.
            Some(seed) => std::io::Write::write_all(
                &mut std::io::stdout(),
                &generate::archive(seed.parse().expect("a number")),
            )
            .expect("written"),
            None => bombs::play(role),
        };
    }
    let arguments = Arguments::from_args();
    let listing = arguments.list;
    std::fs::create_dir_all(home()).expect("a temporary directory");
    let sentinel = Arc::new(Sentinel::new("hostile"));
    assert_eq!(sentinel.path().to_str(), Some(outside().as_str()));
    let mut trials = Vec::new();
    for (part, cases) in cases::all() {
        for case in cases {
            let sentinel = Arc::clone(&sentinel);
            trials.push(Trial::test(format!("{part}::{}", case.name), move || {
                case.check(&sentinel);
                Ok(())
            }));
        }
    }
    trials.extend(cases::tests());
    trials.extend(bombs::tests());
    let random = Arc::clone(&sentinel);
    trials.push(need::trial("random_archives_as_others_read_them", &[Need::Readers], move || {
        generate::run(number("BOXSHIP_HOSTILE", 2000), number("BOXSHIP_HOSTILE_SEED", 1), &random)
    }));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(summary) = bombs::summary() {
        println!("{summary}");
    }
    if !listing {
        sentinel.check();
    }
    drop(sentinel);
    let _ = std::fs::remove_dir_all(home());
    bombs::clean();
    conclusion.exit();
}
