//! Fails closed: every control is made impossible, an error names it, and nothing has run.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::rc::Rc;

use boxship_runtime::Profile;
use libtest_mimic::Failed;
use nix::errno::Errno;
use nix::libc;

use crate::check::Arena;
use crate::script::{Line, Script, Who};
use crate::tracer::{self, Act, Call, Class, Only, Plan, Report};

const NOBODY: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// The victims, and below what they run.
const ROLES: &[(&str, &[&str])] = &[
    ("fortress", &[]),
    ("compat", &[]),
    ("strict", &[]),
    ("bare", &[]),
    ("rootless", NOBODY),
    ("rootless-host", NOBODY),
];

/// What a control is called in the error of its own call, and the victim that has it.
const CONTROLS: &[(&str, &[&str])] = &[
    ("fortress", &["create", "the pid namespace"]),
    ("fortress", &["create the mnt namespace"]),
    ("fortress", &["create the", "namespaces", "ipc", "net", "user", "uts"]),
    ("fortress", &["create the cgroup namespace"]),
    ("fortress", &["enter namespaces ipc,net,uts"]),
    ("fortress", &["enter the user namespace"]),
    ("fortress", &["lock the mounts"]),
    ("fortress", &["join the cgroup"]),
    ("fortress", &["make private the mount of", "/out\""]),
    ("fortress", &["switch to the root file system"]),
    ("fortress", &["use as a layer"]),
    ("fortress", &["map the ids of", "/layers/"]),
    ("fortress", &["map the ids of", "/out\""]),
    ("fortress", &["restrict the root mount"]),
    ("fortress", &["restrict the mount of", "/out\""]),
    ("fortress", &["clone the mount of \"/dev/zero\""]),
    ("fortress", &["mount at \"/proc\""]),
    ("fortress", &["mount at \"/sys\""]),
    ("fortress", &["mount at \"/dev\""]),
    ("fortress", &["mount at \"/ro\""]),
    ("fortress", &["mount at \"/dev/nought\""]),
    ("fortress", &["make read-only the root"]),
    ("fortress", &["set the sysctl net.ipv4.ip_default_ttl"]),
    ("fortress", &["set the sysctl net.ipv4.ping_group_range"]),
    ("fortress", &["set the limit RLIMIT_FSIZE"]),
    ("fortress", &["set the limit RLIMIT_CORE"]),
    ("fortress", &["set the limit RLIMIT_NOFILE"]),
    ("fortress", &["set the host name"]),
    ("fortress", &["bring up the loopback interface"]),
    ("fortress", &["session keyring"]),
    ("fortress", &["bounding set"]),
    ("fortress", &["set the capabilities"]),
    ("fortress", &["set the ambient capabilities"]),
    ("fortress", &["no_new_privs"]),
    ("fortress", &["install the seccomp filter"]),
    ("fortress", &["become the user 0:0"]),
    ("fortress", &["enter the working directory \"/tmp\""]),
    ("fortress", &["tie to its monitor"]),
    ("fortress", &["pids.max"]),
    ("fortress", &["cpuset.cpus"]),
    ("fortress", &["cpuset.mems"]),
    ("compat", &["create", "namespaces", "ipc", "pid", "uts"]),
    ("compat", &["install the seccomp filter"]),
    ("compat", &["become the user 65534:65534"]),
    ("compat", &["open the terminal"]),
    ("compat", &["oom_score_adj"]),
    ("strict", &["set the mount option subset=pid"]),
    ("strict", &["make read-only the root"]),
    ("bare", &["create the time namespace"]),
    ("bare", &["set the clock offsets"]),
    ("bare", &["set the domain name"]),
    ("bare", &["set oom_score_adj"]),
    ("rootless", &["create the user namespace"]),
    ("rootless", &["write the id map"]),
    ("rootless", &["create", "namespaces", "mnt", "pid"]),
    ("rootless", &["make private the mounts"]),
    ("rootless", &["switch to the root file system"]),
    ("rootless", &["create the", "namespaces", "ipc", "net", "user", "uts"]),
    ("rootless", &["open \"/dev/null\""]),
    ("rootless", &["mount at \"/dev/null\""]),
    ("rootless", &["set the limit RLIMIT_NPROC"]),
    ("rootless-host", &["mask \"/sys/fs/cgroup\""]),
    ("rootless-host", &["restrict /sys"]),
];

/// Limits in the words of cgroup v1 and v2.
const LIMITS: &[[&str; 2]] = &[
    ["memory.limit_in_bytes", "memory.max"],
    ["memory.memsw.limit_in_bytes", "memory.swap.max"],
    ["cpu.cfs_quota_us", "cpu.max"],
    ["cpu.cfs_period_us", "cpu.max"],
    ["cpu.shares", "cpu.weight"],
    // (v2 has no file for devices: what would need one is refused.)
    ["devices.deny", "memory.max"],
    ["devices.allow", "memory.max"],
];

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Errors that tell something about what is there rather than that it cannot be done.
const ERRORS: [Errno; 6] =
    [Errno::EINVAL, Errno::ENOENT, Errno::EACCES, Errno::ENOTDIR, Errno::EEXIST, Errno::EOVERFLOW];

/// Answers after which a start may go on, because the kernel gives them only where nothing is lost.
const ANSWERS: &[(Errno, libc::c_long, &str, &str)] = &[
    (Errno::ENOENT, libc::SYS_openat2, "mask", "there is nothing to hide"),
    (Errno::ENOTDIR, libc::SYS_openat2, "mask", "there is nothing to hide"),
    (Errno::ENOENT, libc::SYS_openat2, "make read-only", "there is nothing to protect"),
    (Errno::ENOTDIR, libc::SYS_openat2, "make read-only", "there is nothing to protect"),
    (Errno::ENOENT, libc::SYS_openat2, "mount at", "the mount point is made"),
    (Errno::ENOENT, libc::SYS_openat2, "enter the working directory", "it is made"),
    (Errno::EOVERFLOW, libc::SYS_mkdirat, "mount at", "it is made as the container's root"),
    (Errno::EOVERFLOW, libc::SYS_openat, "mount at", "it is made as the container's root"),
    (Errno::EOVERFLOW, libc::SYS_openat, "open the terminal", "it is made as the container's root"),
    (Errno::EINVAL, libc::SYS_fsconfig, "use as a layer", "the layer is named by its descriptor's path"),
    (Errno::EINVAL, libc::SYS_fsconfig, "write to", "the layer is named by its descriptor's path"),
    (Errno::EINVAL, libc::SYS_umount2, "switch to the", "the old root is gone"),
    (Errno::EINVAL, libc::SYS_prctl, "drop from the", "the kernel does not know it"),
    (Errno::EEXIST, libc::SYS_mkdirat, "the cgroup", "it is in that hierarchy already"),
];

struct Victim {
    role: &'static str,
    above: Vec<String>,
    arena: Arena,
}

impl Victim {
    fn new(role: &'static str, above: &[&'static str]) -> Victim {
        let arena = Arena::new("closed");
        // Whoever the container's user is, the mark can be made.
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(arena.dir.join("out"), all).expect("ours");
        if !above.is_empty() {
            let given =
                Command::new("chown").args(["-R", "65534:65534"]).arg(arena.dir.join("root")).status();
            assert!(given.is_ok_and(|s| s.success()), "chown");
        }
        Victim { role, above: above.iter().map(|w| (*w).to_owned()).collect(), arena }
    }

    fn run(&self, plan: &Plan) -> Report {
        let above: Vec<&str> = self.above.iter().map(String::as_str).collect();
        tracer::run_below(&above, self.role, &[&self.arena.root(), &self.arena.out()], plan)
    }

    /// The calls of a start that nothing befalls.
    fn lines(&mut self) -> Result<Vec<Line>, Failed> {
        let all = Rc::new(RefCell::new((Script::default(), Vec::new())));
        let into = all.clone();
        let only: Only = Rc::new(move |call: &Call| {
            let (script, lines) = &mut *into.borrow_mut();
            lines.extend(script.read(call));
            false
        });
        let report = self.run(&Plan { class: None, only: Some(only), at: usize::MAX, act: Act::Count });
        let wrong = self.arena.check(&report);
        if !wrong.is_empty() || !report.stdout.ends_with("done\n") {
            return Err(format!("{} without a fault: {wrong:?} {report:?}", self.role).into());
        }
        let _ = std::fs::remove_file(format!("{}/ran", self.arena.out()));
        Ok(all.take().1)
    }

    /// A start that cannot be: an error with these words, twice, and nothing has run.
    fn refused(&mut self, mut report: Report, words: &[&str]) -> Vec<String> {
        let error =
            report.stdout.lines().find_map(|l| l.strip_prefix("error ")).unwrap_or_default().to_owned();
        let mut wrong = Vec::new();
        if !words.iter().all(|w| error.contains(w)) {
            wrong.push(format!("the error does not say {words:?}: {error:?} {:?}", report.stdout));
        }
        if report.stdout.contains("ran all the same") || self.arena.dir.join("out/ran").exists() {
            wrong.push("the program ran all the same".to_owned());
        }
        // The retry meets the same.
        report.stdout = report.stdout.replace("refused", "as before");
        wrong.extend(self.arena.check(&report));
        wrong
    }

    /// Makes one call fail. What went wrong, and the error.
    fn fail(&mut self, target: &Line, errno: Errno) -> (Vec<String>, String) {
        let class = match target.who {
            Who::Library => Class::Embedder,
            Who::Helper => Class::Helper,
            Who::Donor | Who::Child => Class::Inner,
        };
        let met = Rc::new(RefCell::new((Script::default(), None::<Line>)));
        let (into, who, place) = (met.clone(), target.who, target.place);
        let only: Only = Rc::new(move |call: &Call| {
            let (script, met) = &mut *into.borrow_mut();
            let line = script.read(call);
            let found = line.filter(|l| met.is_none() && (l.who, l.place) == (who, place));
            found.map(|l| *met = Some(l)).is_some()
        });
        let plan = Plan { class: Some(class), only: Some(only), at: 1, act: Act::Fail(errno) };
        let report = self.run(&plan);
        let mut wrong = self.arena.check(&report);
        let _ = std::fs::remove_file(format!("{}/ran", self.arena.out()));
        let error = report.stdout.lines().find_map(|l| l.strip_prefix("error ")).unwrap_or_default();
        match met.take().1 {
            // Another turn of a race between two processes.
            None if report.stdout.ends_with("done\n") => {}
            None => wrong.push("the call was not made".into()),
            Some(line) => wrong.extend(judge(&line, errno, error, &report)),
        }
        (wrong, error.to_owned())
    }
}

fn judge(line: &Line, errno: Errno, error: &str, report: &Report) -> Vec<String> {
    let mut wrong = Vec::new();
    let answer = ANSWERS.iter().any(|(e, number, step, _)| {
        *e == errno && *number as u64 == line.number && line.words.first().is_some_and(|w| w == step)
    });
    let harmless = [libc::SYS_ppoll, libc::SYS_umask].iter().any(|n| *n as u64 == line.number);
    if error.is_empty() {
        if !harmless && !answer {
            wrong.push("nobody was told".to_owned());
        }
        if !report.stdout.ends_with("done\n") {
            wrong.push("neither an error nor success".to_owned());
        }
        return wrong;
    }
    for word in line.words.iter().filter(|w| !error.contains(w.as_str())) {
        wrong.push(format!("the error does not say {word:?}"));
    }
    if report.stdout.contains("ran all the same") {
        wrong.push("the program ran all the same".to_owned());
    }
    if !report.stdout.ends_with("retried\n") {
        wrong.push("the retry failed".to_owned());
    }
    wrong
}

/// Whether a slice has this one: EPERM once for everything that an error can say, the rest every so often.
struct Slice {
    step: usize,
    turn: usize,
    seen: BTreeSet<(&'static str, Vec<String>)>,
}

impl Slice {
    fn has(&mut self, role: &'static str, line: &Line, errno: Errno) -> bool {
        self.turn += 1;
        // What a further victim is there for, and what no other had.
        let all = line.words.join(" ");
        let same = |words: &[&str]| match words {
            [one] => one.starts_with(&all) || all.starts_with(one),
            several => several[0].starts_with(&line.words[0]),
        };
        let own = CONTROLS.iter().any(|(r, words)| *r == role && same(words));
        let role = if own { role } else { "" };
        let id = |w: &str| w.len() == 32 && w.bytes().all(|b| b.is_ascii_hexdigit());
        let short =
            |w: &String| if id(w) { "id".to_owned() } else { w.replace(|c: char| c.is_ascii_digit(), "") };
        let known = line.words.iter().map(short).collect();
        let sampled = self.turn.is_multiple_of(self.step);
        errno == Errno::EPERM && self.seen.insert((role, known)) || sampled
    }
}

/// Makes the calls of every victim impossible, one at a time.
pub fn controls(step: usize) -> Result<String, Failed> {
    let (mut runs, mut failures, mut said) = (0, Vec::new(), BTreeSet::new());
    let mut slice = Slice { step, turn: 0, seen: BTreeSet::new() };
    for (role, above) in ROLES {
        let mut victim = Victim::new(role, above);
        for line in victim.lines()? {
            for errno in [Errno::EPERM].into_iter().chain(ERRORS) {
                if !slice.has(role, &line, errno) {
                    continue;
                }
                runs += 1;
                let (wrong, error) = victim.fail(&line, errno);
                if !wrong.is_empty() {
                    let at = format!("{role}: {line:?} answers {errno}");
                    println!("{at}: {wrong:?}\n    {error}");
                    failures.push(at);
                }
                if failures.len() > 40 {
                    return Err(format!("{runs} runs: {failures:#?}").into());
                }
                said.insert((*role, error));
            }
        }
    }
    if std::env::var_os("BOXSHIP_MESSAGES").is_some() {
        said.iter().for_each(|(role, message)| println!("{role:14} {message}"));
    }
    let (controls, missing) = missing(&said);
    if !failures.is_empty() || !missing.is_empty() {
        return Err(format!("not closed: {failures:#?}; no error names: {missing:#?}").into());
    }
    Ok(format!("{runs} calls made impossible: {controls} controls named by their own errors, nothing ran"))
}

/// How many controls there are, and those that no error named.
fn missing(said: &BTreeSet<(&'static str, String)>) -> (usize, Vec<String>) {
    let named = |role: &str, words: &[&str]| {
        said.iter().any(|(r, m)| *r == role && words.iter().all(|w| m.contains(w)))
    };
    let mut all: Vec<(&str, Vec<String>)> = CONTROLS
        .iter()
        .map(|(role, words)| (*role, words.iter().map(|w| (*w).to_owned()).collect()))
        .collect();
    for path in Profile::Default.masked_paths() {
        all.push(("fortress", vec![format!("mask {path:?}")]));
    }
    for path in Profile::Default.read_only_paths() {
        all.push(("fortress", vec![format!("make read-only {path:?}")]));
    }
    for name in DEVICES {
        all.push(("fortress", vec![format!("make the device /dev/{name}")]));
    }
    let v2 = !std::path::Path::new("/sys/fs/cgroup/memory").exists();
    all.extend(LIMITS.iter().map(|pair| ("fortress", vec![format!("/{}", pair[usize::from(v2)])])));
    let gone = all
        .iter()
        .filter(|(role, words)| !named(role, &words.iter().map(String::as_str).collect::<Vec<_>>()));
    (all.len(), gone.map(|(role, words)| format!("{role}: {words:?}")).collect())
}

/// Calls that are refused whenever they are made, so that nothing that is tried instead works either.
pub fn refusals() -> Result<String, Failed> {
    type Refused = (&'static str, fn(&Call) -> bool, Errno, &'static str);
    let refused: [Refused; 5] = [
        (
            "fortress",
            |c| c.is(libc::SYS_prctl) && [23, 24].contains(&c.args[0]),
            Errno::EINVAL,
            "bounding set",
        ),
        ("rootless", |c| c.is(libc::SYS_umount2), Errno::EINVAL, "switch to the root file system"),
        ("fortress", |c| c.is(libc::SYS_chroot), Errno::EPERM, "switch to the root file system"),
        (
            "fortress",
            |c| c.is(libc::SYS_fsconfig) && c.name(0) == "lowerdir+",
            Errno::EINVAL,
            "use as a layer",
        ),
        ("compat", |c| c.is(libc::SYS_prctl) && [23, 24].contains(&c.args[0]), Errno::EINVAL, "bounding set"),
    ];
    let mut failures = Vec::new();
    for (role, is, errno, step) in refused {
        let mut victim = Victim::new(role, if role == "rootless" { NOBODY } else { &[] });
        let act = Act::Refuse(errno);
        let report = victim.run(&Plan { class: Some(Class::Inner), only: Some(Rc::new(is)), at: 1, act });
        failures.extend(victim.refused(report, &[step]).into_iter().map(|w| format!("{role}, {step}: {w}")));
    }
    failures.extend(copied());
    outcome(failures, format!("{} refusals", refused.len()))
}

/// Where there can be no empty mount namespace, containers begin in a copy of the host's, and are as closed.
fn copied() -> Vec<String> {
    let is_made = |c: &Call| c.is(libc::SYS_unshare) && c.args[0] == libc::CLONE_NEWNS as u64;
    let mut failures = Vec::new();
    for role in ["fortress", "compat", "strict"] {
        let mut victim = Victim::new(role, &[]);
        let plan = |class, is, act| Plan { class: Some(class), only: Some(is), at: 1, act };
        let report = victim.run(&plan(Class::Helper, Rc::new(is_made), Act::Refuse(Errno::EPERM)));
        if !report.stdout.ends_with("done\n") {
            failures.push(format!("{role} without an empty namespace: {:?}", report.stdout));
        }
        failures.extend(victim.arena.check(&report).into_iter().map(|w| format!("{role}, copied: {w}")));
    }
    failures
}

/// Executes the rest of its arguments in a user namespace of its own that allows none of the first's kind. The
/// map has to be written from outside, and nothing but an exec afterwards makes a root of it. (The identity of
/// all ids would be taken for the host itself.)
const USED_UP: &str = r#"
    (until [ "$(readlink /proc/$$/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.01; done
    for map in uid_map gid_map; do echo 0 0 4294967294 >/proc/$$/$map; done) &
    exec unshare --user sh -c '
        until [ "$(wc -l </proc/self/gid_map)" = 1 ]; do sleep 0.01; done
        exec sh -c "echo 0 >/proc/sys/user/max_$0_namespaces && exec \"\$@\"" sh "$@"
    ' "$0" "$@"
"#;

/// Each kind of namespace is used up, by the limits of a user namespace around the victim.
pub fn namespaces() -> Result<String, Failed> {
    let all = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"];
    let (mut failures, mut done) = (Vec::new(), 0);
    for (role, below) in [("bare", &[][..]), ("rootless", NOBODY)] {
        // Time namespaces are for those who ask for them.
        for kind in all.into_iter().filter(|kind| role == "bare" || *kind != "time") {
            let mut victim = Victim::new(role, below);
            let wrapper = ["sh", "-c", USED_UP, kind].into_iter().chain(below.iter().copied());
            victim.above = wrapper.map(str::to_owned).collect();
            let report = victim.run(&Plan { class: None, only: None, at: usize::MAX, act: Act::Count });
            let wrong = victim.refused(report, &["create", kind, "namespace", "limit in /proc/sys/user"]);
            failures.extend(wrong.into_iter().map(|w| format!("{role} without {kind} namespaces: {w}")));
            done += 1;
        }
    }
    outcome(failures, format!("{done} starts without a kind of namespace, refused by its name"))
}

fn outcome(failures: Vec<String>, summary: String) -> Result<String, Failed> {
    if failures.is_empty() { Ok(summary) } else { Err(format!("{failures:#?}").into()) }
}

/// Ids that nobody delegated, and a host without the programs that write their map.
pub fn maps() -> Result<String, Failed> {
    let mut failures = Vec::new();
    let none = ["env", "PATH=/nonexistent"];
    for (without, words) in [(&[][..], "/etc/subuid"), (&none, "install the package uidmap")] {
        let mut victim = Victim::new("mapped", NOBODY);
        victim.above.extend(without.iter().map(|w| (*w).to_owned()));
        let report = victim.run(&Plan { class: None, only: None, at: usize::MAX, act: Act::Count });
        failures.extend(victim.refused(report, &["write the id map with newuidmap", words]));
    }
    outcome(failures, "no map, no start".into())
}
