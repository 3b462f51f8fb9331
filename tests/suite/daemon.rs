//! Docker and Podman for tests: a dockerd of our own, and a Podman that leaves nothing mounted.

#![allow(dead_code, reason = "each of the test binaries that share it needs a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Runs a command to its end; what it wrote, or what it complained about.
pub fn output(c: &mut Command) -> Result<Output, String> {
    let out = c.stdin(Stdio::null()).output().map_err(|e| format!("{c:?}: {e}"))?;
    if out.status.success() {
        return Ok(out);
    }
    Err(format!("{c:?}: {}", String::from_utf8_lossy(&out.stderr).trim()))
}

/// A dockerd in its own network and mount namespaces. It ends when this is dropped, or with this process.
pub struct Dockerd {
    dir: PathBuf,
    cgroup: String,
    running: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl Dockerd {
    /// Starts it with everything of its own in `dir`. `cgroup` is the name of the parent of its containers'
    /// cgroups, which it leaves behind and [`Dockerd`] removes.
    pub fn start(dir: &Path, cgroup: &str) -> Result<Dockerd, String> {
        std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        let log = std::fs::File::create(dir.join("log")).map_err(|e| e.to_string())?;
        // The kernel ends it when the thread ends that started it: so a killed test leaves no daemon.
        let mut daemon = Command::new("setpriv");
        daemon
            .args(["--pdeathsig", "TERM", "unshare", "--net", "--mount", "dockerd"])
            .args(["--iptables=false", "--bridge=none"])
            .arg("-H")
            .arg(format!("unix://{}", dir.join("sock").display()));
        for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            daemon.arg(option).arg(dir.join(name));
        }
        daemon.arg("--cgroup-parent").arg(format!("/{cgroup}")).stdin(Stdio::null());
        daemon.stdout(log.try_clone().map_err(|e| e.to_string())?).stderr(log);
        let (end, ended) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut child = match daemon.spawn() {
                Ok(child) => child,
                Err(e) => return drop(tell.send(Err(format!("dockerd: {e}")))),
            };
            let _ = tell.send(Ok(()));
            let _ = ended.recv();
            if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = child.wait();
        });
        let daemon = Dockerd { dir: dir.to_owned(), cgroup: cgroup.to_owned(), running: Some((end, thread)) };
        told.recv().map_err(|e| e.to_string())??;
        let ready = (0..150).any(|_| {
            std::thread::sleep(Duration::from_millis(200));
            output(daemon.client().arg("info")).is_ok()
        });
        if ready {
            return Ok(daemon);
        }
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        Err(format!("dockerd did not come up: {}", log.lines().last().unwrap_or("it said nothing")))
    }

    pub fn client(&self) -> Command {
        let program = if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" };
        let mut c = Command::new(program);
        c.args(["-H", &format!("unix://{}", self.dir.join("sock").display())]);
        c
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let Some((end, thread)) = self.running.take() else { return };
        drop(end);
        let _ = thread.join();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let parent = hierarchy.path().join(&self.cgroup);
            let _ = std::fs::remove_dir(parent.join("conmon"));
            let _ = std::fs::remove_dir(parent);
        }
    }
}

/// Podman with everything of its own in `storage`, wrapped by `wrapper` if that says something. What it
/// mounts, leaves running and locks, also when it failed, ends with its namespaces. (Outside, Podman 4.3 asks
/// for a limit of open files that a machine may refuse.)
pub fn podman(storage: &Path, wrapper: &[&str]) -> Command {
    // Its locks and its list of what runs are in these, whatever storage it is given. And without a look at
    // the host's cgroups: crun refuses to run where those of v2 have a controller beside v1.
    let own = "for d in /dev/shm /run /sys/fs/cgroup; do mount -t tmpfs none $d; done; exec \"$@\"";
    let mut c = Command::new("unshare");
    c.args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec", own, "sh"])
        .args(wrapper)
        // Which does without cgroups when it is told to; runc does not.
        .args(["podman", "--runtime", "crun"]);
    c.arg("--root").arg(storage.join("root")).arg("--runroot").arg(storage.join("run"));
    c
}
