//! What a container sees and does.

use boxship::{ByteSize, Mount, Network, Profile};
use libtest_mimic::Trial;

use crate::need::Need::{Cgroups, Root as NeedRoot, UserNamespaces};
use crate::{Root, engine, run, sh, test, text};

pub fn tests() -> Vec<Trial> {
    let any = &[UserNamespaces];
    vec![
        test("output_status_and_streams", any, output),
        test("it_has_namespaces_of_its_own", any, namespaces),
        test("the_default_profile_takes_privileges", any, profile),
        test("strict_and_compat_profiles", any, profiles),
        test("every_port_and_ping_without_a_capability", any, ports),
        test("mounts_and_masks_are_locked", any, locked),
        test("host_paths_are_out_of_reach", any, unreachable),
        test("a_host_with_mounts_stacked_over_its_root", &[NeedRoot], stacked),
        test("binds_and_tmpfs", any, mounts),
        test("mounts_below_mounts_whatever_their_order", any, nested_mounts),
        test("more_output_than_is_kept", any, more_output),
        test("stdin_and_terminal", any, stdin),
        test("environment_user_and_directory", any, environment),
        test("network_none_and_host", any, network),
        test("a_read_only_root", any, read_only),
        test("a_timeout_kills", any, timeout),
        test("plain_directory_as_root", any, rootfs),
        test("dropping_output_kills_and_cleans", any, dropped),
        test("two_at_once_share_nothing", any, parallel),
        test("limits_are_applied", &[Cgroups], limits),
        test("out_of_memory_is_reported", &[Cgroups], oom),
        test("each_container_has_ids_of_its_own", &[NeedRoot], ids),
    ]
}

async fn output() {
    let e = engine().await;
    let out = sh(&e, "echo out; echo err >&2; exit 7").output().await.expect("runs");
    assert_eq!(
        (out.status.code(), &out.stdout[..], &out.stderr[..]),
        (Some(7), &b"out\n"[..], &b"err\n"[..])
    );
    let out = sh(&e, "kill -9 $$; echo no").output().await.expect("runs");
    // Pid 1 of a pid namespace ignores its own signals; a child does not.
    assert_eq!(out.stdout, b"no\n");
    let out = sh(&e, "sh -c 'kill -9 $$'; exit $?").output().await.expect("runs");
    assert_eq!(out.status.code(), Some(137));
    let big = sh(&e, "head -c 3000000 /dev/zero").output().await.expect("runs");
    assert_eq!(big.stdout.len(), 3_000_000);
}

async fn namespaces() {
    let e = engine().await;
    let links = "for n in pid mnt net ipc uts cgroup user; do ls -l /proc/self/ns/$n; done";
    let inside = run(&e, links).await;
    let ids = |s: &str| s.lines().filter_map(|l| l.rsplit(' ').next().map(str::to_owned)).collect::<Vec<_>>();
    let inside = ids(&inside);
    assert_eq!(inside.len(), 7);
    for link in inside {
        let name = link.split(':').next().expect("kind");
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}")).expect("ours");
        assert_ne!(ours.to_string_lossy(), link, "{name}");
    }
    assert_eq!(
        run(&e, "echo $$; cat /etc/hostname | head -c 12; ls /sys/class/net").await.lines().next(),
        Some("1")
    );
    assert_eq!(run(&e, "ls /sys/class/net").await, "lo\n");
    assert_eq!(text(sh(&e, "cat /etc/hostname").hostname("here").output().await.expect("runs")), "here\n");
    let ps = run(&e, "ls /proc").await;
    assert_eq!(ps.lines().filter(|l| l.parse::<u32>().is_ok()).count(), 2, "sh and ls: {ps}");
}

fn field<'t>(status: &'t str, key: &str) -> &'t str {
    status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_else(|| panic!("{key} in {status}")).trim()
}

async fn profile() {
    let e = engine().await;
    let status = run(&e, "cat /proc/self/status").await;
    assert_eq!(field(&status, "NoNewPrivs:"), "1");
    assert_eq!(field(&status, "Seccomp:"), "2");
    for (set, want) in
        [("CapEff:", 0xfb), ("CapPrm:", 0xfb), ("CapBnd:", 0xfb), ("CapInh:", 0), ("CapAmb:", 0)]
    {
        assert_eq!(u64::from_str_radix(field(&status, set), 16).expect("hex"), want, "{set}");
    }
    let nobody = text(sh(&e, "cat /proc/self/status").user(user()).output().await.expect("runs"));
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"].iter().filter(|_| user() != "0") {
        assert_eq!(field(&nobody, set), "0000000000000000", "{set}");
    }
    let out = sh(&e, "unshare -U true").output().await.expect("runs");
    assert!(
        !out.status.success() && String::from_utf8_lossy(&out.stderr).contains("Operation not permitted")
    );
    assert_eq!(run(&e, "ls /proc/self/fd | head -c 100").await.lines().count(), 4, "0, 1, 2 and ls's own");
    for masked in ["/proc/kallsyms", "/proc/timer_list", "/proc/keys", "/proc/interrupts"] {
        assert_eq!(run(&e, &format!("cat {masked}")).await, "", "{masked}");
    }
    assert_eq!(
        run(&e, "ls /sys/firmware /sys/module").await.replace([' ', '\n'], ""),
        "/sys/firmware:/sys/module:"
    );
    let out = sh(&e, "echo 1 > /proc/sys/kernel/core_pattern").output().await.expect("runs");
    assert!(!out.status.success());
}

/// A user that a single-id map has, too.
fn user() -> &'static str {
    if rustix::process::geteuid().is_root() { "65534" } else { "0" }
}

async fn profiles() {
    let e = engine().await;
    let strict = sh(&e, "cat /proc/self/status; ls /proc /sys; touch /x || echo read-only");
    let strict = text(strict.profile(Profile::Strict).output().await.expect("runs"));
    assert_eq!(field(&strict, "CapEff:"), "0000000000000000");
    assert!(strict.contains("read-only") && !strict.contains("cpuinfo"), "{strict}");
    let compat = text(sh(&e, "cat /proc/self/status").profile(Profile::Compat).output().await.expect("runs"));
    assert_eq!(field(&compat, "NoNewPrivs:"), "0");
    assert_eq!(field(&compat, "CapEff:"), "00000000a80425fb");
    let added = sh(&e, "cat /proc/self/status").cap_add("NET_ADMIN").cap_drop("CHOWN");
    assert_eq!(field(&text(added.output().await.expect("runs")), "CapEff:"), "00000000000010fa");
}

async fn ports() {
    let e = engine().await;
    let said =
        run(&e, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range")
            .await;
    let values: Vec<&str> = said.split_whitespace().collect();
    let last = if rustix::process::geteuid().is_root() { "65535" } else { "0" };
    assert_eq!(values, ["0", "0", last]);
    let asked = sh(&e, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
        .sysctl("net.ipv4.ip_unprivileged_port_start", "1024");
    assert_eq!(text(asked.output().await.expect("runs")).trim(), "1024");
}

async fn locked() {
    let e = engine().await;
    // Even with CAP_SYS_ADMIN in its own user namespace it cannot take a mask away.
    let script =
        "umount /proc/kallsyms 2>/dev/null && echo gone; mount -o remount,rw / 2>/dev/null && echo rw; true";
    assert_eq!(text(sh(&e, script).cap_add("SYS_ADMIN").output().await.expect("runs")), "");
    let flags = run(&e, "cat /proc/self/mountinfo").await;
    let root = flags.lines().find(|l| l.split(' ').nth(4) == Some("/")).expect("a root");
    assert!(root.contains("nosuid") && root.contains("nodev"), "{root}");
    let proc = flags.lines().find(|l| l.split(' ').nth(4) == Some("/proc")).expect("proc");
    assert!(proc.contains("nosuid,nodev,noexec"), "{proc}");
}

async fn unreachable() {
    let e = engine().await;
    only_ours(&run(&e, "cat /proc/self/mountinfo").await);
    assert_eq!(run(&e, "ls -d /home /root/.cargo /lost+found 2>/dev/null; true").await, "");
}

/// No mount of the host is in the container, hidden or not.
fn only_ours(mountinfo: &str) {
    assert!(mountinfo.lines().count() > 10, "{mountinfo}");
    for line in mountinfo.lines() {
        let target = line.split(' ').nth(4).expect("a mount point");
        let ours = ["/proc", "/dev", "/sys", "/etc/"].iter().any(|p| target.starts_with(p));
        assert!(ours || target == "/", "{line}");
    }
    assert_eq!(mountinfo.lines().filter(|l| l.split(' ').nth(4) == Some("/")).count(), 1, "{mountinfo}");
}

async fn stacked() {
    let root = Root::new("stacked");
    drop(crate::own_engine(&root.0).await);
    let me = std::env::current_exe().expect("this program");
    let out = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount --bind / / && mount --bind / / && exec \"$0\" \"$@\""])
        .arg(me)
        .arg("--as=mounts")
        .arg(&root.0)
        .output()
        .expect("unshare is part of Debian's base");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    only_ours(&String::from_utf8_lossy(&out.stdout));
}

async fn mounts() {
    let e = engine().await;
    let root = Root::new("binds");
    std::fs::write(root.0.join("file"), "from the host").expect("written");
    let script = "cat /in/file; cat /one; echo x > /in/file 2>/dev/null || echo ' refused'; ls /new/deep/dir; touch /scratch/ok && echo ok";
    let out = sh(&e, script)
        .mount(Mount::bind(&root.0, "/in").read_only())
        .mount(Mount::bind(root.0.join("file"), "/one"))
        .mount(Mount::bind(&root.0, "/new/deep/dir"))
        .mount(Mount::tmpfs("/scratch").size(ByteSize::mib(1)))
        .output()
        .await
        .expect("runs");
    assert_eq!(text(out), "from the hostfrom the host refused\nfile\nok\n");
    let out =
        sh(&e, "echo changed > /in/file").mount(Mount::bind(&root.0, "/in")).output().await.expect("runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(std::fs::read_to_string(root.0.join("file")).expect("read"), "changed\n");
    let mine = std::fs::metadata(root.0.join("file"))
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        .expect("stat");
    assert_eq!(mine, rustix::process::geteuid().as_raw(), "the host's ids stay");
}

async fn stdin() {
    let e = engine().await;
    let out =
        e.container().image("tools:1").command(["/bin/cat"]).stdin("hello\n").output().await.expect("runs");
    assert_eq!(out.stdout, b"hello\n");
    let big = vec![b'x'; 1_000_000];
    let out =
        e.container().image("tools:1").command(["/bin/cat"]).stdin(big.clone()).output().await.expect("runs");
    assert_eq!(out.stdout, big);
    let out =
        sh(&e, "stty size; echo err >&2; ls -l /proc/self/fd/0").tty(true).output().await.expect("runs");
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(shown.starts_with("24 80\r\nerr\r\n") && shown.contains("/dev/pts/0"), "{shown:?}");
}

async fn environment() {
    let e = engine().await;
    let out = sh(&e, "echo $A $HOME $HOSTNAME; pwd; id -u; echo ${SECRET-unset}")
        .env("A", "b c")
        .hostname("h")
        .workdir("/made/here");
    assert_eq!(text(out.output().await.expect("runs")), "b c /root h\n/made/here\n0\nunset\n");
    let id = text(sh(&e, "id").user(user()).output().await.expect("runs"));
    assert!(id.contains(&format!("uid={}", user())), "{id}");
    // What an image of host programs says is its containers' default.
    let image = e.image().from_host_programs(["/bin/sh"]).env("B", "from the image").tag("env:1");
    image.await.expect("an image");
    let out = e.container().image("env:1").command(["/bin/sh", "-c", "echo $B"]).output().await;
    assert_eq!(text(out.expect("runs")), "from the image\n");
}

async fn network() {
    let e = engine().await;
    assert_eq!(run(&e, "ls /sys/class/net").await, "lo\n");
    let ours = std::fs::read_link("/proc/self/ns/net").expect("ours").to_string_lossy().into_owned();
    let theirs = text(sh(&e, "ls -l /proc/self/ns/net").network(Network::Host).output().await.expect("runs"));
    assert!(theirs.contains(&ours), "{theirs} has {ours}");
    // Every port is free in a network of one's own; the host's rule stays, and a wish goes before.
    let file = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    let show = || sh(&e, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    let host = std::fs::read_to_string(file).expect("readable");
    assert_eq!(text(show().output().await.expect("runs")), "0\n");
    assert_eq!(text(show().network(Network::Host).output().await.expect("runs")), host);
    let asked = show().sysctl("net.ipv4.ip_unprivileged_port_start", "512");
    assert_eq!(text(asked.output().await.expect("runs")), "512\n");
    assert_eq!(std::fs::read_to_string(file).expect("readable"), host);
}

async fn read_only() {
    let e = engine().await;
    let script = "touch /x 2>/dev/null || echo refused; touch /tmp/x 2>/dev/null || echo refused; touch /run/x && echo ok";
    let out = sh(&e, script).read_only(true).mount(Mount::tmpfs("/run")).output().await.expect("runs");
    assert_eq!(text(out), "refused\nrefused\nok\n");
}

async fn timeout() {
    let e = engine().await;
    let out = sh(&e, "echo begun; sleep 600")
        .timeout(std::time::Duration::from_millis(500))
        .output()
        .await
        .expect("runs");
    assert!(out.timed_out && out.status.signal() == Some(9) && out.stdout == b"begun\n", "{out:?}");
}

async fn rootfs() {
    let e = engine().await;
    let root = Root::new("rootfs");
    let tools = ["/bin/sh", "/bin/echo"];
    // The smallest root: what the image of two programs unpacks to.
    let image = e.image().from_host_programs(tools).tag("rootfs:1").await.expect("an image");
    let layer = e.root().join("layers").join(image.layers()[0].trim_start_matches("sha256:"));
    let copied =
        std::process::Command::new("cp").arg("-a").arg(layer).arg(root.0.join("fs")).status().expect("cp");
    assert!(copied.success());
    let out = e
        .container()
        .rootfs(root.0.join("fs"))
        .command(["/bin/sh", "-c", "echo hi > /written; echo $$"])
        .output()
        .await;
    assert_eq!(text(out.expect("runs")), "1\n");
    assert_eq!(std::fs::read_to_string(root.0.join("fs/written")).expect("kept"), "hi\n");
    // A symlink where our own mounts belong is refused, and what it points to is untouched.
    let outside = Root::new("outside");
    std::fs::remove_dir_all(root.0.join("fs/dev")).expect("made by the first start");
    std::os::unix::fs::symlink(&outside.0, root.0.join("fs/dev")).expect("a symlink");
    let refused = e.container().rootfs(root.0.join("fs")).command(["/bin/sh", "-c", "true"]).output().await;
    assert!(refused.expect_err("refused").chain().contains("/dev"));
    assert_eq!(std::fs::read_dir(&outside.0).expect("readable").count(), 0);
}

async fn dropped() {
    let root = Root::new("dropped");
    let e = crate::own_engine(&root.0).await;
    let future = sh(&e, "sleep 600").output();
    assert!(tokio::time::timeout(std::time::Duration::from_millis(400), future).await.is_err());
    let gone = async {
        loop {
            e.recover().await.expect("recovers");
            let left = std::fs::read_dir(root.0.join("snapshots")).expect("readable").count();
            if left == 0 && e.containers().all(true).list().await.expect("lists").is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.expect("nothing is left");
}

async fn parallel() {
    let e = engine().await;
    let script = "echo $0 > /mine; sleep 0.2; cat /mine";
    let one = |n: usize| {
        let c = e.container().image("tools:1").command(["/bin/sh", "-c", script, &n.to_string()]);
        tokio::spawn(async move { text(c.output().await.expect("runs")) })
    };
    let all: Vec<_> = (0..16).map(one).collect();
    for (n, task) in all.into_iter().enumerate() {
        assert_eq!(task.await.expect("no panic"), format!("{n}\n"));
    }
}

/// What lies below another mount is mounted after it, as with Docker.
async fn nested_mounts() {
    let root = crate::Root::new("nested-mounts");
    let e = engine().await;
    let [outer, inner] = ["outer", "inner"].map(|name| {
        let dir = root.0.join(name);
        std::fs::create_dir(&dir).expect("made");
        std::fs::write(dir.join(name), name).expect("written");
        dir
    });
    for inner_first in [true, false] {
        let mut c = sh(&e, "cat /v/outer /v/sub/inner; test -d /v/sub/tmp && echo ok");
        let mut mounts = vec![Mount::bind(&outer, "/v"), Mount::bind(&inner, "/v/sub")];
        mounts.push(Mount::tmpfs("/v/sub/tmp"));
        if inner_first {
            mounts.reverse();
        }
        for m in mounts {
            c = c.mount(m);
        }
        assert_eq!(text(c.output().await.expect("it starts")), "outerinnerok\n");
    }
}

/// The container is not held up by what nobody keeps, and an embedder is not filled by it.
async fn more_output() {
    let e = engine().await;
    let script = "i=0; while [ $i -lt 20000 ]; do echo 0123456789; echo x >&2; i=$((i + 1)); done";
    let c = || sh(&e, script);
    let out = c().output_limit(ByteSize::b(25)).output().await.expect("it starts");
    assert!(out.status.success() && out.truncated);
    assert_eq!((&out.stdout[..], out.stderr.len()), (&b"0123456789\n0123456789\n012"[..], 25));
    let out = c().output().await.expect("it starts");
    assert_eq!((out.stdout.len(), out.stderr.len(), out.truncated), (220_000, 40_000, false));
    let err = c().output_limit(ByteSize::b(25)).run().await.expect_err("nothing is collected");
    assert!(err.chain().contains("output limit"), "{}", err.chain());
}

async fn limits() {
    let e = engine().await;
    let c = sh(&e, "sleep 60")
        .memory_limit(ByteSize::mib(64))
        .cpus(0.5)
        .cpu_weight(50)
        .pids_limit(17)
        .run()
        .await
        .expect("runs");
    let stats = c.stats().await.expect("stats");
    assert_eq!(stats.memory_limit, Some(ByteSize::mib(64)));
    assert!(stats.pids >= 1 && stats.memory.bytes() > 0);
    let read = |controller: &str, file: &str| {
        let one = format!("/sys/fs/cgroup/{controller}/boxship/{}/{file}", c.id());
        std::fs::read_to_string(one).map(|s| s.trim().to_owned()).unwrap_or_default()
    };
    if std::path::Path::new("/sys/fs/cgroup/pids").exists() {
        assert_eq!(read("pids", "pids.max"), "17");
        assert_eq!(read("cpu", "cpu.cfs_quota_us"), "50000");
        assert_eq!(read("devices", "devices.list").lines().count(), 8);
    }
    c.remove().force(true).await.expect("removed");
    let bomb = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; echo done";
    let out =
        sh(&e, bomb).pids_limit(8).timeout(std::time::Duration::from_secs(20)).output().await.expect("runs");
    assert!(String::from_utf8_lossy(&out.stderr).contains("fork"), "{out:?}");
}

async fn oom() {
    let e = engine().await;
    let greedy = "a=0123456789; while :; do a=$a$a; done";
    let out = sh(&e, greedy)
        .memory_limit(ByteSize::mib(16))
        .timeout(std::time::Duration::from_secs(30))
        .output()
        .await
        .expect("runs");
    assert!(out.status.oom_killed() && !out.status.success(), "{}", out.status);
    assert!(out.status.memory_peak() > 8 << 20);
    let modest = sh(&e, "true").memory_limit(ByteSize::mib(16)).output().await.expect("runs");
    assert!(modest.status.success() && !modest.status.oom_killed());
}

async fn ids() {
    let e = engine().await;
    let map = |s: String| s.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a base");
    let a = sh(&e, "cat /proc/self/uid_map; sleep 60").run().await.expect("runs");
    let b = map(run(&e, "cat /proc/self/uid_map").await);
    let log = a.logs().follow(true).stream().next().await.expect("a line").expect("readable");
    let first = map(String::from_utf8(log.message).expect("UTF-8"));
    assert_ne!(first, b);
    assert!(b >= 0x7000_0000);
    a.remove().force(true).await.expect("removed");
}
