//! The same probe under Docker, with a dockerd of our own in its own network namespace, and Podman.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use crate::daemon::{self, Dockerd, output};
use crate::program;
use crate::reach::Reach;
use crate::scratch;

static DAEMON: Mutex<Option<Dockerd>> = Mutex::new(None);

fn dir() -> PathBuf {
    scratch().join("docker")
}

/// The name of the parent of their containers' cgroups, which they make and leave behind.
fn cgroup() -> String {
    format!("boxship-probe-{}", std::process::id())
}

fn client() -> Result<Command, String> {
    let daemon = DAEMON.lock().expect("no panic holds it");
    daemon.as_ref().map(Dockerd::client).ok_or_else(|| "dockerd did not start".to_owned())
}

/// Starts dockerd and gives it an image of the probe.
fn start() -> Result<(), String> {
    let image = dir().join("image");
    for d in ["proc", "dev", "sys", "tmp"] {
        std::fs::create_dir_all(image.join(d)).map_err(|e| e.to_string())?;
    }
    std::fs::copy(program::build(&scratch()), image.join("probe")).map_err(|e| e.to_string())?;
    *DAEMON.lock().expect("no panic holds it") = Some(Dockerd::start(&dir(), &cgroup())?);
    let tar = dir().join("image.tar");
    output(Command::new("tar").arg("-C").arg(&image).arg("-cf").arg(&tar).arg("."))?;
    output(client()?.arg("import").arg(&tar).arg("probe:1")).map(drop)
}

/// What Docker's default container reaches.
pub fn reach() -> Result<&'static Reach, String> {
    static REACH: OnceLock<Result<Reach, String>> = OnceLock::new();
    let made = REACH.get_or_init(|| {
        start()?;
        let mut c = client()?;
        c.args(["run", "--rm", "--network", "none", "probe:1", "/probe"]).args(program::namespaces());
        Ok(Reach::parse(&String::from_utf8_lossy(&output(&mut c)?.stdout)))
    });
    made.as_ref().map_err(Clone::clone)
}

/// The version of the daemon, for the table.
pub fn version() -> String {
    let out = client().and_then(|mut c| output(c.args(["version", "--format", "{{.Server.Version}}"])));
    out.map_or_else(|e| e, |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// What Podman's default container reaches, or why it cannot say.
pub fn podman() -> Result<Reach, String> {
    let mut c = daemon::podman(&scratch().join("podman"), &[]);
    c.args(["run", "--rm", "--network", "none", "--cgroups", "disabled", "--rootfs"])
        .arg(dir().join("image"))
        .arg("/probe")
        .args(program::namespaces());
    let said = |e: String| e.rsplit("Error: ").next().unwrap_or_default().to_owned();
    output(&mut c).map(|o| Reach::parse(&String::from_utf8_lossy(&o.stdout))).map_err(said)
}

/// As it names itself.
pub fn podman_version() -> String {
    let out = output(Command::new("podman").arg("--version"));
    out.map_or_else(|_| "no podman".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// Ends dockerd, and removes what it leaves.
pub fn stop() {
    drop(DAEMON.lock().expect("no panic holds it").take());
}
