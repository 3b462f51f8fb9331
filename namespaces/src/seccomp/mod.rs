//! seccomp(2): a profile (Docker's or the OCI's JSON, or one of ours) becomes a BPF program.
//!
//! The program is a binary tree over intervals of system call numbers, one tree per architecture:
//! neighbours with equal treatment are one leaf, so some 330 allowed calls need about a hundred
//! instructions and seven comparisons, where a linear filter needs hundreds of both. Numbers that no
//! table knows get `ENOSYS`, which is what a program expects from an old kernel.

mod builtin;
mod compile;
mod table;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::caps::CapSet;
use crate::error::{Error, Result};

pub(crate) use compile::Instruction;

/// The largest profile text that is read.
const MAX_PROFILE: usize = 1 << 20;

/// What the filter does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Let it through.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// Fail it with an errno.
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// Kill the whole process.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS", alias = "SCMP_ACT_KILL")]
    KillProcess,
    /// Kill the calling thread.
    #[serde(rename = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    /// Send SIGSYS.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// Let it through and log it.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names of libseccomp say it")]
pub enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Argument {
    /// Which argument, 0 to 5.
    pub index: u32,
    /// The value; the mask for [`Operator::MaskedEqual`].
    pub value: u64,
    /// The value to compare the masked argument with.
    #[serde(default)]
    pub value_two: u64,
    /// The comparison.
    pub op: Operator,
}

/// When a rule of a Docker profile applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Capabilities: of `includes` all must be held, of `excludes` none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
    /// Architectures in Go's names (`amd64`, `arm64`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arches: Vec<String>,
    /// Least kernel version, "4.8". All kernels that boxship supports pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_kernel: Option<String>,
}

/// One rule: calls by name, an action, and conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Names of system calls; names that this crate does not know are skipped, as libseccomp does.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// The errno of [`Action::Errno`]; EPERM when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions on arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub args: Vec<Argument>,
    /// Applies only if.
    #[serde(default, skip_serializing_if = "is_default")]
    pub includes: Condition,
    /// Applies only unless.
    #[serde(default, skip_serializing_if = "is_default")]
    pub excludes: Condition,
}

fn is_default(c: &Condition) -> bool {
    *c == Condition::default()
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<Argument>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// A seccomp profile in the form that Docker and the OCI runtime specification share.
///
/// ```
/// use boxship_namespaces::seccomp::Profile;
/// use boxship_namespaces::CapSet;
/// let profile = Profile::from_json(r#"{
///     "defaultAction": "SCMP_ACT_ERRNO",
///     "syscalls": [{"names": ["read", "write", "exit_group"], "action": "SCMP_ACT_ALLOW"}]
/// }"#)?;
/// let program = profile.compile(CapSet::NONE)?;
/// assert!(program.instructions() < 40);
/// # Ok::<(), boxship_namespaces::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// For calls without a rule.
    pub default_action: Action,
    /// The errno of a default [`Action::Errno`]; EPERM when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// Foreign ABIs to serve besides the native one (`SCMP_ARCH_X86`); others are killed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// Docker's form of `architectures`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    arch_map: Vec<ArchMap>,
    /// The rules, the first match wins; for one call, rules with conditions come before one without.
    pub syscalls: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Vec<String>,
}

impl Profile {
    /// Reads Docker's profile JSON or the `linux.seccomp` object of an OCI configuration.
    ///
    /// # Errors
    /// [`Error::Invalid`] for text over 1 MiB, malformed JSON, unknown actions or operators (among
    /// them `SCMP_ACT_NOTIFY` and `SCMP_ACT_TRACE`, which need a supervisor), and argument indexes
    /// beyond 5.
    pub fn from_json(text: &str) -> Result<Profile> {
        if text.len() > MAX_PROFILE {
            return Err(Error::invalid("seccomp profile", format!("it is larger than {MAX_PROFILE} bytes")));
        }
        let profile: Profile =
            serde_json::from_str(text).map_err(|e| Error::invalid("seccomp profile", e.to_string()))?;
        profile.check()?;
        Ok(profile)
    }

    fn check(&self) -> Result<()> {
        let mut args = self.syscalls.iter().flat_map(|r| &r.args);
        match args.find(|a| a.index > 5) {
            Some(a) => {
                Err(Error::invalid("seccomp profile", format!("argument index {} is beyond 5", a.index)))
            }
            None => Ok(()),
        }
    }

    /// The profile as JSON that Docker, Podman and the OCI runtimes read.
    ///
    /// # Errors
    /// Never in practice; the type is plain data.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::invalid("seccomp profile", e.to_string()))
    }

    /// Docker's policy: what the `Compat` profile uses.
    #[must_use]
    pub fn compat() -> Profile {
        builtin::compat()
    }

    /// The policy of the `Default` profile: native ABI only, no new namespaces or mounts, sockets of
    /// the families UNIX, INET, INET6 and NETLINK (route) only, no terminal injection.
    #[must_use]
    pub fn secure() -> Profile {
        builtin::secure()
    }

    /// The policy of the `Strict` profile: [`Profile::secure`] without ptrace and other processes'
    /// memory, and without netlink.
    #[must_use]
    pub fn strict() -> Profile {
        builtin::strict()
    }

    /// Compiles for this machine's architecture; `caps` decides rules that depend on capabilities.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the program would pass the kernel's 4096 instructions, and for an
    /// argument index beyond 5.
    pub fn compile(&self, caps: CapSet) -> Result<Program> {
        self.compile_for(compile::Arch::native(), caps)
    }

    fn compile_for(&self, arch: compile::Arch, caps: CapSet) -> Result<Program> {
        Ok(Program(compile::compile(self, arch, caps)?.into()))
    }

    /// Whether the profile wants `name` (an `SCMP_ARCH_*`) served.
    fn wants(&self, native: &str, name: &str) -> bool {
        self.architectures.iter().any(|a| a == name)
            || self
                .arch_map
                .iter()
                .any(|m| m.architecture == native && m.sub_architectures.iter().any(|a| a == name))
    }
}

/// A compiled filter, cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Program(Arc<[Instruction]>);

impl Program {
    /// Number of BPF instructions.
    #[must_use]
    pub fn instructions(&self) -> usize {
        self.0.len()
    }

    /// The kernel's `struct sock_filter` array.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|i| i.bytes()).collect()
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seccomp::Program({} instructions)", self.0.len())
    }
}

#[cfg(test)]
mod tests;
