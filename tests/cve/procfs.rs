//! `/proc`: what covers it, what is written through it, what it shows.

use boxship::{ErrorKind, Mount, Profile};
use libtest_mimic::Trial;

use crate::bundle::{Bundle, replace_by_link};
use crate::need::Need::{Perl, UserNamespaces};
use crate::races::races;
use crate::sentinel::Sentinel;
use crate::swapper::Swapper;
use crate::{engine, perl, test, text};

pub fn tests() -> Vec<Trial> {
    let any = &[UserNamespaces, Perl];
    vec![
        test("cve_2019_16884_nothing_is_mounted_over_proc", any, volumes_over_proc),
        test("cve_2025_52881_parameters_are_not_written_elsewhere", any, redirected_writes),
        test("ghsa_jq35_85cj_fj4p_side_channels_are_masked", any, side_channels),
    ]
}

/// A volume over `/proc` made a container's programs believe what they wrote there (also CVE-2019-18837).
/// Red before `covers_proc` in `runtime/src/config.rs` was written: a volume at `/proc` was accepted.
async fn volumes_over_proc() {
    let outside = Sentinel::new("2019-16884");
    let b = Bundle::new("2019-16884").await;
    for target in [
        "/proc",
        "/proc/",
        "//proc/self/attr",
        "/proc/self/attr",
        "/proc/sys/kernel",
        "/proc/1",
        "/proc/keys",
    ] {
        for mount in [Mount::bind(outside.path(), target), Mount::tmpfs(target)] {
            let out = b.sh("true").mount(mount.clone()).output().await;
            assert_eq!(out.expect_err(target).kind(), ErrorKind::InvalidInput, "{mount:?}");
        }
    }
    // What tools put there to show a container's limits.
    let c = b.sh("cat /proc/uptime").mount(Mount::bind(outside.path().join("hosts"), "/proc/uptime"));
    assert_eq!(text(c.output().await), "the host's hosts\n");
    // Through a symlink of the root: what is masked stays masked, also below.
    for link in ["/proc", "/proc/self", "/proc/sys", "proc/../proc"] {
        b.link("data", link);
        for mount in [Mount::bind(outside.path(), "/data"), Mount::bind(outside.path(), "/data/attr")] {
            let c = b.sh("cat /proc/kallsyms /proc/keys 2>/dev/null; true").mount(mount.read_only());
            if let Ok(out) = c.output().await {
                assert_eq!(String::from_utf8_lossy(&out.stdout), "", "{link}");
            }
            outside.check();
        }
    }
}

/// Parameters were written to another file than the kernel's, by mounts and symlinks over `/proc` (also
/// CVE-2025-62596 of youki).
/// Red when SYSCTL in `namespaces/helper/child.rs` opens "/proc/sys/…" as a path: the volume's file was
/// written.
async fn redirected_writes() {
    let outside = Sentinel::new("2025-52881");
    let b = Bundle::new("2025-52881").await;
    let read = |name: &str| std::fs::read(format!("/proc/sys/{name}")).expect("procfs");
    let host = || (read("kernel/core_pattern"), read("net/ipv4/ip_forward"), read("kernel/msgmax"));
    let before = host();
    let show = "cat /proc/sys/net/ipv4/ip_forward";
    let forward = |value: &str| b.sh(show).sysctl("net.ipv4.ip_forward", value);
    assert_eq!(text(forward("1").output().await), "1\n", "uncovered, it is set");
    // The image leads a volume over the parameters, with files of the attacker's under their names.
    b.link("data", "/proc/sys/net/ipv4");
    std::fs::create_dir(b.fs().join("harmless")).expect("made");
    let file = b.volume().join("ip_forward");
    for target in [None, Some(outside.path().join("secret")), Some("/proc/sys/kernel/core_pattern".into())] {
        match &target {
            None => std::fs::write(&file, "the volume's\n").expect("written"),
            Some(t) => replace_by_link(&file, t),
        }
        let swapper = Swapper::start(&b.fs(), "data", "harmless");
        for i in 0..races().div_ceil(4) {
            let c = forward(&(i % 2).to_string()).mount(Mount::bind(b.volume(), "/data"));
            match c.output().await {
                Ok(out) if out.status.success() && target.is_none() => {
                    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
                    assert!([format!("{}\n", i % 2), "the volume's\n".into()].contains(&shown), "{shown:?}");
                }
                Ok(_) | Err(_) => {}
            }
            outside.check();
        }
        assert!(swapper.stop() > 0);
        if target.is_none() {
            assert_eq!(std::fs::read_to_string(&file).expect("there"), "the volume's\n");
        }
    }
    assert_eq!(host(), before);
}

/// Counters of power and interrupts that tell of other processes (also GHSA-6fw5-f8r9-fgfm).
/// Red when MASK does nothing in `namespaces/helper/child.rs`: `/proc/interrupts` and others had content.
/// (This machine has neither powercap nor thermal_throttle.)
async fn side_channels() {
    let _outside = Sentinel::new("ghsa-jq35");
    let e = engine().await;
    for profile in [Profile::Default, Profile::Strict, Profile::Compat] {
        let paths: Vec<&str> = profile.masked_paths().collect();
        assert!(["/proc/interrupts", "/sys/devices/virtual/powercap"].iter().all(|p| paths.contains(p)));
        let script = format!(
            r#"for my $p (qw({})) {{
                if (-d $p) {{ opendir D, $p; print "$p: $_\n" for grep !/^\.\.?$/, readdir D }}
                elsif (open F, $p) {{ local $/; my $t = <F>; print "$p: ", length $t, "\n" if length $t }}
            }}
            for my $d ("/sys/class/powercap", map "/sys/devices/system/cpu/cpu$_/thermal_throttle", 0..255) {{
                opendir D, $d or next; print "$d: $_\n" for grep !/^\.\.?$/, readdir D }}"#,
            paths.join(" ")
        );
        assert_eq!(text(perl(&e, &script).profile(profile).output().await), "", "{profile:?}");
    }
}
