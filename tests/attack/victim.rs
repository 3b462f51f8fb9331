//! What the victims do. Each says on its stdout what a caller would know: a line is an acknowledgement.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Duration;

use boxship_runtime::{Config, ExecConfig, Runtime, Streams};

use crate::fort;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub fn say(line: &str) {
    // A failing write is what the attack may want.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// Plays a role and exits.
pub fn play(role: &str, args: &[String]) {
    let root = Path::new(args.first().expect("a root"));
    if role == "reopened" {
        leave(root).expect("leftovers");
    }
    say("ready");
    let _ = std::io::stdin().lock().read_line(&mut String::new());
    let once = || match role {
        "ephemeral" => ephemeral(root),
        "detached" => detached(root),
        "reopened" => reopened(root),
        _ => fort::play(role, root, Path::new(&args[1])),
    };
    match once() {
        Ok(()) => say("done"),
        Err(e) => {
            say(&format!("error {}", chain(e.as_ref())));
            if args.get(1).is_some_and(|out| std::fs::remove_file(Path::new(out).join("ran")).is_ok()) {
                say("ran all the same");
            }
            // A fault is over: the same thing works now.
            match once() {
                Ok(()) => say("retried"),
                Err(e) => say(&format!("refused {}", chain(e.as_ref()))),
            }
        }
    }
}

fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text.replace('\n', " ")
}

pub fn config(runtime: &Runtime, script: &str) -> Result<Config> {
    let image = runtime.store().image("tools:1")?;
    Ok(Config::from_image(&image, ["/bin/sh", "-c", script])?)
}

/// One that ends with its creator.
fn ephemeral(root: &Path) -> Result<()> {
    let runtime = Runtime::open(root)?;
    let config = config(&runtime, "exit 3")?;
    say(&format!("id {}", config.id));
    let mut running = runtime.run(config, Streams::null()?)?;
    say("started");
    let status = running.wait()?;
    say(&format!("ended {:?}", status.code()));
    Ok(())
}

/// A whole life: created, started, entered by a further process, stopped, removed, and the root opened again.
fn detached(root: &Path) -> Result<()> {
    let runtime = Runtime::open(root)?;
    let config = config(&runtime, "echo one; echo two; exec sleep 600")?;
    say(&format!("id {}", config.id));
    let container = runtime.create(config)?;
    let life = || -> Result<()> {
        say("created");
        container.start()?;
        say("started");
        container.state()?;
        let command = ["/bin/sh", "-c", "exit 5"].map(str::to_owned).into();
        let config = ExecConfig { command, ..ExecConfig::default() };
        let status = container.exec(config, Streams::null()?)?.wait()?;
        if status.code() != Some(5) {
            return Err(format!("a further process ended with {status}").into());
        }
        say("stopping");
        container.stop(Some(9), Duration::ZERO)?;
        say("stopped");
        let exit = container.wait()?.ok_or("its end was not recorded")?;
        say(&format!("ended {:?}", exit.signal()));
        say("removing");
        container.delete(false)?;
        say("removed");
        Runtime::open(root)?;
        Ok(())
    };
    life().inspect_err(|_| {
        let _ = container.delete(true);
    })
}

/// What the dead leave: a container whose monitor was killed, one that was never started, one half made, and
/// the beginnings of other work.
fn leave(root: &Path) -> Result<()> {
    let runtime = Runtime::open(root)?;
    let container = runtime.create(config(&runtime, "echo one; echo two; exec sleep 600")?)?;
    container.start()?;
    let pid = container.state()?.pid.ok_or("no pid")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).ok_or("no parent")?;
    for pid in [parent.parse()?, i32::try_from(pid)?] {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL)?;
    }
    runtime.create(config(&runtime, "echo one")?)?;
    let random = Config::default().id;
    for dir in ["containers", "snapshots", "trash", "ingest"] {
        let dir = root.join(dir).join(&random);
        std::fs::create_dir(&dir)?;
        std::fs::write(dir.join("monitor"), "")?;
    }
    Ok(())
}

/// Finds what the dead left, tells the truth of it, and removes it.
fn reopened(root: &Path) -> Result<()> {
    let runtime = Runtime::open(root)?;
    for container in runtime.containers()? {
        container.state()?;
        container.delete(true)?;
    }
    if runtime.containers()?.is_empty() { Ok(()) } else { Err("something is left".into()) }
}
