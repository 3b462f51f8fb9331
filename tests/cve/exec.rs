//! The halves of attacks that need a further process in a running container: `exec` and `top`.

use boxship::{Container, Engine, Mount, Profile};
use libtest_mimic::Trial;

use crate::bundle::Bundle;
use crate::need::Need::{Perl, UserNamespaces};
use crate::races::races;
use crate::roles::Stage;
use crate::sentinel::Sentinel;
use crate::{engine, is_root, perl, refused, sh, test, text};

pub fn tests() -> Vec<Trial> {
    let any = &[UserNamespaces];
    vec![
        test("cve_2016_9962_and_2019_5736_a_joining_process_is_closed", &[UserNamespaces, Perl], joining),
        test("cve_2022_1227_top_runs_nothing_of_the_container", any, poisoned_top),
        test("cve_2022_24769_exec_has_no_inheritable_capabilities", any, inheritable),
        test("cve_2024_21626_exec_into_a_leaked_directory", any, leaked),
        test("cve_2025_64329_abandoned_exec_leaves_nothing", any, abandoned),
        test("cve_2026_30892_exec_as_odd_users", any, odd_users),
    ]
}

async fn exec(c: &Container, script: &str) -> String {
    text(c.exec(["/bin/sh", "-c", script]).output().await)
}

/// The container's own processes read the descriptors of a process of the runtime that joined them, and
/// wrote its program.
/// Red when the three `prctl(4, 0, 0)` of `namespaces/helper` are left out: under Compat the spy saw the
/// memfd of the helper, the plan and the files of cgroups in dozens of 40 runs.
async fn joining() {
    let outside = Sentinel::new("2016-9962-exec");
    let e = engine().await;
    // Whatever appears: its descriptors, its program, its memory and its directories.
    let script = r#"sub list { my ($d, $re) = @_; opendir my $h, $d or return;
            map "$d/$_", grep { $_ ne "." && $_ ne ".." && /$re/ } readdir $h }
        $| = 1; print "on\n"; my (%seen, $rounds); while (-e "/go/on") { $rounds++;
        for my $p (list("/proc", qr/^\d+$/)) { next if $p eq "/proc/$$";
            for my $d (list("$p/fd", qr/./)) { my $to = readlink $d or next;
                $seen{"$d $to"}++ if $d !~ m{/fd/[0-2]$} && $to !~ m{^(/proc|/usr|/lib|/bin|/etc|/go)}; }
            for my $f ("exe", "cwd", "root") { my $to = readlink "$p/$f" or next;
                $seen{"$p/$f $to"}++ if $to !~ m{^/(usr/|bin/|$)}; }
            my $exe = readlink "$p/exe"; $seen{"$p/exe written"}++
                if defined $exe && $exe !~ m{^/(usr/|bin/)} && open my $h, "+<", "$p/exe";
        } }
        print "$rounds\n"; print "$_\n" for sort keys %seen;"#;
    for profile in [Profile::Default, Profile::Compat] {
        let go = outside.path().join(format!("../2016-9962-{profile:?}"));
        std::fs::create_dir_all(&go).expect("made");
        std::fs::write(go.join("on"), "").expect("written");
        let spy = perl(&e, script).mount(Mount::bind(&go, "/go").read_only()).profile(profile);
        let spy = spy.run().await.expect("starts");
        for _ in 0..races() {
            assert_eq!(exec(&spy, "echo ran").await, "ran\n");
        }
        std::fs::remove_file(go.join("on")).expect("removed");
        assert!(spy.wait().await.expect("ends").success());
        let lines = spy.logs().lines().await.expect("readable").into_iter();
        let told: Vec<String> =
            lines.map(|l| String::from_utf8_lossy(&l.message).trim().to_owned()).collect();
        spy.remove().await.expect("removed");
        let _ = std::fs::remove_dir_all(&go);
        assert_eq!(told.len(), 2, "{profile:?}: {told:?}");
        assert!(told[1].parse::<u64>().expect("a number") > 0, "{told:?}");
    }
}

/// `top` entered the container and executed programs of its image as root of the host.
/// Red when `Container::top` in `src/container.rs` executes the container's own `ps`: the marker
/// says "run".
async fn poisoned_top() {
    let outside = Sentinel::new("2022-1227");
    let b = Bundle::new("2022-1227").await;
    for name in ["ps", "nsenter", "sh.real", "env"] {
        b.file(&format!("usr/bin/{name}"), "#!/bin/sh\necho run >> /data/marker\n");
    }
    b.file("data/marker", "");
    let c = b.sh("exec sleep 600").env("PATH", "/usr/bin:/bin").env("LD_PRELOAD", "/data/evil").run().await;
    let c = c.expect("starts");
    let all = c.top().await.expect("listed");
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(std::fs::read(b.fs().join("data/marker")).expect("readable"), b"", "something was executed");
    c.remove().force(true).await.expect("removed");
    outside.check();
}

/// Red when `further` in `runtime/src/exec.rs` leaves out `security`: 0x1ffffffffff and no filter.
async fn inheritable() {
    let _outside = Sentinel::new("2022-24769-exec");
    let e = engine().await;
    let users = if is_root() { vec!["0", "1000"] } else { vec!["0"] };
    for profile in [Profile::Default, Profile::Compat, Profile::Strict] {
        let c = sh(&e, "exec sleep 600").profile(profile).run().await.expect("starts");
        let own = exec(&c, "cat /proc/1/status").await;
        let line = |status: &str, key: &str| {
            status.lines().find(|l| l.starts_with(key)).map(str::to_owned).expect("a line of status")
        };
        for user in &users {
            let out = c.exec(["/bin/cat", "/proc/self/status"]).user(*user).output().await;
            let status = text(out);
            for key in ["CapInh:", "CapAmb:"] {
                assert!(
                    line(&status, key).ends_with("\t0000000000000000"),
                    "{profile:?} as {user}: {status}"
                );
            }
            for key in ["CapBnd:", "Seccomp:", "NoNewPrivs:"] {
                assert_eq!(line(&status, key), line(&own, key), "{profile:?} as {user}");
            }
        }
        c.remove().force(true).await.expect("removed");
    }
}

/// Red when CHDIR in `namespaces/helper/child.rs` follows magic links and does not look where it is.
async fn leaked() {
    let _outside = Sentinel::new("2024-21626-exec");
    let b = Bundle::new("2024-21626-exec").await;
    b.link("cwd", "/proc/self/fd/7");
    for profile in [Profile::Default, Profile::Compat] {
        let c = b.sh("exec sleep 600").profile(profile).run().await.expect("starts");
        let numbered = (3..=64).map(|n| format!("/proc/self/fd/{n}"));
        let magic = ["/proc/self/cwd", "/proc/1/root", "/dev/fd/7", "/proc/self/fd/7/../..", "/cwd"];
        for dir in numbered.chain(magic.map(str::to_owned)) {
            let out = c.exec(["/bin/sh", "-c", "ls"]).workdir(&dir).output().await;
            refused(out, "working directory");
        }
        // 3 is the directory that ls reads.
        assert_eq!(exec(&c, "exec ls /proc/self/fd").await, "0\n1\n2\n3\n");
        c.remove().force(true).await.expect("removed");
    }
}

/// Execs whose callers went away kept memory, descriptors and goroutines (also CVE-2022-23471 and -31030).
/// Red when `Drop` of `Exec` in `runtime/src/exec.rs` does nothing: a zombie for each.
///
/// In a process of its own: it counts processes and descriptors, and other tests have some, too.
async fn abandoned() {
    let _outside = Sentinel::new("2025-64329");
    Stage::new("2025-64329").alone("abandoned");
}

/// What [`abandoned`] runs.
pub async fn abandon(e: &Engine) {
    let c = sh(e, "exec sleep 600").run().await.expect("starts");
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    let children = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
        let of =
            |t: std::fs::DirEntry| std::fs::read_to_string(t.path().join("children")).unwrap_or_default();
        tasks.map(of).flat_map(|t| t.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    exec(&c, "true").await;
    let before: Vec<String> = children();
    let open = descriptors();
    for _ in 0..races() {
        // It writes more than a pipe holds, and nobody reads.
        let p = c.exec(["/bin/sh", "-c", "while :; do echo yyyyyyyyyyyyyyyy; done"]).spawn().await;
        drop(p.expect("it runs"));
    }
    while c.top().await.expect("listed").len() > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    // The last monitors end and are collected by the next operations.
    for _ in 0..200 {
        exec(&c, "true").await;
        if children().iter().all(|pid| before.contains(pid)) && descriptors() <= open + 4 {
            break;
        }
    }
    let left: Vec<String> = children();
    assert!(left.iter().all(|pid| before.contains(pid)), "processes stay: {left:?}");
    assert!(descriptors() <= open + 4, "{} descriptors, {open} before", descriptors());
    c.remove().force(true).await.expect("removed");
}

/// Red when `id` in `runtime/src/user.rs` takes the low 32 bits of a longer number: "4294967296" became 0.
async fn odd_users() {
    let _outside = Sentinel::new("2026-30892-exec");
    let e = engine().await;
    let c = sh(&e, "exec sleep 600").run().await.expect("starts");
    let user = |user: &str| c.exec(["/bin/sh", "-c", "id -u; id -g"]).user(user);
    if is_root() {
        for (name, want) in [("1:2", "1\n2\n"), ("00001:0", "1\n0\n"), ("65535:65535", "65535\n65535\n")] {
            assert_eq!(text(user(name).output().await), want, "{name:?}");
        }
    }
    for name in [
        "65536",
        "2147483648",
        "4294967295",
        "4294967296",
        "4294967297",
        "99999999999999999999",
        "-1",
        "+1",
        " 1",
        "1 ",
        "0x0",
        "1:",
        ":",
        "1:-1",
        "1::",
        "1:4294967296",
        "1\n",
        "root\n",
        "ROOT",
        "\u{661}",
    ] {
        let out = user(name).output().await;
        assert!(out.is_err(), "{name:?} became {:?}", out.map(|o| String::from_utf8(o.stdout)));
    }
    c.remove().force(true).await.expect("removed");
}
