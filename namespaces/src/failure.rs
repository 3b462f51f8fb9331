//! The helper's `(operation, errno)` in words, with what to do about it.

use std::io;

use crate::error::Error;
use crate::kind::Namespaces;
use crate::program::Program;
use crate::wire::{Message, report, stage};

/// Turns the helper's (operation, errno) into words.
pub(crate) fn failure(m: &Message, program: &Program) -> Error {
    #[allow(clippy::cast_possible_truncation, reason = "two 32-bit halves")]
    let (errno, detail) = match m.kind {
        report::FAILED => ((m.b >> 32) as i32, m.b as u32),
        _ => (m.b as i32, 0),
    };
    let source = io::Error::from_raw_os_error(errno);
    match m.kind {
        report::DIED => Error::Killed,
        report::HELPER_FAILED => {
            #[allow(clippy::cast_possible_truncation, reason = "a stage")]
            let stage_number = m.a as u32;
            let (step, advice) = stage_words(stage_number, errno);
            // Which ones cannot be had is what the caller has to know.
            let made = match stage_number {
                stage::OWN_NAMESPACES => words(program.own),
                stage::CLONE if program.cloned == Namespaces::NONE => "the container's process".to_owned(),
                stage::CLONE => format!("the container's process, {}", words(program.cloned)),
                stage::ENTER => words(program.entered),
                _ => return Error::Start { step, advice, source },
            };
            Error::Setup { step, subject: made, advice, source }
        }
        _ => match usize::try_from(m.a).ok().and_then(|i| program.contexts.get(i)) {
            Some(c) if c.step == "execute" => execute_failure(program.command.clone(), errno, detail, source),
            Some(c) => Error::Setup {
                step: c.step,
                subject: c.subject.to_string(),
                advice: advice(c.step, errno, detail),
                source,
            },
            None => Error::Start { step: "read the plan", advice: "", source },
        },
    }
}

/// A set as the subject of an error.
pub(crate) fn words(set: Namespaces) -> String {
    let one = set.bits().is_power_of_two();
    format!("the {set} namespace{}", if one { "" } else { "s" })
}

const ENOENT: i32 = 2;
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const ENOSPC: i32 = 28;
const ENOSYS: i32 = 38;
const OLD_KERNEL: &str = "; it takes Linux 5.19 or newer, and no filter that hides its system calls";

pub(crate) fn execute_failure(program: String, errno: i32, detail: u32, source: io::Error) -> Error {
    match (errno, detail) {
        (ENOENT, 0) | (20, _) => Error::ProgramNotFound { program, source },
        (ENOENT, _) => {
            Error::NotExecutable { program, reason: "its interpreter or loader is missing", source }
        }
        (EACCES, _) => {
            Error::NotExecutable { program, reason: "not marked executable, or a directory", source }
        }
        (8, _) => Error::NotExecutable { program, reason: "not a program of this architecture", source },
        _ => Error::NotExecutable { program, reason: "the kernel refused it", source },
    }
}

fn stage_words(stage_number: u32, errno: i32) -> (&'static str, &'static str) {
    let step = match stage_number {
        stage::OWN_NAMESPACES | stage::CLONE => "create",
        stage::OWN_ID_MAP => "write the id map",
        stage::TIME_OFFSETS => "set the clock offsets",
        stage::CLONE_DONOR => "create the process that makes the container's namespaces",
        stage::LOG => "open the log",
        stage::PIPES => "create pipes",
        stage::DETACH => "detach the monitor",
        stage::RECORD => "record the container's process",
        stage::DUMPABLE => "hide the monitor's memory from others (PR_SET_DUMPABLE)",
        stage::ENTER => "enter",
        stage::SESSION => "start the monitor's session",
        _ => "read the plan in the helper",
    };
    let advice = match (stage_number, errno) {
        (_, ENOSYS) => OLD_KERNEL,
        (stage::OWN_NAMESPACES | stage::CLONE, EPERM | EACCES) => USER_NAMESPACE_ADVICE,
        (stage::OWN_NAMESPACES | stage::CLONE, ENOSPC) => {
            "; the limit in /proc/sys/user/max_*_namespaces is reached"
        }
        _ => "",
    };
    (step, advice)
}

const USER_NAMESPACE_ADVICE: &str = "; this kernel does not let you create namespaces: run as root, or allow \
user namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)";

fn advice(step: &str, errno: i32, detail: u32) -> &'static str {
    match (step, errno) {
        (_, ENOSYS) => OLD_KERNEL,
        ("create", EPERM | EACCES) if detail == stage::DONOR_NAMESPACES => USER_NAMESPACE_ADVICE,
        ("create", ENOSPC) => "; the limit in /proc/sys/user/max_*_namespaces is reached",
        ("set the limit", EPERM) => "; raising a hard limit needs CAP_SYS_RESOURCE",
        ("set", EACCES) => "; lowering oom_score_adj needs CAP_SYS_RESOURCE",
        ("mount at", 40) => "; a symbolic link stands where the container's own mount belongs",
        ("open", 116) => "; it was replaced by another file meanwhile",
        ("enter the working directory", ENOENT) => "; it does not exist in the container",
        ("enter the working directory", EACCES) if detail == 1 => "; it lies outside the container's root",
        ("map the ids of", 22) => "; its file system does not support idmapped mounts",
        _ => "",
    }
}
