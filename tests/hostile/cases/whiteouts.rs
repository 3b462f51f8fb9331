//! Names that delete, and what looks like one.

use crate::case::{Case, read, read_bytes, refused};
use crate::pieces::*;
use crate::tree::Node;

pub fn cases() -> Vec<Case> {
    let x = || Node::file(b"x");
    let w = Node::whiteout;
    let f = |name: &str| tar(&[file(name, b"")]);
    let longest = "n".repeat(251);
    vec![
        read("whiteout", f(".wh.a"), &[("a", w())]),
        read(
            "whiteout_in_a_directory",
            f("d/e/.wh.a"),
            &[("d", Node::made()), ("d/e", Node::made()), ("d/e/a", w())],
        ),
        read("whiteout_twice", [f(".wh.a")[..512].to_vec(), f(".wh.a")].concat(), &[("a", w())]),
        read("whiteout_of_a_whiteout_suffix", f(".wh.a.wh."), &[("a.wh.", w())]),
        read("whiteout_of_dots", f(".wh...."), &[("...", w())]),
        read("whiteout_of_a_dot_file", f(".wh..a"), &[(".a", w())]),
        read("whiteout_of_a_blank", f(".wh. "), &[(" ", w())]),
        read(
            "whiteout_of_251_bytes",
            tar(&[pax(rec("path", format!(".wh.{longest}"))), file("a", b"")]),
            &[(&longest, w())],
        ),
        refused(
            "whiteout_of_252_bytes",
            tar(&[pax(rec("path", format!(".wh.n{longest}"))), file("a", b"")]),
            &["255"],
        ),
        read_bytes("whiteout_not_utf8", tar(&[file(b".wh.\xff", b"")]), vec![(b"\xff".to_vec(), w())]),
        read("whiteout_by_gnu_name", tar(&[long(b'L', ".wh.a"), file("b", b"")]), &[("a", w())]),
        read(
            "whiteout_as_a_hard_link_as_aufs_wrote",
            tar(&[file(".wh.a", b""), hard(".wh.b", ".wh.a")]),
            &[("a", w()), ("b", w())],
        ),
        read(
            "whiteout_with_owner_and_mode",
            tar(&[head(".wh.a", b'0').uid(5).mode(0o4777).alone()]),
            &[("a", w())],
        ),
        read("opaque", f("d/.wh..wh..opq"), &[("d", Node::made().opaque())]),
        read(
            "opaque_after_its_files",
            tar(&[file("d/a", b"x"), file("d/.wh..wh..opq", b"")]),
            &[("d", Node::made().opaque()), ("d/a", x())],
        ),
        read(
            "opaque_before_its_files",
            tar(&[file("d/.wh..wh..opq", b""), file("d/a", b"x"), dir("d")]),
            &[("d", Node::dir().opaque()), ("d/a", x())],
        ),
        read(
            "opaque_twice",
            tar(&[file("d/.wh..wh..opq", b""), file("d/.wh..wh..opq", b"")]),
            &[("d", Node::made().opaque())],
        ),
        read(
            "opaque_and_whiteout",
            tar(&[file("d/.wh..wh..opq", b""), file("d/.wh.a", b"")]),
            &[("d", Node::made().opaque()), ("d/a", w())],
        ),
        read(
            "opaque_lost_with_its_directory",
            tar(&[file("d/.wh..wh..opq", b""), file("d", b"x")]),
            &[("d", x())],
        ),
        refused("opaque_root", f(".wh..wh..opq"), &["\".wh..wh..opq\"", "root"]),
        refused("opaque_root_with_dot", f("./.wh..wh..opq"), &["root"]),
        refused("without_a_name", f(".wh."), &["\".wh.\"", "whiteout"]),
        refused("without_a_name_in_a_directory", f("d/.wh."), &["\"d/.wh.\"", "whiteout"]),
        refused("of_dot", f(".wh.."), &["\".wh..\"", "whiteout"]),
        refused("of_dotdot", f(".wh..."), &["\".wh...\"", "whiteout"]),
        refused("of_dotdot_in_a_directory", f("d/.wh..."), &["\"d/.wh...\"", "whiteout"]),
        refused("of_a_whiteout", f(".wh..wh.a"), &["\".wh..wh.a\"", "whiteout"]),
        refused("of_opaque", f(".wh..wh..wh..opq"), &["whiteout"]),
        refused("opaque_with_a_suffix", f("d/.wh..wh..opq.x"), &["whiteout"]),
        refused("opaque_in_other_letters", f("d/.wh..wh..OPQ"), &["whiteout"]),
        refused("opaque_by_half", f("d/.wh..opq2/x"), &["whiteout"]),
        refused("aufs_directory", tar(&[dir(".wh..wh.plnk/")]), &["whiteout"]),
        refused("aufs_file_below", f(".wh..wh.plnk/1.2"), &["whiteout"]),
        refused("aufs_base", f(".wh..wh.aufs"), &["whiteout"]),
        refused("file_below_a_whiteout_name", f(".wh.d/x"), &["\".wh.d/x\"", "whiteout"]),
        refused("file_far_below_a_whiteout_name", f("a/.wh.d/b/x"), &["whiteout"]),
        refused("directory", tar(&[dir(".wh.d/")]), &["\".wh.d\"", "whiteout"]),
        refused("symlink", tar(&[sym(".wh.d", "x")]), &["\".wh.d\"", "whiteout"]),
        refused("fifo", tar(&[fifo(".wh.d")]), &["\".wh.d\"", "whiteout"]),
        refused("device", tar(&[device(".wh.d")]), &["\".wh.d\"", "whiteout"]),
        refused("opaque_directory", tar(&[dir("d/.wh..wh..opq")]), &["whiteout"]),
        refused("opaque_symlink", tar(&[sym("d/.wh..wh..opq", "x")]), &["whiteout"]),
        refused("with_data", tar(&[file(".wh.a", b"data")]), &["\".wh.a\"", "whiteout"]),
        refused("below_a_whiteout", tar(&[file(".wh.d", b""), file("d/x", b"")]), &["\"d\"", "parent"]),
        // A whiteout speaks of the layers below (image-spec, layer.md): what its own layer has stays.
        read("of_a_file_here", tar(&[file("a", b"x"), file(".wh.a", b"")]), &[("a", x())]),
        read("of_a_directory_here", tar(&[dir("d"), file(".wh.d", b"")]), &[("d", Node::dir().opaque())]),
        read(
            "of_a_full_directory_here",
            tar(&[file("d/e/f", b"x"), file(".wh.d", b"")]),
            &[("d", Node::made().opaque()), ("d/e", Node::made()), ("d/e/f", x())],
        ),
        read(
            "of_a_symlink_here",
            tar(&[sym("l", crate::outside()), file(".wh.l", b"")]),
            &[("l", Node::sym(crate::outside()))],
        ),
        read("file_over_whiteout", tar(&[file(".wh.a", b""), file("a", b"x")]), &[("a", x())]),
        read("symlink_over_whiteout", tar(&[file(".wh.a", b""), sym("a", "b")]), &[("a", Node::sym("b"))]),
        // What the lower layers have in it was deleted: it must not shine through the new one.
        read(
            "directory_over_whiteout",
            tar(&[file(".wh.d", b""), dir("d"), file("d/a", b"x")]),
            &[("d", Node::dir().opaque()), ("d/a", x())],
        ),
        read(
            "hard_link_over_whiteout",
            tar(&[file("a", b"x"), file(".wh.b", b""), hard("b", "a")]),
            &[("a", x()), ("b", x().same("a"))],
        ),
        read("other_letters", f(".WH.a"), &[(".WH.a", Node::file(b""))]),
        read("in_the_middle", f("a.wh.b"), &[("a.wh.b", Node::file(b""))]),
        read("without_the_dot", f(".wh"), &[(".wh", Node::file(b""))]),
        read("almost", f(".wha"), &[(".wha", Node::file(b""))]),
        // Overlayfs's own form must not come from an archive.
        read(
            "overlay_whiteout_device",
            tar(&[head("a", b'3').put(329, b"0000000\x000000000\0").alone()]),
            &[],
        ),
        read("overlay_whiteout_device_over_file", tar(&[file("a", b"x"), head("a", b'3').alone()]), &[]),
    ]
}
