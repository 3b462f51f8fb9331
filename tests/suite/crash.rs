//! Many cycles, and the death of the embedding process at any moment.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use boxship::Engine;
use boxship::container::Status;
use libtest_mimic::Trial;

use crate::need::Need::UserNamespaces;
use crate::{Root, number, own_engine, sh, test};

pub fn tests() -> Vec<Trial> {
    vec![
        test("many_cycles_leave_nothing", &[UserNamespaces], cycles),
        test("a_killed_embedder_leaves_a_truthful_root", &[UserNamespaces], kills),
        test("a_detached_container_outlives_its_creator", &[UserNamespaces], detached),
        test("a_killed_monitor_takes_its_container_along", &[UserNamespaces], monitor_killed),
    ]
}

fn lines(path: &str) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Processes of this user that run the helper, or a program of a container below `root`.
pub fn processes() -> BTreeSet<u32> {
    let helper = |pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| exe.to_string_lossy().contains("memfd:boxship"))
    };
    let all = std::fs::read_dir("/proc").expect("procfs").flatten();
    all.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(helper).collect()
}

fn cgroups() -> Vec<String> {
    let one = |h: std::fs::DirEntry| std::fs::read_dir(h.path().join("boxship")).ok();
    let all = std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(one)
        .flatten()
        .flatten();
    let mut names: Vec<String> = all
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn files(root: &Path) -> Vec<usize> {
    ["containers", "snapshots", "names", "ids", "trash", "ingest"]
        .map(|d| std::fs::read_dir(root.join(d)).map(Iterator::count).unwrap_or(0))
        .into()
}

/// Waits for `check`, which others may delay for a moment.
fn settle(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn cycles() {
    let root = Root::new("cycles");
    let e = own_engine(&root.0).await;
    for _ in 0..3 {
        sh(&e, "true").output().await.expect("runs");
    }
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    // Other tests of this process come and go: what is counted belongs to this root.
    let mine =
        |all: Vec<String>| all.into_iter().filter(|l| l.contains(root.0.to_str().expect("UTF-8"))).count();
    let n = number("BOXSHIP_CYCLES", 60);
    for i in 0..n {
        if i % 10 == 9 {
            let c = sh(&e, "sleep 600").run().await.expect("runs");
            c.stop().timeout(Duration::ZERO).await.expect("stops");
            c.remove().await.expect("removed");
        } else {
            assert!(sh(&e, "true").output().await.expect("runs").status.success());
        }
    }
    settle("files", || files(&root.0).iter().sum::<usize>() == 0);
    assert_eq!(mine(lines("/proc/self/mountinfo")), 0, "mounts");
    // Alone in its process (as with BOXSHIP_CYCLES set and one test chosen) the descriptors are exact.
    if std::env::var_os("BOXSHIP_CYCLES").is_some() {
        // Freeing space goes on for a moment after each container.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = descriptors();
        for _ in 0..50 {
            sh(&e, "true").output().await.expect("runs");
        }
        settle("descriptors", || descriptors() <= before);
        settle("cgroups", || cgroups().is_empty());
        settle("processes", || processes().is_empty());
        println!("{n} cycles: no mount, cgroup, process, descriptor or file left");
    }
}

/// Starts this test binary in a role, with its stdout as a pipe.
pub fn actor(role: &str, args: &[&str]) -> Child {
    let me = std::env::current_exe().expect("this program");
    let mut command = Command::new(me);
    command.arg(format!("--as={role}")).args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().expect("starts")
}

fn kill(child: &mut Child) {
    child.kill().expect("ours");
    child.wait().expect("ours");
}

async fn kills() {
    let root = Root::new("kills");
    drop(own_engine(&root.0).await);
    let path = root.0.to_str().expect("UTF-8").to_owned();
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let n = number("BOXSHIP_KILLS", 8);
    let mut seen = [0usize; 4];
    for round in 0..n {
        let mut embedder = actor("embedder", &[&path]);
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        std::thread::sleep(Duration::from_micros(1000 + seed % 120_000));
        kill(&mut embedder);
        let e = Engine::open(&root.0).await.expect("opens");
        // Ephemeral containers end with their embedder; what was detached runs or has ended.
        settle("ephemeral containers end", || {
            let rest = files(&root.0);
            let _ = futures_lite(e.recover());
            rest[0] == futures_lite(e.containers().all(true).list()).map_or(0, |l| l.len())
        });
        // A start that was under way is given up by its monitor, which takes a moment.
        tokio::time::sleep(Duration::from_millis(50)).await;
        for info in e.containers().all(true).list().await.expect("lists") {
            let c = e.get(&info.id).await.expect("found");
            match info.status {
                Status::Running => {
                    seen[0] += 1;
                    let pid = info.pid.expect("a running one has a pid");
                    assert!(Path::new(&format!("/proc/{pid}")).exists(), "round {round}: it really runs");
                    c.stop().timeout(Duration::ZERO).await.expect("stops");
                    let ended = c.wait().await;
                    assert!(
                        ended.is_ok(),
                        "round {round}: its exit is known: {ended:?} {}",
                        contents(&root.0, c.id())
                    );
                }
                Status::Exited => {
                    seen[1] += 1;
                    assert!(
                        info.exit.is_some(),
                        "round {round}: its exit is known: {}",
                        contents(&root.0, c.id())
                    );
                }
                _ => seen[2] += 1,
            }
            c.remove().force(true).await.expect("removed");
        }
        e.recover().await.expect("recovers");
        settle("nothing is left", || files(&root.0).iter().sum::<usize>() == 0);
    }
    if std::env::var_os("BOXSHIP_KILLS").is_some() {
        settle("cgroups", || cgroups().is_empty());
        settle("processes", || processes().is_empty());
        println!("{n} kills: running {}, exited {}, created {}; nothing left", seen[0], seen[1], seen[2]);
    }
}

/// What a container's directory says, for a failure's message.
fn contents(root: &Path, id: &str) -> String {
    let dir = root.join("containers").join(id);
    let names: Vec<_> =
        std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    format!("{names:?}, monitor {:?}, exit {:?}", text("monitor"), text("exit"))
}

/// Polls a future of the engine from inside a plain closure.
fn futures_lite<T>(f: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(f))
}

async fn detached() {
    let root = Root::new("detached");
    drop(own_engine(&root.0).await);
    let mut embedder = actor("detacher", &[root.0.to_str().expect("UTF-8")]);
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(embedder.stdout.take().expect("piped")),
        &mut line,
    )
    .expect("read");
    kill(&mut embedder);
    let e = Engine::open(&root.0).await.expect("opens");
    let c = e.get(line.trim()).await.expect("adopted");
    assert_eq!(c.status().await.expect("status"), Status::Running);
    assert_eq!(c.wait().await.expect("its exit is known").code(), Some(6));
    let said: Vec<_> = c.logs().lines().await.expect("logs").into_iter().map(|l| l.message).collect();
    assert_eq!(said, [b"before".to_vec(), b"after".to_vec()]);
    c.remove().await.expect("removed");
}

async fn monitor_killed() {
    let root = Root::new("monitor");
    let e = own_engine(&root.0).await;
    let c = sh(&e, "sleep 600").run().await.expect("runs");
    let pid = c.inspect().await.expect("info").pid.expect("runs");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("runs");
    let parent: i32 =
        stat.rsplit(") ").next().and_then(|s| s.split(' ').nth(1)?.parse().ok()).expect("a parent");
    let monitor = rustix::process::Pid::from_raw(parent).expect("a pid");
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).expect("ours");
    settle("the container ends", || !Path::new(&format!("/proc/{pid}/ns/pid")).exists());
    settle("it is listed as ended", || futures_lite(c.status()).is_ok_and(|s| s == Status::Exited));
    assert!(c.wait().await.is_err(), "nobody knows how it ended, and that is said");
    c.remove().await.expect("removed");
}
