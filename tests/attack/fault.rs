//! The i-th system call fails, for every i; and kernels that lack a call altogether.

use libtest_mimic::Failed;
use nix::errno::Errno;
use nix::libc;

use crate::check::Arena;
use crate::tracer::{self, Act, Call, Class, Plan, Report};

const ERRORS: [Errno; 7] =
    [Errno::ENOSPC, Errno::EIO, Errno::EMFILE, Errno::ENOMEM, Errno::EINTR, Errno::EAGAIN, Errno::EPERM];

/// Calls whose failure inside the new process changes nothing that was asked for, each with its reason.
const HARMLESS: &[(libc::c_long, &str)] = &[
    (libc::SYS_ppoll, "the donor only sleeps with it, until it is killed"),
    (libc::SYS_umask, "it cannot fail"),
];

/// Every `step`-th combination of role, class, call and error.
pub fn calls(step: usize) -> Result<String, Failed> {
    let mut arena = Arena::new("fault");
    let (mut runs, mut errors, mut failures, mut turn) = (0, 0, Vec::new(), 0);
    for role in ["ephemeral", "detached", "reopened", "fortress"] {
        for class in [Class::Embedder, Class::Helper, Class::Inner] {
            let count = Plan { class: Some(class), only: None, at: usize::MAX, act: Act::Count };
            let report = tracer::run(role, &[&arena.root(), &arena.out()], &count);
            let wrong = arena.check(&report);
            if !wrong.is_empty() || !report.stdout.ends_with("done\n") {
                return Err(format!("{role} without a fault: {wrong:?} {report:?}").into());
            }
            let _ = std::fs::remove_file(format!("{}/ran", arena.out()));
            for at in 1..=report.counts.get(&class).copied().unwrap_or(0) {
                for errno in ERRORS {
                    turn += 1;
                    if turn % step != 0 {
                        continue;
                    }
                    let plan = Plan { class: Some(class), only: None, at, act: Act::Fail(errno) };
                    let report = tracer::run(role, &[&arena.root(), &arena.out()], &plan);
                    runs += 1;
                    errors += usize::from(report.stdout.contains("\nerror "));
                    let wrong = judge(&mut arena, role, errno, &report);
                    if !wrong.is_empty() {
                        let at = format!("{role}, call {at} of the {class:?} answers {errno}");
                        println!("{at}: {wrong:?}\n    {:?} {:?}", report.hit, report.stdout);
                        failures.push(at);
                    }
                    if failures.len() > 40 {
                        return Err(format!("{runs} runs: {failures:#?}").into());
                    }
                }
            }
        }
    }
    if !failures.is_empty() {
        return Err(format!("{} of {runs}: {failures:#?}", failures.len()).into());
    }
    Ok(format!(
        "{runs} faults: {errors} typed errors, the others were survived; no panic, no residue, every retry worked"
    ))
}

fn judge(arena: &mut Arena, role: &str, errno: Errno, report: &Report) -> Vec<String> {
    let mut wrong = Vec::new();
    let said = &report.stdout;
    let failed = said.lines().any(|l| l.starts_with("error"));
    if failed && !said.contains("retried") {
        wrong.push("the retry failed".to_owned());
    }
    if !failed && !said.ends_with("done\n") {
        wrong.push("neither an error nor success".to_owned());
    }
    if let Some(Call { class: Class::Inner, number, .. }) = &report.hit {
        if said.contains("ran all the same") {
            wrong.push("a step failed inside, and the program ran".to_owned());
        }
        // Closed means closed: what cannot be applied is an error.
        let harmless = || HARMLESS.iter().any(|(n, _)| *n as u64 == *number);
        if errno == Errno::EPERM && !failed && !harmless() {
            wrong.push(format!("system call {number} failed inside {role}, and nobody was told"));
        }
    }
    wrong.extend(arena.check(report));
    let _ = std::fs::remove_file(format!("{}/ran", arena.out()));
    wrong
}

/// What older kernels do not have. (All kernels with any of these have renameat2 and memfd_create.)
const YOUNG: &[(&str, &[libc::c_long])] = &[
    ("openat2", &[libc::SYS_openat2]),
    ("clone3", &[libc::SYS_clone3]),
    ("move_mount", &[libc::SYS_move_mount]),
    ("open_tree", &[libc::SYS_open_tree]),
    ("mount_setattr", &[libc::SYS_mount_setattr]),
    ("fsopen", &[libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount]),
    ("close_range", &[libc::SYS_close_range]),
    ("pidfd", &[libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal]),
    ("statx", &[libc::SYS_statx]),
];

/// A kernel without one of them: it works, or an error names what is missing; nothing is weaker.
pub fn old_kernels() -> Result<String, Failed> {
    let mut arena = Arena::new("old");
    let (mut works, mut refused, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for (name, numbers) in YOUNG {
        for role in ["fortress", "detached"] {
            let lacking = numbers.iter().map(|n| *n as u64).collect();
            let plan = Plan { class: None, only: None, at: usize::MAX, act: Act::Without(lacking) };
            let mut report = tracer::run(role, &[&arena.root(), &arena.out()], &plan);
            let error = report.stdout.lines().find_map(|l| l.strip_prefix("error ")).map(str::to_owned);
            // The retry meets the same kernel.
            report.stdout = report.stdout.replace("refused", "as before");
            let wrong = arena.check(&report);
            let _ = std::fs::remove_file(format!("{}/ran", arena.out()));
            println!("{name:18} {role:10} {}", error.as_deref().unwrap_or("works"));
            match error {
                _ if !wrong.is_empty() => failures.push(format!("{name}, {role}: {wrong:?}")),
                None if report.stdout.ends_with("done\n") => works.push(*name),
                Some(e) if e.contains("not implemented") || e.contains("Linux ") => refused.push(*name),
                other => failures.push(format!("{name}, {role}: {other:?} {:?}", report.stdout)),
            }
        }
    }
    works.dedup();
    refused.dedup();
    if !failures.is_empty() {
        return Err(format!("{failures:#?}").into());
    }
    Ok(format!("without {works:?} it works; without {refused:?} an error says so"))
}
