//! Links that lead out, and everything that can be written through one.

use crate::case::{Case, read, read_bytes, refused};
use crate::pieces::*;
use crate::tree::Node;

pub fn cases() -> Vec<Case> {
    let out = crate::outside();
    let out = out.as_str();
    let x = || Node::file(b"x");
    // `l` leads to `target`, and then something is made through it.
    let through = |name: &str, target: &str, then: Vec<u8>| {
        refused(name, tar(&[sym("l", target), then]), &["entry \"l", "parent", "symlink"])
    };
    let relative = "../../../hostile-outside";
    let mut all = vec![
        through("file_through_absolute", out, file("l/secret", b"owned")),
        through("file_through_relative", relative, file("l/secret", b"owned")),
        through("new_file_through", out, file("l/new", b"owned")),
        through("file_through_root", "/", file("l/tmp/owned", b"owned")),
        through("file_through_dot", ".", file("l/x", b"owned")),
        through("file_through_dotdot", "..", file("l/x", b"owned")),
        through("file_through_proc", "/proc/self/root", file("l/tmp/owned", b"owned")),
        through("file_through_cwd", "/proc/self/cwd", file("l/owned", b"owned")),
        through("file_through_a_descriptor", "/proc/self/fd/3", file("l/owned", b"owned")),
        through("file_through_dangling", "missing", file("l/x", b"owned")),
        through("file_through_itself", "l", file("l/x", b"owned")),
        through("file_through_with_dot", out, file("l/./secret", b"owned")),
        through("file_through_with_slashes", out, file("l//secret", b"owned")),
        through("file_far_through", out, file("l/self/attr/exec", b"owned")),
        through("directory_through", out, dir("l/new/")),
        through("directory_mode_through", out, head("l/empty/", b'5').mode(0o777).alone()),
        through("symlink_through", out, sym("l/new", "/")),
        through("hard_link_through", out, hard("l/new", "l")),
        through("fifo_through", out, fifo("l/new")),
        through("device_through", out, device("l/null")),
        through("whiteout_through", out, file("l/.wh.secret", b"")),
        through("opaque_through", out, file("l/.wh..wh..opq", b"")),
        through("empty_file_through", out, file("l/secret", b"")),
        refused(
            "through_two",
            tar(&[sym("a", out), sym("l", "a"), file("l/secret", b"x")]),
            &["\"l\"", "symlink"],
        ),
        refused(
            "through_a_loop",
            tar(&[sym("a", "b"), sym("b", "a"), file("a/x", b"x")]),
            &["\"a\"", "symlink"],
        ),
        refused(
            "through_one_in_a_directory",
            tar(&[dir("d"), sym("d/l", out), file("d/l/secret", b"x")]),
            &["\"d/l\"", "symlink"],
        ),
        refused(
            "through_one_to_a_directory_here",
            tar(&[dir("d"), sym("l", "d"), file("l/x", b"x")]),
            &["\"l\"", "symlink"],
        ),
        refused(
            "through_a_link_with_a_directory_there",
            tar(&[dir("d"), sym("d/up", ".."), file("d/up/hostile-outside/x", b"x")]),
            &["symlink"],
        ),
        refused(
            "through_a_hard_link_to_a_symlink",
            tar(&[sym("s", out), hard("l", "s"), file("l/secret", b"x")]),
            &["\"l\"", "symlink"],
        ),
        refused(
            "swapped_after_use",
            tar(&[dir("d"), file("d/a", b"x"), file("d", b""), sym("d", out), file("d/secret", b"x")]),
            &["\"d\"", "symlink"],
        ),
        refused(
            "swapped_while_open",
            tar(&[dir("d"), file("d/a", b"x"), sym("d", out), file("d/secret", b"x")]),
            &["\"d\"", "symlink"],
        ),
        refused(
            "swapped_above",
            tar(&[file("d/e/f", b"x"), sym("d", out), file("d/e/g", b"x")]),
            &["symlink"],
        ),
        refused(
            "swapped_without_a_name_for_it",
            tar(&[file("d/a", b"x"), sym("d", out), file("d/secret", b"x")]),
            &["\"d\"", "symlink"],
        ),
        refused(
            "swapped_for_its_mode",
            tar(&[dir("d"), sym("d", out), head("d/empty", b'5').mode(0o777).alone()]),
            &["symlink"],
        ),
        refused(
            "swapped_many_times",
            {
                let swap = [dir("d"), file("d/a", b"x"), sym("d", out)].concat();
                tar(&[swap.repeat(20), file("d/secret", b"x")])
            },
            &["\"d\"", "symlink"],
        ),
        read(
            "swapped_back",
            tar(&[dir("d"), file("d/a", b"x"), sym("d", out), dir("d"), file("d/secret", b"x")]),
            &[("d", Node::dir().opaque()), ("d/secret", x())],
        ),
        // CVE-2021-32760 and CVE-2026-33056: the mode is for the directory, not for where the link leads.
        read(
            "directory_over_symlink",
            tar(&[sym("l", format!("{out}/empty")), head("l", b'5').mode(0o777).alone()]),
            &[("l", Node::dir().mode(0o777).opaque())],
        ),
        read("file_over_symlink", tar(&[sym("l", format!("{out}/secret")), file("l", b"x")]), &[("l", x())]),
        read(
            "fifo_over_symlink",
            tar(&[sym("l", format!("{out}/secret")), fifo("l")]),
            &[("l", Node::fifo())],
        ),
        read("symlink_over_symlink", tar(&[sym("l", out), sym("l", "b")]), &[("l", Node::sym("b"))]),
        read(
            "hard_link_over_symlink",
            tar(&[file("a", b"x"), sym("l", format!("{out}/secret")), hard("l", "a")]),
            &[("a", x()), ("l", x().same("a"))],
        ),
        read("device_over_symlink", tar(&[sym("l", format!("{out}/null")), device("l")]), &[]),
        read("symlink_over_directory", tar(&[file("d/f", b"x"), sym("d", out)]), &[("d", Node::sym(out))]),
        read("symlink_out_alone", tar(&[sym("l", relative)]), &[("l", Node::sym(relative))]),
        read("symlink_absolute_alone", tar(&[sym("l", out)]), &[("l", Node::sym(out))]),
        read(
            "symlink_owner_and_time",
            tar(&[head("l", b'2').link(out).uid(7).gid(8).mtime(9).alone()]),
            &[("l", Node::sym(out).owner(7, 8).time(9, 0))],
        ),
        read(
            "symlink_mode_is_none",
            tar(&[head("l", b'2').link(format!("{out}/secret")).mode(0o4777).alone()]),
            &[("l", Node::sym(format!("{out}/secret")))],
        ),
        read_bytes(
            "symlink_not_utf8",
            tar(&[sym("l", b"\xff\n\x01")]),
            vec![(b"l".to_vec(), Node::sym(b"\xff\n\x01"))],
        ),
        read(
            "symlink_of_hundred_bytes",
            tar(&[sym("l", "t".repeat(100))]),
            &[("l", Node::sym("t".repeat(100)))],
        ),
        read(
            "symlink_of_4095_bytes",
            tar(&[pax(rec("linkpath", "t".repeat(4095))), sym("l", "a")]),
            &[("l", Node::sym("t".repeat(4095)))],
        ),
        refused(
            "symlink_of_4096_bytes",
            tar(&[pax(rec("linkpath", "t".repeat(4096))), sym("l", "a")]),
            &["\"l\"", "target"],
        ),
        refused("symlink_to_nothing", tar(&[sym("l", "")]), &["\"l\"", "empty"]),
        refused("symlink_with_data", tar(&[head("l", b'2').link("a").with(b"data")]), &["\"l\"", "data"]),
        refused("symlink_with_nul", tar(&[pax(rec("linkpath", "a\0b")), sym("l", "a")]), &["NUL"]),
    ];
    all.extend(hard_links(out));
    all
}

fn hard_links(out: &str) -> Vec<Case> {
    let x = || Node::file(b"x");
    let to = |name: &str, target: &str, words: &[&str]| {
        refused(name, tar(&[file("a", b"x"), hard("h", target)]), words)
    };
    vec![
        to("hard_link_dotdot", "../../../hostile-outside/secret", &["\"h\"", "out of the archive"]),
        to("hard_link_dotdot_inside", "d/../a", &["\"h\"", "out of the archive"]),
        to("hard_link_absolute_to_outside", &format!("{out}/secret"), &["\"h\"", "hard link"]),
        to("hard_link_to_etc", "/etc/passwd", &["\"h\"", "hard link"]),
        to("hard_link_to_proc", "/proc/self/exe", &["\"h\"", "hard link"]),
        to("hard_link_to_root", "/", &["\"h\"", "out of the archive"]),
        to("hard_link_to_dot", ".", &["\"h\"", "out of the archive"]),
        to("hard_link_to_nothing", "", &["\"h\"", "empty"]),
        to("hard_link_to_missing", "missing", &["\"h\"", "hard link"]),
        to("hard_link_to_missing_directory", "m/i/s/s", &["\"h\"", "hard link"]),
        to("hard_link_to_itself", "h", &["\"h\"", "hard link"]),
        to("hard_link_below_a_file", "a/b", &["parent"]),
        refused(
            "hard_link_to_what_it_replaces",
            tar(&[file("a", b"x"), hard("a", "a")]),
            &["\"a\"", "hard link"],
        ),
        refused("hard_link_to_later", tar(&[hard("h", "b"), file("b", b"x")]), &["\"h\"", "hard link"]),
        refused("hard_link_to_directory", tar(&[dir("d"), hard("h", "d")]), &["\"h\"", "hard link"]),
        refused("hard_link_to_device", tar(&[device("n"), hard("h", "n")]), &["\"h\"", "hard link"]),
        refused("hard_link_to_whiteout", tar(&[file(".wh.a", b""), hard("h", "a")]), &["\"h\"", "whiteout"]),
        refused(
            "hard_link_with_data",
            tar(&[file("a", b"x"), head("h", b'1').link("a").with(b"data")]),
            &["\"h\"", "data"],
        ),
        refused(
            "hard_link_through_a_symlink",
            tar(&[sym("l", out), hard("h", "l/secret")]),
            &["\"l\"", "symlink"],
        ),
        refused(
            "hard_link_through_a_symlink_here",
            tar(&[file("d/a", b"x"), sym("l", "d"), hard("h", "l/a")]),
            &["\"l\"", "symlink"],
        ),
        refused(
            "hard_link_over_the_directory_of_its_target",
            tar(&[file("d/a", b"x"), hard("d", "d/a")]),
            &["\"d\"", "hard link"],
        ),
        refused(
            "below_a_hard_link",
            tar(&[file("a", b"x"), hard("d", "a"), file("d/x", b"")]),
            &["\"d\"", "parent"],
        ),
        refused(
            "below_a_directory_that_became_a_hard_link",
            tar(&[file("a", b"x"), file("d/y", b""), hard("d", "a"), file("d/x", b"")]),
            &["\"d\"", "parent"],
        ),
        read(
            "hard_link",
            tar(&[file("a", b"x"), hard("d/h", "a")]),
            &[("a", x()), ("d", Node::made()), ("d/h", x().same("a"))],
        ),
        read(
            "hard_link_to_absolute_is_from_the_root",
            tar(&[file("d/a", b"x"), hard("h", "/d/a")]),
            &[("d", Node::made()), ("d/a", x()), ("h", x().same("d/a"))],
        ),
        read(
            "hard_link_with_dots",
            tar(&[file("a", b"x"), hard("h", "././a")]),
            &[("a", x()), ("h", x().same("a"))],
        ),
        read(
            "hard_link_chain",
            tar(&[file("a", b"x"), hard("b", "a"), hard("c", "b")]),
            &[("a", x()), ("b", x().same("a")), ("c", x().same("a"))],
        ),
        read(
            "hard_link_to_symlink",
            tar(&[sym("l", format!("{out}/secret")), hard("m", "l")]),
            &[("l", Node::sym(format!("{out}/secret"))), ("m", Node::sym(format!("{out}/secret")).same("l"))],
        ),
        read(
            "file_over_a_hard_link_to_symlink",
            tar(&[sym("l", format!("{out}/secret")), hard("m", "l"), file("m", b"x")]),
            &[("l", Node::sym(format!("{out}/secret"))), ("m", x())],
        ),
        read(
            "hard_link_to_fifo",
            tar(&[fifo("p"), hard("q", "p")]),
            &[("p", Node::fifo()), ("q", Node::fifo().same("p"))],
        ),
        read(
            "target_replaced_after_linking",
            tar(&[file("a", b"x"), hard("h", "a"), file("a", b"new")]),
            &[("a", Node::file(b"new")), ("h", x())],
        ),
        read(
            "hard_link_keeps_the_file_as_it_was",
            tar(&[
                head("a", b'0').mode(0o4755).with(b"x"),
                head("h", b'1').link("a").mode(0o600).uid(5).mtime(1).alone(),
            ]),
            &[("a", x().mode(0o4755)), ("h", x().mode(0o4755).same("a"))],
        ),
        read(
            "hard_link_over_full_directory",
            tar(&[file("a", b"x"), file("d/e/f", b"y"), hard("d", "a")]),
            &[("a", x()), ("d", x().same("a"))],
        ),
    ]
}
