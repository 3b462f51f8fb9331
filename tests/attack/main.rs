//! Attacks on a start from outside: SIGKILL at a chosen system call, failing system calls, kernels that
//! lack some, many containers at once.
//!
//! CI runs a slice. The big figures, each one test of this binary (`cargo test --release --test attack --`):
//! `BOXSHIP_KILL_POINTS=10000 … kill_points`, `BOXSHIP_FAULT_STEP=1 … fault_at`,
//! `BOXSHIP_CLOSED_STEP=1 … fault_closes_every`, `BOXSHIP_CHURN=100000 … churn`, `BOXSHIP_EXITS=10000 … exits`,
//! `BOXSHIP_CROWD=1000 … crowd`, all with `--nocapture`.

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
mod churn;
mod closed;
mod fault;
mod fort;
mod kill;
#[path = "../suite/need.rs"]
mod need;
#[allow(non_upper_case_globals, reason = "system calls have the names that libc gives them")]
mod script;
mod tracer;
mod victim;

use libtest_mimic::{Arguments, Failed, Trial};
use need::Need;

pub type Outcome = Result<(), Failed>;

pub fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn test(name: &str, needs: &[Need], f: impl FnOnce() -> Result<String, Failed> + Send + 'static) -> Trial {
    need::trial(name, needs, move || f().map(|summary| println!("{summary}")))
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(role) = args.get(1).and_then(|a| a.strip_prefix("--as=")) {
        return victim::play(role, &args[2..]);
    }
    let mut arguments = Arguments::from_args();
    // ptrace belongs to one thread, and orphans are counted.
    arguments.test_threads = Some(1);
    let needs = &[Need::UserNamespaces];
    let trials = vec![
        test("kill_points", needs, || kill::points(number("BOXSHIP_KILL_POINTS", 200))),
        test("fault_at_every_call", needs, || fault::calls(number("BOXSHIP_FAULT_STEP", 53))),
        test("fault_closes_every_control", &[Need::Root, Need::UserNamespaces, Need::Cgroups], || {
            closed::controls(number("BOXSHIP_CLOSED_STEP", 199))
        }),
        test("fault_closes_without_namespaces", &[Need::Root, Need::UserNamespaces], closed::namespaces),
        test(
            "fault_closes_on_every_refusal",
            &[Need::Root, Need::UserNamespaces, Need::Cgroups],
            closed::refusals,
        ),
        test("fault_closes_without_newuidmap", &[Need::Root, Need::UserNamespaces], closed::maps),
        test("fault_of_an_older_kernel", needs, fault::old_kernels),
        test("churn_of_cycles", needs, || churn::cycles(number("BOXSHIP_CHURN", 200))),
        test("exits_before_anyone_waits", needs, || churn::exits(number("BOXSHIP_EXITS", 100))),
        test("crowd_at_once", needs, || churn::crowd(number("BOXSHIP_CROWD", 50))),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
