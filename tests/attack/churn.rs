//! Many: start/stop cycles, containers that exit before anyone waits, a crowd at once.

use std::path::Path;
use std::time::Instant;

use boxship_runtime::{Config, Container, Runtime, Status, Streams};
use libtest_mimic::Failed;

use crate::check::{Arena, Kept, zombies};
use crate::tracer::Report;

fn config(runtime: &Runtime, script: &str) -> Config {
    let image = runtime.store().image("tools:1").expect("the image");
    Config::from_image(&image, ["/bin/sh", "-c", script]).expect("a configuration")
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// Nothing of the arena is left: as after an attack without a victim.
fn clean(arena: &mut Arena) -> Result<(), Failed> {
    let wrong = arena.check(&Report { code: Some(0), ..Report::default() });
    if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}").into()) }
}

/// Start/stop cycles from two threads.
pub fn cycles(n: usize) -> Result<String, Failed> {
    let mut arena = Arena::new("churn");
    let runtime = Runtime::open(arena.root())?;
    let image = config(&runtime, "exit 0");
    let round = |count: usize| -> Result<(), Failed> {
        let run = |count: usize| -> boxship_runtime::Result<()> {
            for _ in 0..count {
                let fresh = Config { id: Config::default().id, ..image.clone() };
                let status = runtime.run(fresh, Streams::null()?)?.wait()?;
                assert!(status.success(), "{status}");
            }
            Ok(())
        };
        std::thread::scope(|s| {
            let other = s.spawn(|| run(count / 2));
            run(count - count / 2)?;
            other.join().expect("no panic")?;
            Ok(())
        })
    };
    // What is allocated once is there after a tenth.
    round(n / 10)?;
    let (memory, open, kept, begin) = (resident_kib(), descriptors(), Kept::now(), Instant::now());
    round(n - n / 10)?;
    let took = begin.elapsed();
    let slope = (resident_kib() - memory) * 1000 / i64::try_from(n - n / 10).expect("few");
    // Before anybody else collects them.
    let ended = zombies();
    if !ended.is_empty() {
        return Err(format!("{} zombies: {ended:?}", ended.len()).into());
    }
    clean(&mut arena)?;
    if descriptors() > open {
        return Err(format!("{} descriptors more", descriptors() - open).into());
    }
    // Too few cycles say nothing about memory.
    if n >= 10_000 && slope >= 1 {
        return Err(format!("{slope} KiB per 1000 cycles").into());
    }
    kept.has_not_grown(n)?;
    Ok(format!(
        "{n} cycles: nothing left, {slope} KiB per 1000, {:.2} ms each",
        took.as_secs_f64() * 1000.0 / (n - n / 10) as f64
    ))
}

/// Detached containers that exit at once, and are waited for when all have been started.
pub fn exits(n: usize) -> Result<String, Failed> {
    let mut arena = Arena::new("exits");
    let runtime = Runtime::open(arena.root())?;
    let mut arrived = 0;
    let mut before = 0;
    while arrived < n {
        let batch: Vec<(usize, Container)> = (0..100.min(n - arrived))
            .map(|i| {
                let code = i % 100;
                let c = runtime.create(config(&runtime, &format!("echo one; exit {code}")))?;
                c.start()?;
                Ok((code, c))
            })
            .collect::<boxship_runtime::Result<_>>()?;
        for (code, c) in batch {
            before += usize::from(c.state()?.status == Status::Stopped);
            let exit = c.wait()?.ok_or("an exit status that nobody recorded")?;
            if exit.code() != i32::try_from(code).ok() {
                return Err(format!("{exit} instead of exit code {code}").into());
            }
            c.delete(false)?;
            arrived += 1;
        }
    }
    clean(&mut arena)?;
    Ok(format!("{arrived} exit statuses arrived, {before} of them after the end; nothing left"))
}

/// All at once: up, listed with right figures, down.
pub fn crowd(n: usize) -> Result<String, Failed> {
    let mut arena = Arena::new("crowd");
    let runtime = Runtime::open(arena.root())?;
    let available = || {
        let text = std::fs::read_to_string("/proc/meminfo").expect("procfs");
        let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:")).expect("a line");
        line.trim().trim_end_matches(" kB").trim().parse::<i64>().expect("a number")
    };
    let (free, begin) = (available(), Instant::now());
    let mut all = Vec::with_capacity(n);
    for _ in 0..n {
        let c = runtime.create(config(&runtime, "echo one; exec sleep 3600"))?;
        c.start()?;
        all.push(c);
    }
    let up = begin.elapsed();
    let each = (free - available()) / i64::try_from(n).expect("few");
    let listed = runtime.containers()?;
    let (mut running, mut monitors) = (0, 0);
    for c in &listed {
        let state = c.state()?;
        let pid = state.pid.ok_or("a running container without a pid")?;
        if state.status == Status::Running && Path::new(&format!("/proc/{pid}")).exists() {
            running += 1;
        }
        monitors += monitor_kib(pid);
        if let Ok(usage) = c.usage()
            && (usage.pids != 1 || usage.memory == 0)
        {
            return Err(format!("{} has {usage:?}", c.id()).into());
        }
    }
    if (listed.len(), running) != (n, n) {
        return Err(format!("{} listed, {running} running of {n}", listed.len()).into());
    }
    let begin = Instant::now();
    for c in all {
        c.delete(true)?;
    }
    let down = begin.elapsed();
    clean(&mut arena)?;
    Ok(format!(
        "{n} at once: up in {up:.2?} ({:.0}/s), all listed and running, {each} KiB each (monitor {} KiB of its own), removed in {down:.2?}; nothing left",
        n as f64 / up.as_secs_f64(),
        monitors / n
    ))
}

/// Memory that only its monitor has, in KiB.
fn monitor_kib(pid: u32) -> usize {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit(") ").next().and_then(|s| s.split(' ').nth(1)).unwrap_or_default().to_owned();
    let text = std::fs::read_to_string(format!("/proc/{parent}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}
