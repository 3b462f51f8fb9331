//! Faults of the compression, and streams within streams.

use std::io::Write;

use crate::case::{Case, read, refused};
use crate::pieces::*;
use crate::tree::Node;

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    w.write_all(data).expect("written");
    w.finish().expect("written")
}

pub fn zstd(data: &[u8]) -> Vec<u8> {
    let mut w = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("an encoder");
    w.include_checksum(true).expect("set");
    w.write_all(data).expect("written");
    w.finish().expect("written")
}

pub fn cases() -> Vec<Case> {
    let noise: Vec<u8> = (0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let plain = tar(&[file("a", b"x"), file("noise", &noise)]);
    let nodes = || [("a", Node::file(b"x")), ("noise", Node::file(&noise))];
    let (gz, zst) = (gzip(&plain), zstd(&plain));
    let good = |name: &str, archive: Vec<u8>| read(name, archive, &nodes());
    let bad = |name: &str, archive: Vec<u8>| refused(name, archive, &["the archive"]);
    let flip = |of: &[u8], at: usize| {
        let mut v = of.to_vec();
        v[at] ^= 0x55;
        v
    };
    let set = |of: &[u8], at: usize, byte: u8| {
        let mut v = of.to_vec();
        v[at] = byte;
        v
    };
    let join = |a: &[u8], b: &[u8]| [a, b].concat();
    let skippable = |n: u8| [&[0x50 | n, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..], b"extra"].concat();
    // FNAME, FCOMMENT, FEXTRA and MTIME of a gzip header.
    let decorated = [
        &[0x1f, 0x8b, 8, 4 | 8 | 16, 1, 2, 3, 4, 0, 3, 3, 0, 1, 2, 3][..],
        b"../../evil\0comment\0",
        &gz[10..],
    ]
    .concat();
    let (n, z) = (gz.len(), zst.len());
    // A frame that says which window it wants: 2 to the power of 10 + the upper five bits.
    let window = |log: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3][..], &[0x01, 0, 0]].concat();
    let block = |frame: Vec<u8>| join(&frame, b"");
    vec![
        good("gzip", gz.clone()),
        good("gzip_with_name_comment_and_extra", decorated),
        good("gzip_in_two_members", join(&gzip(&plain[..700]), &gzip(&plain[700..]))),
        good("gzip_in_many_members", plain.chunks(97).flat_map(gzip).collect()),
        good("gzip_with_an_empty_member", [gzip(&plain[..700]), gzip(b""), gzip(&plain[700..])].concat()),
        good("gzip_stored", {
            let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
            w.write_all(&plain).expect("written");
            w.finish().expect("written")
        }),
        bad("gzip_crc", flip(&gz, n - 6)),
        bad("gzip_size", flip(&gz, n - 2)),
        bad("gzip_body", flip(&gz, n / 2)),
        bad("gzip_method", set(&gz, 2, 7)),
        bad("gzip_reserved_flags", set(&gz, 3, 0xe0)),
        bad("gzip_cut_in_its_header", gz[..5].to_vec()),
        bad("gzip_cut_after_its_header", gz[..10].to_vec()),
        bad("gzip_cut_in_the_middle", gz[..n / 2].to_vec()),
        bad("gzip_cut_before_the_trailer", gz[..n - 8].to_vec()),
        bad("gzip_cut_in_the_trailer", gz[..n - 1].to_vec()),
        bad("gzip_with_garbage_behind", join(&gz, b"garbage behind it")),
        bad("gzip_with_zeros_behind", join(&gz, &[0; 512])),
        bad("gzip_second_member_cut", join(&gzip(&plain[..700]), &gzip(&plain[700..])[..40])),
        bad("gzip_second_member_crc", {
            let mut v = join(&gzip(&plain[..700]), &gzip(&plain[700..]));
            let at = v.len() - 6;
            v[at] ^= 1;
            v
        }),
        bad(
            "gzip_of_a_header_only_name",
            [&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3][..], &[b'n'; 2000]].concat(),
        ),
        refused("gzip_of_nothing", gzip(b""), &["no archive"]),
        read("gzip_of_an_empty_archive", gzip(&end()), &[]),
        refused("gzip_of_a_cut_archive", gzip(&plain[..2000]), &["\"noise\"", "ends inside a file"]),
        refused("gzip_in_gzip", gzip(&gz), &["checksum"]),
        refused("zstd_in_gzip", gzip(&zst), &["checksum"]),
        good("zstd", zst.clone()),
        good("zstd_in_two_frames", join(&zstd(&plain[..700]), &zstd(&plain[700..]))),
        good("zstd_with_a_skippable_frame_behind", join(&zst, &skippable(0))),
        good(
            "zstd_with_a_skippable_frame_between",
            [zstd(&plain[..700]), skippable(15), zstd(&plain[700..])].concat(),
        ),
        good("zstd_with_an_empty_frame_behind", join(&zst, &zstd(b""))),
        refused("zstd_with_a_skippable_frame_before", join(&skippable(0), &zst), &["checksum"]),
        bad("zstd_checksum", flip(&zst, z - 1)),
        bad("zstd_body", flip(&zst, z / 2)),
        bad("zstd_cut_in_its_header", zst[..5].to_vec()),
        bad("zstd_cut_in_the_middle", zst[..z / 2].to_vec()),
        bad("zstd_cut_before_its_checksum", zst[..z - 4].to_vec()),
        bad("zstd_with_garbage_behind", join(&zst, b"garbage behind it")),
        bad("zstd_with_zeros_behind", join(&zst, &[0; 512])),
        bad("zstd_with_gzip_behind", join(&zst, &gz)),
        bad("zstd_second_frame_cut", join(&zstd(&plain[..700]), &zstd(&plain[700..])[..40])),
        bad("zstd_window_of_64_mib", block(window(26))),
        bad("zstd_window_of_a_gibibyte", block(window(30))),
        bad("zstd_window_of_two_tebibytes", block(window(41))),
        bad(
            "zstd_of_an_unknown_dictionary",
            [&[0x28, 0xb5, 0x2f, 0xfd, 0x21, 9, 5][..], &[0x29, 0, 0], b"hello"].concat(),
        ),
        bad("zstd_reserved_bit", [&[0x28, 0xb5, 0x2f, 0xfd, 0x28, 5][..], &[0x29, 0, 0], b"hello"].concat()),
        bad(
            "zstd_reserved_block",
            [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, 5][..], &[0x2f, 0, 0], b"hello"].concat(),
        ),
        refused("zstd_of_nothing", zstd(b""), &["no archive"]),
        refused("zstd_in_zstd", zstd(&zst), &["checksum"]),
        refused("gzip_in_zstd", zstd(&gz), &["checksum"]),
        refused("zstd_skippable_frame_alone", join(&skippable(0), &[0; 1024]), &["checksum"]),
    ]
}
