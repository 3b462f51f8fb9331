//! The same probe under Docker, with a dockerd of our own in its own network namespace, and Podman.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use crate::program;
use crate::reach::Reach;
use crate::scratch;

static DAEMON: Mutex<Option<Child>> = Mutex::new(None);

fn dir() -> PathBuf {
    scratch().join("docker")
}

/// The name of the parent of their containers' cgroups, which they make and leave behind.
fn cgroup() -> String {
    format!("boxship-probe-{}", std::process::id())
}

fn client() -> Command {
    let program = if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" };
    let mut c = Command::new(program);
    c.args(["-H", &format!("unix://{}", dir().join("sock").display())]).stdin(Stdio::null());
    c
}

fn output(c: &mut Command) -> Result<Output, String> {
    let out = c.output().map_err(|e| format!("{c:?}: {e}"))?;
    if out.status.success() {
        return Ok(out);
    }
    Err(format!("{c:?}: {}", String::from_utf8_lossy(&out.stderr).trim()))
}

/// Starts dockerd and gives it an image of the probe.
fn start() -> Result<(), String> {
    let image = dir().join("image");
    for d in ["proc", "dev", "sys", "tmp"] {
        std::fs::create_dir_all(image.join(d)).map_err(|e| e.to_string())?;
    }
    std::fs::copy(program::build(&scratch()), image.join("probe")).map_err(|e| e.to_string())?;
    let log = std::fs::File::create(dir().join("log")).map_err(|e| e.to_string())?;
    let mut daemon = Command::new("unshare");
    daemon
        .args(["--net", "dockerd", "--iptables=false", "--bridge=none"])
        .arg("-H")
        .arg(format!("unix://{}", dir().join("sock").display()));
    for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
        daemon.arg(option).arg(dir().join(name));
    }
    daemon.arg("--cgroup-parent").arg(format!("/{}", cgroup()));
    daemon.stdout(log.try_clone().map_err(|e| e.to_string())?).stderr(log);
    *DAEMON.lock().expect("no panic holds it") = Some(daemon.spawn().map_err(|e| e.to_string())?);
    let ready = (0..150).any(|_| {
        std::thread::sleep(Duration::from_millis(200));
        output(client().arg("info")).is_ok()
    });
    if !ready {
        let log = std::fs::read_to_string(dir().join("log")).unwrap_or_default();
        return Err(format!("dockerd did not come up: {}", log.lines().last().unwrap_or("it said nothing")));
    }
    let tar = dir().join("image.tar");
    output(Command::new("tar").arg("-C").arg(&image).arg("-cf").arg(&tar).arg("."))?;
    output(client().arg("import").arg(&tar).arg("probe:1")).map(drop)
}

/// What Docker's default container reaches.
pub fn reach() -> Result<&'static Reach, String> {
    static REACH: OnceLock<Result<Reach, String>> = OnceLock::new();
    let made = REACH.get_or_init(|| {
        start()?;
        let mut c = client();
        c.args(["run", "--rm", "--network", "none", "probe:1", "/probe"]).args(program::namespaces());
        Ok(Reach::parse(&String::from_utf8_lossy(&output(&mut c)?.stdout)))
    });
    made.as_ref().map_err(Clone::clone)
}

/// The version of the daemon, for the table.
pub fn version() -> String {
    let out = output(client().args(["version", "--format", "{{.Server.Version}}"]));
    out.map_or_else(|e| e, |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// What Podman's default container reaches, or why it cannot say.
pub fn podman() -> Result<Reach, String> {
    let storage = scratch().join("podman");
    // What it mounts and leaves running, also when it could not run a container, ends with these namespaces.
    // (Outside, Podman 4.3 asks for a limit of open files that a machine may refuse.)
    let mut c = Command::new("unshare");
    c.args(["--mount", "--pid", "--fork", "--mount-proc", "podman"]);
    c.arg("--root")
        .arg(storage.join("root"))
        .arg("--runroot")
        .arg(storage.join("run"))
        .args(["run", "--rm", "--network", "none"])
        .arg(format!("--cgroup-parent=/{}", cgroup()))
        .arg("--rootfs")
        .arg(dir().join("image"))
        .arg("/probe")
        .args(program::namespaces());
    let said = |e: String| e.rsplit("Error: ").next().unwrap_or_default().to_owned();
    output(c.stdin(Stdio::null())).map(|o| Reach::parse(&String::from_utf8_lossy(&o.stdout))).map_err(said)
}

/// As it names itself.
pub fn podman_version() -> String {
    let out = output(Command::new("podman").arg("--version"));
    out.map_or_else(|_| "no podman".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// Ends dockerd, and removes what it leaves.
pub fn stop() {
    let Some(mut daemon) = DAEMON.lock().expect("no panic holds it").take() else { return };
    if let Some(pid) = rustix::process::Pid::from_raw(daemon.id().cast_signed()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let _ = daemon.wait();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let parent = hierarchy.path().join(cgroup());
        let _ = std::fs::remove_dir(parent.join("conmon"));
        let _ = std::fs::remove_dir(parent);
    }
}
