//! Archives that end too early or too late, and what is none.

use crate::case::{Case, read, refused};
use crate::pieces::*;
use crate::tree::Node;

pub fn cases() -> Vec<Case> {
    let x = || Node::file(b"x");
    let whole = tar(&[file("first", b"x"), file("second", &[b'y'; 600])]);
    let with_pax = tar(&[pax(rec("path", "renamed")), file("a", b"x")]);
    let with_long = tar(&[long(b'L', "n".repeat(600)), file("a", b"x")]);
    let cut = |name: &str, from: &[u8], at: usize, words: &[&str]| refused(name, from[..at].to_vec(), words);
    let mut all = vec![
        refused("nothing", vec![], &["no archive"]),
        refused("one_byte", vec![b'x'], &["ends inside a header"]),
        refused("one_zero", vec![0], &["ends inside a header"]),
        refused("zeros_of_511", vec![0; 511], &["ends inside a header"]),
        refused("zeros_of_1023", vec![0; 1023], &["ends inside a header"]),
        read("zeros_of_512", vec![0; 512], &[]),
        read("zeros_of_1024", vec![0; 1024], &[]),
        read("zeros_of_10240", vec![0; 10240], &[]),
        read("without_end", file("a", b"x"), &[("a", x())]),
        read("with_half_an_end", [file("a", b"x"), vec![0; 512]].concat(), &[("a", x())]),
        refused(
            "with_less_than_half_an_end",
            [file("a", b"x"), vec![0; 100]].concat(),
            &["ends inside a header", "\"a\""],
        ),
        refused(
            "one_zero_block_between",
            [file("a", b"x"), vec![0; 512], file("b", b"x"), end()].concat(),
            &["zero block", "\"a\""],
        ),
        refused("one_zero_block_before", [vec![0; 512], file("b", b"x"), end()].concat(), &["zero block"]),
        refused(
            "one_zero_block_in_an_extension",
            [pax(rec("path", "b")), vec![0; 512], file("a", b"x"), end()].concat(),
            &["zero block"],
        ),
        read(
            "entry_after_the_end",
            [tar(&[file("a", b"x")]), tar(&[file("b", b"x")])].concat(),
            &[("a", x())],
        ),
        read("garbage_after_the_end", [tar(&[file("a", b"x")]), vec![0xff; 777]].concat(), &[("a", x())]),
        read("more_zeros_after_the_end", [tar(&[file("a", b"x")]), vec![0; 99_999]].concat(), &[("a", x())]),
        cut("in_the_first_header", &whole, 100, &["ends inside a header"]),
        cut("at_the_end_of_the_first_header", &whole, 511, &["ends inside a header"]),
        cut("before_the_data", &whole, 512, &["\"first\"", "ends inside a file"]),
        cut("in_the_padding", &whole, 513, &["\"first\"", "ends inside a block"]),
        cut("late_in_the_padding", &whole, 1023, &["\"first\"", "ends inside a block"]),
        cut("in_the_second_header", &whole, 1025, &["ends inside a header"]),
        cut("in_the_second_data", &whole, 1536 + 599, &["\"second\"", "ends inside a file"]),
        cut("in_the_second_padding", &whole, 1536 + 601, &["\"second\"", "ends inside a block"]),
        cut("in_a_pax_header", &with_pax, 200, &["ends inside a header"]),
        cut("before_pax_records", &with_pax, 512, &["PaxHeaders/x", "ends inside an extension header"]),
        cut("in_pax_records", &with_pax, 520, &["PaxHeaders/x", "ends inside an extension header"]),
        cut("in_the_padding_of_pax", &with_pax, 600, &["PaxHeaders/x", "ends inside a block"]),
        cut("in_a_long_name", &with_long, 512 + 300, &["LongLink", "ends inside an extension header"]),
        cut("after_a_long_name", &with_long, 512 + 1024, &["LongLink", "without an entry"]),
        cut("in_the_header_after_a_long_name", &with_long, 512 + 1024 + 7, &["ends inside a header"]),
    ];
    for (name, start) in [
        ("text", &b"#!/bin/sh\nrm -rf /\n"[..]),
        ("elf", b"\x7fELF\x02\x01\x01"),
        ("zip", b"PK\x03\x04"),
        ("json", b"{\"layers\":[]}"),
        ("cpio", b"070701"),
        ("ar", b"!<arch>\n"),
        ("squashfs", b"hsqs"),
        ("xz", b"\xfd7zXZ\0"),
        ("bzip2", b"BZh91AY&SY"),
        ("lz4", b"\x04\"M\x18"),
        ("legacy_zstd", b"\x27\xb5\x2f\xfd"),
    ] {
        let mut archive = start.to_vec();
        archive.resize(2048, b'z');
        all.push(refused(&format!("not_tar_but_{name}"), archive, &["bad archive", "checksum"]));
    }
    all
}
