//! What a test needs of its host.

#![allow(dead_code, reason = "each of the test binaries that share it needs a part")]

use std::path::Path;

use libtest_mimic::Trial;

use crate::Outcome;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Root of the host.
    Root,
    /// An ordinary user.
    User,
    /// User namespaces: every container needs them, root's by default, too.
    UserNamespaces,
    /// cgroups that the caller may make.
    Cgroups,
    /// strace.
    Strace,
    /// Perl, for system calls that no program makes.
    Perl,
    /// A Debian root file system at `target/debian.tar` (`.ci/debian` makes it).
    Debian,
    /// dockerd, its client, and the right to start them.
    Docker,
    /// Podman, skopeo, umoci and the static busybox, as root.
    ImageTools,
    /// Debian's docker-registry, skopeo and openssl.
    Registry,
    /// A machine whose system calls the probe knows.
    X86_64,
    /// mkfs.ext4, losetup and fsfreeze, and a kernel with loop devices and ext4; useful to root only.
    Ext4,
    /// GNU tar, Python and Go: readers of archives to compare with.
    Readers,
    /// Debian with servers and languages at `target/software.tar` (`.ci/software` makes it).
    Software,
}

impl Need {
    fn name(self) -> &'static str {
        match self {
            Need::Root => "root",
            Need::User => "user",
            Need::UserNamespaces => "userns",
            Need::Cgroups => "cgroups",
            Need::Strace => "strace",
            Need::Perl => "perl",
            Need::Debian => "debian",
            Need::Docker => "docker",
            Need::ImageTools => "image-tools",
            Need::Registry => "registry",
            Need::X86_64 => "x86_64",
            Need::Ext4 => "ext4",
            Need::Software => "software",
            Need::Readers => "readers",
        }
    }

    fn met(self) -> bool {
        let root = rustix::process::geteuid().is_root();
        match self {
            Need::Root => root,
            Need::User => !root,
            Need::UserNamespaces => {
                let max = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
                let allowed = std::fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone")
                    .unwrap_or("1".into());
                max.trim() != "0" && (root || allowed.trim() != "0")
            }
            Need::Cgroups => root && Path::new("/sys/fs/cgroup").exists(),
            Need::Strace => runs("strace", "-V"),
            Need::Perl => Path::new("/usr/bin/perl").exists(),
            Need::Debian => debian().exists(),
            Need::Docker => root && ["dockerd", "docker"].iter().all(|p| runs(p, "--version")),
            Need::ImageTools => {
                root && Path::new("/bin/busybox").exists()
                    && ["podman", "crun", "skopeo", "umoci"].iter().all(|p| runs(p, "--version"))
            }
            Need::Registry => {
                ["docker-registry", "skopeo"].iter().all(|p| runs(p, "--version"))
                    && runs("openssl", "version")
            }
            Need::X86_64 => cfg!(target_arch = "x86_64"),
            Need::Ext4 => {
                let systems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
                let programs =
                    [("mkfs.ext4", "-V"), ("losetup", "-V"), ("fsfreeze", "-V"), ("unshare", "-V")];
                systems.contains("\text4\n")
                    && Path::new("/dev/loop-control").exists()
                    && programs.iter().all(|(program, argument)| runs(program, argument))
            }
            Need::Software => software().exists(),
            Need::Readers => ["tar", "python3"].iter().all(|p| runs(p, "--version")) && runs("go", "version"),
        }
    }
}

fn runs(program: &str, argument: &str) -> bool {
    std::process::Command::new(program).arg(argument).output().is_ok()
}

pub fn debian() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian.tar")
}

pub fn software() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/software.tar")
}

fn required(need: Need) -> bool {
    let list = std::env::var("BOXSHIP_REQUIRE").unwrap_or_default();
    list.split(',').any(|n| n == need.name())
        || list.split(',').any(|n| n == "all") && !matches!(need, Need::Root | Need::User)
}

/// A test, or an ignored one that names what is missing, or a failure if that is required.
pub fn trial(name: &str, needs: &[Need], f: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    match needs.iter().find(|n| !n.met()) {
        None => Trial::test(name, f),
        Some(need) if required(*need) => {
            let message = format!("BOXSHIP_REQUIRE asks for it, but this host lacks: {}", need.name());
            Trial::test(name, move || Err(message.into()))
        }
        Some(need) => {
            Trial::test(format!("{name} (skipped: needs {})", need.name()), f).with_ignored_flag(true)
        }
    }
}
