//! Who did what when, and whether that can be: is there an order of the operations on a name, each at one
//! moment between its beginning and its end, in which every answer was the right one?
//!
//! An operation whose process was killed has an end, too: the moment when the process was known to be dead.
//! It may have been done until then, or not at all.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::Write;

/// `CLOCK_MONOTONIC`, which all processes share, in nanoseconds.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
        .expect("after the start")
}

/// Where a process writes what it does.
pub struct Journal(pub File);

impl Journal {
    /// One line in one write(2). It begins and ends with what tells a whole line from one that a kill cut.
    fn line(&self, text: &str) {
        let line = format!("\n{} ;\n", text.replace('\n', " "));
        (&self.0).write_all(line.as_bytes()).expect("the history is written");
    }

    /// What a thread begins: its number, the number of the operation, and its words.
    pub fn begin(&self, thread: u64, number: u64, words: &str) {
        self.line(&format!("b {thread} {number} {} {words}", now()));
    }

    pub fn end(&self, thread: u64, number: u64, result: &str) {
        let time = now();
        self.line(&format!("e {thread} {number} {time} {result}"));
    }
}

/// An operation as it was written down.
#[derive(Debug)]
pub struct Record {
    /// Process, thread and number, to find it again.
    pub id: String,
    pub words: Vec<String>,
    pub begin: u64,
    /// Of an acknowledged one.
    pub result: Option<String>,
    pub end: u64,
}

/// The operations of one process, which was dead at `death`.
pub fn read(process: &str, text: &str, death: u64) -> Vec<Record> {
    let mut all: BTreeMap<(&str, &str), Record> = BTreeMap::new();
    for line in text.lines().filter_map(|l| l.strip_suffix(" ;")) {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let [kind, thread, number, time, rest] = words[..] else { continue };
        let Ok(time) = time.parse() else { continue };
        if kind == "b" {
            let words = rest.split(' ').map(str::to_owned).collect();
            let id = format!("{process} thread {thread} #{number}");
            let record = Record { id, words, begin: time, result: None, end: death };
            all.insert((thread, number), record);
        } else if let Some(record) = all.get_mut(&(thread, number)) {
            (record.result, record.end) = (Some(rest.to_owned()), time);
        }
    }
    all.into_values().collect()
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    Absent,
    /// One of the digests.
    Image(u32),
    /// What somebody gave it who did not live to tell what it was.
    Unknown,
}

/// What an operation does to a name, or tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Set(State),
    Read(State),
    /// It stands for something.
    There,
    Remove,
    /// Removes the name if it stands for this image.
    Take(u32),
}

impl Effect {
    /// The state that this leads to from `state`; none: it cannot be done there.
    fn apply(self, state: State) -> Option<State> {
        use State::{Absent, Image, Unknown};
        match (self, state) {
            (Effect::Set(new), _) => Some(new),
            (Effect::Read(seen), _) if seen == state => Some(state),
            // It may have been that; or something that was removed by its digest.
            (Effect::Read(seen), Unknown) => Some(seen),
            (Effect::Read(_), _) | (Effect::There | Effect::Remove, Absent) => None,
            (Effect::There, _) => Some(state),
            (Effect::Remove, _) => Some(Absent),
            (Effect::Take(image), Image(now)) if image == now => Some(Absent),
            (Effect::Take(_), _) => Some(state),
        }
    }
}

/// An operation on one name.
#[derive(Clone, Debug)]
pub struct Op {
    pub begin: u64,
    pub end: u64,
    pub effect: Effect,
    /// Nobody was told that it was done.
    pub optional: bool,
    pub text: String,
}

/// A state, and which of the pending operations led to it.
type Config = (State, u128);

/// More than that are not looked at: the history is too wild for this check.
const MAX_CONFIGS: usize = 2_000_000;

/// Whether there is such an order, for one name that nobody had at first. If not, what cannot be explained.
pub fn explain(ops: &[Op]) -> Result<(), String> {
    let ends = |op: &Op, i: usize| [(op.begin, false, i), (op.end, true, i)];
    let mut events: Vec<_> = ops.iter().enumerate().flat_map(|(i, op)| ends(op, i)).collect();
    // What begins when another ends may come before it.
    events.sort_unstable();
    let mut pending: Vec<Option<usize>> = Vec::new();
    let mut configs: BTreeSet<Config> = BTreeSet::from([(State::Absent, 0)]);
    for (_, is_end, i) in events {
        if !is_end {
            match pending.iter().position(Option::is_none) {
                Some(free) => pending[free] = Some(i),
                None => pending.push(Some(i)),
            }
            assert!(pending.len() <= 128, "more threads than bits");
            continue;
        }
        let slot = pending.iter().position(|p| *p == Some(i)).expect("it has begun");
        let mut done = advance(ops, &pending, &configs, 1 << slot)
            .ok_or_else(|| format!("too many orders before {}", ops[i].text))?;
        if ops[i].optional {
            done.append(&mut configs);
        } else if done.is_empty() {
            return Err(unexplained(ops, i, &configs.iter().map(|(state, _)| *state).collect()));
        }
        configs = done;
        configs = configs.into_iter().map(|(state, done)| (state, done & !(1 << slot))).collect();
        pending[slot] = None;
    }
    Ok(())
}

/// All ways to do pending operations until `target` is done; `None` if there are too many.
fn advance(
    ops: &[Op],
    pending: &[Option<usize>],
    configs: &BTreeSet<Config>,
    target: u128,
) -> Option<BTreeSet<Config>> {
    let mut seen: HashSet<Config> = configs.iter().copied().collect();
    let mut next: Vec<Config> = configs.iter().copied().collect();
    let mut done = BTreeSet::new();
    let open: Vec<(u128, Effect)> =
        pending.iter().enumerate().filter_map(|(slot, i)| Some((1 << slot, ops[(*i)?].effect))).collect();
    while let Some((state, mut mask)) = next.pop() {
        // Nothing is lost by giving an answer as soon as it is right.
        for (bit, effect) in &open {
            if matches!(effect, Effect::Read(seen) if *seen == state)
                || *effect == Effect::There && state != State::Absent
            {
                mask |= bit;
            }
        }
        if mask & target != 0 {
            done.insert((state, mask));
            continue;
        }
        for (bit, effect) in open.iter().filter(|(bit, _)| mask & bit == 0) {
            if let Some(new) = effect.apply(state)
                && seen.insert((new, mask | bit))
            {
                next.push((new, mask | bit));
            }
        }
        if seen.len() > MAX_CONFIGS {
            return None;
        }
    }
    Some(done)
}

/// The operation, and what was done to the name shortly before and meanwhile.
fn unexplained(ops: &[Op], i: usize, before: &BTreeSet<State>) -> String {
    let mut around: Vec<&Op> = ops.iter().filter(|op| op.begin <= ops[i].end).collect();
    around.sort_by_key(|op| op.end);
    let around: Vec<String> = around.iter().rev().take(25).rev().map(|op| shown(op, ops[i].begin)).collect();
    format!("{} [{:?}] after {before:?}:\n  {}", ops[i].text, ops[i].effect, around.join("\n  "))
}

fn shown(op: &Op, zero: u64) -> String {
    let micros = |time: u64| (i128::from(time) - i128::from(zero)) / 1000;
    let optional = if op.optional { " (killed)" } else { "" };
    format!("{} to {} µs: {} {:?}{optional}", micros(op.begin), micros(op.end), op.text, op.effect)
}

/// Beginning, end, what is done, and whether its process was killed.
type Case = (u64, u64, Effect, bool);

/// The check itself: histories that can be, and that cannot.
pub fn checks_itself() -> Result<String, libtest_mimic::Failed> {
    use Effect::{Read, Remove, Set, Take};
    use State::{Absent, Image, Unknown};
    let (a, b) = (Image(1), Image(2));
    let op = |(begin, end, effect, optional): Case| Op { begin, end, effect, optional, text: String::new() };
    let cases: &[(&str, bool, &[Case])] = &[
        ("written and read", true, &[(0, 1, Set(a), false), (2, 3, Read(a), false)]),
        ("a lost tag", false, &[(0, 1, Set(a), false), (2, 3, Read(Absent), false)]),
        ("an old value", false, &[(0, 1, Set(a), false), (2, 3, Set(b), false), (4, 5, Read(a), false)]),
        ("either of two", true, &[(0, 9, Set(a), false), (1, 8, Set(b), false), (10, 11, Read(a), false)]),
        (
            "and not the other later",
            false,
            &[
                (0, 9, Set(a), false),
                (1, 8, Set(b), false),
                (10, 11, Read(a), false),
                (12, 13, Read(b), false),
            ],
        ),
        ("read before it is acknowledged", true, &[(0, 9, Set(a), false), (2, 3, Read(a), false)]),
        (
            "and never unread",
            false,
            &[(0, 9, Set(a), false), (2, 3, Read(a), false), (4, 5, Read(Absent), false)],
        ),
        ("killed and done", true, &[(0, 5, Set(a), true), (6, 7, Read(a), false)]),
        ("killed and not done", true, &[(0, 5, Set(a), true), (6, 7, Read(Absent), false)]),
        (
            "done by a dead one",
            false,
            &[(0, 5, Set(a), true), (6, 7, Read(Absent), false), (8, 9, Read(a), false)],
        ),
        (
            "an untold digest is one",
            false,
            &[(0, 5, Set(Unknown), true), (6, 7, Read(a), false), (8, 9, Read(b), false)],
        ),
        ("two remove one", false, &[(0, 1, Set(a), false), (2, 9, Remove, false), (3, 8, Remove, false)]),
        (
            "removed by digest",
            true,
            &[(0, 1, Set(a), false), (2, 3, Take(1), false), (4, 5, Read(Absent), false)],
        ),
        (
            "by another digest",
            false,
            &[(0, 1, Set(a), false), (2, 3, Take(2), false), (4, 5, Read(Absent), false)],
        ),
    ];
    for (name, possible, ops) in cases {
        let ops: Vec<Op> = ops.iter().map(|o| op(*o)).collect();
        if explain(&ops).is_ok() != *possible {
            return Err(format!("{name}: is it possible? {}", !possible).into());
        }
    }
    Ok(format!("{} histories told apart", cases.len()))
}
