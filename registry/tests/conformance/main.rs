//! The OCI distribution specification, version 1.1, requirement by requirement: against our server, and
//! against Debian's docker-registry where that implements them. Then attacks on ours.
//!
//! `cargo test -p boxship-registry --features server --test conformance -- <part of a name>` runs a part. A
//! test that needs what this host lacks is reported as ignored, and `BOXSHIP_REQUIRE=registry,…` (or `all`)
//! turns that into a failure. `BOXSHIP_CONFORMANCE_ALL=1` asks docker-registry also for what it is known not to
//! do. The big figure: `BOXSHIP_REGISTRY_KILLS=100`.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::exit,
    clippy::too_many_lines,
    clippy::missing_panics_doc,
    reason = "a test binary"
)]

mod access;
mod attack;
mod crash;
mod discovery;
mod http;
mod life;
mod management;
mod peers;
mod pull;
mod push;
mod subject;
mod through;

use libtest_mimic::{Arguments, Trial};

use subject::{OURS, Own, Peer, THEIRS, Target};

/// Who has to fulfil a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Both,
    /// docker-registry does not, for this reason.
    Ours(&'static str),
}

/// A requirement: its name, who has to fulfil it, and how that is seen.
pub type Requirement = (&'static str, Who, fn(&Target, &str));

fn runs(program: &str) -> bool {
    std::process::Command::new(program).arg("--version").output().is_ok()
}

/// Whether this host has what a test needs.
fn met(need: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    let openssl = std::process::Command::new("openssl").arg("version").output().is_ok();
    match need {
        "openssl" => openssl,
        "image-tools" => root && openssl && ["podman", "crun", "skopeo"].iter().all(|p| runs(p)),
        "docker" => root && ["dockerd", "docker", "setpriv"].iter().all(|p| runs(p)),
        _ => false,
    }
}

/// A test of ours alone: its name, what it needs, and what it does.
pub type Test = (&'static str, Option<&'static str>, fn());

/// Whether a failure is asked for where something is missing.
pub fn required(need: &str) -> bool {
    let list = std::env::var("BOXSHIP_REQUIRE").unwrap_or_default();
    list.split(',').any(|n| n == need || n == "all")
}

/// A test, or an ignored one that names what is missing, or a failure if that is required.
pub fn trial(name: &str, need: Option<(&str, bool)>, f: impl FnOnce() + Send + 'static) -> Trial {
    match need.filter(|(_, met)| !met) {
        None => Trial::test(name, move || {
            f();
            Ok(())
        }),
        Some((need, _)) if required(need) => {
            let message = format!("BOXSHIP_REQUIRE asks for it, but this host lacks: {need}");
            Trial::test(name, move || Err(message.into()))
        }
        Some((need, _)) => {
            Trial::test(format!("{name} (skipped: needs {need})"), || Ok(())).with_ignored_flag(true)
        }
    }
}

/// The same requirement for both. Each test has a repository of its own.
fn trials(requirement: Requirement, peer: bool) -> Vec<Trial> {
    let (name, who, check) = requirement;
    let repository = format!("conformance/{}", name.replace("::", "/"));
    let ours = trial(&format!("ours::{name}"), None, {
        let repository = repository.clone();
        move || check(&Target::new(OURS.get().expect("started")), &repository)
    });
    let theirs = format!("docker_registry::{name}");
    let theirs = match who {
        Who::Ours(reason) if std::env::var_os("BOXSHIP_CONFORMANCE_ALL").is_none() => {
            Trial::test(format!("{theirs} (skipped: {reason})"), || Ok(())).with_ignored_flag(true)
        }
        _ => trial(&theirs, Some(("registry", peer)), move || {
            let target = Target { ours: false, ..Target::new(THEIRS.get().expect("started")) };
            check(&target, &repository);
        }),
    };
    vec![ours, theirs]
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, role, root] = args.as_slice()
        && role == "--as=server"
    {
        return crash::serve(std::path::Path::new(root));
    }
    let arguments = Arguments::from_args();
    let peer = runs("docker-registry") && runs("setpriv");
    let mut all = Vec::new();
    for part in [pull::REQUIREMENTS, push::REQUIREMENTS, discovery::REQUIREMENTS, management::REQUIREMENTS] {
        all.extend(part.iter().flat_map(|requirement| trials(*requirement, peer)));
    }
    let own = [attack::TESTS, access::TESTS, life::TESTS, crash::TESTS, through::TESTS, peers::TESTS];
    all.extend(own.concat().into_iter().map(|(name, need, f)| trial(name, need.map(|n| (n, met(n))), f)));
    let (own, peer) =
        if arguments.list { (None, None) } else { (Some(Own::start(|b| b)), peer.then(Peer::start)) };
    if let Some(own) = &own {
        OURS.set(own.host.clone()).expect("once");
    }
    if let Some(peer) = &peer {
        THEIRS.set(peer.host.clone()).expect("once");
    }
    let conclusion = libtest_mimic::run(&arguments, all);
    drop(own);
    drop(peer);
    conclusion.exit();
}
