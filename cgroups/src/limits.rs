//! Limits in natural units, their validation, and the one table that turns them into files.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How much swap a container may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Swap {
    /// As much as the host has.
    Unlimited,
    /// This many bytes of memory and swap together, as Docker counts.
    Total(u64),
}

/// CPU time per period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CpuQuota {
    /// Microseconds of CPU time, at least 1000.
    pub quota_us: u64,
    /// Microseconds of the period, 1000 to 1 000 000.
    pub period_us: u64,
}

/// What a group may use. `None` = no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes, at least 512 KiB.
    pub memory: Option<u64>,
    /// Memory and swap (needs `memory`).
    pub swap: Option<Swap>,
    /// CPU time.
    pub cpu: Option<CpuQuota>,
    /// Share of the CPU when it is contended: 1 to 10 000, 100 is normal.
    pub cpu_weight: Option<u64>,
    /// Processes and threads, at least 1.
    pub pids: Option<u64>,
    /// CPUs to run on, "0-3,5".
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to allocate from, "0".
    pub cpuset_mems: Option<String>,
    /// v1: devices that may be used besides none at all, in the form of `devices.allow`
    /// ("c 1:3 rwm"). `None` leaves the devices alone.
    pub devices: Option<Vec<String>>,
}

/// v2 weight (1 to 10 000, 100 normal) as v1 shares (2 to 262 144, 1024 normal): the inverse of the
/// formula that OCI runtimes use for the other direction.
#[must_use]
pub fn weight_to_shares(weight: u64) -> u64 {
    match weight {
        100 => 1024,
        w => (2 + (w.clamp(1, 10_000) - 1) * 262_142 / 9999).min(262_144),
    }
}

/// One file to write: controller, file, value.
pub(crate) type Setting = (&'static str, &'static str, String);

impl Limits {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first bad one.
    pub fn validate(&self) -> Result<()> {
        let bad = |limit, reason: String| Err(Error::Invalid { limit, reason });
        const LEAST: u64 = 512 << 10;
        match (self.memory, self.swap) {
            (Some(m), _) if !(LEAST..=i64::MAX as u64).contains(&m) => {
                return bad("memory limit", format!("{m} bytes is not between {LEAST} and 2^63"));
            }
            (None, Some(_)) => return bad("swap limit", "it needs a memory limit".into()),
            (Some(m), Some(Swap::Total(s))) if s < m => {
                return bad("swap limit", format!("memory and swap ({s}) are less than memory alone ({m})"));
            }
            _ => {}
        }
        if let Some(c) = self.cpu
            && (c.quota_us < 1000 || !(1000..=1_000_000).contains(&c.period_us))
        {
            return bad(
                "cpu limit",
                format!("{} of {} µs: at least 1000 of 1000 to 1000000", c.quota_us, c.period_us),
            );
        }
        if self.cpu_weight.is_some_and(|w| !(1..=10_000).contains(&w)) {
            return bad("cpu weight", "it must be between 1 and 10000".into());
        }
        if self.pids.is_some_and(|p| p == 0 || p > 4_194_304) {
            return bad("pids limit", "it must be between 1 and 4194304".into());
        }
        for (limit, list) in [("cpuset cpus", &self.cpuset_cpus), ("cpuset mems", &self.cpuset_mems)] {
            if list.as_ref().is_some_and(|l| !is_list(l)) {
                return bad(
                    limit,
                    format!("{:?} is not a list like \"0-3,5\"", list.as_deref().unwrap_or("")),
                );
            }
        }
        Ok(())
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }

    /// The settings of v1, in the order they must be written.
    pub(crate) fn v1(&self) -> Vec<Setting> {
        let mut s: Vec<Setting> = Vec::new();
        if let Some(m) = self.memory {
            s.push(("memory", "memory.limit_in_bytes", m.to_string()));
        }
        match self.swap {
            Some(Swap::Total(t)) => s.push(("memory", "memory.memsw.limit_in_bytes", t.to_string())),
            Some(Swap::Unlimited) => s.push(("memory", "memory.memsw.limit_in_bytes", "-1".into())),
            None => {}
        }
        if let Some(c) = self.cpu {
            s.push(("cpu", "cpu.cfs_period_us", c.period_us.to_string()));
            s.push(("cpu", "cpu.cfs_quota_us", c.quota_us.to_string()));
        }
        if let Some(w) = self.cpu_weight {
            s.push(("cpu", "cpu.shares", weight_to_shares(w).to_string()));
        }
        if let Some(p) = self.pids {
            s.push(("pids", "pids.max", p.to_string()));
        }
        s.extend(self.cpuset());
        if let Some(allowed) = &self.devices {
            s.push(("devices", "devices.deny", "a".into()));
            s.extend(allowed.iter().map(|d| ("devices", "devices.allow", d.clone())));
        }
        s
    }

    /// The settings of v2. (Devices are a BPF program there and not a file.)
    pub(crate) fn v2(&self) -> Vec<Setting> {
        let mut s: Vec<Setting> = Vec::new();
        if let Some(m) = self.memory {
            s.push(("memory", "memory.max", m.to_string()));
        }
        match (self.swap, self.memory) {
            // v2 counts swap alone.
            (Some(Swap::Total(t)), Some(m)) => s.push(("memory", "memory.swap.max", (t - m).to_string())),
            (Some(Swap::Unlimited), _) => s.push(("memory", "memory.swap.max", "max".into())),
            _ => {}
        }
        if let Some(c) = self.cpu {
            s.push(("cpu", "cpu.max", format!("{} {}", c.quota_us, c.period_us)));
        }
        if let Some(w) = self.cpu_weight {
            s.push(("cpu", "cpu.weight", w.to_string()));
        }
        if let Some(p) = self.pids {
            s.push(("pids", "pids.max", p.to_string()));
        }
        s.extend(self.cpuset());
        s
    }

    fn cpuset(&self) -> impl Iterator<Item = Setting> {
        let cpus = self.cpuset_cpus.clone().map(|v| ("cpuset", "cpuset.cpus", v));
        cpus.into_iter().chain(self.cpuset_mems.clone().map(|v| ("cpuset", "cpuset.mems", v)))
    }
}

/// `0-3,5`: ascending ranges of small numbers.
fn is_list(s: &str) -> bool {
    let number = |n: &str| n.parse::<u16>().ok().filter(|_| n.bytes().all(|b| b.is_ascii_digit()));
    !s.is_empty()
        && s.split(',').all(|part| match part.split_once('-') {
            Some((a, b)) => number(a).zip(number(b)).is_some_and(|(a, b)| a <= b),
            None => number(part).is_some(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named() {
        let limit = |l: Limits| match l.validate() {
            Err(Error::Invalid { limit, .. }) => limit,
            other => panic!("{other:?}"),
        };
        let base = Limits::default;
        assert_eq!(limit(Limits { memory: Some(1), ..base() }), "memory limit");
        assert_eq!(limit(Limits { memory: Some(u64::MAX), ..base() }), "memory limit");
        assert_eq!(limit(Limits { swap: Some(Swap::Unlimited), ..base() }), "swap limit");
        assert_eq!(
            limit(Limits { memory: Some(1 << 30), swap: Some(Swap::Total(1)), ..base() }),
            "swap limit"
        );
        assert_eq!(
            limit(Limits { cpu: Some(CpuQuota { quota_us: 1, period_us: 100_000 }), ..base() }),
            "cpu limit"
        );
        assert_eq!(limit(Limits { cpu_weight: Some(0), ..base() }), "cpu weight");
        assert_eq!(limit(Limits { pids: Some(0), ..base() }), "pids limit");
        for list in ["", "a", "3-1", "1,,2", "-1", "0-", "+1"] {
            assert_eq!(limit(Limits { cpuset_cpus: Some(list.into()), ..base() }), "cpuset cpus", "{list}");
        }
        assert!(Limits { cpuset_cpus: Some("0-3,5".into()), ..base() }.validate().is_ok());
    }

    #[test]
    fn conversions() {
        assert_eq!([1, 100, 10_000].map(weight_to_shares), [2, 1024, 262_144]);
        let l = Limits { memory: Some(100 << 20), swap: Some(Swap::Total(150 << 20)), ..Limits::default() };
        assert!(l.v2().contains(&("memory", "memory.swap.max", (50u64 << 20).to_string())));
        assert!(l.v1().contains(&("memory", "memory.memsw.limit_in_bytes", (150u64 << 20).to_string())));
    }
}
