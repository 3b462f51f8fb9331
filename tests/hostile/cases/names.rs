//! Names that lead out, or that are strange and stay in.

use crate::case::{Case, read, read_bytes, refused};
use crate::pieces::*;
use crate::tree::Node;

pub fn cases() -> Vec<Case> {
    let x = || Node::file(b"x");
    let f = |name: &str| tar(&[file(name, b"x")]);
    let long_name = "n".repeat(255);
    let depth = |n: usize| "a/".repeat(n - 1) + "f";
    let mut deep = Vec::new();
    for n in 1..512 {
        deep.push((
            vec![b'a'; n].iter().map(|_| "a").collect::<Vec<_>>().join("/").into_bytes(),
            Node::made(),
        ));
    }
    deep.push((depth(512).into_bytes(), x()));
    let parts: Vec<String> =
        (0..15).map(|i| format!("{i:x}").repeat(255)).chain([("f").repeat(254)]).collect();
    let mut widest: Vec<(Vec<u8>, Node)> =
        (1..16).map(|n| (parts[..n].join("/").into_bytes(), Node::made())).collect();
    let path = parts.join("/");
    assert_eq!(path.len(), 4094);
    widest.push((path.clone().into_bytes(), x()));
    let mut all = vec![
        refused("absolute", f("/etc/passwd"), &["\"/etc/passwd\"", "absolute"]),
        refused("absolute_directory", tar(&[dir("/etc/")]), &["\"/etc/\"", "absolute"]),
        refused("absolute_with_two_slashes", f("//etc/passwd"), &["\"//etc/passwd\"", "absolute"]),
        refused("absolute_with_dot", f("/./etc/passwd"), &["absolute"]),
        refused("absolute_symlink", tar(&[sym("/tmp/l", "x")]), &["\"/tmp/l\"", "absolute"]),
        refused("absolute_to_the_sentinel", f(&format!("{}/secret", crate::outside())), &["absolute"]),
        refused(
            "absolute_by_prefix",
            tar(&[head("passwd", b'0').prefix(b"/etc").with(b"x")]),
            &["/etc/passwd", "absolute"],
        ),
        refused(
            "absolute_by_pax",
            tar(&[pax(rec("path", "/etc/passwd")), file("a", b"x")]),
            &["/etc/passwd", "absolute"],
        ),
        refused(
            "absolute_by_gnu_name",
            tar(&[long(b'L', "/etc/passwd"), file("a", b"x")]),
            &["/etc/passwd", "absolute"],
        ),
        refused("dotdot", f(".."), &["\"..\""]),
        refused("dotdot_directory", tar(&[dir("../")]), &["\"../\""]),
        refused("dotdot_file", f("../hostile-outside/secret"), &["../hostile-outside/secret", "\"..\""]),
        refused("dotdot_far", f("../../../../../../../../../tmp/x"), &["\"..\""]),
        refused("dotdot_in_the_middle", f("a/../../x"), &["a/../../x", "\"..\""]),
        refused("dotdot_that_stays_inside", f("a/../b"), &["a/../b", "\"..\""]),
        refused("dotdot_last", f("a/.."), &["a/..", "\"..\""]),
        refused("dotdot_after_dot", f("./../x"), &["./../x", "\"..\""]),
        refused("dotdot_with_two_slashes", f("..//x"), &["..//x", "\"..\""]),
        refused("dotdot_by_prefix", tar(&[head("x", b'0').prefix(b"..").with(b"x")]), &["../x", "\"..\""]),
        refused("dotdot_by_pax", tar(&[pax(rec("path", "../x")), file("a", b"x")]), &["../x", "\"..\""]),
        refused("dotdot_by_gnu_name", tar(&[long(b'L', "../x"), file("a", b"x")]), &["../x", "\"..\""]),
        refused("dotdot_symlink", tar(&[sym("../l", "x")]), &["../l"]),
        refused("dotdot_hard_link", tar(&[file("a", b""), hard("../h", "a")]), &["../h"]),
        refused("dotdot_fifo", tar(&[fifo("../p")]), &["../p"]),
        refused("dotdot_device", tar(&[device("../n")]), &["../n"]),
        refused("dotdot_whiteout", f("../.wh.hostile-outside"), &["../.wh."]),
        refused("empty_file", f(""), &["entry \"\"", "name"]),
        refused("empty_directory", tar(&[dir("")]), &["entry \"\"", "name"]),
        refused("empty_by_gnu_name", tar(&[long(b'L', ""), file("a", b"x")]), &["name"]),
        refused("root_as_file", f("."), &["\".\"", "root"]),
        refused("root_as_file_with_slash", f("./"), &["\"./\""]),
        refused("root_as_symlink", tar(&[sym("./", crate::outside())]), &["\"./\""]),
        refused("root_as_symlink_without_slash", tar(&[sym(".", crate::outside())]), &["\".\"", "root"]),
        refused("root_as_hard_link", tar(&[file("a", b""), hard(".", "a")]), &["\".\"", "root"]),
        refused("root_as_fifo", tar(&[fifo(".")]), &["\".\"", "root"]),
        refused("root_as_device", tar(&[device(".")]), &["\".\"", "root"]),
        refused("root_as_old_slash_file", tar(&[head("/", 0).v7().alone()]), &["\"/\"", "root"]),
        refused("root_as_slash_file", f("/"), &["\"/\""]),
        read(
            "root",
            tar(&[head("./", b'5').mode(0o1777).mtime(5).alone()]),
            &[("", Node::dir().mode(0o1777).time(5, 0))],
        ),
        read(
            "root_as_dot",
            tar(&[head(".", b'5').mode(0o700).alone(), file("./a", b"x")]),
            &[("", Node::dir().mode(0o700)), ("a", x())],
        ),
        read("root_as_slash", tar(&[head("/", b'5').mode(0o711).alone()]), &[("", Node::dir().mode(0o711))]),
        read("root_after_its_files", tar(&[file("a", b"x"), dir("./")]), &[("", Node::dir()), ("a", x())]),
        read(
            "root_twice",
            tar(&[dir("./"), head(".//", b'5').mode(0o750).alone()]),
            &[("", Node::dir().mode(0o750))],
        ),
        refused("slash_behind_a_file", f("a/"), &["\"a/\"", "slash"]),
        refused("slash_behind_a_contiguous_file", tar(&[head("a/", b'7').alone()]), &["\"a/\"", "slash"]),
        refused("slash_behind_a_symlink", tar(&[sym("a/", "b")]), &["\"a/\"", "slash"]),
        refused("slash_behind_a_hard_link", tar(&[file("b", b""), hard("a/", "b")]), &["\"a/\"", "slash"]),
        refused("slash_behind_a_fifo", tar(&[fifo("a/")]), &["\"a/\"", "slash"]),
        read(
            "slash_behind_an_old_file_is_a_directory",
            tar(&[head("a/", 0).mode(0o755).v7().alone()]),
            &[("a", Node::dir())],
        ),
        read(
            "slash_behind_an_old_type_with_magic",
            tar(&[head("a/", 0).mode(0o755).alone()]),
            &[("a", Node::dir())],
        ),
        refused(
            "slash_by_pax_behind_an_old_file",
            tar(&[pax(rec("path", "a/")), head("a", 0).alone()]),
            &["slash"],
        ),
        refused(
            "slash_hidden_by_pax_behind_an_old_file",
            tar(&[pax(rec("path", "a")), head("b/", 0).alone()]),
            &["slash"],
        ),
        read("directory_without_slash", tar(&[dir("a")]), &[("a", Node::dir())]),
        read("directory_with_slashes", tar(&[dir("a///")]), &[("a", Node::dir())]),
        read("dots_and_slashes_inside", f("./d/.//./f"), &[("d", Node::made()), ("d/f", x())]),
        read("three_dots", f("..."), &[("...", x())]),
        read("dots_before", f("..a/.b"), &[("..a", Node::made()), ("..a/.b", x())]),
        read("dots_behind", f("a../b.."), &[("a..", Node::made()), ("a../b..", x())]),
        read("blank", f(" "), &[(" ", x())]),
        read("option", f("--checkpoint-action=exec=sh"), &[("--checkpoint-action=exec=sh", x())]),
        read("star_and_brackets", f("*[a]?"), &[("*[a]?", x())]),
        read("backslashes", f("..\\..\\x"), &[("..\\..\\x", x())]),
        read("drive", f("C:evil"), &[("C:evil", x())]),
        read("quotes_and_arrow", f("a\" -> \"b"), &[("a\" -> \"b", x())]),
        read("control_characters", f("a\n\t\r\x1b[31m\x7f"), &[("a\n\t\r\x1b[31m\x7f", x())]),
        read("unicode", f("\u{202e}txt.exe\u{0301}"), &[("\u{202e}txt.exe\u{0301}", x())]),
        read_bytes(
            "not_utf8",
            tar(&[file(b"\xff\xfe/\x80", b"x")]),
            vec![(b"\xff\xfe".to_vec(), Node::made()), (b"\xff\xfe/\x80".to_vec(), x())],
        ),
        read_bytes(
            "not_utf8_by_gnu_name",
            tar(&[long(b'L', b"\xc3\x28"), file("a", b"x")]),
            vec![(b"\xc3\x28".to_vec(), x())],
        ),
        read(
            "same_name_in_two_cases",
            tar(&[file("a", b"x"), file("A", b"y")]),
            &[("a", x()), ("A", Node::file(b"y"))],
        ),
        read("hundred_bytes_without_nul", f(&"h".repeat(100)), &[(&"h".repeat(100), x())]),
        read(
            "name_of_255_bytes",
            tar(&[pax(rec("path", &long_name)), file("a", b"x")]),
            &[(&long_name, x())],
        ),
        refused(
            "name_of_256_bytes",
            tar(&[pax(rec("path", "n".repeat(256))), file("a", b"x")]),
            &["nnn", "255"],
        ),
        refused(
            "directory_name_of_256_bytes",
            tar(&[long(b'L', "n".repeat(256) + "/f"), file("a", b"x")]),
            &["nnn", "255"],
        ),
        read_bytes("path_of_4094_bytes", tar(&[long(b'L', &path), file("a", b"x")]), widest),
        refused(
            "path_of_4096_bytes",
            tar(&[pax(rec("path", path.clone() + "/a")), file("a", b"x")]),
            &["4095"],
        ),
        refused(
            "path_of_a_million_bytes",
            tar(&[long(b'L', "a/".repeat(500_000) + "f"), file("a", b"x")]),
            &["4095"],
        ),
        read_bytes("depth_of_512", tar(&[pax(rec("path", depth(512))), file("a", b"x")]), deep),
        refused("depth_of_513", tar(&[pax(rec("path", depth(513))), file("a", b"x")]), &["depth", "512"]),
        refused("nul_in_pax_path", tar(&[pax(rec("path", "a\0b")), file("a", b"x")]), &["NUL"]),
        refused("nul_in_gnu_name", tar(&[long(b'L', "a\0b"), file("a", b"x")]), &["NUL"]),
        read("text_behind_the_nul", tar(&[head("a", b'0').put(2, b"/../../b").with(b"x")]), &[("a", x())]),
        read(
            "prefix",
            tar(&[head("f", b'0').prefix(b"d/e").with(b"x")]),
            &[("d", Node::made()), ("d/e", Node::made()), ("d/e/f", x())],
        ),
        read(
            "prefix_with_slash",
            tar(&[head("f", b'0').prefix(b"d/").with(b"x")]),
            &[("d", Node::made()), ("d/f", x())],
        ),
        refused(
            "prefix_without_magic",
            tar(&[head("f", b'0').prefix(b"d").v7().with(b"x")]),
            &["\"f\"", "prefix"],
        ),
        refused(
            "prefix_with_gnu_magic",
            tar(&[head("f", b'0').prefix(b"d").gnu().with(b"x")]),
            &["\"f\"", "prefix"],
        ),
        refused("prefix_without_name", tar(&[head("", b'0').prefix(b"d").with(b"x")]), &["\"d/\"", "slash"]),
        refused(
            "prefix_of_star_with_times",
            tar(&[head("f", b'0').prefix(&[b'p'; 140]).put(508, b"tar\0").with(b"x")]),
            &["prefix"],
        ),
        refused("file_below_a_file", tar(&[file("a", b"x"), file("a/b", b"y")]), &["\"a\"", "parent"]),
        refused("directory_below_a_file", tar(&[file("a", b"x"), dir("a/b/")]), &["\"a\"", "parent"]),
        refused("far_below_a_file", tar(&[file("a", b"x"), file("a/b/c/d", b"y")]), &["parent"]),
        refused("file_below_a_fifo", tar(&[fifo("a"), file("a/b", b"y")]), &["\"a\"", "parent"]),
    ];
    // Whatever comes twice, the later one counts.
    all.extend([
        read("file_twice", tar(&[file("a", b"x"), file("a", b"yy")]), &[("a", Node::file(b"yy"))]),
        read(
            "file_twice_by_another_spelling",
            tar(&[file("a", b"x"), file(".//a", b"yy")]),
            &[("a", Node::file(b"yy"))],
        ),
        read("directory_over_file", tar(&[file("a", b"x"), dir("a")]), &[("a", Node::dir().opaque())]),
        read("file_over_directory", tar(&[dir("a"), file("a", b"x")]), &[("a", x())]),
        read("file_over_full_directory", tar(&[file("a/b/c", b"x"), file("a", b"x")]), &[("a", x())]),
        read(
            "directory_twice",
            tar(&[dir("a"), file("a/f", b"x"), head("a", b'5').mode(0o700).alone()]),
            &[("a", Node::dir().mode(0o700)), ("a/f", x())],
        ),
        read("fifo_over_file", tar(&[file("a", b"x"), fifo("a")]), &[("a", Node::fifo())]),
        read("device_over_file", tar(&[file("a", b"x"), device("a")]), &[]),
        read("device_over_directory", tar(&[file("a/b", b"x"), device("a")]), &[]),
        read(
            "directory_over_device_over_directory",
            tar(&[file("a/b", b"x"), device("a"), dir("a")]),
            &[("a", Node::dir())],
        ),
        read(
            "mentioned_after_its_files",
            tar(&[file("d/f", b"x"), head("d", b'5').mode(0o2770).mtime(7).alone()]),
            &[("d", Node::dir().mode(0o2770).time(7, 0)), ("d/f", x())],
        ),
    ]);
    // More than are held open at once, and each visited again: modes, owners and times as if it never was.
    let mut turns: Vec<Vec<u8>> = (0..150u64)
        .map(|i| head(format!("d{i}"), b'5').mode(0o2700 + i % 64).uid(i).mtime(i).alone())
        .collect();
    turns.extend((0..300).map(|i| file(format!("d{}/{}", i % 150, i / 150), b"x")));
    turns.extend((0..150).map(|i| file(format!("d{i}/e/f"), b"x")));
    let mut nodes = Vec::new();
    for i in 0..150u32 {
        let d = Node::dir().mode(0o2700 + i % 64).owner(i.into(), 0).time(i.into(), 0);
        nodes.push((format!("d{i}"), d));
        nodes.extend(["0", "1", "e/f"].map(|f| (format!("d{i}/{f}"), x())));
        nodes.push((format!("d{i}/e"), Node::made()));
    }
    let nodes = nodes.into_iter().map(|(name, node)| (name.into_bytes(), node)).collect();
    all.push(read_bytes("many_directories_in_turns", tar(&turns), nodes));
    all
}
