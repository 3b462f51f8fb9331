//! The others, each only if it is installed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use boxship::seccomp;

use crate::{Bench, cc, nanos};

/// All hierarchies of a hybrid host: crun refuses one whose v2 tree still has controllers, so what no v1
/// hierarchy has taken is mounted as one while the benchmark runs.
pub struct Hierarchy(Option<PathBuf>);

pub fn complete_hierarchies() -> Hierarchy {
    let left = std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    let Some(controller) = left.split_whitespace().next() else { return Hierarchy(None) };
    let dir = Path::new("/sys/fs/cgroup").join(controller);
    let _ = std::fs::create_dir(&dir);
    let done = Command::new("mount").args(["-t", "cgroup", "-o", controller, "cgroup"]).arg(&dir).status();
    Hierarchy(done.is_ok_and(|s| s.success()).then_some(dir))
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            let _ = std::fs::remove_dir(dir.join("boxship"));
            let _ = Command::new("umount").arg(dir).status();
            let _ = std::fs::remove_dir(dir);
        }
    }
}

struct Floor {
    process: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

struct Daemon {
    process: Child,
    socket: String,
}

pub struct Peers {
    dir: PathBuf,
    present: BTreeMap<&'static str, bool>,
    floor: Option<Floor>,
    docker: Option<Daemon>,
    count: usize,
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn hierarchies() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_dir())
        .collect();
    all.sort();
    all
}

impl Peers {
    pub fn new(b: &Bench) -> Peers {
        let mut p = Peers::unprivileged(b);
        for (subject, program) in
            [("crun", "crun"), ("crun-seccomp", "crun"), ("runc", "runc"), ("podman", "podman")]
        {
            p.present.insert(subject, installed(program));
        }
        p.bundle("plain", None);
        p.bundle("seccomp", Some(oci_seccomp()));
        p.floor = Some(p.start_floor());
        p.present.insert("floor", true);
        p.docker = p.start_docker();
        p.present.insert("docker", p.docker.is_some());
        p.probe();
        p
    }

    /// What an ordinary user may run.
    pub fn unprivileged(b: &Bench) -> Peers {
        let rootfs = b.dir.join("rootfs");
        for d in ["proc", "dev", "sys", "tmp"] {
            std::fs::create_dir_all(rootfs.join(d)).expect("made");
        }
        std::fs::copy(&b.tiny, rootfs.join("tiny")).expect("copied");
        let present = BTreeMap::from([("boxship", true), ("bwrap", installed("bwrap"))]);
        Peers { dir: b.dir.clone(), present, floor: None, docker: None, count: 0 }
    }

    pub fn has(&self, subject: &str) -> bool {
        self.present.get(subject).copied().unwrap_or(false)
    }

    pub fn absent(&self) -> impl Iterator<Item = &str> {
        self.present.iter().filter(|(_, there)| !**there).map(|(name, _)| *name)
    }

    fn bundle(&self, name: &str, seccomp: Option<serde_json::Value>) {
        if !self.has("runc") {
            return;
        }
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).expect("made");
        let done = Command::new("runc").args(["spec", "-b"]).arg(&dir).status().expect("runc");
        assert!(done.success());
        let path = dir.join("config.json");
        let mut c: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).expect("spec")).expect("JSON");
        c["process"]["args"] = serde_json::json!(["/tiny"]);
        c["process"]["terminal"] = false.into();
        c["root"] = serde_json::json!({"path": self.dir.join("rootfs"), "readonly": true});
        if let Some(profile) = seccomp {
            c["linux"]["seccomp"] = profile;
        }
        std::fs::write(path, c.to_string()).expect("written");
    }

    fn start_floor(&self) -> Floor {
        let program = self.dir.join("floor");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/start/floor.c");
        cc(&[&source], &program, &[]);
        let scratch = self.dir.join("floor-scratch");
        std::fs::create_dir_all(&scratch).expect("made");
        // A cpuset that is not filled takes no process.
        let _ = std::fs::write("/sys/fs/cgroup/cpuset/cgroup.clone_children", "1");
        let mut process = Command::new(program)
            .arg(self.dir.join("rootfs"))
            .arg(&scratch)
            .arg("/tiny")
            .args(hierarchies())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the floor starts");
        let (ask, answer) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        Floor { process, ask, answer: BufReader::new(answer) }
    }

    /// A dockerd of our own in its own network namespace.
    fn start_docker(&self) -> Option<Daemon> {
        if !installed("dockerd") || !installed("unshare") {
            return None;
        }
        let dir = self.dir.join("docker");
        std::fs::create_dir_all(&dir).ok()?;
        let socket = format!("unix://{}", dir.join("sock").display());
        let log = std::fs::File::create(dir.join("log")).ok()?;
        let process = Command::new("unshare")
            .args(["--net", "dockerd", "--iptables=false", "--bridge=none", "-H", &socket])
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("exec"))
            .arg("--pidfile")
            .arg(dir.join("pid"))
            .stdout(log.try_clone().ok()?)
            .stderr(log)
            .spawn()
            .ok()?;
        let daemon = Daemon { process, socket };
        let ready = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(200));
            daemon
                .client()
                .arg("info")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        });
        let tar = self.dir.join("rootfs.tar");
        let packed =
            Command::new("tar").arg("-C").arg(self.dir.join("rootfs")).arg("-cf").arg(&tar).arg(".").status();
        let imported = ready
            && packed.is_ok()
            && daemon
                .client()
                .arg("import")
                .arg(&tar)
                .arg("tiny:1")
                .stdout(Stdio::null())
                .status()
                .is_ok_and(|s| s.success());
        if !imported {
            println!(
                "dockerd did not come up: {}",
                std::fs::read_to_string(dir.join("log")).unwrap_or_default().lines().last().unwrap_or("")
            );
        }
        imported.then_some(daemon)
    }

    /// One run of a subject, in nanoseconds.
    pub fn run(&mut self, subject: &str) -> u64 {
        if subject == "floor" {
            let floor = self.floor.as_mut().expect("present");
            floor.ask.write_all(b"go\n").expect("asked");
            let mut line = String::new();
            floor.answer.read_line(&mut line).expect("answered");
            return line.trim().parse().expect("nanoseconds");
        }
        self.count += 1;
        self.time(subject, self.count)
    }

    pub fn time(&self, subject: &str, n: usize) -> u64 {
        let begin = Instant::now();
        self.command(subject, n);
        nanos(begin.elapsed())
    }

    pub fn command(&self, subject: &str, n: usize) {
        let rootfs = self.dir.join("rootfs");
        let id = format!("bench-{}-{n}", std::process::id());
        let mut c = match subject {
            "crun" | "crun-seccomp" | "runc" => {
                let mut c = Command::new(if subject == "runc" { "runc" } else { "crun" });
                let bundle = if subject == "crun-seccomp" { "seccomp" } else { "plain" };
                c.args(["run", "-b"]).arg(self.dir.join(bundle)).arg(format!("{subject}-{id}"));
                c
            }
            "bwrap" => {
                let mut c = Command::new("bwrap");
                c.args(["--unshare-all", "--ro-bind"])
                    .arg(&rootfs)
                    .args(["/", "--proc", "/proc", "--dev", "/dev", "/tiny"]);
                c
            }
            "podman" => {
                // In namespaces of its own Podman 4.3 does not ask for more open files than this root may
                // have, and what it mounts ends with them. `unshare` adds some 2 ms.
                let mut c = Command::new("unshare");
                c.args(["--mount", "--pid", "--fork", "--mount-proc", "podman", "--root"])
                    .arg(self.dir.join("podman"))
                    .arg("--runroot")
                    .arg(self.dir.join("podman-run"))
                    .args(["run", "--rm", "--network", "none", "--rootfs"])
                    .arg(&rootfs)
                    .arg("/tiny");
                c
            }
            _ => {
                let mut c = self.docker.as_ref().expect("present").client();
                c.args(["run", "--rm", "--network", "none", "tiny:1", "/tiny"]);
                c
            }
        };
        let out =
            c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output().expect("it starts");
        assert!(out.status.success(), "{subject}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// A peer that is installed but cannot run here is named with its reason, and left out.
    fn probe(&mut self) {
        for subject in ["crun", "crun-seccomp", "runc", "bwrap", "podman", "docker"]
            .into_iter()
            .filter(|s| self.has(s))
            .collect::<Vec<_>>()
        {
            let peers = &*self;
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| peers.command(subject, 0))).is_err() {
                println!("{subject} does not run on this host (its message is above)");
                self.present.insert(subject, false);
            }
        }
    }
}

impl Daemon {
    fn client(&self) -> Command {
        let program = if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" };
        let mut c = Command::new(program);
        c.args(["-H", &self.socket]);
        c
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        if let Some(mut floor) = self.floor.take() {
            drop(floor.ask);
            let _ = floor.process.wait();
        }
        if let Some(mut docker) = self.docker.take() {
            if let Some(pid) = rustix::process::Pid::from_raw(docker.process.id().cast_signed()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = docker.process.wait();
        }
    }
}

/// Docker's policy as the runtime specification has it: without the conditions on capabilities.
fn oci_seccomp() -> serde_json::Value {
    let profile = seccomp::Profile::compat();
    let rules: Vec<serde_json::Value> = profile
        .syscalls
        .iter()
        .filter(|r| r.includes == seccomp::Condition::default())
        .map(|r| serde_json::json!({"names": r.names, "action": r.action, "errnoRet": r.errno_ret, "args": r.args}))
        .collect();
    serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": rules,
    })
}
