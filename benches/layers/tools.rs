//! Other programs, and what several benches do with them.

#![allow(dead_code, reason = "each of the benches that share it needs a part")]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::nanos;

pub fn run(c: &mut Command) -> Result<Vec<u8>, String> {
    let out = c.stdin(Stdio::null()).output().map_err(|e| format!("{c:?}: {e}"))?;
    match out.status.success() {
        true => Ok(out.stdout),
        false => Err(format!("{c:?}: {}", String::from_utf8_lossy(&out.stderr).trim())),
    }
}

pub fn timed<T>(f: impl FnOnce() -> Result<T, String>) -> Result<u64, String> {
    let begin = Instant::now();
    f()?;
    Ok(nanos(begin.elapsed()))
}

/// A dockerd with everything on the disk.
pub struct Docker {
    process: Child,
    socket: String,
}

impl Docker {
    pub fn start(at: &Path) -> Result<Docker, String> {
        let dir = at.join("docker");
        std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        let socket = format!("unix://{}", dir.join("sock").display());
        let log = File::create(dir.join("log")).map_err(|e| e.to_string())?;
        let mut c = Command::new("setpriv");
        c.args([
            "--pdeathsig",
            "TERM",
            "unshare",
            "--net",
            "dockerd",
            "--iptables=false",
            "--bridge=none",
            "-H",
        ]);
        c.arg(&socket);
        for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            c.arg(option).arg(dir.join(name));
        }
        let process = c.stdin(Stdio::null()).stdout(log.try_clone().expect("one more")).stderr(log).spawn();
        let docker = Docker { process: process.map_err(|e| e.to_string())?, socket };
        let up = (0..150).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            run(docker.client().arg("info")).is_ok()
        });
        if up { Ok(docker) } else { Err("dockerd did not come up".into()) }
    }

    /// Of the daemon, which has a network of its own.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn client(&self) -> Command {
        let program = if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" };
        let mut c = Command::new(program);
        c.args(["-H", &self.socket]);
        c
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

/// In namespaces of its own: Podman 4.3 asks for more open files than this root may have otherwise, and what
/// it mounts ends with them.
pub fn podman(at: &Path) -> Command {
    let mut c = Command::new("unshare");
    c.args(["--mount", "--pid", "--fork", "--mount-proc", "podman", "--storage-driver", "overlay", "--root"]);
    c.arg(at.join("podman")).arg("--runroot").arg(at.join("podman-run"));
    c
}

pub fn tag(layout: &Path) -> String {
    format!("{}:v", layout.display())
}

pub fn drain(from: &mut dyn Read, mut each: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer).expect("read") {
            0 => return,
            n => each(&buffer[..n]),
        }
    }
}

/// Directories, files and links of a plain archive, with nothing checked and no attribute set.
pub fn write(bytes: &[u8], root: &Path) {
    std::fs::create_dir_all(root).expect("made");
    for entry in tar::Archive::new(bytes).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = root
            .join(entry.path().expect("a path").strip_prefix("/").unwrap_or(&entry.path().expect("a path")));
        let at = usize::try_from(entry.raw_file_position()).expect("small");
        let size = usize::try_from(entry.size()).expect("small");
        match entry.header().entry_type() {
            tar::EntryType::Directory => drop(std::fs::create_dir_all(&path)),
            tar::EntryType::Symlink => {
                let _ =
                    std::os::unix::fs::symlink(entry.link_name().expect("a link").expect("a link"), &path);
            }
            tar::EntryType::Link => {
                let _ =
                    std::fs::hard_link(root.join(entry.link_name().expect("a link").expect("a link")), &path);
            }
            tar::EntryType::Regular => {
                let mut file = File::create(&path).or_else(|_| {
                    std::fs::create_dir_all(path.parent().expect("below the root"))?;
                    File::create(&path)
                });
                file.as_mut().expect("made").write_all(&bytes[at..at + size]).expect("written");
            }
            _ => drain(&mut entry, |_| {}),
        }
    }
}
