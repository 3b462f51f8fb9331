//! Descriptors, processes and programs of the runtime that a container might reach.

use boxship::{Engine, Mount, Profile};
use libtest_mimic::Trial;

use crate::bundle::Bundle;
use crate::need::Need::{Perl, UserNamespaces};
use crate::races::races;
use crate::roles::{Stage, monitor};
use crate::sentinel::Sentinel;
use crate::{engine, is_root, perl, refused, sh, test, text};

pub fn tests() -> Vec<Trial> {
    let any = &[UserNamespaces, Perl];
    vec![
        test("cve_2016_9962_no_process_of_the_runtime_is_in_sight", any, processes),
        test("cve_2019_5736_the_runtime_is_never_writable", any, runtime_program),
        test("cve_2021_43784_long_values_are_whole_or_refused", any, lengths),
        test("cve_2024_21626_no_descriptor_leads_out", any, leaked),
    ]
}

/// Perl: the paths in a directory whose names match.
const LIST: &str = r#"sub list { my ($d, $re) = @_; opendir my $h, $d or return;
    map "$d/$_", grep { $_ ne "." && $_ ne ".." && /$re/ } readdir $h } "#;

/// A container's processes stole descriptors of the runtime while it entered the container (see
/// exec.rs for that); here nothing of many starts is in sight.
/// Red without the pid namespace (`runtime/src/launch.rs`): foreign processes by the hundred.
async fn processes() {
    let outside = Sentinel::new("2016-9962");
    let e = engine().await;
    let go = outside.path().join("../2016-9962-go");
    std::fs::create_dir_all(&go).expect("made");
    std::fs::write(go.join("on"), "").expect("written");
    // Everything that any process in sight has open, as fast as it can, while others start.
    let script = r#"my (%seen, $rounds); while (-e "/go/on") { $rounds++;
        for my $p (list("/proc", qr/^\d+$/)) {
            $seen{"$p is foreign"}++ if $p ne "/proc/$$";
            for my $d (list("$p/fd", qr/./)) { my $to = readlink $d or next;
                $seen{"$d $to"}++ if $d !~ m{/fd/[0-2]$} && $to !~ m{^/proc(/\d+/fd)?$} && -l $d; }
        } }
        print "$rounds\n"; print "$_\n" for sort keys %seen;"#;
    let script = format!("{LIST} $| = 1; print \"on\\n\"; {script}");
    let spy = perl(&e, &script).mount(Mount::bind(&go, "/go").read_only()).run().await.expect("starts");
    for _ in 0..races() {
        assert_eq!(text(sh(&e, "echo started").output().await), "started\n");
    }
    std::fs::remove_file(go.join("on")).expect("removed");
    assert!(spy.wait().await.expect("ends").success());
    let told: Vec<String> = spy
        .logs()
        .lines()
        .await
        .expect("readable")
        .into_iter()
        .map(|l| String::from_utf8_lossy(&l.message).trim().to_owned())
        .collect();
    spy.remove().await.expect("removed");
    let _ = std::fs::remove_dir_all(&go);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0] == "on" && told[1].parse::<u64>().expect("a number") > 0, "{told:?}");
}

/// A container overwrote the runtime's program through `/proc/self/exe`; see also exec.rs.
/// Red when `helper` in `namespaces/src/spawn.rs` seals the memfd against shrinking only.
async fn runtime_program() {
    let outside = Sentinel::new("2019-5736");
    let b = Bundle::new("2019-5736").await;
    let me = std::env::current_exe().expect("this program");
    let programs = [me, "/bin/sh".into(), "/usr/bin/perl".into(), "/usr/bin/id".into()];
    let content = || programs.each_ref().map(|p| std::fs::read(p).expect("readable"));
    let before = content();
    // The program that the library executes: nobody can write it, not even root of the host.
    let c = sh(&b.engine, "sleep 60").run().await.expect("starts");
    let program = std::fs::File::open(monitor(&c).await.join("exe"));
    c.remove().force(true).await.expect("removed");
    let all = rustix::fs::SealFlags::WRITE
        | rustix::fs::SealFlags::GROW
        | rustix::fs::SealFlags::SHRINK
        | rustix::fs::SealFlags::SEAL;
    match program {
        Ok(f) => assert!(rustix::fs::fcntl_get_seals(&f).expect("it is a memfd").contains(all)),
        Err(e) => assert!(!is_root(), "an ordinary user may not even read it, but root: {e}"),
    }
    // A script whose interpreter is whatever executes it, and the same without a script.
    b.file("evil", "#!/proc/self/exe\necho run\n");
    b.file("marker", "");
    for command in ["/evil", "/proc/self/exe"] {
        let c = b.engine.container().rootfs(b.fs()).command([command, "-c", "echo run"]);
        let c = c.env("LD_PRELOAD", "/evil").timeout(std::time::Duration::from_secs(20));
        if let Ok(out) = c.output().await {
            assert!(!out.timed_out && !out.status.success() && out.stdout.is_empty(), "{command}: {out:?}");
        }
        outside.check();
    }
    // Programs of every process in sight: opened without writing, for the day when this is the host's.
    let open = r#"for my $p (list("/proc", qr/^\d+$/)) { for my $f ("$p/exe", "$p/root/usr/bin/perl") {
            print "$f\n" if open my $h, "+<", $f } }"#;
    let script = &format!("{LIST} {open}");
    for profile in [Profile::Default, Profile::Compat] {
        assert_eq!(text(perl(&b.engine, script).profile(profile).output().await), "", "{profile:?}");
        let replace = "echo evil > /usr/bin/id; echo evil > /usr/bin/perl; cat /usr/bin/id";
        assert_eq!(text(sh(&b.engine, replace).profile(profile).output().await), "evil\n", "its own copy");
    }
    assert!(text(sh(&b.engine, "id -u").output().await) == "0\n", "the image's programs are what they were");
    assert!(content() == before, "a program of the host changed");
    assert_eq!(text(sh(&b.engine, "echo still").output().await), "still\n");
}

/// A length of 16 bits wrapped, and the rest of an attacker's value was taken for other settings.
/// Red when `text` in `namespaces/src/program.rs` keeps 16 bits of a length: an argument of 65 536 bytes had 0.
async fn lengths() {
    let _outside = Sentinel::new("2021-43784");
    let e = engine().await;
    let ranges =
        |n: u32| (0..n).map(|i| boxship_namespaces::IdRange { container: i, host: 100_000 + i, count: 1 });
    assert!(boxship_namespaces::IdMap::new(ranges(340).collect()).is_ok());
    assert!(boxship_namespaces::IdMap::new(ranges(10_000).collect()).is_err());
    // Longer than 16 bits can say, and exactly that long inside.
    for n in [65_535, 65_536, 65_537, 131_000] {
        let long = "x".repeat(n);
        let c =
            e.container().image("attack:1").command(["/bin/sh", "-c", "echo ${#1} ${#LONG}", "sh", &long]);
        assert_eq!(text(c.env("LONG", &long[5..]).output().await), format!("{n} {}\n", n - 5));
    }
    for n in [131_072, 1 << 20, 3 << 20] {
        let long = "x".repeat(n);
        let path = format!("/{}", "d/".repeat(n / 2));
        let script = "echo started";
        assert!(sh(&e, script).env("LONG", &long).output().await.is_err(), "{n}");
        assert!(sh(&e, script).workdir(&path).output().await.is_err(), "{n}");
        assert!(sh(&e, script).workdir(format!("/{long}")).output().await.is_err(), "{n}");
        assert!(sh(&e, script).mount(Mount::tmpfs(&path)).output().await.is_err(), "{n}");
        assert!(sh(&e, script).hostname(&long).output().await.is_err(), "{n}");
        assert!(sh(&e, script).user(&long).output().await.is_err(), "{n}");
        assert!(sh(&e, script).sysctl("net.ipv4.ip_forward", &long).output().await.is_err(), "{n}");
    }
}

/// A descriptor of a directory of the host leaked to the container, and a working directory led there; see
/// also exec.rs.
/// Red when CHDIR in `namespaces/helper/child.rs` follows magic links and does not look where it is: it
/// started in `/proc/self/fd/3`. Red without `close_range` in `helper/spawn.rs`: 7 and 9 were there.
async fn leaked() {
    let outside = Sentinel::new("2024-21626");
    let b = Bundle::new("2024-21626").await;
    let show = "ls /proc/self/cwd; cat secret ../secret ../../secret 2>/dev/null";
    let magic = ["/proc/self/cwd", "/proc/self/root", "/proc/1/cwd", "/proc/thread-self/cwd", "/dev/fd/7"];
    let numbered = (3..=64).map(|n| format!("/proc/self/fd/{n}"));
    for dir in numbered.chain(magic.map(str::to_owned)).chain(["/proc/self/fd/7/../..".into()]) {
        refused(sh(&b.engine, show).workdir(&dir).output().await, "working directory");
    }
    // The same said by the root.
    for n in [3, 7, 8] {
        b.link("cwd", format!("/proc/self/fd/{n}"));
        refused(b.sh(show).workdir("/cwd").output().await, "working directory");
        refused(b.sh(show).workdir("/cwd/made").output().await, "working directory");
    }
    // A program that leaks descriptors to its children.
    let stage = Stage::new("2024-21626");
    let told = stage.with_descriptors("list-descriptors", outside.path(), &outside.path().join("secret"));
    assert_eq!(told, "embedder has 7 and 9: true\n0\n1\n2\n3\n0\n1\n2\n3\n");
}

/// The half that runs in a program with descriptors of its own.
pub async fn list(e: &Engine) {
    let mine = |n: u32| std::fs::read_link(format!("/proc/self/fd/{n}")).is_ok();
    println!("embedder has 7 and 9: {}", mine(7) && mine(9));
    for profile in [Profile::Default, Profile::Compat] {
        // 3 is the directory that ls reads.
        print!("{}", text(sh(e, "exec ls /proc/self/fd").profile(profile).output().await));
    }
}
