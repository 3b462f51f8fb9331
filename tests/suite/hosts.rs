//! Hosts of every kind, each a process of its own: this binary in another role.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use boxship::{Container, Engine};
use libtest_mimic::Trial;
use rustix::process::{Resource, Rlimit};

use crate::need::Need::{Strace, UserNamespaces};
use crate::{Root, own_engine, sh, test};

const HOSTS: &[&str] = &[
    "multi-thread",
    "current-thread",
    "plain-threads",
    "small-stacks",
    "sigchld-ignored",
    "waitpid-any",
    "chdir-race",
    "umask-race",
    "odd-environment",
    "two-stores",
    "few-files",
    "large",
];

pub fn tests() -> Vec<Trial> {
    let name = |host: &str| format!("in_a_host_{}", host.replace('-', "_"));
    let all = HOSTS.iter().map(|host| test(&name(host), &[UserNamespaces], move || in_host(host)));
    let traced = "sigpipe-default";
    all.chain([test(&name(traced), &[UserNamespaces, Strace], move || in_host(traced))]).collect()
}

async fn in_host(host: &'static str) {
    let root = Root::new(host);
    drop(own_engine(&root.0).await);
    let me = std::env::current_exe().expect("this program");
    let mut command = match host {
        // Rust's start ignores SIGPIPE; here that call of the first thread does not reach the kernel.
        "sigpipe-default" => {
            let mut strace = Command::new("strace");
            strace.args(["-qq", "-o", "/dev/null", "-e", "inject=rt_sigaction:retval=0:when=1"]).arg(me);
            strace
        }
        _ => Command::new(me),
    };
    if host == "odd-environment" {
        let odd = ["PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "LD_PRELOAD", "IFS", "LANG"];
        command.envs(odd.map(|key| (key, "/nonexistent\nODD=1")));
    }
    command.arg(format!("--as={host}")).arg(&root.0).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("starts");
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
        "saver" => multi(async move {
            let e = Engine::open(&root).await.expect("opens");
            e.image().save(["tools:1"], &args[1]).await.expect("saved");
            e.image().save_directory(["tools:1"], &args[2]).await.expect("saved");
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
        "small-stacks" => small_stacks(root),
        "chdir-race" => chdir_race(work),
        "umask-race" => umask_race(root, work),
        "odd-environment" => multi(environment(root.to_owned())),
        "two-stores" => multi(two_stores(root.to_owned())),
        "few-files" => few_files(root),
        "sigpipe-default" => multi(unread_input(root.to_owned())),
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

/// Threads of the host's and of its tokio with as little as a thread of C may have.
fn small_stacks(root: &Path) {
    // Without optimisation futures are copied around.
    const STACK: usize = if cfg!(debug_assertions) { 128 << 10 } else { 64 << 10 };
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let root = root.to_owned();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .thread_stack_size(STACK)
                .enable_all()
                .build()
                .expect("a runtime");
            let work =
                move || runtime.block_on(async { tokio::spawn(exercise(root)).await.expect("no panic") });
            std::thread::Builder::new().stack_size(STACK).spawn(work).expect("a thread")
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().expect("no panic"));
}

/// Works while another thread changes what belongs to the whole process.
fn during(change: impl Fn() + Sync, work: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                change();
            }
        });
        work();
        over.store(true, Ordering::Relaxed);
    });
}

fn chdir_race<F: Future<Output = ()>>(work: impl FnOnce() -> F) {
    let home = std::env::current_dir().expect("a directory");
    let change = || ["/", "/proc", "/tmp"].iter().for_each(|d| std::env::set_current_dir(d).expect("exists"));
    during(change, || multi(work()));
    std::env::set_current_dir(home).expect("exists");
}

/// Whatever the mask is at that moment: nobody else may write what is made, and its owner may use it.
fn umask_race<F: Future<Output = ()>>(root: &Path, work: impl FnOnce() -> F) {
    let set = |mask: u32| rustix::process::umask(mask.into());
    let own = set(0);
    multi(async {
        let e = Engine::open(root).await.expect("opens");
        sh(&e, "exit 0").create().await.expect("created");
    });
    assert_private(root);
    let change = || {
        set(0);
        set(0o077);
    };
    during(change, || multi(work()));
    assert_private(root);
    set(own.bits());
}

/// Below this nobody else may write, as far as others get.
fn assert_private(path: &Path) {
    let meta = std::fs::symlink_metadata(path).expect("exists");
    let mode = meta.permissions().mode();
    // What belongs to the container's own tree is the image's.
    if meta.is_symlink() || path.ends_with("upper") || path.ends_with("layers") {
        return;
    }
    let sticky = mode & 0o1000 != 0;
    assert!(mode & 0o002 == 0 || sticky, "{path:?} has mode {mode:o}");
    if meta.is_dir() && mode & 0o001 != 0 {
        let below = std::fs::read_dir(path).expect("ours");
        below.flatten().for_each(|entry| assert_private(&entry.path()));
    }
}

/// The host's environment means nothing to the library and is not seen by containers.
async fn environment(root: std::path::PathBuf) {
    exercise(root.clone()).await;
    let e = Engine::open(&root).await.expect("opens");
    let seen = crate::text(sh(&e, "export").output().await.expect("runs"));
    assert!(!seen.contains("nonexistent") && !seen.contains("ODD"), "{seen}");
}

/// Neither store sees what the other has, and both are used at once.
async fn two_stores(root: std::path::PathBuf) {
    let second = root.join("second");
    let e = Engine::open(&root).await.expect("opens");
    let other = own_engine(&second).await;
    let here = sh(&e, "sleep 60").name("same").run().await.expect("runs");
    let there = sh(&other, "sleep 60").name("same").run().await.expect("runs");
    tokio::join!(exercise(root.clone()), exercise(second.clone()));
    for (engine, own) in [(&e, &here), (&other, &there)] {
        let all = engine.containers().all(true).list().await.expect("lists");
        assert_eq!(all.iter().map(|c| c.id.to_string()).collect::<Vec<_>>(), [own.id().to_string()]);
    }
    for c in [here, there] {
        c.stop().await.expect("stops");
        c.remove().await.expect("removed");
    }
}

/// With every number of descriptors from none to enough: an error or success, never a panic, and nothing is
/// lost for the next.
fn few_files(root: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    // What is opened once is open.
    runtime.block_on(exercise(root.to_owned()));
    let open = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    let (before, own) = (open(), rustix::process::getrlimit(Resource::Nofile));
    let mut refused = 0;
    let mut granted = 0;
    for more in 0u64.. {
        let limit = Rlimit { current: Some(before as u64 + more), maximum: own.maximum };
        rustix::process::setrlimit(Resource::Nofile, limit).expect("lower");
        let once = async {
            let e = Engine::open(root).await?;
            sh(&e, "exit 3").output().await
        };
        let result = runtime.block_on(once);
        rustix::process::setrlimit(Resource::Nofile, own).expect("as before");
        match result {
            Ok(out) => {
                assert_eq!(out.status.code(), Some(3));
                granted += 1;
            }
            Err(_) => refused += 1,
        }
        if granted == 3 {
            break;
        }
        assert!(more < 300, "it never works");
    }
    assert!(refused > 3, "{refused} refused");
    runtime.block_on(exercise(root.to_owned()));
    assert!(open() <= before + 1, "{before} descriptors before, {} after", open());
}

/// A container that closes its input does not end a host for which SIGPIPE is deadly.
async fn unread_input(root: std::path::PathBuf) {
    let ignored = state().into_iter().find(|l| l.starts_with("SigIgn:")).expect("a mask");
    let mask = u64::from_str_radix(&ignored[7..], 16).expect("hex");
    assert_eq!(mask & 1 << 12, 0, "SIGPIPE is not deadly here");
    let e = Engine::open(&root).await.expect("opens");
    for _ in 0..10 {
        let out = sh(&e, "exec 0<&-; exit 4").stdin(vec![b'x'; 1 << 20]).output().await.expect("runs");
        assert_eq!(out.status.code(), Some(4));
    }
    let c = sh(&e, "sleep 60").run().await.expect("runs");
    let command = ["/bin/sh", "-c", "exec 0<&-; exit 5"];
    let out = c.exec(command).stdin(vec![b'x'; 1 << 20]).output().await.expect("runs");
    assert_eq!(out.status.code(), Some(5));
    c.stop().await.expect("stops");
    c.remove().await.expect("removed");
    exercise(root).await;
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
