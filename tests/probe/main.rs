//! What can a program in a container reach? One static program (`probe.c`) asks the kernel some 2 900
//! questions inside boxship's three profiles, and inside Docker where that is installed, and the answers
//! are compared: `Strict` must reach strictly less than `Default`, and `Default` strictly less than
//! `Compat` and than Docker.
//!
//! `cargo test --test probe -- --table` writes the comparison to docs/probe.md and README.md.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    reason = "a test binary"
)]

#[path = "../suite/daemon.rs"]
mod daemon;
mod docker;
#[path = "../suite/need.rs"]
mod need;
mod program;
mod reach;
mod table;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use boxship::{ContainerBuilder, Engine, Profile};
use libtest_mimic::{Arguments, Failed, Trial};
use need::Need;
use reach::Reach;

pub type Outcome = Result<(), Failed>;

/// Where the program, the engine and dockerd live while this runs.
pub fn scratch() -> PathBuf {
    std::env::temp_dir().join(format!("boxship-probe-{}", std::process::id()))
}

async fn engine() -> (Engine, PathBuf) {
    static ENGINE: tokio::sync::OnceCell<(Engine, PathBuf)> = tokio::sync::OnceCell::const_new();
    let make = || async {
        let program = program::build(&scratch());
        let engine = Engine::open(scratch().join("engine")).await.expect("an engine");
        engine.image().from_host_programs([&program]).tag("probe:1").await.expect("an image of the probe");
        (engine, program)
    };
    ENGINE.get_or_init(make).await.clone()
}

/// The probe in a container that is made as `change` says.
fn run(change: impl FnOnce(ContainerBuilder) -> ContainerBuilder) -> Reach {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (engine, program) = engine().await;
        let mut command = vec![program.to_str().expect("UTF-8").to_owned()];
        command.extend(program::namespaces());
        let c = engine.container().image("probe:1").command(command).timeout(Duration::from_secs(300));
        let out = change(c).output().await.expect("it starts");
        assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
        Reach::parse(&String::from_utf8(out.stdout).expect("UTF-8"))
    })
}

pub fn of(profile: Profile) -> &'static Reach {
    static ALL: [OnceLock<Reach>; 3] = [const { OnceLock::new() }; 3];
    let cell = match profile {
        Profile::Strict => &ALL[0],
        Profile::Default => &ALL[1],
        _ => &ALL[2],
    };
    cell.get_or_init(|| run(|c| c.profile(profile)))
}

/// The `Default` profile of an ordinary user's engine: this program again, as that user.
pub fn of_user() -> &'static Reach {
    static REACH: OnceLock<Reach> = OnceLock::new();
    REACH.get_or_init(|| {
        let dir = scratch().join("user");
        std::fs::create_dir_all(&dir).expect("made");
        // Who built this may have hidden it from others.
        std::fs::copy(std::env::current_exe().expect("this program"), dir.join("probe")).expect("copied");
        for path in [scratch(), dir.clone(), dir.join("probe")] {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("changed");
        }
        let nobody = 65534;
        let out = std::process::Command::new(dir.join("probe"))
            .arg("--raw")
            .current_dir("/")
            .env_remove("HOME")
            .uid(nobody)
            .gid(nobody)
            .output()
            .expect("it starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Reach::parse(&String::from_utf8(out.stdout).expect("UTF-8"))
    })
}

/// `less` reaches nothing that `more` does not, and `more` something that `less` does not.
fn strictly_less(less: &Reach, more: &Reach, names: [&str; 2]) -> Outcome {
    let beyond: Vec<String> = less
        .beyond(more)
        .into_iter()
        .map(|b| format!("{}: {} in {}, {} in {}", b.name, b.here, names[0], b.there, names[1]))
        .collect();
    if !beyond.is_empty() {
        return Err(format!("{} reaches more than {}:\n{}", names[0], names[1], beyond.join("\n")).into());
    }
    if more.beyond(less).is_empty() {
        return Err(format!("{} reaches all that {} does", names[0], names[1]).into());
    }
    Ok(())
}

/// What must not be reached, whatever a laxer profile reaches.
const NEVER: &[&str] = &[
    "cgroup/writable/",
    "device/made",
    "identity/",
    "ioctl/",
    "keys/",
    "mount/",
    "namespace/clone",
    "namespace/setns",
    "namespace/unshare/",
    "path/kernel addresses",
    "socket/made by socketcall/",
    "syscall/i386/",
    "syscall/x32/",
    "sysctl/writable/",
    "sysfs/writable/",
];

/// A subset of what is lax could be lax as well, so this is what `Default` and `Strict` promise by name.
fn promises() -> Outcome {
    let mut broken = Vec::new();
    for (profile, families) in [(Profile::Strict, 3), (Profile::Default, 4)] {
        let reach = of(profile);
        let mut never: Vec<String> =
            reach.names().filter(|n| NEVER.iter().any(|p| n.starts_with(p))).cloned().collect();
        for path in Profile::Default.masked_paths() {
            never.extend([format!("path/readable/{path}"), format!("path/writable/{path}")]);
        }
        never.extend(profile.read_only_paths().iter().map(|path| format!("path/writable/{path}")));
        for check in never {
            match reach.detail(&check) {
                reach::MISSING => broken.push(format!("the probe does not check {check}")),
                detail if reach.reaches(&check) => broken.push(format!("{profile:?}: {check}: {detail}")),
                _ => {}
            }
        }
        let counts = [
            ("capability/bounding/", profile.capabilities().bits().count_ones() as usize),
            ("namespace/the host's/", 1), // of time
            ("personality/", 2),
            ("socket/pair past filter/", 1),
        ];
        for (prefix, allowed) in counts {
            if reach.reached(prefix) != allowed {
                broken.push(format!("{profile:?}: {prefix}: {} and not {allowed}", reach.reached(prefix)));
            }
        }
        if reach.groups("socket/past filter/") != families
            || reach.count("identity/descriptors beyond 2") != 0
        {
            broken.push(format!("{profile:?}: socket families or descriptors"));
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(broken.join("\n").into()) }
}

/// Who starts it makes no difference to what a program in it reaches.
fn user() -> Outcome {
    let beyond = of_user().beyond(of(Profile::Default));
    let more: Vec<&String> = beyond.iter().map(|b| &b.name).filter(|n| !n.starts_with("count/")).collect();
    if more.is_empty() { Ok(()) } else { Err(format!("{more:?}").into()) }
}

fn repeats() -> Outcome {
    let again = run(|c| c.profile(Profile::Default));
    let changed = again.changed(of(Profile::Default));
    if changed.is_empty() { Ok(()) } else { Err(format!("other answers: {}", changed.join("\n")).into()) }
}

/// The probe sees what is given: each must show, and only where it was given.
fn sees_what_is_given() -> Outcome {
    let default = of(Profile::Default);
    let more = run(|c| c.cap_add("SYS_ADMIN").cap_add("NET_RAW").network(boxship::Network::Host));
    for check in
        ["mount/new/tmpfs", "mount/fsopen/tmpfs", "namespace/unshare/uts", "namespace/the host's/net"]
    {
        if !more.reaches(check) || default.reaches(check) {
            return Err(
                format!("{check}: {} with, {} without", more.detail(check), default.detail(check)).into()
            );
        }
    }
    let traced =
        default.reaches("trace/seize of a child") && !of(Profile::Strict).reaches("trace/seize of a child");
    let sockets = default.reaches("socket/made/family 02/stream")
        && !default.reaches("socket/past filter/family 40/stream");
    if traced && sockets { Ok(()) } else { Err("ptrace or socket families".into()) }
}

fn trials() -> Vec<Trial> {
    let any = &[Need::X86_64, Need::UserNamespaces];
    let with_root = &[Need::X86_64, Need::Root, Need::UserNamespaces];
    let with_docker = &[Need::X86_64, Need::Root, Need::UserNamespaces, Need::Docker];
    vec![
        need::trial("strict_reaches_less_than_default", any, || {
            strictly_less(of(Profile::Strict), of(Profile::Default), ["strict", "default"])
        }),
        need::trial("default_reaches_less_than_compat", any, || {
            strictly_less(of(Profile::Default), of(Profile::Compat), ["default", "compat"])
        }),
        need::trial("default_reaches_less_than_docker", with_docker, || {
            strictly_less(of(Profile::Default), docker::reach()?, ["default", "docker"])
        }),
        need::trial("what_default_and_strict_promise", any, promises),
        need::trial("an_ordinary_user_s_container_reaches_no_more", with_root, user),
        need::trial("the_probe_repeats_itself", any, repeats),
        need::trial("the_probe_sees_what_is_given", any, sees_what_is_given),
    ]
}

fn main() {
    let conclusion = if std::env::args().any(|a| a == "--raw") {
        print!("{}", of(Profile::Default).lines());
        None
    } else if std::env::args().any(|a| a == "--table") {
        table::write();
        None
    } else {
        let mut arguments = Arguments::from_args();
        // Containers that share this machine's processors would only make time limits meet.
        arguments.test_threads.get_or_insert(1);
        Some(libtest_mimic::run(&arguments, trials()))
    };
    docker::stop();
    let _ = std::fs::remove_dir_all(scratch());
    if let Some(conclusion) = conclusion {
        conclusion.exit();
    }
}
