//! The comparison as text: docs/probe.md, and its summary in README.md.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use boxship::Profile;

use crate::reach::Reach;
use crate::{docker, of, of_user};

const COMMAND: &str = "cargo test --test probe -- --table";
const BEGIN: &str = "<!-- made by cargo test --test probe -- --table -->\n";
const END: &str = "<!-- end -->";

type Counted = fn(&Reach) -> u64;

fn number(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// What is counted, and whether README.md shows it.
const ROWS: &[(&str, bool, Counted)] = &[
    ("system calls, x86_64", true, |r| number(r.reached("syscall/native/"))),
    ("system calls, i386 by `int 0x80`", true, |r| number(r.reached("syscall/i386/"))),
    ("system calls, x32 (needs a kernel that has it)", false, |r| number(r.reached("syscall/x32/"))),
    ("socket families that reach the kernel (of 46)", true, |r| number(r.groups("socket/past filter/"))),
    ("socket families of which one is made", false, |r| number(r.groups("socket/made/family"))),
    ("the same through i386 `socketcall`", false, |r| number(r.groups("socket/made by socketcall/"))),
    ("netlink protocols that reach the kernel (of 23)", true, |r| number(r.reached("netlink/past filter/"))),
    ("netlink protocols of which a socket is made", false, |r| number(r.reached("netlink/made/"))),
    ("raw and packet sockets made", true, raw_sockets),
    ("capabilities in the bounding set", true, |r| number(r.reached("capability/bounding/"))),
    ("capabilities held (effective)", false, |r| number(r.reached("capability/effective/"))),
    ("root, its ids, and privileges to be gained", false, |r| number(r.reached("identity/"))),
    ("root in it is root of the host", true, |r| {
        u64::from(r.reaches("identity/the host's root is in the user map"))
    }),
    ("ways to make a new namespace", false, new_namespaces),
    ("namespaces shared with the host", false, |r| number(r.reached("namespace/the host's/"))),
    ("values of personality", false, |r| number(r.reached("personality/"))),
    ("terminal injection past the filter", false, |r| number(r.reached("ioctl/past filter/"))),
    ("kernel keyring", false, |r| number(r.reached("keys/"))),
    ("ways to trace another process of it", false, |r| number(r.reached("trace/"))),
    ("single powers: bpf, io_uring, perf, …", true, |r| number(r.reached("kernel/"))),
    ("ways to change mounts", false, |r| number(r.reached("mount/"))),
    ("mounts that honour set-user-ID, devices, execution, writing", false, |r| number(r.reached("flags/"))),
    ("sensitive paths that can be read", true, |r| number(r.reached("path/readable/"))),
    ("of the same, open for writing", false, |r| number(r.reached("path/writable/"))),
    ("entries of /proc that can be read", true, |r| number(r.reached("proc/shown/"))),
    ("readable files in /sys", true, |r| r.count("count/sysfs, readable")),
    ("readable sysctls", false, |r| r.count("count/sysctl, readable")),
    ("writable files in /sys, sysctls, cgroups", true, writable_files),
    ("files of cgroups shown", false, |r| r.count("count/cgroup, shown")),
    ("device nodes that open", false, |r| number(r.reached("device/readable/"))),
    ("device nodes that can be made", true, |r| number(r.reached("device/made/"))),
    ("of these, that open", false, |r| number(r.reached("device/made and opened/"))),
];

fn raw_sockets(r: &Reach) -> u64 {
    number(r.names().filter(|n| raw(n) && r.reaches(n)).count())
}

fn raw(name: &str) -> bool {
    let Some(what) = name.strip_prefix("socket/made/") else { return false };
    let internet = ["family 02/", "family 10/", "family 17/"].iter().any(|f| what.starts_with(f));
    internet && (what.ends_with("/raw") || what.starts_with("family 17/"))
        || what.starts_with("packet")
        || what == "ICMP, raw"
}

fn new_namespaces(r: &Reach) -> u64 {
    let ways = ["namespace/unshare/", "namespace/clone/", "namespace/clone3/"];
    number(ways.iter().map(|w| r.reached(w)).sum())
}

fn writable_files(r: &Reach) -> u64 {
    number(["sysfs/writable/", "sysctl/writable/", "cgroup/writable/"].iter().map(|p| r.reached(p)).sum())
}

fn table(columns: &[(&str, &Reach)], short: bool) -> String {
    let mut text = String::from("| reached |");
    columns.iter().for_each(|(name, _)| write!(text, " {name} |").expect("a string"));
    text.push_str("\n|---|");
    columns.iter().for_each(|_| text.push_str("--:|"));
    text.push('\n');
    let all: (&str, bool, Counted) = ("**all checks**", true, |r| number(r.reached("")));
    for (label, _, count) in ROWS.iter().chain([&all]).filter(|row| row.1 || !short) {
        write!(text, "| {label} |").expect("a string");
        columns.iter().for_each(|(_, r)| write!(text, " {} |", count(r)).expect("a string"));
        text.push('\n');
    }
    text
}

/// Checks that differ, those of one kind with the same answers on one line.
fn differences(columns: &[(&str, &Reach)]) -> String {
    let mut groups: BTreeMap<(String, Vec<bool>), Vec<String>> = BTreeMap::new();
    let mut names: Vec<&String> = columns.iter().flat_map(|(_, r)| r.names()).collect();
    names.sort();
    names.dedup();
    for name in names.into_iter().filter(|n| !n.starts_with("count/")) {
        let answers: Vec<bool> = columns.iter().map(|(_, r)| r.reaches(name)).collect();
        if answers.iter().any(|a| *a != answers[0]) {
            let second = name.match_indices('/').nth(1).map_or(name.len(), |(at, _)| at + 1);
            let first = name.find('/').map_or(0, |at| at + 1);
            let one_part = second == name.len() || name.starts_with("flags/");
            let (kind, rest) = name.split_at(if one_part { first } else { second });
            groups.entry((kind.to_owned(), answers)).or_default().push(rest.to_owned());
        }
    }
    let mut text = String::new();
    for ((kind, answers), names) in groups {
        let who: Vec<&str> =
            columns.iter().zip(&answers).filter(|(_, a)| **a).map(|((name, _), _)| *name).collect();
        let kind = kind.trim_end_matches('/');
        writeln!(text, "- {kind}, **{}** ({}): {}", who.join(", "), names.len(), names.join(" · "))
            .expect("a string");
    }
    text
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn replace_in_readme(table: &str) {
    let path = root().join("README.md");
    let text = std::fs::read_to_string(&path).expect("README.md");
    let (before, rest) = text.split_once(BEGIN).expect("the mark of the table");
    let (_, after) = rest.split_once(END).expect("the end of the table");
    std::fs::write(path, format!("{before}{BEGIN}{table}{END}{after}")).expect("written");
}

/// Writes everything.
pub fn write() {
    assert!(rustix::process::geteuid().is_root(), "the table is made as root");
    let docker = docker::reach();
    let podman = docker::podman();
    let mut columns = vec![
        ("Strict", of(Profile::Strict)),
        ("Default", of(Profile::Default)),
        ("Default, rootless", of_user()),
        ("Compat", of(Profile::Compat)),
    ];
    let mut absent = String::new();
    match &docker {
        Ok(r) => columns.push(("Docker", r)),
        Err(e) => writeln!(absent, "Docker: {e}.\n").expect("a string"),
    }
    match &podman {
        Ok(r) => columns.push(("Podman", r)),
        Err(e) => writeln!(absent, "Podman is not in the table, it did not run on this machine: `{e}`\n")
            .expect("a string"),
    }
    let raw = root().join("target/probe");
    std::fs::create_dir_all(&raw).expect("made");
    for (name, reach) in &columns {
        std::fs::write(raw.join(format!("{}.tsv", name.to_lowercase())), reach.lines()).expect("written");
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let text = format!(
        "# What a container can reach\n\n\
         Made by `{COMMAND}`, which runs the static program [tests/probe/probe.c](../tests/probe/probe.c) in a \
         container of each profile and under `docker run --network none` and `podman run --network none` with \
         their defaults, and compares the answers; `cargo test --test probe` fails when a profile reaches what a laxer one does not.\n\n\
         Linux {}, Docker {}, {}; as root if not rootless (an ordinary user), default options, no network, no \
         AppArmor or SELinux on this machine. A system call counts when no filter refuses it and the kernel has it, whatever it then says.\n\n\
         {absent}{}\n\
         ## All differences\n\n\
         Checks that not all answer alike: the kind, who reaches it, how many, and which.\n\n{}",
        kernel.trim(),
        docker::version(),
        docker::podman_version(),
        table(&columns, false),
        differences(&columns),
    );
    std::fs::write(root().join("docs/probe.md"), text).expect("written");
    replace_in_readme(&table(&columns, true));
    println!("docs/probe.md and the table in README.md are written; all answers are in {}", raw.display());
}
