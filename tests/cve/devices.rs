//! `/dev`: the null device that masks are made of, the console and terminals.

use boxship::Mount;
use libtest_mimic::Trial;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::bundle::{Bundle, replace_by_link};
use crate::need::Need::{Perl, Root, UserNamespaces};
use crate::sentinel::Sentinel;
use crate::{is_root, refused, sh, test, text};

pub fn tests() -> Vec<Trial> {
    vec![
        test("cve_2025_31133_masks_show_nothing_of_an_attacker", &[UserNamespaces, Perl], masks),
        test(
            "cve_2025_31133_small_files_come_from_boxship_s_own_dev",
            &[Root, UserNamespaces, Perl],
            small_files,
        ),
        test("cve_2025_52565_a_console_that_is_a_symlink_is_not_followed", &[UserNamespaces, Perl], console),
        test(
            "cve_2026_88264_only_the_null_device_is_the_null_device",
            &[Root, UserNamespaces, Perl],
            null_devices,
        ),
    ]
}

/// Root refuses; an ordinary user's container may have the host's device bound over whatever is there.
fn nothing(out: boxship::Result<boxship::Output>, what: &str) {
    match out {
        Ok(out) if !is_root() => assert!(out.stdout.is_empty(), "{what}: {out:?}"),
        Err(_) if !is_root() => {}
        out => refused(out, "mask"),
    }
}

/// Masked files are covered with `/dev/null`; if that is an attacker's symlink or file, its target is shown
/// there instead (also CVE-2025-62161 of youki).
/// Red on runc 1.1.5 with the same volume at `/dev`: `/proc/timer_list` showed `/proc/version`. Red when
/// `null` in `namespaces/helper/child.rs` does not look what it found: the same.
async fn masks() {
    let outside = Sentinel::new("2025-31133");
    let b = Bundle::new("2025-31133").await;
    let read = "cat /proc/timer_list /proc/keys /proc/kallsyms";
    let file = b.volume().join("file");
    std::fs::write(&file, "an attacker's").expect("written");
    // A volume in the place of /dev with everything that boxship looks for there.
    for n in 0..3 {
        std::fs::write(b.volume().join(format!(".file{n}")), "an attacker's").expect("written");
    }
    for target in ["/proc/version", "/proc/sys/kernel/core_pattern", "../proc/version", "/data/file"] {
        b.link("dev/null", target);
        assert_eq!(text(b.sh(read).output().await), "", "{target}");
        replace_by_link(&b.volume().join("null"), target.as_ref());
        nothing(b.sh(read).mount(Mount::bind(b.volume(), "/dev")).output().await, target);
        outside.check();
    }
    // Another file in the place of the null device.
    nothing(b.sh(read).mount(Mount::bind(&file, "/dev/null")).output().await, "/dev/null");
    assert_eq!(std::fs::read_to_string(&file).expect("there"), "an attacker's");
}

/// `/etc/hosts` and its like are made in boxship's own `/dev`. A volume over it that has a null device of its
/// own and the names that these files have for a moment must not be where they come from.
/// Red on boxship before the file was cloned by descriptor: `/etc/hosts` was `core_pattern`, writable.
async fn small_files() {
    let outside = Sentinel::new("2025-31133-files");
    let b = Bundle::new("2025-31133-files").await;
    let null = b.volume().join("null");
    mknodat(CWD, &null, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3))
        .expect("root may make nodes");
    for n in 0..3 {
        let file = b.volume().join(format!(".file{n}"));
        std::os::unix::fs::symlink("/proc/sys/kernel/core_pattern", file).expect("made");
    }
    let pattern = || std::fs::read("/proc/sys/kernel/core_pattern").expect("procfs");
    let before = pattern();
    let script = "echo '# changed' >> /etc/hosts; cat /etc/hosts /etc/hostname /etc/resolv.conf";
    for profile in [boxship::Profile::Default, boxship::Profile::Compat] {
        let c = b.sh(script).profile(profile).mount(Mount::bind(b.volume(), "/dev"));
        match c.output().await {
            Ok(out) => {
                let told = String::from_utf8_lossy(&out.stdout).into_owned();
                assert!(told.starts_with("127.0.0.1\tlocalhost") && told.contains("# changed"), "{told}");
            }
            Err(e) => assert!(e.chain().contains("mount"), "{}", e.chain()),
        }
        assert_eq!(pattern(), before);
        outside.check();
    }
}

/// The terminal was mounted at `/dev/console` of the root, through a symlink.
/// Red on runc 1.1.5 and crun 1.8.1 with such a bundle and no mount at `/dev`: the terminal was mounted at
/// `/proc/sys/kernel/core_pattern`, writable.
async fn console() {
    let outside = Sentinel::new("2025-52565");
    let b = Bundle::new("2025-52565").await;
    let pattern = || std::fs::read("/proc/sys/kernel/core_pattern").expect("procfs");
    let before = pattern();
    let out = outside.path().join("console");
    let terminal = "/dev/pts/0 device\n/dev/console\n";
    for target in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", out.to_str().expect("UTF-8")] {
        for name in ["console", "ptmx", "pts/0", "tty"] {
            std::fs::create_dir_all(b.fs().join("dev/pts")).expect("made");
            b.link(&format!("dev/{name}"), target);
        }
        // Its name, and where it is mounted besides.
        let script = r#"perl -e 'print readlink("/proc/self/fd/0"), -c STDIN ? " device" : "", "\n"; open F, "/proc/self/mountinfo";
            for (<F>) { my @f = split; print "$f[4]\n" if $f[3] =~ m{^/\d+$} }'"#;
        let told = text(b.sh(script).tty(true).output().await);
        assert_eq!(told.replace('\r', ""), terminal, "{target}");
        // A volume in the place of /dev, with and without a terminal.
        replace_by_link(&b.volume().join("console"), target.as_ref());
        for tty in [true, false] {
            let c = b.sh("true").mount(Mount::bind(b.volume(), "/dev")).tty(tty);
            let result = c.output().await;
            // Without a terminal an ordinary user's container can have its devices bound there.
            assert!(result.is_err() || !is_root() && !tty, "{target}");
        }
        // A device below the container's own /dev that is a file of the attacker's.
        let over = Mount::bind(b.volume(), "/dev/pts");
        replace_by_link(&b.volume().join("ptmx"), target.as_ref());
        assert!(b.sh("true").mount(over).tty(true).output().await.is_err());
        outside.check();
        assert_eq!(pattern(), before);
    }
    // As the shell of an image sees it.
    let told = text(sh(&b.engine, "test -t 0 && test -c /dev/console && echo ok").tty(true).output().await);
    assert_eq!(told.trim(), "ok");
}

/// Other devices passed for the null device (also CVE-2026-88265), by their number or by their type alone.
/// Red when `null` in `namespaces/helper/child.rs` does not look what it found: started with `/dev/zero`.
async fn null_devices() {
    let outside = Sentinel::new("2026-88264");
    let b = Bundle::new("2026-88264").await;
    let nodes = b.volume();
    let node = |name: &str, kind, major, minor| {
        let made = mknodat(CWD, nodes.join(name), kind, Mode::from_raw_mode(0o666), makedev(major, minor));
        made.expect("root may make nodes");
    };
    node("zero", FileType::CharacterDevice, 1, 5);
    node("ram", FileType::BlockDevice, 1, 3);
    node("fifo", FileType::Fifo, 0, 0);
    node("null", FileType::CharacterDevice, 1, 3);
    for name in ["zero", "ram", "fifo"] {
        let c = b.sh("true").mount(Mount::bind(nodes.join(name), "/dev/null"));
        refused(c.output().await, "mask");
        outside.check();
    }
    let c = b.sh("cat /proc/kallsyms; true").mount(Mount::bind(nodes.join("null"), "/dev/null"));
    assert_eq!(text(c.output().await), "", "the real one under another name");
}
