//! The same power cuts for Docker and Podman. Their result is printed beside ours and judges nobody.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use boxship_layers::Store;
use libtest_mimic::Failed;

use crate::disk::{Disk, in_own_mounts};
use crate::material;

type Answer<T> = Result<T, String>;

/// Cuts the power of each this often, one cut for each import, load, commit and tag in turn.
pub fn loss(points: usize) -> Result<String, Failed> {
    in_own_mounts("peers", &[points.to_string()])
}

pub fn drive(args: &[String]) {
    let (dir, points) = (Path::new(&args[0]), args[1].parse::<usize>().expect("a number"));
    for tool in [Tool::Docker, Tool::Podman] {
        let dir = dir.join(tool.name());
        std::fs::create_dir(&dir).expect("a directory");
        let disk = Disk::two(&dir);
        match cuts(tool, &disk, points) {
            Ok(summary) => println!("{}: {summary}", tool.version()),
            // Podman does not run everywhere.
            Err(e) if tool == Tool::Podman => println!("{}: it does not run here: {e}", tool.version()),
            Err(e) => panic!("{}: {e}", tool.version()),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Tool {
    Docker,
    Podman,
}

/// The tool with its data at one place; Docker's daemon with it.
struct Running {
    tool: Tool,
    /// What it takes for `store/` and `r/` of its directory, for it keeps paths: the disk, and what a machine
    /// has in memory only.
    disk: PathBuf,
    run: PathBuf,
    dir: PathBuf,
    daemon: Option<Child>,
}

/// What a tool has of an image.
enum Found {
    Whole,
    Missing,
    Damaged(String),
}

impl Tool {
    fn name(self) -> &'static str {
        if self == Tool::Docker { "docker" } else { "podman" }
    }

    fn version(self) -> String {
        let out = Command::new(self.name()).arg("--version").output().expect("needed");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    fn start(self, dir: &Path, disk: &str, run: &str) -> Answer<Running> {
        let (disk, run, dir) = (dir.join(disk), dir.with_file_name(run), dir.to_owned());
        let _ = std::fs::remove_dir_all(&run);
        std::fs::create_dir_all(&run).map_err(|e| e.to_string())?;
        let mut running = Running { tool: self, disk, run, dir, daemon: None };
        if self == Tool::Podman {
            return Ok(running);
        }
        let log = File::create(running.run.join("log")).map_err(|e| e.to_string())?;
        let mut c = Command::new("setpriv");
        c.args(["--pdeathsig", "TERM", "unshare", "--net", "--mount"]);
        running.mounted(&mut c).args(["dockerd", "--iptables=false", "--bridge=none"]);
        let seen = running.dir.with_file_name("r");
        c.arg("-H").arg(format!("unix://{}/sock", seen.display()));
        c.arg("--data-root").arg(running.dir.join("store/data"));
        c.arg("--exec-root").arg(seen.join("exec")).arg("--pidfile").arg(seen.join("pid"));
        c.stdin(Stdio::null()).stdout(log.try_clone().map_err(|e| e.to_string())?).stderr(log);
        running.daemon = Some(c.spawn().map_err(|e| e.to_string())?);
        for _ in 0..300 {
            if running.call(&["info"]).is_ok() {
                return Ok(running);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let log = std::fs::read_to_string(running.run.join("log")).unwrap_or_default();
        Err(format!("dockerd does not come up: {}", log.lines().last().unwrap_or("it says nothing")))
    }
}

impl Running {
    fn socket(&self) -> String {
        format!("unix://{}", self.run.join("sock").display())
    }

    fn mounted<'a>(&self, c: &'a mut Command) -> &'a mut Command {
        let script = "mount --bind \"$1\" \"$2\" && mount --bind \"$3\" \"$4\" && shift 4 && exec \"$@\"";
        c.args(["sh", "-c", script, "sh"]).arg(&self.disk).arg(self.dir.join("store"));
        // Podman wants a short path.
        c.arg(&self.run).arg(self.dir.with_file_name("r"))
    }

    fn look(&self, name: &str, seed: u64, scratch: &Path) -> Found {
        let found = match self.tool {
            Tool::Docker => self.call(&["image", "inspect", name]),
            Tool::Podman => self.call(&["image", "exists", name]),
        };
        match found {
            Err(e) if e.contains("No such image") || e.ends_with(": ") => return Found::Missing,
            Err(e) => return Found::Damaged(e),
            Ok(_) => {}
        }
        let _ = std::fs::remove_file(scratch);
        let saved = self.call(&["save", "-o", scratch.to_str().expect("UTF-8"), name]);
        match saved.and_then(|_| content(scratch, seed).map_err(|e| e.to_string())) {
            Ok(()) => Found::Whole,
            Err(e) => Found::Damaged(e),
        }
    }

    fn call(&self, args: &[&str]) -> Answer<String> {
        let mut c = match self.tool {
            Tool::Docker => {
                let mut c = Command::new("/usr/bin/docker");
                if !Path::new("/usr/bin/docker").exists() {
                    c = Command::new("docker");
                }
                c.arg("-H").arg(self.socket());
                c
            }
            // What it mounts ends with these namespaces.
            Tool::Podman => {
                let mut c = Command::new("unshare");
                c.args(["--mount", "--pid", "--fork", "--mount-proc"]);
                self.mounted(&mut c).arg("podman");
                c.arg("--root").arg(self.dir.join("store/data"));
                c.arg("--runroot").arg(self.dir.with_file_name("r"));
                c
            }
        };
        let out = c.args(args).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        match out.status.success() {
            true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
            false => Err(format!("{args:?}: {}", String::from_utf8_lossy(&out.stderr).trim())),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        if let Some(pid) = rustix::process::Pid::from_raw(daemon.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = daemon.wait();
    }
}

fn cuts(tool: Tool, disk: &Disk, points: usize) -> Answer<String> {
    let path = |name: &str| PathBuf::from(disk.path(name));
    let running = tool.start(&disk.dir, "store", "r")?;
    let side = Store::open(path("side")).map_err(|e| e.to_string())?;
    let file = path("material.tar");
    let mut images: Vec<(String, u64)> = Vec::new();
    // Cuts after which anything was missing or damaged; images lost and damaged, of all that were looked for.
    let (mut bad, mut missing, mut damaged, mut sought, mut dead) = (0, 0, 0, 0, 0);
    let mut just = 0;
    let mut first = None;
    for i in 0..points {
        let seed = 1000 + i as u64;
        let operation = ["import", "load", "commit", "tag"][i % 4];
        let name = format!("{operation}-{seed}:1");
        let file_name = file.to_str().expect("UTF-8");
        match operation {
            "import" => {
                std::fs::write(&file, material::simple_archive(seed)).expect("written");
                running.call(&["import", file_name, &name])?;
                images.push((name, seed));
            }
            "load" => {
                let import =
                    side.import(&material::simple_archive(seed)[..], &name, &Default::default(), &mut |_| {
                        true
                    });
                import.map_err(|e| e.to_string())?;
                let mut out = File::create(&file).expect("made");
                side.save(std::slice::from_ref(&name), &mut out, &mut |_| true).map_err(|e| e.to_string())?;
                running.call(&["load", "-i", file_name])?;
                images.push((name, seed));
            }
            "commit" => {
                let changes = path(&format!("changes-{seed}"));
                std::fs::create_dir(&changes).expect("made");
                for (path, bytes) in material::files(seed).iter() {
                    let path = changes.join(path);
                    std::fs::create_dir_all(path.parent().expect("below")).expect("made");
                    std::fs::write(path, bytes).expect("written");
                }
                let (base, container) = (images[images.len() - 1].0.clone(), format!("c{seed}"));
                running.call(&["create", "--name", &container, "--network=none", &base, "/none"])?;
                running.call(&["cp", &format!("{}/.", changes.display()), &format!("{container}:/")])?;
                running.call(&["commit", &container, &name])?;
                images.push((name, seed));
            }
            _ => {
                let (last, seed) = images[images.len() - 1].clone();
                running.call(&["tag", &last, &name])?;
                images.push((name, seed));
            }
        }
        let copy = disk.copy(false);
        let mut started = Disk::none(&disk.dir);
        started.mount(&copy, "copy");
        let mut wrong = Vec::new();
        sought += images.len();
        match tool.start(&disk.dir, "copy", "c") {
            Ok(after) => {
                for (name, seed) in &images {
                    match after.look(name, *seed, &path("saved.tar")) {
                        Found::Whole => {}
                        Found::Missing => {
                            missing += 1;
                            wrong.push(format!("{name} is missing"));
                        }
                        Found::Damaged(e) => {
                            damaged += 1;
                            wrong.push(format!("{name} is damaged: {e}"));
                        }
                    }
                }
            }
            Err(e) => {
                dead += 1;
                wrong.push(e);
            }
        }
        bad += usize::from(!wrong.is_empty());
        just += usize::from(wrong.iter().any(|w| w.starts_with(&images[images.len() - 1].0)));
        first = first.or(wrong.into_iter().next());
        drop(started);
        let _ = std::fs::remove_file(copy);
    }
    // Without a cut all of it is there: what was found missing is missed rightly.
    for (name, seed) in &images {
        match running.look(name, *seed, &path("saved.tar")) {
            Found::Whole => {}
            Found::Missing => return Err(format!("{name} is missing without a power cut")),
            Found::Damaged(e) => return Err(format!("{name} is damaged without a power cut: {e}")),
        }
    }
    Ok(format!(
        "{points} power cuts at the return of import, load, commit and tag: after {bad} of them something \
         acknowledged was not there or not whole ({just} times what had just returned, {dead} times it did \
         not start); of {sought} images looked for {missing} missing, {damaged} damaged; the first: {}",
        first.as_deref().unwrap_or("none")
    ))
}

/// Whether the layers of a saved image have the files of this number.
fn content(saved: &Path, seed: u64) -> std::io::Result<()> {
    let open = || File::open(saved).map(tar::Archive::new);
    let mut found = std::collections::BTreeMap::new();
    for entry in open()?.entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        // Whatever is an archive is a layer.
        let mut layer = tar::Archive::new(&bytes[..]);
        for inner in layer.entries()?.map_while(Result::ok) {
            let mut inner = inner;
            let path = inner.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            let mut bytes = Vec::new();
            inner.read_to_end(&mut bytes)?;
            found.insert(path, bytes);
        }
    }
    match material::files(seed).iter().find(|(path, bytes)| found.get(path) != Some(bytes)) {
        None => Ok(()),
        Some((path, _)) => Err(std::io::Error::other(format!("{path} is missing or differs"))),
    }
}
