//! What runs in a container, seen from outside: nothing of the container is executed or believed
//! (CVE-2022-1227), only the kernel is asked.

use std::path::Path;
use std::time::Duration;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::status::Operation;

/// A process of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// Its pid on the host.
    pub pid: u32,
    /// Its pid in the container.
    pub container_pid: u32,
    /// Its parent's pid in the container; 0 for the first process and those that were put in from outside.
    pub container_parent: u32,
    /// Its user id on the host.
    pub uid: u32,
    /// The state as proc_pid_stat(5) has it: R, S, D, T, Z, …
    pub state: char,
    /// CPU time so far, user and system.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub memory: u64,
    /// Its command line as it shows it, arguments separated by spaces; the name of its program in
    /// brackets when it shows none. Control characters are replaced.
    pub command: String,
}

impl Container {
    /// The processes in its pid namespace, the first one first.
    ///
    /// # Errors
    /// [`Error::State`] unless it runs or is paused.
    pub fn processes(&self) -> Result<Vec<Process>> {
        let (first, _process) = self.running(Operation::Kill)?;
        let proc = Path::new("/proc");
        let namespace = |pid: u32| std::fs::read_link(proc.join(pid.to_string()).join("ns/pid"));
        let own = namespace(first).map_err(Error::io("look at the processes of", self.path()))?;
        let entries = std::fs::read_dir(proc).map_err(Error::io("list", proc))?;
        let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        let mut all: Vec<Process> =
            pids.filter(|pid| namespace(*pid).is_ok_and(|n| n == own)).filter_map(look).collect();
        let parents: std::collections::HashMap<u32, u32> =
            all.iter().map(|p| (p.pid, p.container_pid)).collect();
        for p in &mut all {
            p.container_parent = parents.get(&p.container_parent).copied().unwrap_or(0);
        }
        all.sort_by_key(|p| p.container_pid);
        Ok(all)
    }
}

/// One process, `None` when it is gone. Its parent is still the host's number.
fn look(pid: u32) -> Option<Process> {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).ok();
    let stat = read("stat")?;
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
    let (state, parent, ticks, pages) = numbers(&stat)?;
    let rate = rustix::param::clock_ticks_per_second().max(1);
    Some(Process {
        pid,
        container_pid: field("NSpid:")?.split_whitespace().last()?.parse().ok()?,
        container_parent: parent,
        uid: field("Uid:")?.split_whitespace().next()?.parse().ok()?,
        state,
        cpu: Duration::from_nanos(u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(rate)).ok()?),
        memory: pages.saturating_mul(rustix::param::page_size() as u64),
        command: command(&read("cmdline").unwrap_or_default(), &stat),
    })
}

/// State, parent, ticks of CPU time and resident pages, proc_pid_stat(5).
fn numbers(stat: &[u8]) -> Option<(char, u32, u64, u64)> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let fields: Vec<&str> =
        std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_ascii_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
    let ticks = number(11)?.saturating_add(number(12)?);
    Some((fields.first()?.chars().next()?, fields.get(1)?.parse().ok()?, ticks, number(21)?))
}

fn command(cmdline: &[u8], stat: &[u8]) -> String {
    let visible = |bytes: &[u8]| -> String {
        let text = String::from_utf8_lossy(bytes).replace('\0', " ");
        text.trim_end_matches(' ').chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    };
    let shown = visible(cmdline);
    if !shown.is_empty() {
        return shown;
    }
    let name = stat.iter().position(|b| *b == b'(').zip(stat.iter().rposition(|b| *b == b')'));
    let name = name.and_then(|(from, to)| stat.get(from + 1..to)).unwrap_or_default();
    format!("[{}]", visible(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_calls_itself_is_only_text() {
        let stat = b"7 (a) R 9 (\x1b[2J) S 3 7 7 0 -1 0 1 0 0 0 30 12 0 0 20 0 1 0 4711 4096 25 1\n";
        assert_eq!(numbers(stat), Some(('S', 3, 42, 25)));
        assert_eq!(command(b"sh\0-c\0\x1b[31mred\n\0", stat), "sh -c \u{fffd}[31mred\u{fffd}");
        assert_eq!(command(b"", stat), "[a) R 9 (\u{fffd}[2J]");
        assert_eq!(numbers(b"7 (sh) S"), None);
    }
}
