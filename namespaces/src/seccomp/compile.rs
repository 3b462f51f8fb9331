//! Profile to BPF.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::table::TABLE;
use super::{Action, Argument, Operator, Profile, Rule};
use crate::caps::{CapSet, Capability};
use crate::error::{Error, Result};

/// BPF_MAXINSNS of the kernel.
const MAX_INSTRUCTIONS: usize = 4096;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// Offsets in `struct seccomp_data`; the low word of an argument comes first on both architectures.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// __X32_SYSCALL_BIT.
const X32: u32 = 0x4000_0000;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

impl Instruction {
    pub(super) fn bytes(self) -> [u8; 8] {
        let (c, k) = (self.code.to_ne_bytes(), self.k.to_ne_bytes());
        [c[0], c[1], self.jt, self.jf, k[0], k[1], k[2], k[3]]
    }
}

const fn statement(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// An ABI with a table of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arch {
    X86_64,
    I386,
    Aarch64,
}

impl Arch {
    pub(super) const fn native() -> Arch {
        if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 }
    }

    /// AUDIT_ARCH_*.
    pub(super) const fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::I386 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }

    const fn go_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::I386 => "386",
            Arch::Aarch64 => "arm64",
        }
    }

    const fn column(self, row: &(&str, i16, i16, i16)) -> i16 {
        match self {
            Arch::X86_64 => row.1,
            Arch::I386 => row.2,
            Arch::Aarch64 => row.3,
        }
    }

    /// The ABIs that a program for this machine serves under `profile`.
    fn served(self, profile: &Profile) -> Vec<Arch> {
        if self == Arch::X86_64 && profile.wants("SCMP_ARCH_X86_64", "SCMP_ARCH_X86") {
            vec![self, Arch::I386]
        } else {
            vec![self]
        }
    }
}

/// The number of a call, by binary search in the sorted table.
pub(super) fn number(arch: Arch, name: &str) -> Option<u32> {
    let row = TABLE.binary_search_by(|row| row.0.cmp(name)).ok()?;
    u32::try_from(arch.column(&TABLE[row])).ok()
}

/// What happens to one call: conditional outcomes in order, then the final one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Verdict {
    conditional: Vec<(Vec<Argument>, u32)>,
    last: u32,
}

fn outcome(action: Action, errno: Option<u32>) -> u32 {
    match action {
        Action::Allow => RET_ALLOW,
        Action::Errno => RET_ERRNO | errno.unwrap_or(EPERM).min(4095),
        Action::KillProcess => RET_KILL_PROCESS,
        Action::KillThread => RET_KILL_THREAD,
        Action::Trap => RET_TRAP,
        Action::Log => RET_LOG,
    }
}

fn applies(rule: &Rule, arch: Arch, caps: CapSet) -> bool {
    let held = |name: &String| name.parse::<Capability>().is_ok_and(|c| caps.contains(c));
    let go = |name: &String| name == arch.go_name();
    let (i, e) = (&rule.includes, &rule.excludes);
    i.caps.iter().all(held)
        && (i.arches.is_empty() || i.arches.iter().any(go))
        && !e.caps.iter().any(held)
        && !e.arches.iter().any(go)
}

/// One call with more conditions than this compiles to more instructions than the kernel takes, so
/// there is no need to collect them: a short text can name some 10^9.
const MAX_CONDITIONS: usize = MAX_INSTRUCTIONS;

fn verdicts(profile: &Profile, arch: Arch, caps: CapSet) -> Result<HashMap<u32, Verdict>> {
    let default = outcome(profile.default_action, profile.default_errno_ret);
    let mut found: HashMap<u32, (Verdict, bool, usize)> = HashMap::new();
    for rule in profile.syscalls.iter().filter(|r| applies(r, arch, caps)) {
        let ret = outcome(rule.action, rule.errno_ret);
        for nr in rule.names.iter().filter_map(|n| number(arch, n)) {
            let (verdict, closed, conditions) =
                found.entry(nr).or_insert((Verdict { conditional: Vec::new(), last: default }, false, 0));
            if !rule.args.is_empty() {
                *conditions += rule.args.len();
                if *conditions > MAX_CONDITIONS {
                    return Err(too_long(format!("more than {MAX_CONDITIONS} conditions on one call")));
                }
                verdict.conditional.push((rule.args.clone(), ret));
            } else if !*closed {
                verdict.last = ret;
                *closed = true;
            }
        }
    }
    Ok(found.into_iter().map(|(nr, (verdict, ..))| (nr, verdict)).collect())
}

fn too_long(what: String) -> Error {
    Error::invalid("seccomp profile", format!("{what}; the kernel takes {MAX_INSTRUCTIONS} instructions"))
}

/// Jump targets inside one condition, patched when its length is known.
const TO_FALSE: u8 = 255;

/// Tests one condition: falls through when it holds, jumps to the end (`TO_FALSE`) when not.
fn condition(code: &mut Vec<Instruction>, a: &Argument) {
    let (low, high) = (ARGUMENTS + 8 * a.index, ARGUMENTS + 8 * a.index + 4);
    #[allow(clippy::cast_possible_truncation, reason = "splitting into words")]
    let words = |v: u64| (v as u32, (v >> 32) as u32);
    let (v_low, v_high) = words(a.value);
    let test = |code, jt, jf, k| Instruction { code, jt, jf, k };
    match a.op {
        Operator::Equal => {
            code.extend([statement(LOAD, high), test(EQUAL, 0, TO_FALSE, v_high)]);
            code.extend([statement(LOAD, low), test(EQUAL, 0, TO_FALSE, v_low)]);
        }
        Operator::NotEqual => {
            code.extend([statement(LOAD, high), test(EQUAL, 0, 2, v_high)]);
            code.extend([statement(LOAD, low), test(EQUAL, TO_FALSE, 0, v_low)]);
        }
        Operator::MaskedEqual => {
            let (want_low, want_high) = words(a.value_two);
            for (offset, mask, want) in [(high, v_high, want_high), (low, v_low, want_low)] {
                // A zero mask compares nothing, unless the profile asks for the impossible.
                if mask != 0 || want != 0 {
                    code.extend([
                        statement(LOAD, offset),
                        statement(AND, mask),
                        test(EQUAL, 0, TO_FALSE, want),
                    ]);
                }
            }
        }
        // high > v_high decides; high < v_high decides; equal: the low words do.
        Operator::Greater | Operator::GreaterEqual => {
            let low_test = if a.op == Operator::Greater { GREATER } else { AT_LEAST };
            code.extend([
                statement(LOAD, high),
                test(GREATER, 3, 0, v_high),
                test(EQUAL, 0, TO_FALSE, v_high),
            ]);
            code.extend([statement(LOAD, low), test(low_test, 0, TO_FALSE, v_low)]);
        }
        Operator::Less | Operator::LessEqual => {
            let low_test = if a.op == Operator::Less { AT_LEAST } else { GREATER };
            code.extend([
                statement(LOAD, high),
                test(AT_LEAST, 0, 3, v_high),
                test(EQUAL, 0, TO_FALSE, v_high),
            ]);
            code.extend([statement(LOAD, low), test(low_test, TO_FALSE, 0, v_low)]);
        }
    }
}

fn leaf(verdict: &Verdict) -> Result<Vec<Instruction>> {
    let mut code = Vec::new();
    for (arguments, ret) in &verdict.conditional {
        let mut block = Vec::new();
        arguments.iter().for_each(|a| condition(&mut block, a));
        block.push(statement(RETURN, *ret));
        let len = block.len();
        for (i, instruction) in block.iter_mut().enumerate() {
            if instruction.code & 7 == 5 {
                let end = u8::try_from(len - 1 - i).map_err(|_| {
                    Error::invalid("seccomp profile", "a rule has too many argument conditions")
                })?;
                for target in [&mut instruction.jt, &mut instruction.jf] {
                    if *target == TO_FALSE {
                        *target = end;
                    }
                }
            }
        }
        code.extend(block);
    }
    code.push(statement(RETURN, verdict.last));
    Ok(code)
}

/// Code that is written from its end, so that what follows is known and every outcome is there once for all
/// who can reach it: the kernel translates the whole filter at every start.
#[derive(Default)]
struct Backwards<'a> {
    /// The last instruction first.
    code: Vec<Instruction>,
    outcomes: HashMap<&'a Verdict, usize>,
}

impl<'a> Backwards<'a> {
    /// How far ahead of the next instruction `target` is.
    fn distance(&self, target: usize) -> usize {
        self.code.len() - target - 1
    }

    /// Where a call with this verdict is dealt with: near enough for the tests that are about to be written.
    fn leaf(&mut self, verdict: &'a Verdict) -> Result<usize> {
        const NEAR: usize = 240;
        if let Some(at) = self.outcomes.get(verdict).filter(|at| self.distance(**at) <= NEAR) {
            return Ok(*at);
        }
        self.code.extend(leaf(verdict)?.iter().rev());
        let at = self.code.len() - 1;
        self.outcomes.insert(verdict, at);
        Ok(at)
    }

    /// `target`, or a jump to it for a conditional jump that reaches no further than 255 instructions. One
    /// more may come between.
    fn reachable(&mut self, target: usize) -> usize {
        let distance = self.distance(target);
        if distance < usize::from(u8::MAX) {
            return target;
        }
        #[allow(clippy::cast_possible_truncation, reason = "checked against 4096 by the caller")]
        self.code.push(statement(JUMP, distance as u32));
        self.code.len() - 1
    }

    /// `intervals`: (first number, treatment), sorted. The accumulator holds the call's number.
    fn tree(&mut self, intervals: &[(u32, &'a Verdict)]) -> Result<usize> {
        if let [(_, verdict)] = intervals {
            return self.leaf(verdict);
        }
        let (left, right) = intervals.split_at(intervals.len() / 2);
        let at_least = self.tree(right)?;
        let below = self.tree(left)?;
        let at_least = self.reachable(at_least);
        let below = self.reachable(below);
        let near = |distance| u8::try_from(distance).map_err(|_| too_long("a jump is too far".into()));
        let (jt, jf) = (near(self.distance(at_least))?, near(self.distance(below))?);
        self.code.push(Instruction { code: AT_LEAST, jt, jf, k: right[0].0 });
        Ok(self.code.len() - 1)
    }
}

fn architecture(profile: &Profile, arch: Arch, caps: CapSet) -> Result<Vec<Instruction>> {
    let verdicts = verdicts(profile, arch, caps)?;
    let default =
        Verdict { conditional: Vec::new(), last: outcome(profile.default_action, profile.default_errno_ret) };
    // A deny-list's "allow" must hold for calls it has never heard of, too.
    let unknown = match profile.default_action {
        Action::Errno => Verdict { conditional: Vec::new(), last: RET_ERRNO | ENOSYS },
        _ => default.clone(),
    };
    let known = known_numbers(arch);
    let mut intervals: Vec<(u32, &Verdict)> = Vec::new();
    for (nr, known) in known.iter().enumerate() {
        #[allow(clippy::cast_possible_truncation, reason = "below 1024")]
        let nr = nr as u32;
        let verdict = if *known { verdicts.get(&nr).unwrap_or(&default) } else { &unknown };
        if intervals.last().is_none_or(|(_, last)| *last != verdict) {
            intervals.push((nr, verdict));
        }
    }
    #[allow(clippy::cast_possible_truncation, reason = "below 1024")]
    let end = known.len() as u32;
    if intervals.last().is_none_or(|(_, last)| **last != unknown) {
        intervals.push((end, &unknown));
    }
    // x32 shares the architecture's number and has call numbers of its own: a rule for a native call
    // would not hold for it. -1 is what a tracer sets to skip a call.
    let x32 = Verdict { conditional: Vec::new(), last: RET_KILL_PROCESS };
    if arch == Arch::X86_64 && unknown.last != RET_ERRNO | ENOSYS {
        intervals.extend([(X32, &x32), (u32::MAX, &unknown)]);
    }
    let mut backwards = Backwards::default();
    backwards.tree(&intervals)?;
    // The root of the tree is its first instruction, also if it is a verdict for every call.
    let mut code = backwards.code;
    code.push(statement(LOAD, NUMBER));
    code.reverse();
    Ok(code)
}

/// Which numbers up to the highest are in the table.
fn known_numbers(arch: Arch) -> &'static [bool] {
    static KNOWN: OnceLock<[Vec<bool>; 3]> = OnceLock::new();
    let all = KNOWN.get_or_init(|| {
        [Arch::X86_64, Arch::I386, Arch::Aarch64].map(|arch| {
            let numbers = TABLE.iter().filter_map(|row| usize::try_from(arch.column(row)).ok());
            let mut known = vec![false; numbers.clone().max().unwrap_or(0) + 1];
            numbers.for_each(|n| known[n] = true);
            known
        })
    });
    &all[match arch {
        Arch::X86_64 => 0,
        Arch::I386 => 1,
        Arch::Aarch64 => 2,
    }]
}

pub(super) fn compile(profile: &Profile, arch: Arch, caps: CapSet) -> Result<Vec<Instruction>> {
    // A profile need not come from text: its fields are public.
    profile.check()?;
    let mut code = vec![statement(LOAD, ARCHITECTURE)];
    for served in arch.served(profile) {
        let body = architecture(profile, served, caps)?;
        code.push(Instruction { code: EQUAL, jt: 1, jf: 0, k: served.audit() });
        #[allow(clippy::cast_possible_truncation, reason = "checked against 4096 below")]
        code.push(statement(JUMP, body.len() as u32));
        code.extend(body);
    }
    // Another ABI has other numbers: nothing that was decided holds for it.
    code.push(statement(RETURN, RET_KILL_PROCESS));
    if code.len() > MAX_INSTRUCTIONS {
        return Err(too_long(format!("{} instructions", code.len())));
    }
    Ok(code)
}
