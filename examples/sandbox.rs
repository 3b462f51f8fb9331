//! Runs a command that is not trusted: no network, a read-only root, tight limits and a timeout, and
//! tells what it used. `cargo run --release --example sandbox -- /bin/sh -c 'echo hi'`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

use std::time::{Duration, Instant};

use boxship::{ByteSize, Container, Error, ErrorKind, Image, Mount, Profile};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut command: Vec<String> = std::env::args().skip(1).collect();
    if command.is_empty() {
        let script = "echo hello from $$; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; ls / > /scratch/list; cat /scratch/list";
        command = ["/bin/sh", "-c", script].map(String::from).to_vec();
    }
    if let Err(e) = Image::get("sandbox:1").await {
        if e.kind() != ErrorKind::NotFound {
            return Err(e);
        }
        Image::from_host_programs(["/bin/sh", "/bin/ls", "/bin/cat", "/bin/sleep"]).tag("sandbox:1").await?;
    }
    let sandbox = || {
        Container::builder()
            .image("sandbox:1")
            .command(command.clone())
            .profile(Profile::Strict)
            .user("65534")
            .mount(Mount::tmpfs("/scratch").size(ByteSize::mib(8)))
            .timeout(Duration::from_secs(10))
            .output_limit(ByteSize::mib(1))
    };
    let begin = Instant::now();
    let limited = sandbox().memory_limit(ByteSize::mib(64)).cpus(0.5).pids_limit(32).output().await;
    let out = match limited {
        Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::InvalidInput) => {
            // An ordinary user has neither cgroups nor other ids: said, and left to you to accept.
            eprintln!("not available here: {}", e.chain());
            sandbox().user("0").output().await?
        }
        other => other?,
    };
    print!("{}", String::from_utf8_lossy(&out.stdout));
    eprint!("{}", String::from_utf8_lossy(&out.stderr));
    let cut = if out.truncated { " (more output than is kept)" } else { "" };
    println!("-- {}{}{cut}", out.status, if out.timed_out { " (time was up)" } else { "" });
    println!(
        "-- wall {:.0} ms, CPU {:.0} ms",
        begin.elapsed().as_secs_f64() * 1e3,
        out.status.cpu_time().as_secs_f64() * 1e3
    );
    println!(
        "-- peak memory {}, killed for memory: {}",
        ByteSize::b(out.status.memory_peak()),
        out.status.oom_killed()
    );
    Ok(())
}
