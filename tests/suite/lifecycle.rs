//! From create to remove.

use std::time::Duration;

use boxship::container::{LogStream, Status};
use boxship::{ByteSize, ErrorKind, Signal};
use libtest_mimic::Trial;

use crate::need::Need::{Cgroups, UserNamespaces};
use crate::{Root, kind, own_engine, sh, test};

pub fn tests() -> Vec<Trial> {
    let any = &[UserNamespaces];
    vec![
        test("create_start_wait_restart_remove", any, lifecycle),
        test("stop_asks_then_kills", any, stop),
        test("a_name_that_is_no_text_does_not_hide_a_process", any, unnameable),
        test("names_ids_and_filters", any, names),
        test("a_real_time_signal_stops", any, real_time),
        test("a_start_that_died_loses_no_exit", any, half_started),
        test("logs_follow_tail_and_rotate", any, logs),
        test("logs_are_followed_across_rotations", any, rotations),
        test("auto_remove_after_wait", any, auto_remove),
        test("images_list_and_in_use", any, images),
        test("an_import_tells_its_progress", any, progress),
        test("pause_and_unpause", &[Cgroups], pause),
    ]
}

async fn lifecycle() {
    let root = Root::new("lifecycle");
    let e = own_engine(&root.0).await;
    let c = sh(
        &e,
        "echo started; echo $((1 + $(cat /count 2>/dev/null || echo 0))) > /count; cat /count; exit 4",
    )
    .name("one")
    .create()
    .await
    .expect("made");
    assert_eq!(c.status().await.expect("status"), Status::Created);
    assert_eq!(kind(c.kill(Signal::TERM).await), ErrorKind::InvalidState);
    assert_eq!(kind(c.wait().await), ErrorKind::InvalidState);
    assert!(!c.stop().await.expect("stopping what does not run is no error"));
    c.start().await.expect("starts");
    assert_eq!(c.wait().await.expect("ends").code(), Some(4));
    let info = c.inspect().await.expect("info");
    assert_eq!((info.status, info.exit.and_then(|e| e.code()), info.pid), (Status::Exited, Some(4), None));
    c.start().await.expect("starts again");
    assert_eq!(c.wait().await.expect("ends").code(), Some(4));
    let lines = c.logs().lines().await.expect("logs");
    let text: Vec<_> = lines.iter().map(|l| String::from_utf8_lossy(&l.message).into_owned()).collect();
    assert_eq!(text, ["started", "1", "started", "2"], "the writable layer stays");
    assert!(root.0.join("containers").join(c.id()).join("config.json").exists(), "an OCI bundle");
    c.remove().await.expect("removed");
    assert_eq!(kind(c.inspect().await), ErrorKind::NotFound);
    assert_eq!(kind(e.get("one").await), ErrorKind::NotFound);
    e.recover().await.expect("recovers");
    for dir in ["containers", "snapshots", "names", "ids", "trash"] {
        assert_eq!(std::fs::read_dir(root.0.join(dir)).expect("readable").count(), 0, "{dir}");
    }
}

/// `/proc/<pid>/stat` holds the name that the payload gave itself, and that may be any bytes.
async fn unnameable() {
    let root = Root::new("unnameable");
    let e = own_engine(&root.0).await;
    let c = sh(&e, "printf '\\377\\376) R' > /proc/self/comm; echo ready; while :; do sleep 1; done")
        .run()
        .await
        .expect("starts");
    while c.logs().lines().await.expect("logs").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(c.inspect().await.expect("info").pid.is_some(), "its process is known");
    c.kill(Signal::KILL).await.expect("it can be killed");
    assert_eq!(c.wait().await.expect("ends").signal(), Some(9));
    c.remove().await.expect("removed");
}

async fn stop() {
    let root = Root::new("stop");
    let e = own_engine(&root.0).await;
    let polite = sh(&e, "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
        .run()
        .await
        .expect("runs");
    let mut logs = polite.logs().follow(true).stream();
    assert_eq!(logs.next().await.expect("a line").expect("readable").message, b"ready");
    assert!(polite.stop().timeout(Duration::from_secs(10)).await.expect("stops"));
    assert_eq!(polite.wait().await.expect("ended").code(), Some(5));
    assert_eq!(logs.next().await.expect("a line").expect("readable").message, b"bye");
    assert!(logs.next().await.is_none(), "following ends with the container");
    let deaf = sh(&e, "trap '' TERM; echo ready; while :; do sleep 0.05; done").run().await.expect("runs");
    assert!(deaf.stop().timeout(Duration::from_millis(300)).await.expect("stops"));
    assert_eq!(deaf.wait().await.expect("ended").signal(), Some(9));
    let running = sh(&e, "sleep 600").run().await.expect("runs");
    assert_eq!(kind(running.remove().await), ErrorKind::InvalidState);
    assert_eq!(kind(running.start().await), ErrorKind::InvalidState);
    running.kill(Signal::KILL).await.expect("killed");
    assert_eq!(running.wait().await.expect("ended").signal(), Some(9));
}

/// As images of systemd ask for. Shells of Debian cannot trap it, so it ends them.
async fn real_time() {
    let root = Root::new("real-time");
    let e = own_engine(&root.0).await;
    let signal: Signal = "SIGRTMIN+3".parse().expect("a signal");
    let c = sh(&e, "echo ready; while :; do sleep 0.05; done; true").stop_signal(signal).run().await;
    let c = c.expect("runs");
    let mut logs = c.logs().follow(true).stream();
    logs.next().await.expect("a line").expect("readable");
    // The first process of a pid namespace has no default action; what is killed is its child.
    let child = c.exec(["/bin/sh", "-c", "kill -37 $$; sleep 600"]).output().await.expect("it starts");
    assert_eq!(child.status.signal(), Some(37));
    c.kill(signal).await.expect("sent");
    assert!(c.stop().timeout(Duration::from_millis(200)).await.expect("stops"));
    assert_eq!(c.wait().await.expect("ended").signal(), Some(9));
}

/// A program that is killed while it starts a stopped container again.
async fn half_started() {
    let root = Root::new("half-started");
    let e = own_engine(&root.0).await;
    let c = sh(&e, "exit 4").run().await.expect("runs");
    assert_eq!(c.wait().await.expect("ended").code(), Some(4));
    let dir = root.0.join("containers").join(c.id());
    std::fs::write(dir.join("monitor"), "").expect("as start() leaves it");
    std::fs::rename(dir.join("exit"), dir.join("exit.previous")).expect("as start() leaves it");
    let info = c.inspect().await.expect("info");
    assert_eq!((info.status, info.exit.and_then(|e| e.code())), (Status::Exited, Some(4)));
    assert_eq!(c.wait().await.expect("ended").code(), Some(4));
    c.start().await.expect("starts again");
    assert_eq!(c.wait().await.expect("ended").code(), Some(4));
}

/// Every line once and in order, however often the log is rotated between two looks.
async fn rotations() {
    let root = Root::new("rotations");
    let e = own_engine(&root.0).await;
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i + 1)); done";
    let c = sh(&e, script).log_rotation(ByteSize::kib(16), 50).create().await.expect("made");
    let mut logs = c.logs().follow(true).stream();
    assert!(logs.next().await.is_none(), "it does not run yet");
    c.start().await.expect("starts");
    let mut logs = c.logs().follow(true).stream();
    let mut told = Vec::new();
    while let Some(line) = logs.next().await {
        told.push(String::from_utf8(line.expect("readable").message).expect("UTF-8"));
    }
    assert_eq!(told, (0..3000).map(|i| format!("line {i}")).collect::<Vec<_>>());
    let dir = root.0.join("containers").join(c.id());
    assert!(dir.join("log.3").exists(), "it was rotated");
    for refused in ["yesterday", "2026-11-20T19:13:23+02:00", "", "2026-11-20 19:13"] {
        let err = c.logs().since(refused).lines().await.expect_err("refused");
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{refused}");
    }
    assert_eq!(c.logs().since("2026").lines().await.expect("a prefix").len(), 3000);
    let c = sh(&e, "printf 'no line feed'; printf 'nor here' >&2").run().await.expect("runs");
    c.wait().await.expect("ends");
    let mut last: Vec<_> = c.logs().lines().await.expect("logs").into_iter().map(|l| l.message).collect();
    last.sort();
    assert_eq!(last, [&b"no line feed"[..], b"nor here"]);
}

async fn names() {
    let root = Root::new("names");
    let e = own_engine(&root.0).await;
    let web = sh(&e, "sleep 600").name("web").label("tier", "front").run().await.expect("runs");
    let err = sh(&e, "true").name("web").run().await.expect_err("taken");
    assert_eq!(err.kind(), ErrorKind::AlreadyExists);
    assert!(err.chain().contains("web"));
    let job = sh(&e, "true").name("job").label("tier", "back").create().await.expect("made");
    assert_eq!(e.get("web").await.expect("by name").id(), web.id());
    assert_eq!(e.get(&web.id()[..10]).await.expect("by the start of its id").name(), "web");
    let list = |l: Vec<boxship::container::Info>| l.into_iter().filter_map(|i| i.name).collect::<Vec<_>>();
    assert_eq!(list(e.containers().list().await.expect("lists")), ["web"]);
    assert_eq!(
        list(e.containers().all(true).list().await.expect("lists")),
        ["job", "web"],
        "the newest first"
    );
    assert_eq!(
        list(e.containers().all(true).label_value("tier", "back").list().await.expect("lists")),
        ["job"]
    );
    assert_eq!(list(e.containers().status(Status::Created).list().await.expect("lists")), ["job"]);
    // Another engine on the same root, as another process would open it.
    let other = boxship::Engine::open(&root.0).await.expect("opens");
    let seen = other.get("web").await.expect("found");
    assert_eq!(seen.status().await.expect("status"), Status::Running);
    seen.remove().force(true).await.expect("removed by the other");
    assert_eq!(kind(web.inspect().await), ErrorKind::NotFound);
    job.remove().await.expect("removed");
}

async fn logs() {
    let root = Root::new("logs");
    let e = own_engine(&root.0).await;
    let c = sh(&e, "echo one; echo two >&2; printf 'no newline'").run().await.expect("runs");
    c.wait().await.expect("ends");
    let all = c.logs().lines().await.expect("logs");
    assert_eq!(all.len(), 3);
    let err: Vec<_> = all.iter().filter(|l| l.stream == LogStream::Stderr).collect();
    assert_eq!((err.len(), &err[0].message[..]), (1, &b"two"[..]));
    assert!(all.iter().any(|l| l.message == b"no newline" && l.partial));
    assert_eq!(c.logs().tail(1).lines().await.expect("logs").len(), 1);
    let later = c.logs().since("2100-01-01T00:00:00Z").lines().await.expect("logs");
    assert!(later.is_empty());
    let stamped = c.logs().timestamps(true).lines().await.expect("logs");
    assert!(stamped[0].message.starts_with(b"20") && stamped[0].message.ends_with(b"one"));
    let chatty =
        "i=0; while [ $i -lt 3000 ]; do echo line $i of a log that grows and grows; i=$((i+1)); done";
    let c = sh(&e, chatty).log_rotation(ByteSize::kib(16), 2).run().await.expect("runs");
    c.wait().await.expect("ends");
    let kept = c.logs().lines().await.expect("logs");
    assert!(kept.len() > 300 && kept.len() < 3000, "{}", kept.len());
    assert_eq!(
        kept.last().map(|l| l.message.clone()),
        Some(b"line 2999 of a log that grows and grows".to_vec())
    );
    let dir = root.0.join("containers").join(c.id());
    assert!(dir.join("log.2").exists() && !dir.join("log.3").exists());
}

async fn auto_remove() {
    let root = Root::new("auto-remove");
    let e = own_engine(&root.0).await;
    let c = sh(&e, "exit 3").auto_remove(true).run().await.expect("runs");
    assert_eq!(c.wait().await.expect("ends").code(), Some(3));
    assert!(e.containers().all(true).list().await.expect("lists").is_empty());
    // One that nobody waited for is removed by the next open.
    let c = sh(&e, "true").auto_remove(true).run().await.expect("runs");
    while c.status().await.expect("status") == Status::Running {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let again = boxship::Engine::open(&root.0).await.expect("opens");
    assert!(again.containers().all(true).list().await.expect("lists").is_empty());
}

async fn images() {
    let root = Root::new("images");
    let e = own_engine(&root.0).await;
    let image = e.image().get("tools:1").await.expect("there");
    assert_eq!(
        image.inspect().config().as_ref().and_then(|c| c.cmd().clone()),
        Some(vec!["/bin/sh".to_owned()])
    );
    assert_eq!(e.image().list().await.expect("lists").len(), 1);
    let again = e.image().from_host_programs(crate::PROGRAMS).env("X", "1").tag("tools:2");
    let again = again.await.expect("made");
    assert_eq!(again.layers(), image.layers(), "the same files are the same layer");
    let c = sh(&e, "true").create().await.expect("made");
    let err = image.remove().await.expect_err("in use");
    assert_eq!(err.kind(), ErrorKind::InUse);
    again.remove().await.expect("the container was not made from it");
    c.remove().await.expect("removed");
    image.remove().await.expect("removed");
    assert!(e.image().list().await.expect("lists").is_empty());
    for dir in ["layers", "blobs/sha256"] {
        assert_eq!(std::fs::read_dir(root.0.join(dir)).expect("readable").count(), 0, "{dir}");
    }
}

async fn progress() {
    let root = Root::new("progress");
    let e = boxship::Engine::open(&root.0).await.expect("opens");
    let mut events = e.image().from_host_programs(["/bin/sh", "/bin/ls"]).tag("p:1").events();
    let (mut collected, mut done) = (0, false);
    while let Some(event) = events.next().await {
        match event.expect("no error") {
            boxship::image::ImportEvent::Collected { .. } => collected += 1,
            boxship::image::ImportEvent::Done(image) => done = image.size() > 0,
            _ => {}
        }
    }
    assert!(collected == 2 && done);
}

async fn pause() {
    let root = Root::new("pause");
    let e = own_engine(&root.0).await;
    let c = sh(&e, "while :; do echo tick; sleep 0.02; done").run().await.expect("runs");
    assert_eq!(kind(c.unpause().await), ErrorKind::InvalidState);
    c.pause().await.expect("paused");
    assert_eq!(c.status().await.expect("status"), Status::Paused);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = c.logs().lines().await.expect("logs").len();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(c.logs().lines().await.expect("logs").len(), before, "frozen");
    assert_eq!(kind(c.pause().await), ErrorKind::InvalidState);
    c.unpause().await.expect("goes on");
    c.pause().await.expect("paused");
    assert!(c.stop().timeout(Duration::from_millis(300)).await.expect("a paused one can be stopped"));
    c.remove().await.expect("removed");
}
