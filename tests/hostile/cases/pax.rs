//! PAX headers: records that are none, that come twice, and that contradict the header.

use crate::case::{Case, read, refused};
use crate::pieces::*;
use crate::tree::Node;

pub fn cases() -> Vec<Case> {
    let x = || Node::file(b"x");
    let raw = |name: &str, records: &[u8], words: &[&str]| {
        refused(name, tar(&[pax(records), file("a", b"x")]), words)
    };
    let key = |name: &str, k: &str, v: &str, words: &[&str]| raw(name, &rec(k, v), words);
    let good = |name: &str, records: Vec<u8>, node: Node| {
        read(name, tar(&[pax(records), file("a", b"x")]), &[("a", node)])
    };
    let malformed = &["PaxHeaders/x", "PAX record"];
    let inner = file("smuggled", b"owned");
    let two = |a: Vec<u8>, b: Vec<u8>| [a, b].concat();
    let mut all = vec![
        raw("record_without_newline", b"9 path=bb", malformed),
        raw("record_without_equals", b"9 pathbb\n", malformed),
        raw("record_without_blank", b"path=b\n", malformed),
        raw("record_without_length", b" path=b\n", malformed),
        raw("record_without_key", b"5 =b\n", malformed),
        raw("record_of_length_zero", b"0 path=b\n", malformed),
        raw("record_of_length_one", b"1 path=b\n", malformed),
        raw("record_too_short", b"9 path=bbb\n", malformed),
        raw("record_too_long", b"99 path=b\n", malformed),
        raw("record_length_one_too_long", b"11 path=b\n", malformed),
        raw("record_length_huge", b"9223372036854775807 path=b\n", malformed),
        raw("record_length_overflows", b"99999999999999999999999999 path=b\n", malformed),
        raw("record_length_negative", b"-10 path=b\n", malformed),
        raw("record_length_with_plus", b"+10 path=b\n", malformed),
        raw("record_length_hexadecimal", b"0xa path=b\n", malformed),
        raw("record_length_after_blanks", b"  12 path=b\n", malformed),
        raw("record_length_without_digits", b"x path=b\n", malformed),
        raw("record_only_a_length", b"2\n", malformed),
        raw("record_of_zeros", &[0; 20], malformed),
        raw("records_and_zeros", &two(rec("path", "b"), vec![0; 10]), malformed),
        raw("records_and_a_newline", &two(rec("path", "b"), b"\n".to_vec()), malformed),
        raw("records_second_malformed", &two(rec("path", "b"), b"5 a\n".to_vec()), malformed),
        raw("records_not_text", b"\xff\xfe\xfd\xfc", malformed),
        raw("nul_in_path", &rec("path", b"b\0c"), &["NUL"]),
        raw("nul_in_linkpath", &rec("linkpath", b"b\0c"), &["NUL"]),
        raw("nul_in_owner_name", &rec("uname", b"b\0c"), &["NUL"]),
        raw("nul_in_a_key", &rec(b"pa\0th", b"b"), &["NUL"]),
        raw("nul_at_the_end_of_path", &rec("path", b"b\0"), &["NUL"]),
        raw("path_twice", &two(rec("path", "b"), rec("path", "c")), &["twice"]),
        raw("path_twice_the_same", &two(rec("path", "b"), rec("path", "b")), &["twice"]),
        raw("comment_twice", &two(rec("comment", "b"), rec("comment", "c")), &["twice"]),
        key("path_empty", "path", "", &["name"]),
        key("size_empty", "size", "", &["\"a\"", "PAX size"]),
        key("size_negative", "size", "-1", &["\"a\"", "PAX size"]),
        key("size_with_plus", "size", "+1", &["\"a\"", "PAX size"]),
        key("size_fraction", "size", "1.0", &["\"a\"", "PAX size"]),
        key("size_exponent", "size", "1e0", &["\"a\"", "PAX size"]),
        key("size_hexadecimal", "size", "0x1", &["\"a\"", "PAX size"]),
        key("size_with_blank", "size", " 1", &["\"a\"", "PAX size"]),
        key("size_with_underscore", "size", "1_0", &["\"a\"", "PAX size"]),
        key("size_beyond_64_bits", "size", "99999999999999999999", &["\"a\"", "PAX size"]),
        key("size_of_63_bits", "size", "9223372036854775807", &["size of all files"]),
        key("size_in_arabic_digits", "size", "\u{661}", &["\"a\"", "PAX size"]),
        // The readers that were fooled: CVE-2026-33055, CVE-2025-62518, tar 0.4.46.
        key("size_smaller_than_in_the_header", "size", "0", &["\"a\"", "two different sizes"]),
        key("size_larger_than_in_the_header", "size", "1024", &["\"a\"", "two different sizes"]),
        raw("size_twice", &two(rec("size", "1"), rec("size", "1536")), &["twice"]),
        refused(
            "size_twice_around_an_archive",
            tar(&[
                pax(two(rec("size", "1536"), rec("size", "0"))),
                head("outer", b'0').before(&[inner.clone(), vec![0; 512]].concat()),
            ]),
            &["twice"],
        ),
        read(
            "size_only_in_pax_around_an_archive",
            tar(&[
                pax(rec("size", inner.len().to_string())),
                head("outer", b'0').before(&inner),
                file("tail", b"x"),
            ]),
            &[("outer", Node::file(&inner)), ("tail", x())],
        ),
        good("size_in_both", rec("size", "1"), x()),
        good("size_with_zeros_before", rec("size", "00000000000000000000001"), x()),
        refused(
            "size_of_a_directory",
            tar(&[pax(rec("size", "512")), dir("d"), padded(b"data")]),
            &["\"d\"", "data"],
        ),
        refused(
            "size_of_a_hard_link",
            tar(&[file("a", b"x"), pax(rec("size", "512")), hard("h", "a"), file("b", b"x")]),
            &["\"h\"", "data"],
        ),
        key("charset_unknown", "hdrcharset", "EBCDIC", &["\"a\"", "hdrcharset"]),
        raw("charset_not_utf8", &rec("hdrcharset", b"\xff"), &["\"a\"", "hdrcharset"]),
        refused(
            "uid_over_one_that_is_none",
            tar(&[pax(rec("uid", "5")), head("a", b'0').field(108, 8, b"nobody").with(b"x")]),
            &["\"a\"", "number"],
        ),
        refused(
            "mtime_of_the_header_of_the_header",
            tar(&[head("p", b'x').field(136, 12, b"8").with(&rec("uid", "5")), file("a", b"x")]),
            &["\"p\"", "mtime"],
        ),
        key("uid_negative", "uid", "-1", &["\"a\"", "PAX number"]),
        key("uid_text", "uid", "root", &["\"a\"", "PAX number"]),
        key("uid_empty", "uid", "", &["\"a\"", "PAX number"]),
        key("uid_beyond_32_bits", "uid", "4294967296", &["\"a\"", "owner"]),
        key("uid_nobody_of_32_bits", "uid", "4294967295", &["\"a\"", "owner"]),
        key("gid_beyond_64_bits", "gid", "99999999999999999999", &["\"a\"", "PAX number"]),
        good(
            "uid_and_gid",
            two(rec("uid", "4294967294"), rec("gid", "3000000000")),
            x().owner(4_294_967_294, 3_000_000_000),
        ),
        good("owner_names_ignored", two(rec("uname", "nobody"), rec("gname", "../..")), x()),
    ];
    for (name, v) in [
        ("empty", ""),
        ("text", "now"),
        ("nan", "nan"),
        ("infinite", "inf"),
        ("exponent", "1e5"),
        ("plus", "+5"),
        ("blank", " 5"),
        ("hexadecimal", "0x5"),
        ("two_points", "1.2.3"),
        ("only_a_fraction", ".5"),
        ("only_minus", "-"),
        ("minus_in_the_fraction", "1.-5"),
        ("beyond_64_bits", "99999999999999999999"),
        ("comma", "1,5"),
        ("before_all_times", "-9223372036854775808.5"),
        ("underscore", "1_0"),
        ("cut_off_before_1970", "-5.0000000001"),
    ] {
        all.push(key(&format!("mtime_{name}"), "mtime", v, &["\"a\"", "PAX mtime"]));
    }
    for k in ["atime", "ctime"] {
        all.push(key(&format!("{k}_text"), k, "yesterday", &["\"a\"", "PAX atime or ctime"]));
        all.push(good(&format!("{k}_ignored"), rec(k, "5.5"), x()));
    }
    all.extend([
        good("mtime_fraction", rec("mtime", "1234567890.123456789"), x().time(1_234_567_890, 123_456_789)),
        good("mtime_short_fraction", rec("mtime", "1234567890.5"), x().time(1_234_567_890, 500_000_000)),
        good("mtime_long_fraction", rec("mtime", "7.1234567899999999999999"), x().time(7, 123_456_789)),
        good("mtime_point_without_digits", rec("mtime", "7."), x().time(7, 0)),
        good("mtime_before_1970", rec("mtime", "-1"), x().time(-1, 0)),
        good("mtime_fraction_before_1970", rec("mtime", "-1.25"), x().time(-2, 750_000_000)),
        good("mtime_just_before_1970", rec("mtime", "-0.5"), x().time(-1, 500_000_000)),
        good("mtime_in_the_far_future", rec("mtime", "9223372036854775807"), x().time(i64::MAX, 0)),
        good("path_over_the_header", rec("path", "b/c"), x()),
        good("unknown_keys", two(rec("VENDOR.key", "v"), rec("unknown", "")), x()),
        good("value_with_equals_and_newline", rec("comment", "a=b\nc=d\n"), x()),
        good("value_not_utf8", rec("comment", b"\xff\xfe"), x()),
        good("charset_binary", rec("hdrcharset", "BINARY"), x()),
        good("old_header_name_leads_out", vec![], x()),
    ]);
    // Two of these are no single record: built by hand.
    all.retain(|c| !["path_over_the_header", "old_header_name_leads_out"].contains(&c.name.as_str()));
    all.extend([
        read(
            "path_over_the_header",
            tar(&[pax(rec("path", "b/c")), head("../x", b'0').prefix(b"/p").with(b"x")]),
            &[("b", Node::made()), ("b/c", x())],
        ),
        read(
            "linkpath_over_the_header",
            tar(&[pax(rec("linkpath", "t")), sym("l", "../x")]),
            &[("l", Node::sym("t"))],
        ),
        read(
            "linkpath_of_a_file_ignored",
            tar(&[pax(rec("linkpath", "/etc/passwd")), file("a", b"x")]),
            &[("a", x())],
        ),
        refused("linkpath_empty", tar(&[pax(rec("linkpath", "")), sym("l", "t")]), &["\"l\"", "empty"]),
        read(
            "header_of_the_header_leads_out",
            tar(&[head("../../x", b'x').uid(7).with(&rec("path", "b")), file("a", b"x")]),
            &[("b", x())],
        ),
        refused(
            "two_headers",
            tar(&[pax(rec("path", "b")), pax(rec("uid", "5")), file("a", b"x")]),
            &["two PAX headers"],
        ),
        refused(
            "two_headers_the_same",
            tar(&[pax(rec("path", "b")), pax(rec("path", "b")), file("a", b"x")]),
            &["two PAX headers"],
        ),
        refused(
            "header_of_size_zero",
            tar(&[pax(""), file("a", b"x")]),
            &["PaxHeaders/x", "empty extension"],
        ),
        refused(
            "header_before_the_end",
            tar(&[pax(rec("path", "b"))]),
            &["PaxHeaders/x", "without an entry"],
        ),
        refused("header_at_the_end_without_zeros", pax(rec("path", "b")), &["without an entry"]),
        refused(
            "header_of_negative_size",
            tar(&[
                head("p", b'x').field(124, 12, &base256(12, -1)).before(&rec("path", "b")),
                file("a", b"x"),
            ]),
            &["\"p\"", "size"],
        ),
        refused(
            "header_beyond_a_mebibyte",
            tar(&[pax(rec("comment", "c".repeat(1 << 20))), file("a", b"x")]),
            &["extension header", "1048576"],
        ),
        refused(
            "header_of_a_gibibyte_announced",
            tar(&[head("p", b'x').size(1 << 30).alone()]),
            &["extension header", "1048576"],
        ),
        read(
            "header_of_almost_a_mebibyte",
            tar(&[pax(rec("comment", "c".repeat((1 << 20) - 100))), file("a", b"x")]),
            &[("a", x())],
        ),
        refused(
            "path_and_gnu_name",
            tar(&[pax(rec("path", "b")), long(b'L', "c"), file("a", b"x")]),
            &["both"],
        ),
        refused(
            "gnu_name_and_path",
            tar(&[long(b'L', "c"), pax(rec("path", "b")), file("a", b"x")]),
            &["both"],
        ),
        refused(
            "linkpath_and_gnu_link",
            tar(&[long(b'K', "c"), pax(rec("linkpath", "b")), sym("l", "t")]),
            &["both"],
        ),
        read(
            "global_comment",
            tar(&[global(rec("comment", "0123456789abcdef")), file("a", b"x")]),
            &[("a", x())],
        ),
        refused(
            "global_at_the_end",
            tar(&[file("a", b"x"), global(rec("comment", "end"))]),
            &["PaxHeaders/g", "without an entry"],
        ),
        read(
            "global_twice",
            tar(&[global(rec("comment", "1")), global(rec("comment", "2")), file("a", b"x")]),
            &[("a", x())],
        ),
        refused(
            "global_malformed",
            tar(&[global(b"9 comment\n"), file("a", b"x")]),
            &["PaxHeaders/g", "PAX record"],
        ),
        refused(
            "global_between_header_and_entry",
            tar(&[pax(rec("path", "b")), global(rec("comment", "c")), file("a", b"x")]),
            &["global PAX header"],
        ),
        refused(
            "global_between_gnu_name_and_entry",
            tar(&[long(b'L', "b"), global(rec("comment", "c")), file("a", b"x")]),
            &["global PAX header"],
        ),
    ]);
    for k in [
        "path",
        "linkpath",
        "size",
        "uid",
        "gid",
        "mtime",
        "hdrcharset",
        "SCHILY.xattr.user.a",
        "GNU.sparse.name",
    ] {
        let archive = tar(&[global(rec(k, "1")), file("a", b"x")]);
        all.push(refused(&format!("global_{k}"), archive, &["PaxHeaders/g", "global PAX header"]));
    }
    for (k, v) in [
        ("GNU.sparse.map", "0,1"),
        ("GNU.sparse.size", "1"),
        ("GNU.sparse.numblocks", "1"),
        ("GNU.sparse.name", "b"),
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.realsize", "5"),
        ("GNU.sparse.unknown", ""),
    ] {
        all.push(key(&k.to_lowercase().replace('.', "_"), k, v, &["\"a\"", "sparse"]));
    }
    for (k, v) in [
        ("GNU.dumpdir", "Yb\0"),
        ("GNU.volume.label", "v"),
        ("GNU.volume.offset", "5"),
        ("SCHILY.realsize", "9"),
    ] {
        all.push(key(
            &k.to_lowercase().replace('.', "_"),
            k,
            v.trim_end_matches('\0'),
            &["\"a\"", "not supported"],
        ));
    }
    all
}
