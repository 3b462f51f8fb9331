//! GNU's extensions: long names, sparse files, volumes.

use crate::case::{Case, read, refused};
use crate::pieces::*;
use crate::tree::Node;

pub fn cases() -> Vec<Case> {
    let x = || Node::file(b"x");
    let name = |n: &str, flag: u8, text: &[u8], words: &[&str]| {
        refused(n, tar(&[head("long", flag).gnu().with(text), file("a", b"x")]), words)
    };
    let path = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let parent = "d".repeat(200);
    // Two pieces of a file of 1 MiB, as GNU tar 1.2x wrote them.
    let sparse = |offset: i64, len: i64, real: i64| {
        let h = head("s", b'S').gnu().size(512).field(386, 12, &base256(12, offset)).field(
            398,
            12,
            &base256(12, len),
        );
        tar(&[h.field(483, 12, &base256(12, real)).before(&[b'x'; 512])])
    };
    let map = |text: &str, size: &str| {
        let records = [
            rec("GNU.sparse.major", "1"),
            rec("GNU.sparse.minor", "0"),
            rec("GNU.sparse.name", "s"),
            rec("GNU.sparse.realsize", size),
        ];
        tar(&[
            pax(records.concat()),
            head("GNUSparseFile.0/s", b'0').with(&[padded(text.as_bytes()), b"data".to_vec()].concat()),
        ])
    };
    vec![
        name("name_without_nul", b'L', b"b", &["\"long\"", "NUL"]),
        name("name_with_two_nuls", b'L', b"b\0\0", &["\"long\"", "NUL"]),
        name("name_with_text_behind_the_nul", b'L', b"b\0c\0", &["\"long\"", "NUL"]),
        name("name_of_size_zero", b'L', b"", &["\"long\"", "empty extension"]),
        name("link_without_nul", b'K', b"b", &["\"long\"", "NUL"]),
        name("link_with_two_nuls", b'K', b"b\0c\0", &["\"long\"", "NUL"]),
        name("link_of_size_zero", b'K', b"", &["\"long\"", "empty extension"]),
        refused(
            "name_beyond_a_mebibyte",
            tar(&[long(b'L', "n".repeat(1 << 20)), file("a", b"x")]),
            &["extension header", "1048576"],
        ),
        refused(
            "name_of_a_tebibyte_announced",
            tar(&[head("long", b'L').field(124, 12, &base256(12, 1 << 40)).alone()]),
            &["extension header"],
        ),
        refused(
            "name_of_negative_size",
            tar(&[head("long", b'L').field(124, 12, &base256(12, -1)).alone()]),
            &["\"long\"", "size"],
        ),
        refused(
            "name_twice",
            tar(&[long(b'L', "b"), long(b'L', "c"), file("a", b"x")]),
            &["two GNU long names"],
        ),
        refused(
            "link_twice",
            tar(&[long(b'K', "b"), long(b'K', "c"), sym("l", "x")]),
            &["two GNU long names"],
        ),
        refused("name_before_the_end", tar(&[long(b'L', "b")]), &["without an entry"]),
        refused("link_before_the_end", tar(&[long(b'K', "b")]), &["without an entry"]),
        refused("name_at_the_end_without_zeros", long(b'L', "b"), &["without an entry"]),
        refused(
            "name_of_a_pax_header",
            tar(&[long(b'L', "b"), pax(rec("path", "c")), file("a", b"x")]),
            &["both"],
        ),
        refused(
            "link_of_4096_bytes",
            tar(&[long(b'K', "t".repeat(4096)), sym("l", "x")]),
            &["\"l\"", "target"],
        ),
        read(
            "name_of_401_bytes",
            tar(&[long(b'L', &path), file("a", b"x")]),
            &[(&parent, Node::made()), (&path, x())],
        ),
        read("name_that_is_short", tar(&[long(b'L', "b"), file("a", b"x")]), &[("b", x())]),
        read("name_with_slash_for_a_directory", tar(&[long(b'L', "b/"), dir("a")]), &[("b", Node::dir())]),
        refused(
            "name_with_slash_for_an_old_file",
            tar(&[long(b'L', "b/"), head("a", 0).gnu().alone()]),
            &["slash"],
        ),
        read(
            "name_instead_of_one_that_leads_out",
            tar(&[long(b'L', "b"), file("../a", b"x")]),
            &[("b", x())],
        ),
        read(
            "link_of_300_bytes",
            tar(&[long(b'K', "t".repeat(300)), sym("l", "x")]),
            &[("l", Node::sym("t".repeat(300)))],
        ),
        read(
            "name_and_link",
            tar(&[long(b'L', "m"), long(b'K', "t".repeat(300)), sym("l", "x")]),
            &[("m", Node::sym("t".repeat(300)))],
        ),
        read(
            "link_and_name",
            tar(&[long(b'K', "t".repeat(300)), long(b'L', "m"), sym("l", "x")]),
            &[("m", Node::sym("t".repeat(300)))],
        ),
        read("link_of_a_file_ignored", tar(&[long(b'K', "/etc/passwd"), file("a", b"x")]), &[("a", x())]),
        read(
            "link_of_a_hard_link",
            tar(&[file("a", b"x"), long(b'K', "a"), hard("h", "../x")]),
            &[("a", x()), ("h", x().same("a"))],
        ),
        refused(
            "times_where_others_have_the_prefix",
            tar(&[head("a", b'0').gnu().put(345, b"07346545000\x0007346545000\0").with(b"x")]),
            &["\"a\"", "prefix"],
        ),
        read("sparse", sparse(0, 512, 512), &[("s", Node::file(&[b'x'; 512]))]),
        read(
            "sparse_with_a_hole",
            sparse(1 << 19, 512, 1 << 20),
            &[("s", Node::file(&[vec![0; 1 << 19], vec![b'x'; 512], vec![0; (1 << 19) - 512]].concat()))],
        ),
        refused("sparse_of_an_exbibyte", sparse(0, 512, 1 << 60), &["size of all files"]),
        refused("sparse_beyond_its_size", sparse(512, 512, 1023), &["\"s\"", "sparse", "fit"]),
        refused("sparse_of_more_than_is_stored", sparse(0, 513, 1024), &["\"s\"", "sparse", "fit"]),
        refused("sparse_of_less_than_is_stored", sparse(0, 511, 1024), &["\"s\"", "sparse", "fit"]),
        refused("sparse_by_a_posix_header", tar(&[head("s", b'S').with(b"x")]), &["\"s\"", "type"]),
        refused("sparse_negative", sparse(-512, 512, 512), &["\"s\"", "sparse"]),
        refused("sparse_length_negative", sparse(0, -512, 512), &["\"s\"", "sparse"]),
        refused(
            "sparse_pax_00",
            tar(&[
                pax([
                    rec("GNU.sparse.size", "9"),
                    rec("GNU.sparse.numblocks", "1"),
                    rec("GNU.sparse.offset", "0"),
                    rec("GNU.sparse.numbytes", "1"),
                ]
                .concat()),
                file("s", b"x"),
            ]),
            &["\"s\"", "sparse"],
        ),
        refused(
            "sparse_pax_00_of_two_blocks",
            tar(&[
                pax([
                    rec("GNU.sparse.numblocks", "2"),
                    rec("GNU.sparse.offset", "0"),
                    rec("GNU.sparse.offset", "5"),
                ]
                .concat()),
                file("s", b"x"),
            ]),
            &["twice"],
        ),
        refused(
            "sparse_pax_01",
            tar(&[
                pax([rec("GNU.sparse.map", "0,1"), rec("GNU.sparse.size", "9")].concat()),
                file("s", b"x"),
            ]),
            &["\"s\"", "sparse"],
        ),
        refused(
            "sparse_pax_01_of_a_million",
            tar(&[pax(rec("GNU.sparse.map", "0,1,".repeat(200_000))), file("s", b"x")]),
            &["\"s\"", "sparse"],
        ),
        read("sparse_pax_10", map("1\n0\n4\n", "9"), &[("s", Node::file(b"data\0\0\0\0\0"))]),
        read("sparse_pax_10_in_two", map("2\n1\n2\n5\n2\n", "7"), &[("s", Node::file(b"\0da\0\0ta"))]),
        read(
            "sparse_pax_10_ends_in_nothing",
            map("2\n0\n4\n9\n0\n", "9"),
            &[("s", Node::file(b"data\0\0\0\0\0"))],
        ),
        refused("sparse_pax_10_overlap", map("2\n0\n2\n1\n2\n", "9"), &["\"s\"", "fit"]),
        refused("sparse_pax_10_backwards", map("2\n5\n2\n0\n2\n", "9"), &["\"s\"", "fit"]),
        refused("sparse_pax_10_beyond_its_size", map("1\n0\n4\n", "3"), &["\"s\"", "fit"]),
        refused("sparse_pax_10_overflow", map("1\n18446744073709551615\n4\n", "9"), &["\"s\"", "fit"]),
        refused("sparse_pax_10_no_number", map("1\nx\n4\n", "9"), &["\"s\"", "malformed"]),
        refused("sparse_pax_10_empty_line", map("1\n\n4\n", "9"), &["\"s\"", "malformed"]),
        refused("sparse_pax_10_text_behind", map("1\n0\n4\nx", "9"), &["\"s\"", "malformed"]),
        refused("sparse_pax_10_without_end", map("9\n0\n4\n", "9"), &["\"s\""]),
        refused("sparse_pax_10_of_many", map("99999999999\n0\n4\n", "9"), &["sparse"]),
        refused("sparse_pax_10_negative", map("1\n-1\n-4\n", "-9"), &["sparse"]),
        refused(
            "volume_label",
            tar(&[head("label", b'V').gnu().alone(), file("a", b"x")]),
            &["\"label\"", "type"],
        ),
        refused(
            "continued_from_another_volume",
            tar(&[head("a", b'M').gnu().with(b"x")]),
            &["\"a\"", "type"],
        ),
        refused("dump_directory", tar(&[head("d/", b'D').gnu().with(b"Ya\0\0")]), &["\"d/\"", "type"]),
    ]
}
