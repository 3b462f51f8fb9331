//! The i-th system call of a process that works on a store fails, for every i.

use libtest_mimic::Failed;
use nix::errno::Errno;

use crate::check::Arena;
use crate::operation;
use crate::tracer::{self, Act, Class, Plan, Report};

const ERRORS: [Errno; 5] = [Errno::ENOSPC, Errno::EIO, Errno::EMFILE, Errno::EINTR, Errno::EDQUOT];

/// Every `step`-th combination of operation, call and error.
pub fn calls(step: usize) -> Result<String, Failed> {
    let arena = Arena::new("fault");
    let (root, material) = (arena.root(), arena.material());
    let args = [root.to_str().expect("UTF-8"), material.to_str().expect("UTF-8")];
    let run = |operation: &str, at: usize, act: Act| -> Report {
        arena.renew(operation);
        tracer::run(operation, &args, &Plan { class: Some(Class::Embedder), only: None, at, act })
    };
    let (mut runs, mut errors, mut failures, mut turn) = (0, 0, Vec::new(), 0);
    for operation in operation::chosen() {
        let report = run(operation, usize::MAX, Act::Count);
        let wrong = arena.check(operation, &report, true);
        if !wrong.is_empty() || !report.stdout.ends_with("done\n") {
            return Err(format!("{operation} without a fault: {wrong:#?} {report:?}").into());
        }
        for at in 1..=report.counts[&Class::Embedder] {
            for errno in ERRORS {
                turn += 1;
                if turn % step != 0 {
                    continue;
                }
                let report = run(operation, at, Act::Fail(errno));
                runs += 1;
                let failed = report.stdout.lines().any(|l| l.starts_with("error "));
                errors += usize::from(failed);
                let mut wrong = arena.check(operation, &report, runs % 5 == 0);
                if !report.stdout.ends_with(if failed { "retried\n" } else { "done\n" }) {
                    wrong.push("it neither succeeded nor told an error and then succeeded".to_owned());
                }
                if !wrong.is_empty() {
                    let at = format!("{operation}, call {at} answers {errno}");
                    failures.push(format!("{at}: {wrong:?}, {:?}, {:?}", report.hit, report.stdout));
                }
                if failures.len() > 40 {
                    return Err(format!("{runs} runs: {failures:#?}").into());
                }
            }
        }
        println!("{operation}: {runs} faults so far, {} claims failed", failures.len());
    }
    if !failures.is_empty() {
        return Err(format!("{} of {runs}: {failures:#?}", failures.len()).into());
    }
    Ok(format!("{runs} faults: {errors} typed errors, the others were survived; every retry worked"))
}
