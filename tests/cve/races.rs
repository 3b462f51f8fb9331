//! Races: an attacker exchanges a directory and a symlink while containers start and go. Each start
//! may fail or not; nothing outside may change.

use std::path::Path;

use boxship::{ContainerBuilder, Mount};
use libtest_mimic::Trial;

use crate::bundle::Bundle;
use crate::need::Need::{Perl, UserNamespaces};
use crate::sentinel::Sentinel;
use crate::swapper::Swapper;
use crate::{home, own_engine, test};

pub fn tests() -> Vec<Trial> {
    let any = &[UserNamespaces, Perl];
    vec![
        test("cve_2021_30465_race_for_a_mount_point", any, mount_points),
        test("cve_2024_45310_race_for_a_mount_point_in_a_volume", any, volumes),
        test("cve_2019_19921_race_for_proc", any, proc),
        test("cve_2026_47766_race_for_dev", any, dev),
        test("cve_2026_55686_race_for_the_working_directory", any, working_directory),
        test("rustsec_2023_0018_race_for_a_tree_that_is_removed", any, removal),
    ]
}

/// How often each race is run.
pub fn races() -> usize {
    std::env::var("BOXSHIP_RACES").ok().and_then(|v| v.parse().ok()).unwrap_or(40)
}

/// Starts containers while `a` and `b` of `dir` change places; returns what those wrote that started.
async fn race(
    outside: &Sentinel,
    (dir, a, b): (&Path, &'static str, &'static str),
    start: impl Fn(usize) -> ContainerBuilder,
) -> Vec<String> {
    let swapper = Swapper::start(dir, a, b);
    let mut told = Vec::new();
    let mut failed = None;
    for i in 0..races() {
        match start(i).output().await {
            Ok(out) => told.push(String::from_utf8_lossy(&out.stdout).into_owned()),
            Err(e) => failed = Some(e.chain()),
        }
        outside.check();
    }
    assert!(swapper.stop() > races(), "the attacker had its chance");
    assert!(!told.is_empty(), "not one start worked: {failed:?}");
    told
}

/// A mount point in a volume or root was exchanged for a symlink between check and mount.
/// Red in the build of `mount_points` in `rootfs.rs`: directories were made outside.
async fn mount_points() {
    let outside = Sentinel::new("2021-30465");
    let b = Bundle::new("2021-30465").await;
    b.link("data.link", outside.path());
    let c = |i: usize| {
        let file = b.fs().join("etc/passwd");
        b.sh("touch /data/x /data/made/y; echo started")
            .mount(Mount::bind(b.volume(), "/data"))
            .mount(Mount::tmpfs(format!("/data/made{i}")))
            .mount(Mount::bind(file, "/data/hosts"))
    };
    race(&outside, (&b.fs(), "data", "data.link"), c).await;
    // In a volume that holds the mount point of another one: CVE-2021-30465 itself.
    std::fs::create_dir(b.volume().join("inner")).expect("made");
    std::os::unix::fs::symlink(outside.path(), b.volume().join("link")).expect("linked");
    let c = |_| {
        b.sh("touch /v/inner/x; echo started")
            .mount(Mount::bind(b.volume(), "/v"))
            .mount(Mount::tmpfs("/v/inner"))
            .mount(Mount::bind(b.fs().join("etc"), "/v/inner/etc"))
    };
    race(&outside, (&b.volume(), "inner", "link"), c).await;
}

/// Directories and files for mounts were made outside through an exchanged parent.
/// Red in the build of `mount_points` in `rootfs.rs`: directories were made outside.
async fn volumes() {
    let outside = Sentinel::new("2024-45310");
    let b = Bundle::new("2024-45310").await;
    std::fs::create_dir(b.volume().join("a")).expect("made");
    let up = Path::new("../../../../../../..").join(outside.path().strip_prefix("/").expect("absolute"));
    std::os::unix::fs::symlink(up, b.volume().join("a.link")).expect("linked");
    // Something new is to be made each time.
    let c = |i: usize| {
        b.sh("echo started")
            .mount(Mount::bind(b.volume(), "/v"))
            .mount(Mount::tmpfs(format!("/v/a/made{i}/b/c")))
            .mount(Mount::bind(b.fs().join("etc/passwd"), format!("/v/a/file{i}")))
    };
    race(&outside, (&b.volume(), "a", "a.link"), c).await;
}

/// `/proc` exchanged while it is set up (also CVE-2023-27561, CVE-2023-28642).
/// Red here before masks were found from procfs itself (`protected` in `namespaces/helper/child.rs`):
/// within 40 starts `/proc/kallsyms` and `/proc/sys` stayed bare.
async fn proc() {
    let outside = Sentinel::new("2019-19921");
    let b = Bundle::new("2019-19921").await;
    std::fs::create_dir_all(b.fs().join("fake/self/attr")).expect("made");
    b.file("fake/version", "fake\n");
    for target in [Path::new("/fake"), outside.path()] {
        b.link("proc.link", target);
        // Whichever name procfs has by now, it is one, and its masks are on it.
        let c = |_| b.sh("cat /proc/self/mountinfo || cat /proc.link/self/mountinfo");
        let mut seen = 0;
        for told in race(&outside, (&b.fs(), "proc", "proc.link"), c).await {
            let points: Vec<&str> = told.lines().filter_map(|l| l.split(' ').nth(4)).collect();
            // The names may change between the two attempts to read, and between two lines.
            let either = |part: &str| ["/proc", "/proc.link"].map(|p| format!("{p}{part}"));
            if !either("").iter().any(|p| points.contains(&p.as_str())) {
                continue;
            }
            seen += 1;
            let there = |part: &&&str| Path::new("/proc").join(part).exists();
            for part in ["kallsyms", "timer_list", "keys", "sys", "bus", "sysrq-trigger"].iter().filter(there)
            {
                let masked = either(&format!("/{part}")).iter().any(|p| points.contains(&p.as_str()));
                assert!(masked, "{part} is bare: {told}");
            }
        }
        assert!(seen > 0);
        let fake = [b.fs().join("proc"), b.fs().join("proc.link")].into_iter().find(|p| p.is_symlink());
        std::fs::remove_file(fake.expect("one is the link")).expect("removed");
        std::fs::rename(b.fs().join("proc.link"), b.fs().join("proc")).ok();
    }
}

/// `/dev` exchanged while it is set up: the race of CVE-2026-41579.
/// Red in the build of `mount_points` in `rootfs.rs`: directories were made outside.
async fn dev() {
    let outside = Sentinel::new("2026-47766");
    let b = Bundle::new("2026-47766").await;
    b.link("dev.link", outside.path());
    let c = |i: usize| b.sh("echo started > /dev/null; echo started").tty(i.is_multiple_of(2));
    for told in race(&outside, (&b.fs(), "dev", "dev.link"), c).await {
        // (Where its /dev went afterwards is its owner's business.)
        assert!(told.trim().ends_with("started"), "{told:?}");
    }
}

/// The working directory was made outside through an exchanged parent.
/// Red in the build of `mount_points` in `rootfs.rs`, with a CHDIR before the switch: made outside.
async fn working_directory() {
    let outside = Sentinel::new("2026-55686");
    let b = Bundle::new("2026-55686").await;
    std::fs::create_dir(b.fs().join("w")).expect("made");
    for target in [outside.path(), Path::new("/proc/self/fd"), Path::new("/proc/self/cwd")] {
        b.link("w.link", target);
        let c = |i: usize| b.sh("touch here 2>/dev/null; pwd").workdir(format!("/w/made{i}/deep"));
        for told in race(&outside, (&b.fs(), "w", "w.link"), c).await {
            assert!(told.starts_with('/') && !told.contains("unreachable"), "{told}");
        }
        for name in ["w", "w.link"] {
            let path = b.fs().join(name);
            if path.is_symlink() {
                std::fs::remove_file(path).expect("removed");
            } else {
                std::fs::remove_dir_all(path).expect("removed");
            }
        }
        std::fs::create_dir(b.fs().join("w")).expect("made");
    }
}

/// A directory was exchanged for a symlink while its tree was removed.
/// Red with BOXSHIP_RACES=1500 when `DIRECTORY` in `layers/src/fsx.rs` lacks NOFOLLOW: directories outside
/// were removed.
async fn removal() {
    let outside = Sentinel::new("rustsec-2023-0018");
    let root = home().join("rustsec-2023-0018-engine");
    let e = own_engine(&root).await;
    let mut exchanged = 0;
    for i in 0..races() {
        let c = crate::sh(&e, "true").create().await.expect("made");
        let tree = root.join("snapshots").join(c.id()).join("upper/tree");
        // The two that change places are found among others, and some of what is below has to go first.
        for n in 0..20 {
            std::fs::create_dir_all(tree.join(format!("d{n}/below/deep"))).expect("made");
        }
        for n in 0..50 {
            std::fs::write(tree.join(format!("d5/file{n}")), "").expect("written");
        }
        std::os::unix::fs::symlink(outside.path(), tree.join("link")).expect("linked");
        std::os::unix::fs::symlink(outside.path(), tree.join("d7/link")).expect("linked");
        let swappers =
            [Swapper::start(&tree, "d5", "link"), Swapper::start(&tree.join("d7"), "below", "link")];
        // A tree that changes all the time may be left for later, but is out of reach at once.
        let removed = c.remove().force(true).await;
        exchanged += swappers.map(Swapper::stop).iter().sum::<usize>();
        removed.expect("removed");
        assert!(!tree.exists(), "{i}");
        outside.check();
    }
    assert!(exchanged > 0, "the attacker had its chance");
    e.recover().await.expect("recovers");
    assert_eq!(
        std::fs::read_dir(root.join("trash")).expect("there").count(),
        0,
        "nothing is left at the end"
    );
    let _ = std::fs::remove_dir_all(&root);
}
