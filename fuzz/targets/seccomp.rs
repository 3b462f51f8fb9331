//! Profiles as JSON, compiled. The program must be one that the kernel takes, and do what the rules
//! say, read naively.
#![no_main]

use boxship_namespaces::CapSet;
use boxship_namespaces::seccomp::{Action, Argument, Operator, Profile, Program, Rule};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const X86_64: u32 = 0xc000_003e;
const KILL_PROCESS: u32 = 0x8000_0000;
/// Names and numbers of x86_64.
const CALLS: [(&str, u32); 8] = [
    ("read", 0),
    ("write", 1),
    ("open", 2),
    ("ioctl", 16),
    ("socket", 41),
    ("clone", 56),
    ("ptrace", 101),
    ("keyctl", 250),
];

struct Instruction {
    code: u16,
    jt: usize,
    jf: usize,
    k: u32,
}

fn decode(program: &Program) -> Vec<Instruction> {
    let part = |b: &[u8]| Instruction {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2].into(),
        jf: b[3].into(),
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    program.bytes().chunks_exact(8).map(part).collect()
}

/// The kernel's own checks (`bpf_check_classic`, `seccomp_check_filter`).
fn valid(code: &[Instruction]) {
    assert!((1..=4096).contains(&code.len()));
    for (pc, i) in code.iter().enumerate() {
        let inside = |jump: usize| assert!(pc + 1 + jump < code.len(), "a jump out of the program");
        match i.code {
            0x20 => assert!(i.k % 4 == 0 && i.k < 64, "a load outside seccomp_data"),
            0x54 | 0x06 => {}
            0x05 => inside(i.k as usize),
            0x15 | 0x25 | 0x35 => [i.jt, i.jf].into_iter().for_each(inside),
            other => panic!("instruction {other:#x}"),
        }
    }
    assert_eq!(code.last().map(|i| i.code), Some(0x06), "it ends with a return");
}

fn run(code: &[Instruction], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let load = |at: u32| match at {
        0 => nr,
        4 => arch,
        8 | 12 => 0,
        _ => (args[(at as usize - 16) / 8] >> (8 * (at % 8))) as u32,
    };
    let (mut pc, mut acc) = (0, 0);
    loop {
        let i = &code[pc];
        pc += 1;
        let mut jump = |taken: bool| pc += if taken { i.jt } else { i.jf };
        match i.code {
            0x20 => acc = load(i.k),
            0x54 => acc &= i.k,
            0x05 => pc += i.k as usize,
            0x15 => jump(acc == i.k),
            0x25 => jump(acc > i.k),
            0x35 => jump(acc >= i.k),
            _ => return i.k,
        }
    }
}

fn holds(a: &Argument, args: [u64; 6]) -> bool {
    let v = args[a.index as usize];
    match a.op {
        Operator::NotEqual => v != a.value,
        Operator::Less => v < a.value,
        Operator::LessEqual => v <= a.value,
        Operator::Equal => v == a.value,
        Operator::GreaterEqual => v >= a.value,
        Operator::Greater => v > a.value,
        Operator::MaskedEqual => v & a.value == a.value_two,
    }
}

fn expected(p: &Profile, name: &str, args: [u64; 6]) -> u32 {
    let hit = |r: &&Rule| r.names.iter().any(|n| n == name);
    let conditional = p.syscalls.iter().filter(hit).filter(|r| !r.args.is_empty());
    let plain = p.syscalls.iter().filter(hit).find(|r| r.args.is_empty());
    let mut first = conditional.filter(|r| r.args.iter().all(|a| holds(a, args)));
    let (action, errno) = match first.next().or(plain) {
        Some(r) => (r.action, r.errno_ret),
        None => (p.default_action, p.default_errno_ret),
    };
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno => 0x0005_0000 | errno.unwrap_or(1).min(4095),
        Action::KillProcess => KILL_PROCESS,
        Action::KillThread => 0,
        Action::Trap => 0x0003_0000,
        Action::Log => 0x7ffc_0000,
    }
}

fn value(u: &mut Unstructured<'_>) -> Result<u64> {
    let small: u64 = u.int_in_range(0..=3)?;
    Ok(*u.choose(&[small, small << 32, u64::MAX - small, 0x5412, 1 << 40 | 0x5412])?)
}

fn profile(u: &mut Unstructured<'_>) -> Result<(Profile, Vec<[u64; 6]>)> {
    const ACTIONS: [Action; 6] =
        [Action::Allow, Action::Errno, Action::KillProcess, Action::KillThread, Action::Trap, Action::Log];
    const OPERATORS: [Operator; 7] = [
        Operator::NotEqual,
        Operator::Less,
        Operator::LessEqual,
        Operator::Equal,
        Operator::GreaterEqual,
        Operator::Greater,
        Operator::MaskedEqual,
    ];
    let mut p = Profile::from_json(r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[]}"#).expect("a profile");
    p.default_action = *u.choose(&ACTIONS)?;
    let mut tried = vec![[0; 6]];
    for _ in 0..u.int_in_range(0..=8)? {
        let mut names = Vec::new();
        for _ in 0..u.int_in_range(1..=3)? {
            names.push(u.choose(&CALLS)?.0.to_owned());
        }
        let (mut args, mut hit) = (Vec::new(), [0; 6]);
        for _ in 0..u.int_in_range(0..=4)? {
            let a = Argument {
                index: u.int_in_range(0..=5)?,
                value: value(u)?,
                value_two: value(u)?,
                op: *u.choose(&OPERATORS)?,
            };
            let near = i64::from(u.int_in_range(-1i8..=1)?);
            hit[a.index as usize] = a.value.wrapping_add_signed(near);
            args.push(a);
        }
        tried.push(hit);
        let errno_ret = if u.arbitrary()? { Some(u.arbitrary()?) } else { None };
        let action = *u.choose(&ACTIONS)?;
        let (includes, excludes) = Default::default();
        p.syscalls.push(Rule { names, action, errno_ret, args, includes, excludes });
    }
    Ok((p, tried))
}

fuzz_target!(|data: &[u8]| {
    if let Some(p) = std::str::from_utf8(data).ok().and_then(|t| Profile::from_json(t).ok()) {
        let text = p.to_json().expect("plain data");
        assert_eq!(Profile::from_json(&text).expect("own output"), p);
        for caps in [CapSet::NONE, CapSet::DEFAULT, CapSet::ALL] {
            let Ok(program) = p.compile(caps) else { continue };
            let code = decode(&program);
            valid(&code);
            for nr in [0, 1, 16, 41, 56, 462, 0x4000_0000, u32::MAX] {
                run(&code, X86_64, nr, [0; 6]);
                assert_eq!(run(&code, 0x1234, nr, [0; 6]), KILL_PROCESS, "a foreign ABI is killed");
            }
        }
    }
    let Ok((p, tried)) = profile(&mut Unstructured::new(data)) else { return };
    let Ok(program) = p.compile(CapSet::NONE) else { return };
    let code = decode(&program);
    valid(&code);
    // The numbers are those of x86_64.
    if cfg!(target_arch = "x86_64") {
        for (name, nr) in CALLS {
            for args in &tried {
                assert_eq!(
                    run(&code, X86_64, nr, *args),
                    expected(&p, name, *args),
                    "{name} {args:x?} {p:?}"
                );
            }
        }
    }
});
