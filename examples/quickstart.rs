//! The first five minutes: an image made of this host's own programs, a shell in it, and the proof
//! that it is isolated. `cargo run --release --example quickstart`, as root or as an ordinary user.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

use std::time::{Duration, Instant};

use boxship::{ByteSize, Container, Engine, Error, ErrorKind, Image};

const PROGRAMS: &[&str] =
    &["/bin/sh", "/bin/cat", "/bin/ls", "/usr/bin/id", "/bin/true", "/usr/bin/head", "/usr/bin/tail"];

const PROOF: &str = r#"
echo "pid:          $$"
echo "hostname:     $(cat /etc/hostname)"
echo "user:         $(id)"
echo "uid map:      $(cat /proc/self/uid_map)"
echo "interfaces:  " $(ls /sys/class/net)
while read line; do case $line in Cap[BEI]*|Seccomp:*|NoNewPrivs:*) echo "              $line";; esac; done < /proc/self/status
n=0; while read line; do n=$((n+1)); done < /proc/self/mountinfo
echo "mounts:       $n of its own, / is" $(head -n 1 /proc/self/mountinfo)
"#;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let engine = Engine::default_engine().await?;
    println!("engine at {}\n", engine.root().display());

    println!("1. an image of this host's own programs (no registry, no package)");
    let image = match Image::get("quickstart:1").await {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Image::from_host_programs(PROGRAMS).tag("quickstart:1").await?
        }
        other => other?,
    };
    println!("   quickstart:1  {}  {}\n", ByteSize::b(image.size()), &image.digest()[..19]);

    println!("2. a shell in it");
    let limit = ByteSize::mib(64);
    let shell = || Container::builder().image("quickstart:1").hostname("quickstart");
    // Where no memory limit can be applied, boxship says so instead of running without one.
    let limited = shell().command(["/bin/sh", "-c", PROOF]).memory_limit(limit).output().await;
    let (proof, memory) = match limited {
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            let proof = shell().command(["/bin/sh", "-c", PROOF]).output().await?;
            (proof, format!("none: {}", e.chain()))
        }
        other => (other?, limit.to_string()),
    };
    print!("{}{}", String::from_utf8_lossy(&proof.stdout), String::from_utf8_lossy(&proof.stderr));
    println!("memory limit: {memory}\n");

    println!("3. a command that fails is not an error, it has a status");
    let failing = shell().command(["/bin/sh", "-c", "echo going down >&2; exit 3"]).output().await?;
    println!("   {}, stderr {:?}\n", failing.status, String::from_utf8_lossy(&failing.stderr));

    println!("4. a program that is not in the image is one");
    if let Err(e) = shell().command(["/bin/no-such-program"]).output().await {
        println!("   {:?}: {}\n", e.kind(), e.chain());
    }

    println!("5. a command that takes more memory than it may");
    let greedy = ["/bin/sh", "-c", "a=0123456789; while :; do a=$a$a; done"];
    match shell()
        .command(greedy)
        .memory_limit(ByteSize::mib(16))
        .timeout(Duration::from_secs(20))
        .output()
        .await
    {
        Ok(out) => println!(
            "   {} (killed for memory: {}), peak {}\n",
            out.status,
            out.status.oom_killed(),
            ByteSize::b(out.status.memory_peak())
        ),
        Err(e) => println!("   not run: {}\n", e.chain()),
    }

    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        shell().command(["/bin/true"]).output().await?;
        times.push(begin.elapsed());
    }
    times.sort();
    println!(
        "6. from builder to removed container: {:.1} ms (median of {})",
        times[times.len() / 2].as_secs_f64() * 1000.0,
        times.len()
    );
    Ok(())
}
