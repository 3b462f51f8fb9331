//! The i-th system call fails, for every i; and kernels that lack a call altogether.

use std::collections::{BTreeMap, BTreeSet};

use libtest_mimic::Failed;
use nix::errno::Errno;
use nix::libc;

use crate::check::Arena;
use crate::tracer::{self, Act, Class, Hit, Plan, Report};

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
    for role in ["ephemeral", "detached", "fortress"] {
        for class in [Class::Embedder, Class::Helper, Class::Inner] {
            let count = Plan { class: Some(class), number: None, at: usize::MAX, act: Act::Count };
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
                    let plan = Plan { class: Some(class), number: None, at, act: Act::Fail(errno) };
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
    if let Some(Hit { class: Class::Inner, number }) = report.hit {
        if said.contains("ran all the same") {
            wrong.push("a step failed inside, and the program ran".to_owned());
        }
        // Closed means closed: what cannot be applied is an error.
        let harmless = || HARMLESS.iter().any(|(n, _)| *n as u64 == number);
        if errno == Errno::EPERM && !failed && !harmless() {
            wrong.push(format!("system call {number} failed inside {role}, and nobody was told"));
        }
    }
    wrong.extend(arena.check(report));
    let _ = std::fs::remove_file(format!("{}/ran", arena.out()));
    wrong
}

/// What a control is called in its error, for the container that has them all.
const CONTROLS: &[(&str, &str)] = &[
    ("user namespace and its id maps", "user namespace"),
    ("namespaces", "namespaces"),
    ("cgroup", "cgroup"),
    ("root file system", "the root file system"),
    ("layers", "use as a layer"),
    ("id-mapped layers", "map the ids of"),
    ("mounts", "mount at"),
    ("masked paths", "mask \""),
    ("read-only paths", "make read-only"),
    ("read-only root", "make read-only the root"),
    ("devices", "make the device"),
    ("sysctls", "sysctl"),
    ("resource limits", "limit"),
    ("host name", "host name"),
    ("session keyring", "keyring"),
    ("capabilities", "capabilit"),
    ("no_new_privs", "no_new_privs"),
    ("seccomp", "seccomp"),
    ("user and groups", "group"),
    ("working directory", "working directory"),
];

/// The same for what the host's side writes: limits, in the words of cgroup v1 or v2.
const LIMITS: &[(&str, &[&str])] = &[
    ("memory limit", &["memory.limit_in_bytes", "memory.max"]),
    ("pids limit", &["pids.max"]),
    ("devices", &["devices.deny"]),
];

/// Makes every call of the new process impossible, one at a time, and has each control of the list named
/// by an error, with nothing having run.
pub fn closed() -> Result<String, Failed> {
    let mut arena = Arena::new("closed");
    let count = Plan { class: Some(Class::Inner), number: None, at: usize::MAX, act: Act::Count };
    let report = tracer::run("fortress", &[&arena.root(), &arena.out()], &count);
    let calls = report.counts[&Class::Inner];
    let _ = std::fs::remove_file(format!("{}/ran", arena.out()));
    let (mut messages, mut failures) = (BTreeMap::<String, u64>::new(), Vec::new());
    let mut host = 0;
    for (class, number, calls) in
        [(Class::Inner, None, calls), (Class::Embedder, Some(libc::SYS_write as u64), usize::MAX)]
    {
        for at in 1..=calls {
            let plan = Plan { class: Some(class), number, at, act: Act::Fail(Errno::EPERM) };
            let report = tracer::run("fortress", &[&arena.root(), &arena.out()], &plan);
            let Some(hit) = report.hit else { break };
            host += usize::from(class == Class::Embedder);
            let wrong = judge(&mut arena, "fortress", Errno::EPERM, &report);
            let message = report.stdout.lines().find_map(|l| l.strip_prefix("error ")).unwrap_or_default();
            if !wrong.is_empty() {
                println!("{class:?}, call {at}: {wrong:?}\n    {:?} {message}", report.hit);
                failures.push(at);
            }
            messages.entry(message.to_owned()).or_insert(hit.number);
        }
    }
    if std::env::var_os("BOXSHIP_MESSAGES").is_some() {
        messages.iter().for_each(|(message, number)| println!("{number:4} {message}"));
    }
    let named = |text: &str| messages.keys().any(|m| m.contains(text));
    let missing: BTreeSet<&str> = CONTROLS.iter().filter(|(_, t)| !named(t)).map(|(c, _)| *c).collect();
    let unnamed = LIMITS.iter().filter(|(_, files)| !files.iter().any(|f| named(f))).map(|(c, _)| *c);
    let missing: BTreeSet<&str> = missing.into_iter().chain(unnamed).collect();
    if !failures.is_empty() || !missing.is_empty() {
        return Err(format!("not closed: {failures:?}; no error names: {missing:?}").into());
    }
    let controls = CONTROLS.len() + LIMITS.len();
    Ok(format!("{} calls made impossible: {controls} controls named by errors, nothing ran", calls + host))
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
            let plan = Plan { class: None, number: None, at: usize::MAX, act: Act::Without(lacking) };
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
