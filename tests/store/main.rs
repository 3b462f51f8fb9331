//! Attacks on the layer store: the power is cut, its process is killed at a chosen system call, system calls
//! fail, the disk is full or read-only, many processes use it at once.
//!
//! CI runs a slice; CONTRIBUTING.md has the commands of the big figures. BOXSHIP_STORE_FILES makes every layer
//! bigger by that many files, and so the operations longer;
//! BOXSHIP_STORE_ONLY=commit attacks that one only.

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

mod check;
mod concurrent;
mod disk;
mod fault;
mod full;
mod kill;
mod material;
#[path = "../suite/need.rs"]
mod need;
mod operation;
mod peers;
mod power;
#[allow(dead_code, reason = "the attacks on a start use more of it")]
#[path = "../attack/tracer.rs"]
mod tracer;

use libtest_mimic::{Arguments, Failed, Trial};
use need::Need;

const PEERS: &str = "BOXSHIP_PEERS_POWER_POINTS";

pub type Outcome = Result<(), Failed>;

pub fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn test(name: &str, needs: &[Need], f: impl FnOnce() -> Result<String, Failed> + Send + 'static) -> Trial {
    need::trial(name, needs, move || f().map(|summary| println!("{summary}")))
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).and_then(|a| a.strip_prefix("--as=")) {
        Some(role) if role.ends_with("-worker") || role.ends_with("-driver") => {
            disk::die_with_parent();
            return match role {
                "power-driver" => power::drive(&args[2..]),
                "concurrent-worker" => concurrent::work(&args[2..]),
                "power-worker" => power::work(&args[2..]),
                "peers-driver" => peers::drive(&args[2..]),
                "full-driver" => full::drive(&args[2..]),
                other => panic!("no role {other:?}"),
            };
        }
        Some(role) => return operation::play(role, &args[2..]),
        None => {}
    }
    let mut arguments = Arguments::from_args();
    // ptrace belongs to one thread.
    arguments.test_threads = Some(1);
    let trials = vec![
        test("power_loss", &[Need::Root, Need::Ext4], || power::loss(number("BOXSHIP_POWER_POINTS", 10))),
        // Only to compare, so only when it is asked for: what others lose is no failure of ours.
        test("peers_power_loss", &[Need::Root, Need::Ext4, Need::Docker, Need::ImageTools], || {
            peers::loss(number(PEERS, 12))
        })
        .with_ignored_flag(std::env::var_os(PEERS).is_none()),
        test("full_disks", &[Need::Root, Need::Ext4], || full::disks(number("BOXSHIP_FULL_STEP", 128))),
        test("concurrent_checks_itself", &[], concurrent::checks_itself),
        test("concurrent_processes", &[], || concurrent::processes(number("BOXSHIP_CONCURRENT_SECONDS", 5))),
        test("kill_store_points", &[Need::X86_64], || kill::points(number("BOXSHIP_STORE_KILL_POINTS", 60))),
        test("fault_store_at_every_call", &[Need::X86_64], || {
            fault::calls(number("BOXSHIP_STORE_FAULT_STEP", 401))
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
