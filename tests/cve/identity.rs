//! Who the program is: users, groups and capabilities.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use boxship::{Engine, Mount, Profile};
use libtest_mimic::Trial;

use crate::need::Need::{Perl, Root, UserNamespaces};
use crate::roles::Stage;
use crate::sentinel::Sentinel;
use crate::{engine, is_root, perl, sh, test, text};

pub fn tests() -> Vec<Trial> {
    vec![
        test("cve_2014_8989_a_denied_group_stays_denied", &[UserNamespaces, Perl], setgroups_denied),
        test("cve_2016_3697_a_numeric_user_is_never_a_name", &[Root, UserNamespaces, Perl], numeric_name),
        test(
            "cve_2016_8867_other_users_have_no_capabilities",
            &[Root, UserNamespaces, Perl],
            no_capabilities,
        ),
        test("cve_2022_24769_nothing_is_inheritable_or_ambient", &[UserNamespaces, Perl], inheritable),
        test(
            "cve_2022_36109_the_groups_are_exactly_those_asked_for",
            &[Root, UserNamespaces, Perl],
            exact_groups,
        ),
        test("cve_2026_30892_odd_users_never_become_root", &[Root, UserNamespaces, Perl], odd_users),
    ]
}

/// In a user namespace of its own a user gave up the group that a file denies access to. The same Perl
/// program runs here as somebody who is in that group and as a control as somebody who is not.
/// Red in `unshare -U` with maps that root wrote without "deny": `setgroups` worked and the file was
/// read. Red when `write_maps` in `namespaces/helper/child.rs` leaves "deny" out: the kernel refuses the map.
async fn setgroups_denied() {
    let mut outside = Sentinel::new("2014-8989");
    let stage = Stage::new("2014-8989");
    if !is_root() {
        let told = stage.as_user("denied-group", "", &[]);
        assert_eq!(told, "deny\nsetgroups: Operation not permitted\n");
        return;
    }
    // Readable for everybody but a group that the user is in.
    let file = outside.path().join("denied");
    std::fs::write(&file, "denied\n").expect("written");
    std::os::unix::fs::chown(&file, None, Some(12345)).expect("given away");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o604)).expect("mode set");
    outside.rebase();
    let file = file.to_str().expect("UTF-8");
    let control = stage.as_user("denied-group", "", &[file]);
    assert_eq!(control, "deny\nsetgroups: Operation not permitted\ndenied\n", "others may read it");
    let told = stage.as_user("denied-group", "12345", &[file]);
    assert_eq!(told, "deny\nsetgroups: Operation not permitted\nrefused\n");
}

/// The half that runs as an ordinary user.
pub async fn denied_group(e: &Engine, file: Option<&Path>) {
    let script = r#"
        open F, "/proc/self/setgroups"; print <F>;
        print "setgroups: ", syscall($^O && SETGROUPS, 0, 0) == 0 ? "done" : $!, "\n";
        exit unless -e "/file"; print open(F, "/file") ? <F> : "refused\n";"#;
    let number = if cfg!(target_arch = "aarch64") { "159" } else { "116" };
    let c = perl(e, &script.replace("SETGROUPS", number));
    let c = if let Some(file) = file { c.mount(Mount::bind(file, "/file").read_only()) } else { c };
    print!("{}", text(c.output().await));
}

/// A user "1000" of the image's passwd with the id 0 made `--user 1000` root.
/// Red when `resolve` in `runtime/src/user.rs` looks for a name first: "1000" became 0.
async fn numeric_name() {
    let _outside = Sentinel::new("2016-3697");
    let e = engine().await;
    let passwd = "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n65534:x:0:0::/:/bin/sh\n";
    let image = e.image().from_host_programs(["/usr/bin/id"]).file("/etc/passwd", passwd);
    image.tag("numeric:1").await.expect("an image");
    for profile in [Profile::Default, Profile::Compat] {
        for user in ["1000", "65534", "1000:0"] {
            let c = e.container().image("numeric:1").command(["/usr/bin/id", "-u"]);
            let id = text(c.user(user).profile(profile).output().await);
            assert_eq!(id.trim(), user.trim_end_matches(":0"), "{profile:?}");
        }
    }
}

fn capability_sets(status: &str, sets: &[&str]) -> Vec<u64> {
    let line = |set: &&str| status.lines().find_map(|l| l.strip_prefix(*set)).expect("a set").trim();
    sets.iter().map(|s| u64::from_str_radix(line(s), 16).expect("hex")).collect()
}

/// Ambient capabilities were given to users other than root.
/// Red when `identity` in `namespaces/src/program.rs` gives every user the sets of root, inheritable and
/// ambient ones included: all four sets were 0xfb.
async fn no_capabilities() {
    let _outside = Sentinel::new("2016-8867");
    let e = engine().await;
    for profile in [Profile::Default, Profile::Compat, Profile::Strict] {
        for added in [None, Some("NET_ADMIN")] {
            let c = sh(&e, "cat /proc/self/status").user("65534").profile(profile);
            let c = if let Some(cap) = added { c.cap_add(cap) } else { c };
            let status = text(c.output().await);
            let sets = capability_sets(&status, &["CapInh:", "CapAmb:", "CapPrm:", "CapEff:"]);
            assert_eq!(sets, [0; 4], "{profile:?} with {added:?}");
        }
    }
}

/// Capabilities in the inheritable set (also CVE-2022-27649, -27650, -29162, CVE-2025-27612): programs with
/// file capabilities got them back; see also exec.rs.
/// Red when `identity` in `namespaces/src/program.rs` makes the permitted set inheritable: 0xfb as root.
async fn inheritable() {
    let _outside = Sentinel::new("2022-24769");
    let e = engine().await;
    let users = if is_root() { vec!["0", "1000"] } else { vec!["0"] };
    for profile in [Profile::Default, Profile::Compat, Profile::Strict] {
        for user in &users {
            let status = text(sh(&e, "cat /proc/self/status").user(*user).profile(profile).output().await);
            let sets = capability_sets(&status, &["CapInh:", "CapAmb:"]);
            assert_eq!(sets, [0; 2], "{profile:?} as {user}");
        }
    }
}

/// The embedding program's own supplementary groups, or none of the image's, reached the container (also
/// CVE-2023-25173).
/// Red when `setgroups` is left out in `namespaces/src/program.rs`: under Compat the container was in the
/// embedder's groups 0, 4 and 24.
async fn exact_groups() {
    let _outside = Sentinel::new("2022-36109");
    let stage = Stage::new("2022-36109");
    let told = stage.in_groups("groups", "0,4,24", &[]);
    let want = "embedder 0 4 24\n:0\n0:0\n1000:0\n1000:5:5\nuser:100 29 44\nuser:7:7\n";
    let (embedder, inside) = want.split_once('\n').expect("lines");
    assert_eq!(told, format!("{embedder}\n{inside}{inside}"), "under two profiles");
}

/// The half that runs as a program in groups of its own.
pub async fn groups(e: &Engine) {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let mine = status.lines().find_map(|l| l.strip_prefix("Groups:")).expect("groups");
    println!("embedder {}", mine.trim());
    let image = e
        .image()
        .from_host_programs(["/usr/bin/id"])
        .file("/etc/passwd", "root:x:0:0::/:/bin/sh\nuser:x:1001:100::/:/bin/sh\n")
        .file("/etc/group", "root:x:0:\nusers:x:100:\naudio:x:29:user\nvideo:x:44:user\n");
    image.tag("groups:1").await.expect("an image");
    for profile in [Profile::Default, Profile::Compat] {
        for user in ["", "0", "1000", "1000:5", "user", "user:7"] {
            let c = e.container().image("groups:1").command(["/usr/bin/id", "-G"]).user(user);
            print!("{user}:{}", text(c.profile(profile).output().await));
        }
    }
}

/// A parser turned the user "1" of `exec -u` into 0; see also exec.rs.
/// Red when `id` in `runtime/src/user.rs` takes the low 32 bits of a longer number: "4294967296" became 0.
async fn odd_users() {
    let _outside = Sentinel::new("2026-30892");
    let e = engine().await;
    let show = |user: &str| sh(&e, "id -u; id -g").user(user);
    for (user, uid, gid) in [("1", 1, 1), ("1:2", 1, 2), ("00001:0", 1, 0), ("65535:65535", 65535, 65535)] {
        let told = text(show(user).output().await);
        let ids: Vec<u32> = told.lines().map(|l| l.parse().expect("an id")).collect();
        // Without a group, a number's own group is the image's, or 0.
        let gid = if user.contains(':') { gid } else { ids[1] };
        assert_eq!(ids, [uid, gid], "{user:?}");
    }
    let numbers =
        ["65536", "2147483647", "2147483648", "2147483649", "4294967295", "4294967296", "4294967297"];
    let more =
        ["99999999999999999999", "-1", "+1", " 1", "1 ", "\t1", "0x0", "1e0", "1:", ":", "1:-1", "1::"];
    let groups = ["1:4294967295", "1:4294967296", "1: 0", "1:0:0", "1\n", "root\n", "ROOT", "1,0", "\u{661}"];
    for user in numbers.iter().chain(&more).chain(&groups) {
        let out = show(user).output().await;
        assert!(out.is_err(), "{user:?} became {:?}", out.map(|o| String::from_utf8(o.stdout)));
    }
}
