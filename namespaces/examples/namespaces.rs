//! Runs a command in namespaces of its own, without any image:
//! `cargo run -p boxship-namespaces --example namespaces -- user,pid,mnt,uts /bin/sh -c 'id; ps'`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

use std::os::fd::AsFd;

use boxship_namespaces::{Mount, Namespaces, Sandbox, Stdio};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let kinds = args.next().unwrap_or_else(|| "user,pid,mnt,uts,ipc,net,cgroup".to_owned());
    let mut command: Vec<String> = args.collect();
    if command.is_empty() {
        command =
            ["/bin/sh", "-c", "id; hostname; echo pid $$; cat /proc/self/uid_map"].map(String::from).to_vec();
    }
    let mut set = Namespaces::NONE;
    for kind in kinds.split(',') {
        set = set
            | match kind {
                "user" => Namespaces::USER,
                "pid" => Namespaces::PID,
                "mnt" => Namespaces::MOUNT,
                "uts" => Namespaces::UTS,
                "ipc" => Namespaces::IPC,
                "net" => Namespaces::NET,
                "cgroup" => Namespaces::CGROUP,
                "time" => Namespaces::TIME,
                other => return Err(format!("no such namespace: {other}").into()),
            };
    }
    let mut sandbox = Sandbox::command(&command[0])
        .args(&command[1..])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .namespaces(set)
        .stdin(Stdio::Descriptor(std::io::stdin().as_fd().try_clone_to_owned()?))
        .stdout(Stdio::Descriptor(std::io::stdout().as_fd().try_clone_to_owned()?))
        .stderr(Stdio::Descriptor(std::io::stderr().as_fd().try_clone_to_owned()?));
    if set.contains(Namespaces::UTS) {
        sandbox = sandbox.hostname("boxship");
    }
    if set.contains(Namespaces::PID | Namespaces::MOUNT) {
        sandbox = sandbox.mounts([Mount::proc()]);
    }
    let status = sandbox.spawn()?.wait()?;
    println!("{status}");
    Ok(())
}
