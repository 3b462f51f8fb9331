//! Embedding programs with a past of their own: this binary again, as somebody else or with
//! descriptors that it inherited.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{block_on, home, identity, is_root, profile};

/// What a test passes to the program that it starts.
pub struct Stage {
    dir: PathBuf,
}

impl Stage {
    pub fn new(name: &str) -> Stage {
        let dir = home().join(format!("{name}-stage"));
        std::fs::create_dir_all(dir.join("engine")).expect("made");
        // A user who cannot read the build directory must be able to run it. Copied by another program: what
        // another thread starts meanwhile would inherit our open file, which could then not be executed.
        let me = std::env::current_exe().expect("this program");
        let copied = Command::new("cp").arg(me).arg(dir.join("program")).status();
        assert!(copied.is_ok_and(|s| s.success()), "cp");
        if is_root() {
            std::os::unix::fs::chown(dir.join("engine"), Some(65534), Some(65534)).expect("given away");
        }
        let open =
            |d: &Path| std::fs::set_permissions(d, PermissionsExt::from_mode(0o755)).expect("mode set");
        open(&home());
        open(&dir);
        Stage { dir }
    }

    /// Plays `role` as an ordinary user in these groups besides its own (as whoever runs the tests, if
    /// that is no root), and returns what it wrote.
    pub fn as_user(&self, role: &str, groups: &str, args: &[&str]) -> String {
        let mut command = if is_root() {
            let mut c = Command::new("setpriv");
            c.args(["--reuid=65534", "--regid=65534"]);
            c.arg(if groups.is_empty() { "--clear-groups".into() } else { format!("--groups={groups}") });
            c.arg(self.dir.join("program"));
            c
        } else {
            Command::new(self.dir.join("program"))
        };
        self.finish(command.arg(format!("--as={role}")), args)
    }

    /// Plays `role` as root in exactly these groups.
    pub fn in_groups(&self, role: &str, groups: &str, args: &[&str]) -> String {
        let mut c = Command::new("setpriv");
        c.arg(format!("--groups={groups}")).arg(self.dir.join("program")).arg(format!("--as={role}"));
        self.finish(&mut c, args)
    }

    /// Plays `role` as who runs the tests.
    pub fn alone(&self, role: &str) -> String {
        self.finish(Command::new(self.dir.join("program")).arg(format!("--as={role}")), &[])
    }

    /// Plays `role` with descriptors 7 and 9 inherited: a directory, and a file that can be written.
    pub fn with_descriptors(&self, role: &str, directory: &Path, file: &Path) -> String {
        let mut c = Command::new("/bin/sh");
        c.args(["-c", "exec 7<\"$1\" 9>>\"$2\"; exec \"$0\" \"$3\" \"$4\""]).arg(self.dir.join("program"));
        c.arg(directory).arg(file).arg(format!("--as={role}"));
        self.finish(&mut c, &[])
    }

    fn finish(&self, command: &mut Command, args: &[&str]) -> String {
        let out = command.arg(self.dir.join("engine")).args(args).current_dir("/").output();
        let out = out.expect("util-linux is part of every host");
        let told = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{}: {told}{}", out.status, String::from_utf8_lossy(&out.stderr));
        told
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        crate::remove(&self.dir);
    }
}

/// The process outside that watches over a running container.
pub async fn monitor(c: &boxship::Container) -> PathBuf {
    let pid = c.inspect().await.expect("there").pid.expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let parent = status.lines().find_map(|l| l.strip_prefix("PPid:\t")).expect("a parent");
    Path::new("/proc").join(parent)
}

/// Plays a role and returns.
pub fn play(role: &str, args: &[String]) {
    let root = PathBuf::from(&args[0]);
    let rest = args[1..].to_vec();
    block_on(async move {
        let e = crate::own_engine(&root).await;
        match role {
            "denied-group" => identity::denied_group(&e, rest.first().map(Path::new)).await,
            "groups" => identity::groups(&e).await,
            "list-descriptors" => crate::descriptors::list(&e).await,
            "cgroup-files" => profile::cgroup_files(&e).await,
            "abandoned" => crate::exec::abandon(&e).await,
            _ => panic!("no role {role}"),
        }
    });
}
