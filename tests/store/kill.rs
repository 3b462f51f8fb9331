//! SIGKILL at the k-th system call of a process that works on a store.

use libtest_mimic::Failed;

use crate::check::Arena;
use crate::operation;
use crate::tracer::{self, Act, Class, Plan, Report};

/// `points` kills, spread evenly over every call of every operation.
pub fn points(points: usize) -> Result<String, Failed> {
    let arena = Arena::new("kill");
    let (root, material) = (arena.root(), arena.material());
    let args = [root.to_str().expect("UTF-8"), material.to_str().expect("UTF-8")];
    let run = |operation: &str, at: usize, act: Act| -> Report {
        arena.renew(operation);
        tracer::run(operation, &args, &Plan { class: None, only: None, at, act })
    };
    let mut calls = Vec::new();
    for operation in operation::chosen() {
        let report = run(operation, usize::MAX, Act::Kill(vec![]));
        let wrong = arena.check(operation, &report, true);
        if !wrong.is_empty() || !report.stdout.ends_with("done\n") {
            return Err(format!("{operation} without an attack: {wrong:#?} {report:?}").into());
        }
        calls.push((operation, report.counts.values().sum::<usize>()));
    }
    let all: usize = calls.iter().map(|(_, n)| n).sum();
    let (mut done, mut failures) = (0, Vec::new());
    for i in 0..points {
        let mut place = i * all / points;
        let attacked = calls.iter().find(|(_, n)| match place < *n {
            true => true,
            false => {
                place -= n;
                false
            }
        });
        let (operation, n) = attacked.expect("within the sum");
        let report = run(operation, place + 1, Act::Kill(vec![Class::Embedder]));
        done += usize::from(report.hit.is_some());
        if i % 1000 == 999 {
            println!("{done} kills so far, {} claims failed", failures.len());
        }
        let wrong = arena.check(operation, &report, i % 5 == 0);
        if !wrong.is_empty() {
            let at = format!("{operation} at {} of {n}", place + 1);
            println!("{at}: {wrong:#?}\n    {:?} {:?}", report.hit, report.stdout);
            failures.push(at);
            if failures.len() == 20 {
                break;
            }
        }
    }
    if !failures.is_empty() {
        return Err(format!("{} of {points}: {failures:#?}", failures.len()).into());
    }
    Ok(format!("{done} kills over {all} calls of {} operations: all whole, nothing left", calls.len()))
}
