//! Further processes in a running container.

use std::time::Duration;

use boxship::container::Status;
use boxship::{Container, ErrorKind, Profile, Signal};
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::need::Need::{Cgroups, Root as NeedRoot, UserNamespaces};
use crate::{Root, kind, own_engine, sh, test};

pub fn tests() -> Vec<Trial> {
    let any = &[UserNamespaces];
    vec![
        test("exec_is_in_the_container", any, inside),
        test("exec_is_confined_as_the_container", any, confined),
        test("exec_user_env_directory_input_terminal", any, options),
        test("exec_streams", any, streams),
        test("exec_ends_with_its_container_and_not_the_reverse", any, ends),
        test("exec_bad_input", any, bad_input),
        test("exec_outlives_its_caller_when_asked", any, detached),
        test("exec_counts_and_waits_in_the_cgroup", &[Cgroups], cgroup),
        test("exec_under_every_profile", &[NeedRoot], profiles),
        test("top_lists_processes", any, top),
    ]
}

async fn text(c: &Container, command: &str) -> String {
    let out = c.exec(["/bin/sh", "-c", command]).output().await.expect("it runs");
    assert!(out.status.success(), "{command}: {} {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

async fn sleeper(root: &Root) -> Container {
    let e = own_engine(&root.0).await;
    sh(&e, "exec sleep 600").run().await.expect("starts")
}

/// Every namespace but none of the host's, and the same tree.
async fn inside() {
    let root = Root::new("exec-inside");
    let c = sleeper(&root).await;
    let of = "for n in cgroup ipc mnt net pid user uts; do ls -l /proc/self/ns/$n; done";
    let links = |text: String| -> Vec<String> {
        text.lines().map(|l| l.rsplit(' ').next().expect("a target").to_owned()).collect()
    };
    let here = links(text(&c, of).await);
    let first = links(text(&c, &of.replace("/self/", "/1/")).await);
    assert_eq!(here, first, "the namespaces of the first process");
    assert_eq!(here.len(), 7);
    text(&c, "echo from-exec > /written").await;
    assert_eq!(text(&c, "cat /written; cat /etc/hostname").await, format!("from-exec\n{}\n", &c.id()[..12]));
    let out = c.exec(["/bin/sh", "-c", "exit 7"]).output().await.expect("it runs");
    assert_eq!(out.status.code(), Some(7));
    let out = c.exec(["/bin/sh", "-c", "kill -TERM $$"]).output().await.expect("it runs");
    assert_eq!(out.status.signal(), Some(15));
    c.remove().force(true).await.expect("removed");
}

/// What the first process may not do, a further one may not either.
async fn confined() {
    let root = Root::new("exec-confined");
    let e = own_engine(&root.0).await;
    let show = "while read -r k v; do case $k in Cap*|NoNewPrivs:|Seccomp:|Uid:|Gid:|Groups:) echo $k $v;; esac; done < /proc/self/status; ulimit -n; ulimit -c; umask";
    let c = sh(&e, &format!("{show}; exec sleep 600")).run().await.expect("starts");
    let log = loop {
        let lines = c.logs().lines().await.expect("logs");
        let text: String =
            lines.iter().map(|l| String::from_utf8_lossy(&l.message).into_owned() + "\n").collect();
        if text.lines().count() >= 13 {
            break text;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(text(&c, show).await, log);
    let out = c.exec(["/usr/bin/unshare", "-U", "/bin/true"]).output().await.expect("it runs");
    assert!(!out.status.success(), "the filter holds");
    // Nothing of the host's is open: 0, 1, 2 and the one that ls makes itself.
    assert_eq!(text(&c, "ls /proc/self/fd").await, "0\n1\n2\n3\n");
    c.remove().force(true).await.expect("removed");
}

async fn options() {
    let root = Root::new("exec-options");
    let e = own_engine(&root.0).await;
    let c = sh(&e, "mkdir -p /work; exec sleep 600").env("A", "1").env("B", "1").run().await.expect("starts");
    while !text(&c, "ls /").await.contains("work") {}
    let out = c
        .exec(["/bin/sh", "-c", "echo $A $B $HOME; cat; ls -d $PWD"])
        .env("B", "2")
        .workdir("/work")
        .stdin("input\n")
        .output()
        .await
        .expect("it runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "1 2 /root\ninput\n/work\n");
    let out = c.exec(["/bin/stty", "size"]).tty(true).output().await.expect("it runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "24 80\r\n");
    assert!(text(&c, "ls /dev/pts").await.lines().all(|l| l == "ptmx"), "its terminal is gone");
    // Users are those of the container as it is now, not those of its image.
    if rustix::process::geteuid().is_root() {
        text(&c, "echo app:x:1234:1234::/srv:/bin/sh >> /etc/passwd; echo more:x:77:app >> /etc/group").await;
        let out = c.exec(["/usr/bin/id"]).user("app").output().await.expect("it runs");
        assert!(
            String::from_utf8_lossy(&out.stdout).starts_with("uid=1234(app) gid=1234 groups=1234,77(more)")
        );
        let caps =
            c.exec(["/bin/sh", "-c", "cat /proc/self/status"]).user("1234").output().await.expect("it runs");
        assert!(String::from_utf8_lossy(&caps.stdout).contains("CapEff:\t0000000000000000"));
    }
    let out =
        c.exec(["/bin/sleep", "60"]).timeout(Duration::from_millis(50)).output().await.expect("it runs");
    assert!(out.timed_out && out.status.signal() == Some(9));
    c.remove().force(true).await.expect("removed");
}

async fn streams() {
    let root = Root::new("exec-streams");
    let c = sleeper(&root).await;
    let mut p = c.exec(["/bin/cat"]).spawn().await.expect("it runs");
    let (mut input, mut output) = (p.stdin.take().expect("a pipe"), p.stdout.take().expect("a pipe"));
    let mut answer = [0; 5];
    for line in ["one\n..", "two\n.."] {
        input.write_all(&line.as_bytes()[..5]).await.expect("written");
        output.read_exact(&mut answer).await.expect("read");
        assert_eq!(&answer, &line.as_bytes()[..5]);
    }
    drop(input);
    assert!(p.wait().await.expect("ends").success());
    let p = c.exec(["/bin/sleep", "600"]).spawn().await.expect("it runs");
    p.kill(Signal::KILL).expect("sent");
    assert_eq!(p.wait().await.expect("ends").signal(), Some(9));
    let p = c.exec(["/bin/sleep", "600"]).spawn().await.expect("it runs");
    drop(p);
    while c.top().await.expect("listed").len() > 1 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    c.remove().force(true).await.expect("removed");
}

async fn ends() {
    let root = Root::new("exec-ends");
    let c = sleeper(&root).await;
    let p = c.exec(["/bin/sleep", "600"]).spawn().await.expect("it runs");
    let out = c.exec(["/bin/true"]).output().await.expect("it runs");
    assert!(out.status.success());
    assert_eq!(
        c.status().await.expect("status"),
        Status::Running,
        "an end of a further process is not its end"
    );
    c.kill(Signal::KILL).await.expect("killed");
    c.wait().await.expect("ends");
    assert_eq!(p.wait().await.expect("told").signal(), Some(9), "the kernel ends what is in the namespace");
    assert_eq!(kind(c.exec(["/bin/true"]).output().await), ErrorKind::InvalidState);
    assert_eq!(kind(c.top().await), ErrorKind::InvalidState);
    c.remove().await.expect("removed");
}

async fn bad_input() {
    let root = Root::new("exec-bad");
    let c = sleeper(&root).await;
    let none: [&str; 0] = [];
    assert_eq!(kind(c.exec(none).output().await), ErrorKind::InvalidInput);
    assert_eq!(kind(c.exec([""]).output().await), ErrorKind::InvalidInput);
    assert_eq!(kind(c.exec(["/bin/true"]).env("a=b", "").output().await), ErrorKind::InvalidInput);
    assert_eq!(kind(c.exec(["/bin/true"]).workdir("here").output().await), ErrorKind::InvalidInput);
    assert_eq!(kind(c.exec(["/bin/true"]).user("nobody-knows").output().await), ErrorKind::InvalidInput);
    assert_eq!(kind(c.exec(["/bin/true"]).stdin("x").run().await), ErrorKind::InvalidInput);
    assert_eq!(kind(c.exec(["/bin/true"]).tty(true).spawn().await), ErrorKind::InvalidInput);
    assert_eq!(kind(c.exec(["/bin/missing"]).output().await), ErrorKind::NotFound);
    assert_eq!(kind(c.exec(["/etc/passwd"]).output().await), ErrorKind::PermissionDenied);
    let error = c.exec(["/bin/true"]).workdir("/not/there").output().await.expect_err("it is missing");
    assert!(error.to_string().contains("/not/there"), "{error}");
    assert_eq!(c.top().await.expect("listed").len(), 1, "nothing stays");
    c.remove().force(true).await.expect("removed");
}

async fn detached() {
    let root = Root::new("exec-detached");
    let c = sleeper(&root).await;
    c.exec(["/bin/sleep", "601"]).run().await.expect("it runs");
    let all = c.top().await.expect("listed");
    assert!(all.iter().any(|p| p.command == "/bin/sleep 601" && p.container_parent == 0), "{all:?}");
    c.remove().force(true).await.expect("removed");
}

async fn cgroup() {
    let root = Root::new("exec-cgroup");
    let e = own_engine(&root.0).await;
    let c = sh(&e, "exec sleep 600").pids_limit(8).run().await.expect("starts");
    let before = c.stats().await.expect("stats").pids;
    let p = c.exec(["/bin/sleep", "600"]).spawn().await.expect("it runs");
    assert_eq!(c.stats().await.expect("stats").pids, before + 1);
    let bomb = "for i in 1 2 3 4 5 6 7 8 9; do sleep 60 >/dev/null 2>&1 & done; exit 3";
    let out =
        c.exec(["/bin/sh", "-c", bomb]).timeout(Duration::from_secs(20)).output().await.expect("it runs");
    assert!(String::from_utf8_lossy(&out.stderr).contains("fork"), "the limit counts it: {out:?}");
    c.pause().await.expect("paused");
    assert_eq!(kind(c.exec(["/bin/true"]).output().await), ErrorKind::InvalidState);
    c.unpause().await.expect("goes on");
    drop(p);
    c.remove().force(true).await.expect("removed");
}

async fn profiles() {
    let root = Root::new("exec-profiles");
    let e = own_engine(&root.0).await;
    for profile in [Profile::Compat, Profile::Default, Profile::Strict] {
        let c = sh(&e, "exec sleep 600").profile(profile).run().await.expect("starts");
        let show = "while read -r k v; do case $k in Cap*|NoNew*|Seccomp:) echo $k $v;; esac; done < /proc/";
        assert_eq!(text(&c, &format!("{show}self/status")).await, text(&c, &format!("{show}1/status")).await);
        c.remove().force(true).await.expect("removed");
    }
}

async fn top() {
    let root = Root::new("top");
    let e = own_engine(&root.0).await;
    let c = sh(&e, "sleep 601 & sleep 602 & wait").run().await.expect("starts");
    let all = loop {
        let all = c.top().await.expect("listed");
        if all.iter().filter(|p| p.command.starts_with("sleep 60")).count() == 2 {
            break all;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(all.len(), 3);
    assert_eq!((all[0].container_pid, all[0].container_parent), (1, 0));
    assert_eq!(c.inspect().await.expect("info").pid, Some(all[0].pid));
    assert!(
        all[1..].iter().all(|p| p.container_parent == 1 && p.memory > 0 && p.uid == all[0].uid),
        "{all:?}"
    );
    c.remove().force(true).await.expect("removed");
}
