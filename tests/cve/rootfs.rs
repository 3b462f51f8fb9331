//! Roots prepared by an attacker: symlinks where a runtime mounts, makes or writes something.

use std::path::Path;

use boxship::Mount;
use libtest_mimic::Trial;

use crate::bundle::Bundle;
use crate::need::Need::{Perl, UserNamespaces};
use crate::roles::monitor;
use crate::sentinel::Sentinel;
use crate::{is_root, refused, test, text};

pub fn tests() -> Vec<Trial> {
    let any = &[UserNamespaces, Perl];
    vec![
        test("cve_2015_3627_mount_points_that_are_symlinks_stay_inside", any, mount_points),
        test("cve_2025_54867_proc_and_sys_that_are_symlinks_are_refused", any, proc_and_sys),
        test("cve_2026_41579_a_dev_that_is_a_symlink_is_refused", any, dev),
        test("cve_2025_24965_files_written_into_a_root_stay_inside", any, written_files),
        test("cve_2024_0132_an_image_has_no_say_in_the_runtimes_environment", any, environment),
    ]
}

/// A way out of a root at `fs` to `target`, for whoever resolves it against the host.
fn way_out(target: &Path) -> [std::path::PathBuf; 3] {
    let name = target.strip_prefix("/").expect("absolute");
    [target.to_owned(), Path::new("../../../../../../..").join(name), Path::new("/proc/self/root").join(name)]
}

/// Mount points of the image that are symlinks to the host's files.
/// Red when the root is filled before it is switched to, by paths (PIVOT moved behind `small_files` in
/// `namespaces/src/program/tree.rs`, and no RESOLVE_* in `helper/child.rs`): directories were made outside.
async fn mount_points() {
    let outside = Sentinel::new("2015-3627");
    let b = Bundle::new("2015-3627").await;
    std::fs::write(b.volume().join("file"), "the volume's").expect("written");
    for link in way_out(outside.path()) {
        b.link("data", &link);
        let script = "touch /data/new 2>/dev/null; cat /data/hosts /data/secret 2>/dev/null; true";
        let mounts = [
            Mount::tmpfs("/data"),
            Mount::tmpfs("/data/deep/new"),
            Mount::bind(b.volume(), "/data"),
            Mount::bind(b.volume(), "/data/deep/new"),
            Mount::bind(b.volume().join("file"), "/data/hosts"),
            Mount::bind(b.volume().join("file"), "/data/a/new/file"),
        ];
        for mount in mounts {
            // Refused, or mounted at that path of the root: both are fine, and nothing else.
            if let Ok(out) = b.sh(script).mount(mount.clone()).output().await {
                let told = String::from_utf8_lossy(&out.stdout).into_owned();
                assert!(["", "the volume's"].contains(&&told[..]), "{link:?} {mount:?}: {told:?}");
            }
            outside.check();
        }
    }
}

/// `/proc` and `/sys` of a root that are symlinks were followed (youki).
/// Red in the same build as `mount_points`: the start went past the mount and failed at the masks.
async fn proc_and_sys() {
    let outside = Sentinel::new("2025-54867");
    let b = Bundle::new("2025-54867").await;
    std::fs::create_dir_all(b.fs().join("fake/self/attr")).expect("made");
    std::fs::write(b.fs().join("fake/self/attr/exec"), "").expect("written");
    for part in ["proc", "sys"] {
        for link in way_out(outside.path()).iter().map(|p| p.as_path()).chain([Path::new("/fake")]) {
            b.link(part, link);
            refused(b.sh("true").output().await, &format!("mount at \"/{part}\""));
            outside.check();
        }
        std::fs::remove_file(b.fs().join(part)).expect("removed");
    }
    assert_eq!(text(b.sh("cat /proc/1/comm").output().await), "sh\n", "without the links it starts");
}

/// A root whose `/dev` is a symlink (also CVE-2026-47766): device nodes and links were made, and files
/// replaced, in a directory of the host.
/// Red on runc 1.1.5 and crun 1.8.1 with a bundle without a mount at `/dev`: they replaced the file `ptmx` of
/// the directory outside, and made links and (crun) nodes there. Red in the build of `mount_points`: the
/// start went past the mount.
async fn dev() {
    let outside = Sentinel::new("2026-41579");
    let b = Bundle::new("2026-41579").await;
    std::fs::create_dir(b.fs().join("fake")).expect("made");
    for link in way_out(outside.path()).iter().map(|p| p.as_path()).chain([Path::new("/fake")]) {
        b.link("dev", link);
        for tty in [false, true] {
            refused(b.sh("true").tty(tty).output().await, "mount at \"/dev\"");
            outside.check();
        }
    }
    assert_eq!(std::fs::read_dir(b.fs().join("fake")).expect("there").count(), 0, "nothing was made there");
    for (part, link) in [("dev/pts", "/tmp"), ("dev/shm", "/tmp"), ("dev/null", "/proc/version")] {
        std::fs::remove_file(b.fs().join("dev"))
            .or_else(|_| std::fs::remove_dir_all(b.fs().join("dev")))
            .ok();
        std::fs::create_dir(b.fs().join("dev")).expect("made");
        b.link(part, link);
        // Covered by a /dev of its own: such links mean nothing.
        assert_eq!(text(b.sh("cat /dev/null; test -c /dev/null && test -d /dev/shm").output().await), "");
    }
}

/// A runtime wrote its configuration through a symlink of the root.
/// Red in the build of `mount_points`: something was made in the directory outside.
async fn written_files() {
    let mut outside = Sentinel::new("2025-24965");
    let b = Bundle::new("2025-24965").await;
    let out = outside.path().to_owned();
    for way in 0..3 {
        for file in ["hosts", "hostname", "resolv.conf"] {
            b.link(&format!("etc/{file}"), &way_out(&out.join(file))[way]);
        }
        let script = "cat /etc/hosts /etc/hostname /etc/resolv.conf; echo changed > /etc/hosts";
        if let Ok(o) = b.sh(script).hostname("inside").output().await {
            assert!(!String::from_utf8_lossy(&o.stdout).contains("the host's"), "{o:?}");
        }
        outside.check();
        // Working directories and mount points are made, too.
        b.link("w", &way_out(&out)[way]);
        let c = b.sh("touch here").workdir("/w/made/deep").mount(Mount::tmpfs("/w/made/mount"));
        let _ = c.output().await;
        outside.check();
    }
    // The same file under another name: what is written there would be written here.
    for file in ["hosts", "hostname", "resolv.conf"] {
        std::fs::remove_file(b.fs().join("etc").join(file)).expect("removed");
    }
    std::fs::hard_link(out.join("hosts"), b.fs().join("etc/hosts")).expect("the same file system");
    outside.rebase();
    let hosts = text(b.sh("cat /etc/hosts").hostname("inside").output().await);
    assert!(hosts.contains("inside"), "{hosts}");
    outside.check();
    // The whole directory elsewhere.
    std::fs::remove_file(b.fs().join("etc/hosts")).expect("removed");
    outside.rebase();
    std::fs::rename(b.fs().join("etc"), b.fs().join("etc.old")).expect("renamed");
    b.link("etc", &out);
    let _ = b.sh("cat /etc/hosts").output().await;
    // Nor is anything read there: the user's name is looked up in the image.
    std::fs::write(out.join("passwd"), "evil:x:0:0::/:/bin/sh\n").expect("written");
    outside.rebase();
    assert!(b.sh("id").user("evil").output().await.is_err());
    assert!(b.sh("id").output().await.is_err(), "an /etc that cannot be trusted");
}

/// Variables of an image reached programs that run outside the container (also CVE-2025-23266). boxship has
/// no hooks; what runs outside is the monitor.
/// Red when `env_clear` is left out in `namespaces/src/spawn.rs`: the monitor had the embedder's environment.
async fn environment() {
    let _outside = Sentinel::new("2024-0132");
    let b = Bundle::new("2024-0132").await;
    let e = &b.engine;
    let evil = ["LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "GCONV_PATH", "NVIDIA_VISIBLE_DEVICES"];
    let image = e.image().from_directory(b.fs());
    let image = evil.iter().fold(image, |i, name| i.env(name, "/evil/from-the-image"));
    image.tag("environment:1").await.expect("an image");
    let c = e.container().image("environment:1").command(["/bin/sleep", "60"]);
    let c = c.run().await.expect("starts");
    let monitor = monitor(&c).await;
    let read = |what: &str| std::fs::read(monitor.join(what));
    let seen = (read("environ"), read("maps"), std::fs::read_link(monitor.join("exe")));
    c.remove().force(true).await.expect("removed");
    if let (Ok(environ), Ok(maps), Ok(program)) = seen {
        assert!(
            program.to_string_lossy().contains("memfd:boxship"),
            "the parent is the monitor: {program:?}"
        );
        assert_eq!(String::from_utf8_lossy(&environ), "", "the monitor has no environment at all");
        assert!(!String::from_utf8_lossy(&maps).contains(".so"), "and no library");
    } else {
        assert!(!is_root(), "another user's, and nobody may look: {seen:?}");
    }
    let c = e.container().image("environment:1").command(["/bin/cat", "/proc/self/environ"]);
    let inside = text(c.output().await);
    assert!(evil.iter().all(|name| inside.contains(&format!("{name}=/evil"))), "data of the image: {inside}");
}
