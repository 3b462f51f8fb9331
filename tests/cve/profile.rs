//! What the kernel offers to a container: namespaces, sockets, control groups, terminals.

use boxship::{Engine, Network, Profile};
use libtest_mimic::Trial;

use crate::bundle::Bundle;
use crate::need::Need::{Perl, UserNamespaces};
use crate::roles::Stage;
use crate::sentinel::Sentinel;
use crate::{engine, perl, sh, test, text};

pub fn tests() -> Vec<Trial> {
    let any = &[UserNamespaces, Perl];
    vec![
        test("cve_2022_0492_no_release_agent_can_be_had", any, release_agent),
        test("cve_2022_0185_no_user_namespace_no_new_mounts", any, new_namespaces),
        test("cve_2023_25809_no_cgroup_can_be_written", any, cgroups),
        test("cve_2026_31431_only_common_sockets", any, sockets),
        test("cve_2017_5226_no_input_for_other_terminals", any, terminals),
    ]
}

const BOTH: [Profile; 2] = [Profile::Default, Profile::Strict];

/// The numbers of system calls, for Perl.
fn numbers() -> [(&'static str, u32); 6] {
    let arm = cfg!(target_arch = "aarch64");
    let pick = |x86: u32, generic: u32| if arm { generic } else { x86 };
    [
        ("UNSHARE", pick(272, 97)),
        ("CLONE3", 435),
        ("CLONE", pick(56, 220)),
        ("FSOPEN", 430),
        ("SOCKET", pick(41, 198)),
        ("IOCTL", pick(16, 29)),
    ]
}

/// A Perl program in which `call(NAME, …)` answers 0 or the name of an error.
fn calls(script: &str) -> String {
    let names: String = numbers().iter().map(|(n, v)| format!("sub {n} {{ {v} }} ")).collect();
    format!(
        r#"{names}
        my %name = (1, "EPERM", 38, "ENOSYS", 93, "EPROTONOSUPPORT", 97, "EAFNOSUPPORT", 5, "EIO");
        sub call {{ my $n = shift; my @a = (@_, (0) x 5);
            my $r = syscall $n, $a[0], $a[1], $a[2], $a[3], $a[4];
            $r >= 0 ? 0 : $name{{$! + 0}} || $! + 0 }}
        {script}"#
    )
}

/// A program of the container's choice was run by the host's kernel: the release agent of a cgroup v1.
/// Red under Profile::Compat with CAP_SYS_ADMIN: memory and pids were mounted, `notify_on_release` writable.
async fn release_agent() {
    let _outside = Sentinel::new("2022-0492");
    let e = engine().await;
    let mounts = "unshare -UrC mount -t cgroup -o memory x /tmp && echo mounted; \
        mount -t cgroup2 x /tmp && echo mounted 2; \
        for o in memory pids; do mount -t cgroup -o $o x /tmp && echo mounted $o; done";
    let search = r#"sub look { my $d = shift; return if $d =~ m{^/proc}; opendir my $h, $d or return;
            for (readdir $h) { next if /^\.\.?$/; my $p = "$d/$_";
                print "$p\n" if /^(release_agent|notify_on_release)$/ && open my $f, ">>", $p;
                look($p) if -d $p && !-l $p } } look("/"); look("/sys/fs/cgroup"); look("/tmp");"#;
    for profile in BOTH {
        for network in [Network::None, Network::Host] {
            let script = format!("({mounts}) 2>/dev/null; perl -e '{search}'");
            let told = text(sh(&e, &script).profile(profile).network(network).output().await);
            assert_eq!(told, "", "{profile:?} {network:?}");
        }
    }
}

/// Faults of the kernel in reach of who is root of a user namespace of its own (also CVE-2024-1086).
/// Red when the filter is not installed (`seccomp` in `namespaces/src/program.rs`): `unshare` worked.
async fn new_namespaces() {
    let _outside = Sentinel::new("2022-0185");
    let e = engine().await;
    let script = r#"
        print call(UNSHARE, 0x10000000), " ", call(UNSHARE, 0x00020000), " ", call(UNSHARE, 0x40000000), " ";
        print call(CLONE, 0x10000000 | 17), " ", call(CLONE3, 0, 0), " ";
        my $fs = "tmpfs"; print call(FSOPEN, $fs, 0), "\n";"#;
    for profile in BOTH {
        for user in if crate::is_root() { vec!["0", "1000"] } else { vec!["0"] } {
            let told = text(perl(&e, &calls(script)).profile(profile).user(user).output().await);
            assert_eq!(told, "EPERM EPERM EPERM EPERM ENOSYS EPERM\n", "{profile:?} as {user}");
        }
    }
}

/// The cgroup tree was writable in rootless containers with the host's cgroup namespace.
/// Red when the clone of `/sys` is restricted without the mounts below (ATTR in
/// `namespaces/src/program/tree.rs`): only the permissions of other users protected it.
async fn cgroups() {
    let _outside = Sentinel::new("2023-25809");
    let told = Stage::new("2023-25809").as_user("cgroup-files", "", &[]);
    assert_eq!(told, "", "rootless");
    if crate::is_root() {
        cgroup_files(&engine().await).await;
    }
}

/// Every file of control groups that a container can open for writing: none.
pub async fn cgroup_files(e: &Engine) {
    // A read-only mount says so before anybody's permissions are looked at; an empty one has no names.
    let script = r#"sub look { my $d = shift; opendir my $h, $d or return;
            print "$d: $!\n" if mkdir("$d/made") || $! != 30 && $! != 2;
            for (readdir $h) { next if /^\.\.?$/; my $p = "$d/$_"; 
                if (-l $p) { } elsif (-d $p) { look($p) }
                elsif (open my $f, ">>", $p) { print "opened $p\n" } } }
        look("/sys/fs/cgroup");"#;
    for profile in [Profile::Default, Profile::Strict, Profile::Compat] {
        for network in [Network::None, Network::Host] {
            let told = text(perl(e, script).profile(profile).network(network).output().await);
            assert_eq!(told, "", "{profile:?} {network:?}");
        }
    }
}

/// Writes "int80" to stdout and ends, by the system calls of 32-bit programs.
#[cfg(target_arch = "x86_64")]
fn int80() -> Vec<u8> {
    const AT: u32 = 0x10_0000;
    const CODE: u32 = 64 + 56;
    let message = AT + CODE + 34;
    let mut code = vec![0xb8, 4, 0, 0, 0, 0xbb, 1, 0, 0, 0, 0xb9];
    code.extend(message.to_le_bytes());
    code.extend([0xba, 6, 0, 0, 0, 0xcd, 0x80, 0xb8, 1, 0, 0, 0, 0xbb, 0, 0, 0, 0, 0xcd, 0x80]);
    assert_eq!(code.len(), 34);
    code.extend(b"int80\n");
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    let long = |elf: &mut Vec<u8>, v: u32| elf.extend(u64::from(v).to_le_bytes());
    long(&mut elf, AT + CODE);
    long(&mut elf, 64);
    long(&mut elf, 0);
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let size = u32::try_from(64 + 56 + code.len()).expect("small");
    for v in [0, AT, AT, size, size, 0x1000] {
        long(&mut elf, v);
    }
    elf.extend(code);
    elf
}

/// A fault in the kernel's crypto sockets, one of many in families that containers do not need.
/// Red when the filter is not installed: the kernel was asked (EAFNOSUPPORT). The 32-bit calls: red under
/// Profile::Compat, where "int80" was written.
async fn sockets() {
    let _outside = Sentinel::new("2026-31431");
    let e = engine().await;
    let script = "for my $f (0..46) { for my $t (1, 2, 3, 5) { \
            my $r = call(SOCKET, $f, $t, 0); print \"$f \" if !$r; print \"$f:$r \" if $r && $f == 38 } }";
    for (profile, families) in [(Profile::Default, vec![1, 2, 10, 16]), (Profile::Strict, vec![1, 2, 10])] {
        let told = text(perl(&e, &calls(script)).profile(profile).output().await);
        let (alg, open): (Vec<&str>, Vec<&str>) = told.split_whitespace().partition(|w| w.starts_with("38"));
        assert_eq!(alg, ["38:EPERM"; 4], "{profile:?}");
        let mut open: Vec<u32> = open.iter().map(|w| w.parse().expect("a family")).collect();
        open.dedup();
        assert!(open.iter().all(|f| families.contains(f)) && open.contains(&1), "{profile:?}: {open:?}");
    }
    #[cfg(target_arch = "x86_64")]
    {
        let b = Bundle::new("2026-31431").await;
        b.file("int80", int80());
        for profile in BOTH {
            let c = b.engine.container().rootfs(b.fs()).command(["/int80"]).profile(profile);
            let out = c.output().await.expect("starts");
            let told = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.signal() == Some(31) && told.is_empty(), "{profile:?}: {} {told}", out.status);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = Bundle::new;
}

/// A program put input into the terminal of whoever started it.
/// Red when the filter and `setsid` are left out (`namespaces/src/program.rs`): the ioctl was
/// not stopped (ENOTTY for /dev/null), and the session was another's. Red under Profile::Compat: ENOTTY.
async fn terminals() {
    let _outside = Sentinel::new("2017-5226");
    let e = engine().await;
    // Also with bits set that the kernel does not look at.
    let script = r#"my $c = "x"; for my $n (0x5412, 0x541c, 0x100005412, 0x10000541c) {
            print call(IOCTL, 0, $n, $c), " " }
        print open(F, "+<", "/dev/tty") ? "tty " : "none ";
        open F, "/proc/self/stat"; my @f = split / /, <F>; print "session $f[5] of $f[0]\n";"#;
    for profile in BOTH {
        let without = text(perl(&e, &calls(script)).profile(profile).output().await);
        assert_eq!(without.trim(), "EPERM EPERM EPERM EPERM none session 1 of 1", "{profile:?}");
        let with = text(perl(&e, &calls(script)).profile(profile).tty(true).output().await);
        assert_eq!(with.trim(), "EPERM EPERM EPERM EPERM tty session 1 of 1", "{profile:?}");
    }
}
