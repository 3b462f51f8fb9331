use proptest::prelude::*;

use super::compile::{Arch, Instruction, compile, number};
use super::*;

/// A small interpreter of the BPF subset that the compiler emits.
fn run(code: &[Instruction], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let load = |offset: u32| match offset {
        0 => nr,
        4 => arch,
        _ => {
            let a = args[((offset - 16) / 8) as usize];
            if (offset - 16).is_multiple_of(8) { a as u32 } else { (a >> 32) as u32 }
        }
    };
    let (mut pc, mut acc) = (0usize, 0u32);
    for _ in 0..5000 {
        let i = code[pc];
        pc += 1;
        let mut jump = |taken: bool| pc += usize::from(if taken { i.jt } else { i.jf });
        match i.code {
            0x20 => acc = load(i.k),
            0x54 => acc &= i.k,
            0x05 => pc += i.k as usize,
            0x15 => jump(acc == i.k),
            0x25 => jump(acc > i.k),
            0x35 => jump(acc >= i.k),
            0x06 => return i.k,
            other => panic!("instruction {other:#x}"),
        }
    }
    panic!("no end")
}

/// What the rules say, read naively.
fn expected(p: &Profile, arch: Arch, nr: u32, args: [u64; 6], caps: CapSet) -> u32 {
    let held = |n: &String| n.parse().is_ok_and(|c| caps.contains(c));
    let hits = |r: &&Rule| {
        r.names.iter().any(|n| number(arch, n) == Some(nr))
            && r.includes.caps.iter().all(held)
            && !r.excludes.caps.iter().any(held)
    };
    let matches = |a: &Argument| {
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
    };
    let ret = |action, errno: Option<u32>| match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno => 0x0005_0000 | errno.unwrap_or(1),
        _ => unreachable!("not used by these profiles"),
    };
    let rules: Vec<_> = p.syscalls.iter().filter(hits).collect();
    let conditional = rules.iter().filter(|r| !r.args.is_empty()).find(|r| r.args.iter().all(matches));
    match conditional.or_else(|| rules.iter().find(|r| r.args.is_empty())) {
        Some(r) => ret(r.action, r.errno_ret),
        None if super::table::TABLE.iter().any(|row| number(arch, row.0) == Some(nr)) => {
            ret(p.default_action, p.default_errno_ret)
        }
        None => 0x0005_0000 | 38,
    }
}

#[test]
fn every_number_of_every_profile_matches_the_rules() {
    let admin: CapSet = ["SYS_ADMIN"].iter().filter_map(|c| c.parse().ok()).collect();
    for profile in [Profile::compat(), Profile::secure(), Profile::strict()] {
        for caps in [CapSet::NONE, CapSet::DEFAULT, CapSet::DOCKER, admin] {
            for (native, also) in [(Arch::X86_64, Some(Arch::I386)), (Arch::Aarch64, None)] {
                let code = compile(&profile, native, caps).expect("compiles");
                let served: Vec<Arch> = [Some(native), also.filter(|_| !profile.architectures.is_empty())]
                    .into_iter()
                    .flatten()
                    .collect();
                for arch in served {
                    for nr in (0..600).chain([0x4000_0000, 0x4000_0027, u32::MAX]) {
                        let mut conditional =
                            profile.syscalls.iter().filter(|r| !r.args.is_empty()).flat_map(|r| &r.names);
                        let conditional = conditional.any(|n| number(arch, n) == Some(nr));
                        for first in
                            [0, 1, 2, 16, 38, 40, 0x1000_0000, 0x1200_0011, 0xffff_ffff, 1 << 32 | 38]
                        {
                            for second in [0, 0x5412, 0x541c, 1 << 40 | 0x5412] {
                                let args = [first, second, 0, 0, 0, 0];
                                if !conditional && (first, second) != (0, 0) {
                                    continue;
                                }
                                assert_eq!(
                                    run(&code, arch.audit(), nr, args),
                                    expected(&profile, arch, nr, args, caps),
                                    "{arch:?} {nr} {args:x?}"
                                );
                            }
                        }
                    }
                }
                assert_eq!(run(&code, 0x1234, 0, [0; 6]), 0x8000_0000, "a foreign ABI is killed");
            }
        }
    }
}

/// Each call a verdict of its own: nothing can be shared, and every branch high in the tree is too long for
/// a conditional jump.
#[test]
fn branches_over_a_whole_table_arrive() {
    let mut profile = Profile::strict();
    let names = super::table::TABLE.iter().map(|row| row.0.to_owned());
    profile.syscalls = names
        .enumerate()
        .map(|(i, name)| Rule {
            names: vec![name],
            action: Action::Errno,
            errno_ret: Some(100 + i as u32),
            ..profile.syscalls[0].clone()
        })
        .collect();
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let code = compile(&profile, arch, CapSet::NONE).expect("compiles");
        assert!(code.iter().any(|i| i.code == 0x05 && i.k > 255), "no long jump in {}", code.len());
        for nr in 0..600 {
            let want = expected(&profile, arch, nr, [0; 6], CapSet::NONE);
            assert_eq!(run(&code, arch.audit(), nr, [0; 6]), want, "{arch:?} {nr}");
        }
    }
}

#[test]
fn equal_outcomes_are_there_once() {
    let code = compile(&Profile::compat(), Arch::X86_64, CapSet::DOCKER).expect("compiles");
    let allow = code.iter().filter(|i| (i.code, i.k) == (0x06, 0x7fff_0000)).count();
    assert!(allow < 20, "{allow} times in {} instructions", code.len());
}

#[test]
fn strict_allows_less_than_secure_allows_less_than_compat() {
    let allowed = |p: &Profile| {
        let code = compile(p, Arch::X86_64, CapSet::NONE).expect("compiles");
        (0..500)
            .filter(|nr| run(&code, Arch::X86_64.audit(), *nr, [1, 0, 0, 0, 0, 0]) == 0x7fff_0000)
            .collect::<Vec<_>>()
    };
    let (compat, secure, strict) =
        (allowed(&Profile::compat()), allowed(&Profile::secure()), allowed(&Profile::strict()));
    assert!(secure.len() < compat.len() && secure.iter().all(|n| compat.contains(n)));
    assert!(strict.len() < secure.len() && strict.iter().all(|n| secure.contains(n)));
}

#[test]
fn a_terminal_injection_hidden_in_high_bits_is_refused() {
    let code = compile(&Profile::secure(), Arch::X86_64, CapSet::NONE).expect("compiles");
    for command in [0x5412u64, 0xdead_beef_0000_5412] {
        assert_eq!(run(&code, Arch::X86_64.audit(), 16, [0, command, 0, 0, 0, 0]), 0x0005_0001);
    }
}

#[test]
fn all_builtin_names_are_known() {
    for p in [Profile::compat(), Profile::secure(), Profile::strict()] {
        for name in p
            .syscalls
            .iter()
            .flat_map(|r| &r.names)
            .filter(|n| !["riscv_hwprobe", "recv", "send"].contains(&n.as_str()))
        {
            assert!(super::table::TABLE.iter().any(|row| row.0 == name), "{name}");
        }
    }
}

#[test]
fn json_of_docker_and_oci_round_trips() {
    let text = Profile::compat().to_json().expect("plain data");
    assert_eq!(Profile::from_json(&text).expect("own output"), Profile::compat());
    let docker = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
        "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]}],
        "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":null,"comment":"","includes":{},"excludes":{}},
                    {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}}]}"#;
    let p = Profile::from_json(docker).expect("Docker's form");
    let code = compile(&p, Arch::X86_64, CapSet::NONE).expect("compiles");
    assert_eq!(run(&code, Arch::I386.audit(), 3, [0; 6]), 0x7fff_0000, "i386 read");
    assert!(Profile::from_json(r#"{"defaultAction":"SCMP_ACT_NOTIFY","syscalls":[]}"#).is_err());
}

fn reading(args: Vec<Argument>, times: usize) -> Profile {
    Profile {
        syscalls: vec![Rule {
            names: vec!["read".into(); times],
            args,
            ..Profile::compat().syscalls.remove(0)
        }],
        ..Profile::compat()
    }
}

#[test]
fn a_short_text_does_not_fill_the_memory() {
    let zero = Argument { index: 0, value: 0, value_two: 0, op: Operator::Equal };
    // 6 GiB of conditions, if they were collected.
    let profile = reading(vec![zero; 10_000], 20_000);
    assert!(profile.to_json().expect("plain data").len() < 1 << 20);
    assert!(profile.compile(CapSet::NONE).is_err());
}

#[test]
fn an_argument_that_no_call_has_is_refused_in_a_profile_made_by_hand() {
    for index in [6, u32::MAX] {
        let beyond = Argument { index, value: 0, value_two: 0, op: Operator::Equal };
        assert!(reading(vec![beyond], 1).compile(CapSet::NONE).is_err());
    }
}

proptest! {
    #[test]
    fn comparisons_hold(value in any::<u64>(), two in any::<u64>(), arg in any::<u64>(), near in -2i64..3, op in 0usize..7) {
        use Operator::*;
        let op = [NotEqual, Less, LessEqual, Equal, GreaterEqual, Greater, MaskedEqual][op];
        for arg in [arg, value.wrapping_add_signed(near), value ^ (1 << 40)] {
            let a = Argument { index: 1, value, value_two: two & value, op };
            let p = Profile { default_action: Action::Errno, default_errno_ret: None, architectures: vec![], arch_map: vec![],
                syscalls: vec![Rule { names: vec!["read".into()], action: Action::Allow, errno_ret: None, args: vec![a],
                    includes: Condition::default(), excludes: Condition::default() }] };
            let code = compile(&p, Arch::X86_64, CapSet::NONE).expect("compiles");
            let args = [0, arg, 0, 0, 0, 0];
            prop_assert_eq!(run(&code, Arch::X86_64.audit(), 0, args), expected(&p, Arch::X86_64, 0, args, CapSet::NONE));
        }
    }

    #[test]
    fn profile_text_never_panics(text in ".{0,300}") {
        let _ = Profile::from_json(&text);
    }
}
