//! Hosts of every kind, each a process of its own: this binary in another role.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use boxship::{Container, Engine};
use libtest_mimic::Trial;

use crate::crash::actor;
use crate::need::Need::UserNamespaces;
use crate::{Root, own_engine, sh, test};

pub fn tests() -> Vec<Trial> {
    ["multi-thread", "current-thread", "plain-threads", "sigchld-ignored", "waitpid-any", "large"]
        .into_iter()
        .map(|host| {
            test(&format!("in_a_host_{}", host.replace('-', "_")), &[UserNamespaces], move || in_host(host))
        })
        .collect()
}

async fn in_host(host: &'static str) {
    let root = Root::new(host);
    drop(own_engine(&root.0).await);
    let mut child = actor(host, &[root.0.to_str().expect("UTF-8")]);
    let mut said = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut said).expect("read");
    let status = child.wait().expect("ours");
    assert!(status.success() && said.contains("unchanged"), "{status}: {said}");
}

/// What a library must not change in its host.
fn state() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let keys =
        ["Umask:", "SigBlk:", "SigIgn:", "SigCgt:", "CapEff:", "NoNewPrivs:", "Seccomp:", "Groups:", "Uid:"];
    let mut all: Vec<String> =
        status.lines().filter(|l| keys.iter().any(|k| l.starts_with(k))).map(str::to_owned).collect();
    // Signals 32 and 33 are glibc's own, for threads and set*id.
    for line in all.iter_mut().filter(|l| l.starts_with("Sig")) {
        let (key, mask) = line.split_once('\t').expect("a mask");
        let mask = u64::from_str_radix(mask, 16).expect("hex") & !(3 << 31);
        *line = format!("{key}{mask:x}");
    }
    all.push(format!("{:?}", std::env::current_dir()));
    all.push(format!("{:?}", std::env::vars_os().collect::<Vec<_>>()));
    all.push(format!(
        "dumpable {:?}",
        rustix::process::dumpable_behavior().is_ok_and(|b| b == rustix::process::DumpableBehavior::Dumpable)
    ));
    all.push(format!("{:?}", std::fs::read_link("/proc/self/ns/mnt")));
    all.push(format!(
        "{} mounts",
        std::fs::read_to_string("/proc/self/mountinfo").expect("procfs").lines().count()
    ));
    all
}

/// Plays a role and exits.
pub fn play(role: &str, args: &[String]) {
    let root = Path::new(&args[0]).to_owned();
    match role {
        "embedder" => multi(async move {
            let e = Engine::open(&root).await.expect("opens");
            for i in 0u32.. {
                match i % 4 {
                    0 => drop(sh(&e, "exit 3").run().await),
                    1 => drop(sh(&e, "sleep 600").name(format!("n{i}")).run().await),
                    2 => drop(sh(&e, "true").create().await),
                    _ => drop(sh(&e, "sleep 0.01").output().await),
                }
            }
        }),
        "detacher" => multi(async move {
            let e = Engine::open(&root).await.expect("opens");
            let c = sh(&e, "echo before; sleep 1; echo after; exit 6").run().await.expect("runs");
            println!("{}", c.id());
            tokio::time::sleep(Duration::from_secs(60)).await;
        }),
        "mounts" => multi(async move {
            let e = Engine::open(&root).await.expect("opens");
            // The kernel counts such a host as chrooted and refuses it user namespaces.
            let c = sh(&e, "cat /proc/self/mountinfo").profile(boxship::Profile::Compat);
            print!("{}", crate::text(c.output().await.expect("runs")));
        }),
        _ => host(role, &root),
    }
}

fn multi(f: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime").block_on(f);
}

fn current(f: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(f);
}

fn host(role: &str, root: &Path) {
    let memory = if role == "large" { vec![1u8; 1 << 30] } else { Vec::new() };
    if role == "sigchld-ignored" {
        ignore_sigchld();
    }
    if role == "waitpid-any" {
        std::thread::spawn(|| {
            loop {
                let _ = nix::sys::wait::waitpid(None, None);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }
    let work = || exercise(root.to_owned());
    // The first use may start threads and open the helper; the host's own things must stay.
    let before = state();
    match role {
        "current-thread" => current(work()),
        "plain-threads" => {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let root = root.to_owned();
                    std::thread::Builder::new()
                        .stack_size(256 << 10)
                        .spawn(move || current(exercise(root)))
                        .expect("a thread")
                })
                .collect();
            threads.into_iter().for_each(|t| t.join().expect("no panic"));
        }
        _ => multi(work()),
    }
    let after = state();
    for (b, a) in before.iter().zip(&after) {
        assert_eq!(b, a);
    }
    drop(memory);
    println!("unchanged");
}

async fn exercise(root: std::path::PathBuf) {
    let e = Engine::open(&root).await.expect("opens");
    for i in 0..5 {
        let out = sh(&e, &format!("echo hi; exit {i}")).output().await.expect("runs");
        assert_eq!((out.status.code(), &out.stdout[..]), (Some(i), &b"hi\n"[..]));
    }
    let c: Container = sh(&e, "exit 9").run().await.expect("runs");
    assert_eq!(c.wait().await.expect("ends").code(), Some(9));
    c.remove().await.expect("removed");
}

/// `trap '' CHLD` in a shell that then becomes us: no unsafe code is needed for it.
fn ignore_sigchld() {
    if std::env::var_os("BOXSHIP_CHLD").is_some() {
        return;
    }
    use std::os::unix::process::CommandExt;
    let me = std::env::current_exe().expect("this program");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let error = std::process::Command::new("/bin/sh")
        .args(["-c", "trap '' CHLD; exec \"$0\" \"$@\""])
        .arg(me)
        .args(args)
        .env("BOXSHIP_CHLD", "1")
        .exec();
    panic!("{error}");
}
