//! Real images.

use libtest_mimic::Trial;

use crate::need::Need::{Debian, Root as NeedRoot};
use crate::need::debian;
use crate::{Root, test};

pub fn tests() -> Vec<Trial> {
    vec![test("debian_runs_under_the_default_profile", &[NeedRoot, Debian], run_debian)]
}

async fn run_debian() {
    let root = Root::new("debian");
    let e = boxship::Engine::open(&root.0).await.expect("opens");
    e.image().import(debian()).tag("debian:12").command(["/bin/bash"]).await.expect("imported");
    let run = |script: &'static str| {
        let c = e.container().image("debian:12").command(["/bin/bash", "-c", script]);
        async move {
            let out = c.output().await.expect("runs");
            let (stdout, stderr) = (
                String::from_utf8_lossy(&out.stdout).into_owned(),
                String::from_utf8_lossy(&out.stderr).into_owned(),
            );
            assert!(out.status.success(), "{script}: {}\n{stdout}\n{stderr}", out.status);
            stdout
        }
    };
    assert!(run("apt-get --version").await.starts_with("apt 2"));
    let listing = run("ls -l /etc/passwd /etc/shadow /usr/bin/passwd").await;
    assert!(
        listing.contains("root root") && listing.contains("root shadow") && listing.contains("-rws"),
        "{listing}"
    );
    assert_eq!(run("perl -e 'print 6*7'").await, "42");
    // A user is made, and root becomes that user.
    let script = "adduser --disabled-password --gecos '' joe >/dev/null 2>&1 || useradd -m joe; su joe -c 'id -un; touch ~/mine; stat -c %U ~/mine'";
    assert_eq!(run(script).await, "joe\njoe\n");
    assert_eq!(
        run("dpkg --verify coreutils; dpkg -s libc6 | head -n 2 | tail -n 1").await,
        "Status: install ok installed\n"
    );
    println!("Debian: apt-get, ls, perl, adduser, su and dpkg run under the Default profile");
}
