//! Fields of the header that lie, and types that nobody knows.

use crate::case::{Case, read, refused};
use crate::pieces::*;
use crate::tree::Node;

const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);

pub fn cases() -> Vec<Case> {
    let x = || Node::file(b"x");
    let five = || Node::file(b"hello");
    // A file of five bytes one of whose fields is this.
    let set = |at: (usize, usize), bytes: &[u8]| {
        tar(&[head("a", b'0').size(5).field(at.0, at.1, bytes).before(b"hello"), file("b", b"x")])
    };
    let bad = |name: &str, at, bytes: &[u8], words: &[&str]| refused(name, set(at, bytes), words);
    let good =
        |name: &str, at, bytes: &[u8], node: Node| read(name, set(at, bytes), &[("a", node), ("b", x())]);
    let plain = head("a", b'0');
    let signed = |h: Head| {
        let high = h.clone().put(0, b"\xe4");
        let sum = high.checksum() - 256;
        high.sum(format!("{sum:06o}\0 ").as_bytes()).alone()
    };
    let mut all = vec![
        refused("checksum_wrong", tar(&[plain.clone().sum(b"000001\0 ").alone()]), &["\"a\"", "checksum"]),
        refused("checksum_blank", tar(&[plain.clone().sum(b"        ").alone()]), &["checksum"]),
        refused("checksum_nul", tar(&[plain.clone().sum(b"").alone()]), &["checksum"]),
        refused("checksum_no_number", tar(&[plain.clone().sum(b"checksum").alone()]), &["checksum"]),
        refused(
            "checksum_base256",
            tar(&[plain.clone().sum(&base256_short(plain.checksum())).alone()]),
            &["checksum"],
        ),
        refused("checksum_of_signed_bytes", tar(&[signed(plain.clone())]), &["checksum"]),
        refused(
            "checksum_wrong_in_the_second",
            tar(&[file("a", b"x"), head("b", b'0').sum(b"000001\0 ").alone()]),
            &["\"b\"", "checksum"],
        ),
        refused(
            "checksum_of_a_pax_header",
            tar(&[head("p", b'x').sum(b"0").with(&rec("path", "b")), file("a", b"x")]),
            &["\"p\"", "checksum"],
        ),
        bad("size_negative_base256", SIZE, &base256(12, -512), &["\"a\"", "size"]),
        bad("size_beyond_63_bits", SIZE, b"\x80\0\0\0\x80\0\0\0\0\0\0\x05", &["\"a\"", "size"]),
        bad("size_beyond_64_bits", SIZE, b"\x80\0\0\x01\0\0\0\0\0\0\0\x05", &["\"a\"", "size"]),
        bad("size_with_bits_in_the_mark", SIZE, b"\x81\0\0\0\0\0\0\0\0\0\0\x05", &["\"a\"", "size"]),
        bad("size_enormous", SIZE, &base256(12, 1 << 40), &["size of all files"]),
        bad("size_largest", SIZE, &base256(12, i64::MAX), &["size of all files"]),
        bad("size_beyond_the_end", SIZE, b"00000077777", &["\"a\"", "ends"]),
        bad("size_no_octal", SIZE, b"00000000008", &["\"a\"", "size"]),
        bad("size_letters", SIZE, b"five", &["\"a\"", "size"]),
        bad("size_hexadecimal", SIZE, b"0x5", &["\"a\"", "size"]),
        bad("size_minus", SIZE, b"-5", &["\"a\"", "size"]),
        bad("size_plus", SIZE, b"+5", &["\"a\"", "size"]),
        bad("size_blank", SIZE, b"            ", &["\"a\"", "size"]),
        bad("size_with_text_behind", SIZE, b"5\0\0garbage", &["\"a\"", "size"]),
        bad("size_with_text_behind_a_blank", SIZE, b"5 7", &["\"a\"", "size"]),
        bad("size_behind_a_nul", SIZE, b"\x005", &["\"a\"", "size"]),
        good("size_base256", SIZE, &base256(12, 5), five()),
        good("size_of_twelve_digits", SIZE, b"000000000005", five()),
        good("size_with_blanks_before", SIZE, b"         5 ", five()),
        good("size_of_one_digit", SIZE, b"5", five()),
        bad("mode_no_octal", MODE, b"0000689", &["\"a\"", "mode"]),
        bad("mode_blank", MODE, b"        ", &["\"a\"", "mode"]),
        bad("mode_negative", MODE, &base256(8, -1), &["\"a\"", "mode"]),
        bad("mode_huge", MODE, &base256_short(1 << 40 | 0o644), &["\"a\"", "mode"]),
        good("mode_with_type_bits", MODE, b"0100644", five()),
        good("mode_with_other_type_bits", MODE, b"0120644", five()),
        good("mode_all", MODE, b"0007777", five().mode(0o7777)),
        good("mode_none", MODE, b"0000000", five().mode(0)),
        good(
            "mode_setuid_for_an_owner",
            (100, 16),
            b"0004755\x000001750\0",
            five().mode(0o4755).owner(1000, 0),
        ),
        bad("uid_no_octal", UID, b"0000009", &["\"a\"", "number"]),
        bad("uid_negative", UID, &base256(8, -2), &["\"a\"", "number"]),
        bad("uid_nobody_of_32_bits", UID, &base256_short(0xffff_ffff), &["\"a\"", "owner"]),
        bad("uid_beyond_32_bits", UID, &base256_short(1 << 32), &["\"a\"", "owner"]),
        bad("uid_blank", UID, b"        ", &["\"a\"", "number"]),
        bad("gid_beyond_32_bits", (116, 8), &base256_short(1 << 32), &["\"a\"", "owner"]),
        bad("gid_letters", (116, 8), b"wheel", &["\"a\"", "number"]),
        good("uid_largest", UID, &base256_short(0xffff_fffe), five().owner(0xffff_fffe, 0)),
        good("uid_of_eight_digits", UID, b"77777777", five().owner(0o77_777_777, 0)),
        good("uid_with_blanks_before", UID, b"   1750\0", five().owner(1000, 0)),
        good("mtime_negative", MTIME, &base256(12, -5), five().time(-5, 0)),
        bad("mtime_no_octal", MTIME, b"tomorrow", &["\"a\"", "mtime"]),
        bad("mtime_blank", MTIME, b"            ", &["\"a\"", "mtime"]),
        bad("mtime_beyond_64_bits", MTIME, b"\x80\0\0\x01\0\0\0\0\0\0\0\x05", &["\"a\"", "mtime"]),
        good("mtime_zero", MTIME, b"00000000000", five().time(0, 0)),
        good("mtime_after_2038", MTIME, b"37777777777", five().time(0o37_777_777_777, 0)),
        good("mtime_base256", MTIME, &base256(12, 1 << 33), five().time(1 << 33, 0)),
        good("mtime_end_of_days", MTIME, &base256(12, 1 << 55), five().time(1 << 55, 0)),
        bad("device_numbers_of_a_file_no_octal", (329, 8), b"garbage", &["\"a\"", "device"]),
        bad("device_minor_of_a_file_no_octal", (337, 8), b"0000009", &["\"a\"", "device"]),
        good("names_of_owners_ignored", (265, 64), b"root\0../../etc\xff", five()),
        good("old_form", (257, 8), b"", five()),
        good("gnu_form", (257, 8), b"ustar  \0", five()),
        bad("magic_with_another_version", (257, 8), b"ustar\x0099", &["\"a\"", "magic"]),
        bad("magic_without_nul", (257, 8), b"ustar00", &["\"a\"", "magic"]),
        bad("magic_in_capitals", (257, 8), b"USTAR\x0000", &["\"a\"", "magic"]),
        bad("magic_garbage", (257, 8), b"\xff\xff\xff\xff\xff\xff\xff\xff", &["\"a\"", "magic"]),
        read("contiguous_file", tar(&[head("a", b'7').with(b"x")]), &[("a", x())]),
        read("type_nul", tar(&[head("a", 0).with(b"x")]), &[("a", x())]),
        read("type_nul_old", tar(&[head("a", 0).v7().with(b"x")]), &[("a", x())]),
        read(
            "link_name_of_a_file_ignored",
            tar(&[head("a", b'0').link("/etc/passwd").with(b"x")]),
            &[("a", x())],
        ),
        refused("directory_with_data", tar(&[head("a", b'5').with(b"data")]), &["\"a\"", "data"]),
        refused(
            "directory_with_a_size_alone",
            tar(&[head("a", b'5').size(4096).alone()]),
            &["\"a\"", "data"],
        ),
        refused("fifo_with_data", tar(&[head("a", b'6').with(b"data")]), &["\"a\"", "data"]),
        refused("device_with_data", tar(&[head("a", b'3').with(b"data")]), &["\"a\"", "data"]),
        refused("old_directory_with_data", tar(&[head("a/", 0).v7().with(b"data")]), &["\"a/\"", "data"]),
        refused(
            "device_with_a_number_no_octal",
            tar(&[head("a", b'3').put(329, b"0000009\0").alone()]),
            &["\"a\"", "device"],
        ),
        read(
            "fifo_with_mode",
            tar(&[head("p", b'6').mode(0o666).alone()]),
            &[("p", Node::fifo().mode(0o666))],
        ),
        read(
            "fifo_with_setuid",
            tar(&[head("p", b'6').mode(0o6777).uid(5).gid(6).alone()]),
            &[("p", Node::fifo().mode(0o6777).owner(5, 6))],
        ),
        read("character_device_left_out", tar(&[device("null"), file("b", b"x")]), &[("b", x())]),
        read(
            "block_device_left_out",
            tar(&[head("sda", b'4').put(329, b"0000010\x000000000\0").alone(), file("b", b"x")]),
            &[("b", x())],
        ),
        read("devices_directory_stays", tar(&[device("dev/null")]), &[("dev", Node::made())]),
        read(
            "setgid_directory",
            tar(&[head("d", b'5').mode(0o2775).gid(7).alone(), file("d/f", b"x"), file("d/e/f", b"x")]),
            &[
                ("d", Node::dir().mode(0o2775).owner(0, 7)),
                ("d/f", x()),
                ("d/e", Node::made()),
                ("d/e/f", x()),
            ],
        ),
        read(
            "sticky_directory",
            tar(&[head("tmp", b'5').mode(0o1777).alone()]),
            &[("tmp", Node::dir().mode(0o1777))],
        ),
    ];
    let flags: [(&str, u8); 16] = [
        ("reserved_8", b'8'),
        ("reserved_9", b'9'),
        ("solaris_acl", b'A'),
        ("gnu_dump_directory", b'D'),
        ("solaris_attributes", b'E'),
        ("star_inode", b'I'),
        ("gnu_multi_volume", b'M'),
        ("gnu_long_names_of_1990", b'N'),
        ("gnu_volume_label", b'V'),
        ("solaris_extended_header", b'X'),
        ("vendor_z", b'Z'),
        ("letter", b'a'),
        ("blank", b' '),
        ("one", 1),
        ("slash", b'/'),
        ("high", 0xff),
    ];
    for (name, flag) in flags {
        all.push(refused(
            &format!("type_{name}"),
            tar(&[head("evil", flag).with(b"data")]),
            &["\"evil\"", "type"],
        ));
    }
    all
}
