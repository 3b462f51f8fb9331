//! Starts many containers at once and shows them live: `cargo run --release --example many -- 50`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use boxship::container::Status;
use boxship::{Container, Engine, Error, ErrorKind};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let n: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(20);
    let engine = Engine::default_engine().await?;
    if matches!(engine.image().get("many:1").await, Err(e) if e.kind() == ErrorKind::NotFound) {
        engine.image().from_host_programs(["/bin/sh", "/bin/sleep"]).tag("many:1").await?;
    }
    let begin = Instant::now();
    let starts: Vec<_> = (0..n)
        .map(|i| {
            let script = format!("echo I am number {i}; sleep $((1 + {i} % 3))");
            let c = engine
                .container()
                .image("many:1")
                .label("example", "many")
                .command(["/bin/sh", "-c", &script]);
            tokio::spawn(async move { c.run().await })
        })
        .collect();
    let mut all: Vec<Container> = Vec::new();
    for start in starts {
        match start.await {
            Ok(container) => all.push(container?),
            Err(e) => return Err(panic_to_error(e)),
        }
    }
    println!("{n} containers up after {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    let live = std::io::stdout().is_terminal();
    loop {
        let list = engine.containers().all(true).label_value("example", "many").list().await?;
        let running = list.iter().filter(|i| i.status == Status::Running).count();
        if live {
            print!("\x1b[2J\x1b[H");
            for info in list.iter().take(40) {
                let pid = info.pid.map_or(String::from("-"), |p| p.to_string());
                println!("{}  {:<8}  pid {pid:>7}", &info.id[..12], info.status.to_string());
            }
        }
        println!("{running} running, {} ended", list.len() - running);
        let _ = std::io::stdout().flush();
        if running == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for c in &all {
        c.wait().await?;
        c.remove().await?;
    }
    println!("all removed after {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// A start that panicked is a bug; it goes on as one.
fn panic_to_error(e: tokio::task::JoinError) -> Error {
    std::panic::resume_unwind(e.into_panic())
}
