//! Extended attributes: what may come from an archive, and what speaks to the host's kernel.

use crate::case::{Case, read, refused};
use crate::pieces::*;
use crate::tree::{Node, is_root};

pub fn cases() -> Vec<Case> {
    let x = || Node::file(b"x");
    let attr = |key: &str, value: &[u8]| rec(format!("SCHILY.xattr.{key}"), value);
    let with = |records: Vec<u8>| tar(&[pax(records), file("a", b"x")]);
    // Version 2 of the capabilities: CAP_NET_RAW, permitted and effective.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let granted = if is_root() { x().xattr("security.capability", capability) } else { x() };
    let mut all = vec![
        read("user", with(attr("user.a", b"v")), &[("a", x().xattr("user.a", b"v"))]),
        read("user_empty_value", with(attr("user.a", b"")), &[("a", x().xattr("user.a", b""))]),
        read("user_bytes", with(attr("user.a", b"\0\xff\n=")), &[("a", x().xattr("user.a", b"\0\xff\n="))]),
        read(
            "user_on_a_directory",
            tar(&[pax(attr("user.a", b"v")), dir("d"), file("d/f", b"x")]),
            &[("d", Node::dir().xattr("user.a", b"v")), ("d/f", x())],
        ),
        read(
            "user_two",
            with([attr("user.a", b"1"), attr("user.b", b"2")].concat()),
            &[("a", x().xattr("user.a", b"1").xattr("user.b", b"2"))],
        ),
        read(
            "user_on_a_file_of_mode_0",
            tar(&[pax(attr("user.a", b"v")), head("a", b'0').mode(0o200).with(b"x")]),
            &[("a", x().mode(0o200).xattr("user.a", b"v"))],
        ),
        read(
            "user_name_of_255_bytes",
            with(attr(&format!("user.{}", "n".repeat(250)), b"v")),
            &[("a", x().xattr(&format!("user.{}", "n".repeat(250)), b"v"))],
        ),
        refused(
            "user_name_of_256_bytes",
            with(attr(&format!("user.{}", "n".repeat(251)), b"v")),
            &["\"a\"", "extended attribute"],
        ),
        refused("user_without_a_name", with(attr("user.", b"v")), &["\"a\"", "extended attribute"]),
        refused(
            "user_of_more_than_the_kernel_takes",
            with(attr("user.a", &vec![b'v'; 65537])),
            &["\"a\"", "extended attribute"],
        ),
        refused(
            "user_of_half_a_mebibyte",
            with(attr("user.a", &vec![b'v'; 1 << 19])),
            &["\"a\"", "extended attribute"],
        ),
        refused("user_twice", with([attr("user.a", b"1"), attr("user.a", b"2")].concat()), &["twice"]),
        refused("nul_in_the_name", with(attr("user.a\0b", b"v")), &["NUL"]),
        read(
            "of_the_later_file",
            tar(&[pax(attr("user.a", b"1")), file("a", b"x"), file("a", b"x")]),
            &[("a", x())],
        ),
        read("capability", with(attr("security.capability", capability)), &[("a", granted)]),
        read(
            "on_a_symlink_ignored",
            tar(&[pax(attr("user.a", b"v")), sym("l", "t")]),
            &[("l", Node::sym("t"))],
        ),
        read(
            "capability_on_a_symlink_ignored",
            tar(&[pax(attr("security.capability", capability)), sym("l", crate::outside() + "/tool")]),
            &[("l", Node::sym(crate::outside() + "/tool"))],
        ),
        read(
            "on_a_hard_link_ignored",
            tar(&[file("a", b"x"), pax(attr("user.a", b"v")), hard("h", "a")]),
            &[("a", x()), ("h", x().same("a"))],
        ),
        read(
            "on_a_whiteout_ignored",
            tar(&[pax(attr("user.a", b"v")), file(".wh.b", b"")]),
            &[("b", Node::whiteout())],
        ),
        read("of_libarchive_ignored", with(rec("LIBARCHIVE.xattr.user.a", "dg==")), &[("a", x())]),
        read("of_an_unknown_kind_ignored", with(rec("RHT.security.selinux", "system_u")), &[("a", x())]),
        read("without_a_name_ignored", with(attr("", b"v")), &[("a", x())]),
        read("without_a_namespace_ignored", with(attr("a", b"v")), &[("a", x())]),
    ];
    for key in [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "trusted.overlay.whiteout",
        "trusted.overlay.origin",
        "trusted.a",
        "user.overlay.opaque",
        "user.overlay.redirect",
        "user.overlay.metacopy",
        "user.overlay.whiteouts",
        "user.overlay.",
        "security.selinux",
        "security.ima",
        "security.evm",
        "security.apparmor",
        "system.nfs4_acl",
        "btrfs.compression",
        "USER.a",
        "trusted.overlay.overlay.opaque",
    ] {
        let name = format!("kept_out_{key}");
        all.push(read(&name, with(attr(key, b"y")), &[("a", x())]));
    }
    let list =
        b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
    let (access, default) = ("system.posix_acl_access", "system.posix_acl_default");
    all.push(read("kept_out_default_list_of_a_file", with(attr(default, list)), &[("a", x())]));
    all.push(read("list_of_no_words", with(rec("SCHILY.acl.access", "")), &[("a", x())]));
    all.push(read(
        "kept_out_list_of_a_symlink",
        tar(&[pax(attr(access, list)), sym("a", "b")]),
        &[("a", Node::sym("b"))],
    ));
    for (name, records) in [
        ("malformed", attr(access, b"y")),
        ("malformed_default", attr(default, b"y")),
        ("of_another_version", attr(access, &[&b"\x03"[..], &list[1..]].concat())),
        ("cut_off", attr(access, &list[..list.len() - 1])),
        ("empty", attr(access, b"")),
        ("words_twice", rec("SCHILY.acl.access", "user::rwx,user::r-x,group::r-x,other::r-x")),
        (
            "words_that_say_another",
            [attr(access, list), rec("SCHILY.acl.access", "user::r-x,group::r-x,other::r-x")].concat(),
        ),
    ] {
        all.push(refused(&format!("list_{name}"), with(records), &["\"a\"", "access control list"]));
    }
    all.push(read(
        "kept_out_of_directories",
        tar(&[
            pax([attr("trusted.overlay.opaque", b"y"), attr("user.overlay.opaque", b"y")].concat()),
            dir("d"),
        ]),
        &[("d", Node::dir())],
    ));
    if is_root() {
        for (name, value) in [
            ("empty", &b""[..]),
            ("short", b"\x01"),
            ("of_another_size", b"\x01\0\0\x02\0\x20\0\0"),
            ("of_an_unknown_version", b"\x01\0\0\x09\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("huge", &[b'c'; 4096]),
        ] {
            let archive = with(attr("security.capability", value));
            all.push(refused(&format!("capability_{name}"), archive, &["\"a\"", "extended attribute"]));
        }
    }
    all
}
