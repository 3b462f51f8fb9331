//! Builds the probe.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Its source is part of this program, which may run where the source tree is not.
const SOURCES: &[(&str, &str)] = &[
    ("probe.h", include_str!("probe.h")),
    ("probe.c", include_str!("probe.c")),
    ("calls.c", include_str!("calls.c")),
    ("sockets.c", include_str!("sockets.c")),
    ("powers.c", include_str!("powers.c")),
    ("files.c", include_str!("files.c")),
];

/// System calls that the headers of a Debian release are too old for. From 424 on they have the same
/// number everywhere.
const NEW: &[(u32, &str)] = &[
    (451, "cachestat"),
    (452, "fchmodat2"),
    (453, "map_shadow_stack"),
    (454, "futex_wake"),
    (455, "futex_wait"),
    (456, "futex_requeue"),
    (457, "statmount"),
    (458, "listmount"),
    (459, "lsm_get_self_attr"),
    (460, "lsm_set_self_attr"),
    (461, "lsm_list_modules"),
    (462, "mseal"),
    (463, "setxattrat"),
    (464, "getxattrat"),
    (465, "listxattrat"),
    (466, "removexattrat"),
    (467, "open_tree_attr"),
    (468, "file_getattr"),
    (469, "file_setattr"),
];

/// Only the native ABI has these.
const NEW_NATIVE: &[(u32, &str)] = &[(335, "uretprobe"), (336, "uprobe")];

/// The names in one of the kernel's headers, by number.
fn names(header: &str) -> BTreeMap<u32, String> {
    let mut cc = Command::new("cc")
        .args(["-E", "-dM", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cc, which rustc links with");
    let line = format!("#include <asm/{header}>\n");
    std::io::Write::write_all(&mut cc.stdin.take().expect("piped"), line.as_bytes()).expect("read by cc");
    let out = cc.wait_with_output().expect("cc ends");
    assert!(out.status.success(), "cc has no <asm/{header}>");
    let text = String::from_utf8(out.stdout).expect("UTF-8");
    let all: BTreeMap<u32, String> = text
        .lines()
        .filter_map(|l| l.strip_prefix("#define __NR_")?.split_once(' '))
        .filter_map(|(name, number)| Some((number.trim().parse().ok()?, name.to_owned())))
        .collect();
    assert!(all.len() > 300, "<asm/{header}> has only {} system calls", all.len());
    all
}

fn header() -> String {
    let mut text = String::new();
    for (array, file) in [("native_names", "unistd_64.h"), ("i386_names", "unistd_32.h")] {
        let mut all = names(file);
        let own = if array == "native_names" { NEW_NATIVE } else { &[] };
        for (number, name) in NEW.iter().chain(own) {
            all.entry(*number).or_insert_with(|| (*name).to_owned());
        }
        writeln!(text, "static const char *const {array}[512] = {{").expect("a string");
        for (number, name) in all {
            writeln!(text, "[{number}] = \"{name}\",").expect("a string");
        }
        text.push_str("};\n");
    }
    text
}

/// Compiles the probe into `dir`. The C library is linked in, so it runs in an image with nothing else,
/// and not as a position-independent program, so that its data has addresses that the i386 ABI can take.
pub fn build(dir: &Path) -> PathBuf {
    std::fs::create_dir_all(dir).expect("a scratch directory");
    std::fs::write(dir.join("names.h"), header()).expect("written");
    for (name, text) in SOURCES {
        std::fs::write(dir.join(name), text).expect("written");
    }
    let done = Command::new("cc")
        .current_dir(dir)
        .args(["-static", "-no-pie", "-O2", "-Wall", "-Wextra", "-Werror"])
        .args(["-o", "probe"])
        .args(SOURCES.iter().map(|(name, _)| name).filter(|name| name.ends_with(".c")))
        .status()
        .expect("cc runs");
    assert!(done.success(), "cc cannot build the probe");
    dir.join("probe")
}

/// This process's own namespaces, which a container must not share.
pub fn namespaces() -> Vec<String> {
    let all = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    all.iter()
        .filter_map(|n| std::fs::read_link(format!("/proc/self/ns/{n}")).ok())
        .map(|l| l.to_string_lossy().into_owned())
        .collect()
}
