//! Reads the calls of a start and tells for each what an error about it has to say: its own step and what
//! the step is about. Written from the calls alone, so that it judges the words and does not repeat them.

use std::collections::HashMap;

use nix::libc::*;

use crate::tracer::{Call, Class, is_spared};

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The library: limits of the cgroup.
    Library,
    /// The helper: the first namespaces and their id maps.
    Helper,
    /// The process that makes namespaces.
    Donor,
    /// The process that becomes the container's.
    Child,
}

/// A call with its place among those of the same process.
#[derive(Clone, Debug)]
pub struct Line {
    pub who: Who,
    pub place: usize,
    pub number: u64,
    /// What the error must contain.
    pub words: Vec<String>,
}

#[derive(Default)]
struct Process {
    calls: usize,
    donor: bool,
    /// The operation that is going on.
    now: Vec<String>,
    /// The last file system that was configured.
    system: String,
    /// The last mount that was cloned, until it is restricted.
    cloned: Option<String>,
    inside: bool,
    unmounted: bool,
    /// It has a copy of the host's mounts, and did not begin in an empty namespace.
    copied: bool,
    /// In an empty mount namespace, or on its way there.
    empty: bool,
    /// The last clone is not private yet.
    shared: bool,
    /// A spent mount is being put aside.
    aside: bool,
    user: bool,
}

#[derive(Default)]
pub struct Script(HashMap<i32, Process>);

impl Script {
    /// The next call of the run; `None` for those that are not judged.
    pub fn read(&mut self, call: &Call) -> Option<Line> {
        if is_spared(call.number) {
            return None;
        }
        let key = if call.class == Class::Embedder { 0 } else { call.pid };
        let process = self.0.entry(key).or_default();
        let (who, words) = match call.class {
            Class::Embedder => (Who::Library, limit(call)?),
            Class::Helper => (Who::Helper, outer(call)?),
            Class::Inner => {
                process.donor |= process.calls == 0 && call.is(SYS_dup3);
                if process.donor {
                    (Who::Donor, words(&["create the", "namespace"]))
                } else {
                    if let Some(next) = process.begins(call) {
                        process.now = next;
                    }
                    (Who::Child, process.now.clone())
                }
            }
        };
        process.calls += 1;
        Some(Line { who, place: process.calls, number: call.number, words })
    }
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|w| (*w).to_owned()).collect()
}

/// A file of the cgroup, or the group itself.
fn limit(call: &Call) -> Option<Vec<String>> {
    let path = format!("{}/{}", call.name(0), call.name(1));
    // (The victim itself sets it.)
    let reads = call.args[2] & O_ACCMODE as u64 == O_RDONLY as u64;
    if path.ends_with("self/oom_score_adj") && call.is(SYS_openat) && reads {
        return Some(words(&["oom_score_adj"]));
    }
    let (_, below) = path.split_once("/sys/fs/cgroup/")?.1.split_once("/boxship/")?;
    let mut parts = below.splitn(3, '/');
    let (id, file) = (parts.next()?, parts.next().unwrap_or_default());
    // What only measures is no control.
    let measures = ["kill", "oom_control", "usage", "max_usage_in_bytes", "procs", "events", "stat", "peak"];
    if id.len() != 32 || measures.iter().any(|m| file.ends_with(m)) {
        return None;
    }
    match call.number as c_long {
        SYS_mkdirat => Some(words(&["the cgroup", id])),
        SYS_openat | SYS_write => Some(words(&[id, file])),
        _ => None,
    }
}

/// The helper's own part.
fn outer(call: &Call) -> Option<Vec<String>> {
    let names = |flags: u64| {
        let kinds = [
            (CLONE_NEWNS, "mnt"),
            (CLONE_NEWPID, "pid"),
            (CLONE_NEWNET, "net"),
            (CLONE_NEWIPC, "ipc"),
            (CLONE_NEWUTS, "uts"),
            (CLONE_NEWUSER, "user"),
            (0x80, "time"),
        ];
        let set = kinds.iter().filter(|(flag, _)| flags & *flag as u64 != 0).map(|(_, name)| *name);
        words(&["create", "namespace"].into_iter().chain(set).collect::<Vec<_>>())
    };
    let clone = call.name(0).parse::<u64>().unwrap_or(0);
    match call.number as c_long {
        SYS_clone3 if clone & CLONE_NEWPID as u64 != 0 => Some(names(clone)),
        SYS_clone3 => Some(words(&["create"])),
        // The empty one that containers begin in: without it they begin in a copy of the host's.
        SYS_unshare if call.args[0] == CLONE_NEWNS as u64 => None,
        SYS_unshare => Some(names(call.args[0])),
        SYS_openat | SYS_write => {
            let path = format!("{}/{}", call.name(0), call.name(1));
            let map = ["setgroups", "uid_map", "gid_map"].iter().any(|f| path.contains(f));
            let clocks = path.contains("timens_offsets");
            map.then(|| words(&["write the id map"])).or(clocks.then(|| words(&["set the clock offsets"])))
        }
        _ => None,
    }
}

impl Process {
    fn is(&self, step: &str) -> bool {
        self.now.first().is_some_and(|w| w == step)
    }

    fn maps_ids(&self) -> Vec<String> {
        words(&["map the ids of", self.cloned.as_deref().unwrap_or_default()])
    }

    /// What the call begins, if it begins anything.
    fn begins(&mut self, call: &Call) -> Option<Vec<String>> {
        self.tree(call).or_else(|| self.paths(call)).or_else(|| self.attributes(call))
    }

    /// File systems and mounts.
    fn tree(&mut self, call: &Call) -> Option<Vec<String>> {
        let covered = self.is("mask") || self.is("make read-only");
        let option = format!("{}={}", call.name(0), call.name(1));
        Some(match call.number as c_long {
            SYS_mount_setattr if call.args[0] as i32 == AT_FDCWD => match call.name(2) {
                "0" => {
                    self.copied = true;
                    words(&["make private"])
                }
                _ => words(&["make read-only", "the root"]),
            },
            SYS_mount_setattr if call.name(2) == "1048576" => self.maps_ids(),
            _ if covered => return None,
            SYS_mount_setattr if std::mem::take(&mut self.shared) => {
                words(&["make private", self.cloned.as_deref().unwrap_or_default()])
            }
            SYS_mount_setattr => match self.cloned.take().filter(|path| !path.starts_with("/dev/")) {
                Some(path) => words(&["restrict", &path]),
                None => words(&["restrict the root mount"]),
            },
            SYS_fsopen => {
                self.system = call.name(0).to_owned();
                words(&["create", call.name(0)])
            }
            SYS_fsconfig => match (call.args[1], call.name(0)) {
                (6, _) => words(&["mount", &self.system]),
                (5, "lowerdir+") => words(&["use as a layer"]),
                (5, _) => words(&["write to"]),
                (_, "source") => words(&["name the overlay"]),
                (_, key) if self.system == "overlay" => words(&["set the overlay option", key]),
                (0, key) => words(&["set the mount option", key]),
                _ => words(&["set the mount option", &option]),
            },
            SYS_open_tree if self.is("open the terminal") => return None,
            SYS_open_tree => {
                // A small file is known by where it goes.
                let from = if call.name(1).is_empty() { call.name(0) } else { "/etc/" };
                self.cloned = Some(from.to_owned());
                self.shared = !self.copied && !self.inside;
                words(&["clone the mount of", from])
            }
            // The second unmounting has nothing left to do.
            SYS_umount2 if std::mem::replace(&mut self.unmounted, true) => {
                words(&["switch to the", "root file system"])
            }
            SYS_pivot_root | SYS_umount2 | SYS_chroot => {
                self.inside = true;
                words(&["switch to", "the root file system"])
            }
            SYS_move_mount if std::mem::take(&mut self.aside) => return None,
            SYS_move_mount if call.name(1) == "/" && !self.inside => words(&["switch to"]),
            _ => return None,
        })
    }

    /// What is found by a path.
    fn paths(&mut self, call: &Call) -> Option<Vec<String>> {
        let (dir, name) = (call.name(0), call.name(1));
        let quoted = |path: &str| format!("{path:?}");
        Some(match call.number as c_long {
            SYS_openat2 if call.args[0] as i32 == AT_FDCWD => words(&["open", &quoted(name)]),
            SYS_openat2 if dir == "/proc" && name.starts_with("sys/") => {
                words(&["set the sysctl", &name[4..].replace('/', ".")])
            }
            SYS_openat2 if name == "self/oom_score_adj" => words(&["set oom_score_adj"]),
            SYS_openat2 if ["/proc", "/sys"].contains(&dir) => {
                let frozen = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
                let step = if dir == "/proc" && frozen.contains(&name) { "make read-only" } else { "mask" };
                words(&[step, &quoted(&format!("{dir}/{name}"))])
            }
            SYS_openat2 if !name.starts_with('/') || self.is("mask") && name == "/dev/null" => return None,
            SYS_openat2 if name == "/dev/pts/ptmx" => words(&["open the terminal"]),
            SYS_openat2 if self.is("open the terminal") && name == "/dev" => return None,
            SYS_openat2 if name.starts_with("/dev/pts/") => words(&["connect", "the standard streams"]),
            SYS_openat2 if !self.inside && self.is("put aside") => return None,
            // A parent of what is being made.
            SYS_openat2 if self.now.get(1).is_some_and(|n| n[1..].starts_with(name)) => return None,
            SYS_openat2 if call.name(2).parse().is_ok_and(|f: u64| f & O_DIRECTORY as u64 != 0) => {
                words(&["enter the working directory", &quoted(name)])
            }
            SYS_openat2 if !self.inside && name == "/" => {
                self.aside = true;
                words(&["put aside the mount of"])
            }
            SYS_openat2 if self.inside || name != "/proc" => words(&["mount at", &quoted(name)]),
            SYS_openat2 => words(&["mount"]),
            // The root, for whatever needs it next.
            SYS_openat if name == "/" => words(&["cannot"]),
            SYS_openat if name.starts_with(".file") => words(&["write", "\"/etc/"]),
            SYS_openat if name.ends_with("ns/user") => self.maps_ids(),
            SYS_unlinkat => words(&["hide the first name of", "\"/etc/"]),
            SYS_mknodat => words(&["make the device", &format!("/dev/{name}")]),
            SYS_mkdirat if !self.inside => words(&["make", name]),
            SYS_symlinkat => words(&["link", name]),
            SYS_chdir => words(&["switch to"]),
            SYS_write if dir.ends_with("/tasks") => words(&["join", "the cgroup"]),
            SYS_write if dir.starts_with("pipe:") => words(&["program"]),
            SYS_execve => words(&["program", name]),
            _ => return None,
        })
    }

    /// What a process has.
    fn attributes(&mut self, call: &Call) -> Option<Vec<String>> {
        let of = |flags: i32| call.args[0] == flags as u64;
        Some(match call.number as c_long {
            SYS_unshare if of(CLONE_NEWCGROUP) => words(&["create", "the cgroup namespace"]),
            SYS_setns if call.args[1] == CLONE_NEWNS as u64 => {
                self.empty = true;
                words(&["create the mnt namespace"])
            }
            SYS_unshare if self.empty && !self.inside => words(&["create the mnt namespace"]),
            SYS_unshare => words(&["lock", "the mounts"]),
            SYS_read => words(&["create the", "namespace"]),
            SYS_setns if call.args[1] == CLONE_NEWUSER as u64 => words(&["enter the user namespace"]),
            SYS_setns => words(&["enter namespaces"]),
            SYS_sethostname => words(&["set the host name"]),
            SYS_setdomainname => words(&["set the domain name"]),
            SYS_socket => words(&["bring up the loopback interface"]),
            SYS_prlimit64 => words(&["set the limit", limit_name(call.args[1])]),
            SYS_keyctl => words(&["create the session keyring"]),
            SYS_setsid => words(&["start a session"]),
            SYS_dup3 | SYS_ioctl if call.args[1] == 0x8004_5430 || call.is(SYS_dup3) => {
                words(&["connect the standard streams"])
            }
            SYS_umask => words(&["set the umask"]),
            SYS_setgroups | SYS_setresuid | SYS_setresgid => {
                self.user = true;
                words(&["become the user"])
            }
            SYS_capset => words(&["set the capabilities"]),
            SYS_seccomp => words(&["install the seccomp filter"]),
            SYS_prctl => match call.args[0] {
                1 if !self.user => words(&["tie to its monitor the process"]),
                // Newer than any that this kernel has to know.
                24 if call.args[1] > 40 => words(&["drop from the", "bounding set"]),
                24 => words(&["drop from the bounding set capabilities"]),
                8 => {
                    self.user = true;
                    words(&["become the user"])
                }
                47 => words(&["set the ambient capabilities"]),
                38 => words(&["set no_new_privs"]),
                _ => return None,
            },
            _ => return None,
        })
    }
}

fn limit_name(resource: u64) -> &'static str {
    match u32::try_from(resource) {
        Ok(RLIMIT_CORE) => "RLIMIT_CORE",
        Ok(RLIMIT_NOFILE) => "RLIMIT_NOFILE",
        Ok(RLIMIT_FSIZE) => "RLIMIT_FSIZE",
        Ok(RLIMIT_NPROC) => "RLIMIT_NPROC",
        other => panic!("which limit is {other:?}?"),
    }
}
