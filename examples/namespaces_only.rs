//! Namespaces without any image: a command that sees its own processes, host name and mounts, with the
//! host's files. `cargo run --release --example namespaces_only -- /bin/sh -c 'hostname; ps'`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

use std::os::fd::AsFd;

use boxship_namespaces::{Mount, Namespaces, Sandbox, Stdio};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut command: Vec<String> = std::env::args().skip(1).collect();
    if command.is_empty() {
        let script = "echo I am pid $$ on $(hostname), user $(id -u); echo processes: /proc/[0-9]*";
        command = ["/bin/sh", "-c", script].map(String::from).to_vec();
    }
    let own = Namespaces::USER | Namespaces::PID | Namespaces::MOUNT | Namespaces::UTS | Namespaces::IPC;
    let mut child = Sandbox::command(&command[0])
        .args(&command[1..])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .namespaces(own)
        .hostname("inside")
        .mounts([Mount::proc()])
        .no_new_privileges(true)
        .stdin(Stdio::Descriptor(std::io::stdin().as_fd().try_clone_to_owned()?))
        .stdout(Stdio::Descriptor(std::io::stdout().as_fd().try_clone_to_owned()?))
        .stderr(Stdio::Descriptor(std::io::stderr().as_fd().try_clone_to_owned()?))
        .spawn()?;
    let status = child.wait()?;
    println!("own namespaces: {own}; it ended with {status}");
    Ok(())
}
