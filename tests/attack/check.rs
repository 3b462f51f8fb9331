//! What must be true after an attack, told from outside.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use boxship_runtime::{Runtime, Status};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::tracer::Report;

/// A root of this attack's own, with the image `tools:1`; this process inherits all orphans below it, so
/// that none escapes the count.
pub struct Arena {
    pub dir: PathBuf,
    mounts: BTreeSet<String>,
    groups: BTreeSet<PathBuf>,
    /// How long each ephemeral container outlived its creator.
    pub lingered: Vec<Duration>,
}

/// How long leftovers of the dead may take to end. Generous: tests do not assert on time.
const SETTLE: Duration = Duration::from_secs(10);

impl Arena {
    pub fn new(name: &str) -> Arena {
        nix::sys::prctl::set_child_subreaper(true).expect("prctl");
        let dir = std::env::temp_dir().join(format!("boxship-attack-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("out")).expect("a directory");
        let runtime = Runtime::open(dir.join("root")).expect("a runtime");
        let programs = boxship_layers::HostImage::new(["/bin/sh", "/bin/sleep", "/bin/cat"]);
        runtime
            .store()
            .import_host_programs(&programs, "tools:1", &Default::default(), &mut |_| true)
            .expect("an image");
        Arena { mounts: mounts(), groups: groups(), dir, lingered: Vec::new() }
    }

    pub fn root(&self) -> String {
        self.dir.join("root").to_str().expect("UTF-8").to_owned()
    }

    pub fn out(&self) -> String {
        self.dir.join("out").to_str().expect("UTF-8").to_owned()
    }

    /// The claims that hold whatever was done to the victim. Each violated one is described.
    pub fn check(&mut self, report: &Report) -> Vec<String> {
        let mut wrong = Vec::new();
        if report.hung {
            wrong.push("it hung".to_owned());
        }
        if report.code == Some(101) || report.stderr.contains("panicked") {
            wrong.push(format!("it panicked: {}", report.stderr.trim()));
        } else if report.code.is_some_and(|c| c != 0) {
            wrong.push(format!("it ended with {:?}: {}", report.code, report.stderr.trim()));
        }
        let said: Vec<&str> = report.stdout.lines().collect();
        if said.iter().any(|l| l.starts_with("refused")) {
            wrong.push(format!("the retry failed: {said:?}"));
        }
        let begin = Instant::now();
        match Runtime::open(self.dir.join("root")) {
            Ok(runtime) => {
                self.truth(&runtime, &said, &mut wrong);
                self.empty(&runtime, &said, begin, &mut wrong);
            }
            Err(e) => wrong.push(format!("it does not open: {e}")),
        }
        let now = mounts();
        if now != self.mounts {
            wrong.push(format!("mounts: {:?}", now.symmetric_difference(&self.mounts).collect::<Vec<_>>()));
        }
        wrong
    }

    /// The listing tells what is so, and what was acknowledged is there.
    fn truth(&self, runtime: &Runtime, said: &[&str], wrong: &mut Vec<String>) {
        let id = said.iter().find_map(|l| l.strip_prefix("id ")).unwrap_or("none");
        let acknowledged = |what: &str| said.contains(&what);
        let gone = acknowledged("removing") || said.iter().any(|l| l.starts_with("error"));
        let containers = match runtime.containers() {
            Ok(all) => all,
            Err(e) => return wrong.push(format!("it does not list: {e}")),
        };
        if acknowledged("created") && !gone && !containers.iter().any(|c| c.id() == id) {
            wrong.push("it was acknowledged as created and is not there".into());
        }
        for c in containers.iter().filter(|c| c.config().command[2].starts_with("echo one")) {
            let runs = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
            let Ok(mut state) = c.state() else {
                wrong.push("its state cannot be told".into());
                continue;
            };
            if !state.pid.is_some_and(runs) {
                // It may have ended since: then it says so now.
                state = c.state().unwrap_or(state);
            }
            let really = state.pid.is_some_and(runs);
            match state.status {
                Status::Running if !really => wrong.push("listed as running, but no process".into()),
                // Between the end and the record: it has ended when asked again.
                Status::Created if acknowledged("started") && !gone => {
                    wrong.push("it was acknowledged as started and is listed as created".into());
                }
                Status::Stopped if acknowledged("started") && !acknowledged("stopping") && c.id() == id => {
                    wrong.push(format!("a detached container ended with its creator: {:?}", state.exit));
                }
                _ => {}
            }
            if c.id() == id && acknowledged("started") && !gone {
                self.outlives(c, wrong);
            }
        }
    }

    /// A detached container lives on, with its logs and its exit status whole.
    fn outlives(&self, c: &boxship_runtime::Container, wrong: &mut Vec<String>) {
        let lines = || -> Vec<Vec<u8>> {
            let mut logs = c.logs().expect("logs");
            std::iter::from_fn(|| logs.next_line().ok().flatten()).map(|l| l.message).collect()
        };
        let deadline = Instant::now() + SETTLE;
        let stopped = || c.state().is_ok_and(|s| s.status == Status::Stopped);
        while lines() != [b"one".to_vec(), b"two".to_vec()] {
            // One that was stopped at once may not have said anything.
            if stopped() {
                break;
            }
            if Instant::now() > deadline {
                wrong.push(format!("its log is not whole: {:?}", lines()));
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Err(e) = c.stop(Some(9), Duration::ZERO) {
            wrong.push(format!("it does not stop: {e}"));
        }
        match c.wait() {
            Ok(Some(exit)) if exit.signal() == Some(9) => {}
            other => wrong.push(format!("its exit status is not whole: {other:?}")),
        }
    }

    /// Everything is removed; then nothing is left.
    fn empty(&mut self, runtime: &Runtime, said: &[&str], begin: Instant, wrong: &mut Vec<String>) {
        let deadline = Instant::now() + SETTLE;
        let mut left = Vec::new();
        let ephemeral = said.iter().any(|l| l.starts_with("id")) && !said.contains(&"created");
        loop {
            let _ = runtime.recover();
            for c in runtime.containers().unwrap_or_default().iter().filter(|c| !is_ephemeral(c)) {
                let _ = c.delete(true);
            }
            left.clear();
            reap();
            left.extend(children().into_iter().map(|pid| format!("process {pid}")));
            for part in ["containers", "snapshots", "names", "ids", "trash", "ingest"] {
                let entries = std::fs::read_dir(self.dir.join("root").join(part)).into_iter().flatten();
                left.extend(entries.flatten().map(|e| format!("{part}/{}", e.file_name().to_string_lossy())));
            }
            // Others may use boxship at the same time: what they have has processes.
            let new = groups().into_iter().filter(|g| !self.groups.contains(g) && is_deserted(g));
            left.extend(new.map(|g| g.to_string_lossy().into_owned()));
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if !left.is_empty() {
            // The next attack starts from nothing.
            for pid in children() {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid.cast_signed()),
                    nix::sys::signal::SIGKILL,
                );
            }
            wrong.push(format!("left behind: {left:?}"));
        } else if ephemeral {
            self.lingered.push(begin.elapsed());
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Namespaces that the kernel keeps, by kind, for all processes of the machine.
pub struct Kept(Vec<(&'static str, i64)>);

impl Kept {
    pub fn now() -> Kept {
        let text = std::fs::read_to_string("/proc/slabinfo").unwrap_or_default();
        let objects = |name: &'static str| {
            let line = text.lines().find(|l| l.split_whitespace().next() == Some(name))?;
            Some((name, line.split_whitespace().nth(1)?.parse().ok()?))
        };
        let kinds = ["net_namespace", "pid_namespace", "user_namespace", "uts_namespace"];
        Kept(kinds.into_iter().filter_map(objects).collect())
    }

    /// After `n` containers there are as many as before, but for those that the kernel's processors keep at
    /// hand: one in a hundred that stays is found from some ten thousand on. It frees them in the background.
    pub fn has_not_grown(&self, n: usize) -> Result<(), String> {
        const AT_HAND: i64 = 100;
        if self.0.is_empty() {
            return Err("/proc/slabinfo tells nothing of namespaces".into());
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let now = Kept::now();
            let grown = |(old, new): (&(&str, i64), &(&str, i64))| new.1 > old.1 + AT_HAND;
            if n < 1_000 || !self.0.iter().zip(&now.0).any(grown) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("namespaces: {:?} before, {:?} after", self.0, now.0));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn is_ephemeral(c: &boxship_runtime::Container) -> bool {
    !c.config().command[2].starts_with("echo one")
}

fn mounts() -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    text.lines().filter(|l| l.contains("boxship-attack")).map(str::to_owned).collect()
}

/// Directories of containers in all hierarchies.
fn groups() -> BTreeSet<PathBuf> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let roots = hierarchies.map(|h| h.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
    let parents = roots.filter_map(|r| std::fs::read_dir(r.join("boxship")).ok());
    parents.flat_map(|p| p.flatten()).map(|g| g.path()).filter(|g| g.is_dir()).collect()
}

fn is_deserted(group: &Path) -> bool {
    std::fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty())
}

/// Children that have ended and that nobody has collected.
pub fn zombies() -> Vec<u32> {
    let ended = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
    };
    children().into_iter().filter(ended).collect()
}

/// Collects orphans that have ended.
fn reap() {
    while matches!(
        waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)),
        Ok(s) if s != WaitStatus::StillAlive
    ) {}
}

/// Children and inherited orphans of this process, zombies included.
pub fn children() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
    let lists = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok());
    lists.flat_map(|l| l.split(' ').filter_map(|p| p.trim().parse().ok()).collect::<Vec<u32>>()).collect()
}
