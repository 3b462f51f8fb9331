//! What noise cannot touch: the system calls of a start.

use std::process::Command;

use libtest_mimic::Trial;

use crate::need::Need::{Root as NeedRoot, Strace, UserNamespaces};
use crate::{Root, own_engine, test};

pub fn tests() -> Vec<Trial> {
    vec![
        test("system_calls_of_an_ephemeral_start", &[NeedRoot, UserNamespaces, Strace], calls),
        test("a_saved_file_and_its_name_are_synced", &[Strace], synced),
        test("code_after_clone_has_no_allocator", &[], sources),
    ]
}

async fn calls() {
    let root = Root::new("trace");
    drop(own_engine(&root.0).await);
    let log = root.0.join("strace");
    let me = std::env::current_exe().expect("this program");
    let status = Command::new("strace")
        .args(["-f", "-v", "-s", "200", "-o"])
        .arg(&log)
        .arg(me)
        .arg("--as=current-thread")
        .arg(&root.0)
        .stdout(std::process::Stdio::null())
        .status()
        .expect("strace");
    assert!(status.success());
    let text = String::from_utf8_lossy(&std::fs::read(&log).expect("a trace")).into_owned();
    // Only the ephemeral starts: the detached one at the end syncs its exit record, as it must.
    let helper = |l: &str| l.contains("execve(\"/proc/self/fd/");
    let starts: Vec<usize> = text.lines().enumerate().filter(|(_, l)| helper(l)).map(|(i, _)| i).collect();
    assert!(starts.len() >= 6, "{} helpers", starts.len());
    let lines: Vec<&str> = text.lines().collect();
    let ephemeral = &lines[starts[0]..starts[starts.len() - 2]];
    let with = |part: &str| ephemeral.iter().filter(|l| l.contains(part)).count();
    assert_eq!(with("cgroup.procs"), 0, "no pid is written to cgroup.procs");
    assert_eq!(
        with("fsync(") + with("syncfs(") + with("fdatasync(") + with(" sync("),
        0,
        "no sync for what is removed at exit"
    );
    let payloads = ephemeral.iter().filter(|l| l.contains("execve(\"/bin/sh\"")).count();
    assert!(payloads >= 4);
    let loads = with("seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=");
    assert_eq!(loads, payloads, "one seccomp load per start");
    // The embedder's memory is never copied: its children share it until they execute the helper.
    let embedder = lines[0].split(' ').next().expect("a pid");
    let forks = lines.iter().filter(|l| {
        l.starts_with(embedder)
            && (l.contains(" fork(")
                || l.contains(" vfork(")
                || l.contains("clone(")
                || l.contains("clone3("))
    });
    for fork in forks {
        assert!(fork.contains("CLONE_VM"), "{fork}");
    }
    no_allocation(&lines);
}

/// Red before: the name was never synced, nor were the directories of a layout.
async fn synced() {
    let root = Root::new("synced");
    drop(own_engine(&root.0.join("store")).await);
    let (log, out) = (root.0.join("strace"), root.0.join("out"));
    std::fs::create_dir(&out).expect("made");
    let status = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fsync,linkat,renameat2", "-o"])
        .arg(&log)
        .arg(std::env::current_exe().expect("this program"))
        .arg("--as=saver")
        .args([&root.0.join("store"), &out.join("file.tar"), &out.join("layout")])
        .status()
        .expect("strace");
    assert!(status.success());
    let text = String::from_utf8_lossy(&std::fs::read(&log).expect("a trace")).into_owned();
    let mut lines = text.lines().filter(|l| l.contains(&*out.to_string_lossy())).peekable();
    let mut expect = |call: &str, what: &str| {
        let next = lines.next().unwrap_or_default();
        assert!(
            next.contains(call) && next.contains(what) && next.ends_with("= 0"),
            "{call} {what}: {next}\n{text}"
        );
    };
    let out = out.to_string_lossy();
    expect("fsync(", &format!("{out}/#"));
    expect("linkat(", "\"file.tar\"");
    expect("fsync(", &format!("{out}>"));
    // Documents and layers, then what holds them.
    let blobs = std::fs::read_dir(root.0.join("out/layout/blobs/sha256")).expect("there").count();
    for _ in 0..blobs + 2 {
        expect("fsync(", &format!("{out}/.boxship."));
    }
    for directory in ["/blobs/sha256>", "/blobs>", ">"] {
        expect("fsync(", directory);
    }
    expect("renameat2(", "\"layout\"");
    expect("fsync(", &format!("{out}>"));
}

/// Between the helper's execve and the payload's, the helper and its children map the plan and
/// nothing else: there is no heap.
fn no_allocation(lines: &[&str]) {
    let mut inside = std::collections::HashSet::new();
    let mut maps = 0;
    for line in lines {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if call.starts_with("execve(\"/proc/self/fd/") {
            inside.insert(pid.to_owned());
        } else if call.starts_with("execve(") || call.starts_with("+++") {
            inside.remove(pid);
        } else if inside.contains(pid) {
            if call.starts_with("clone3(")
                && let Some(child) = call.rsplit(" = ").next()
            {
                inside.insert(child.trim().to_owned());
            }
            assert!(!call.starts_with("brk("), "{line}");
            if call.starts_with("mmap(") {
                maps += 1;
                assert!(call.contains("MAP_PRIVATE, "), "only the plan's file is mapped: {line}");
            }
        }
    }
    assert!(maps > 0, "the trace was understood");
}

/// The helper is a program without libc and without the `alloc` crate: it cannot allocate.
async fn sources() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("namespaces/helper");
    let main = std::fs::read_to_string(dir.join("main.rs")).expect("the helper's source");
    assert!(main.contains("#![no_std]") && main.contains("#![no_main]"));
    for entry in std::fs::read_dir(dir).expect("the helper's sources").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a source");
        for word in ["extern crate alloc", "alloc::", "std::", "GlobalAlloc", "format!", "println!"] {
            assert!(!text.contains(word), "{:?} has {word}", entry.path());
        }
    }
}
