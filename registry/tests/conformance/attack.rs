//! Clients that are slow, that lie, and that want what is not theirs.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Test;
use crate::http::Wire;
use crate::subject::{MANIFEST, Own, Target, digest, noise, with_query};

pub const TESTS: &[Test] = &[
    ("attack::no_name_leads_out_of_the_directory", None, traversal),
    ("attack::a_head_that_does_not_come_is_not_waited_for", None, slow_head),
    ("attack::a_connection_that_is_silent_is_closed", None, silent),
    ("attack::a_body_that_does_not_come_is_not_waited_for", None, slow_body),
    ("attack::a_body_that_drips_is_not_waited_for", None, drip),
    ("attack::a_reader_that_does_not_read_is_not_waited_for", None, slow_reader),
    ("attack::more_connections_than_allowed_wait", None, connections),
    ("attack::a_body_shorter_than_announced_is_no_blob", None, short),
    ("attack::what_follows_the_announced_length_is_not_in_the_blob", None, long),
    ("attack::a_range_that_contradicts_the_length_is_refused", None, contradiction),
    ("attack::a_chunk_longer_than_its_range_is_taken_back", None, overlong),
    ("attack::two_lengths_are_refused", None, smuggling),
    ("attack::a_head_without_end_is_refused", None, endless_head),
    ("attack::a_blob_larger_than_allowed_is_refused", None, large),
    ("attack::more_uploads_than_allowed_are_refused", None, uploads),
    ("attack::a_wrong_digest_leaves_nothing", None, leftovers),
    ("attack::one_blob_pushed_by_many_at_once_is_one_blob", None, crowd),
    ("attack::one_upload_used_by_many_at_once_is_in_order", None, shared_upload),
    ("attack::no_answer_shows_where_things_are", None, no_paths),
    ("attack::a_damaged_manifest_is_not_served", None, damaged),
];

/// All files below a directory.
fn files(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(t) if t.is_dir() => open.push(entry.path()),
                _ => all.push(entry.path().display().to_string()),
            }
        }
    }
    all.sort();
    all
}

fn traversal() {
    let outer = crate::subject::Dir::new();
    let root = outer.0.join("inner/registry");
    let handle = crate::subject::RUNTIME.block_on(crate::subject::builder(&root).spawn()).expect("it starts");
    std::fs::write(outer.0.join("secret"), "secret").expect("written");
    let t = Target::new(&handle.address().to_string());
    let bytes = t.tagged("a", "1");
    let before = files(&outer.0);
    let hex = "0".repeat(64);
    let names = [
        "..",
        "../..",
        "a/..",
        "a/../..",
        "%2e%2e",
        "%2e%2e%2f%2e%2e",
        "a%2f..%2f..",
        "..%5c..",
        "a/./b",
        ".",
        "/",
        "//",
        "a//..",
        "_blobs",
        "a/_tags",
        "a%00",
        "a%0a",
        "\u{e4}",
        "a/..;/..",
        "A/..",
        "tmp/..",
    ];
    let ends = [
        "manifests/1".to_owned(),
        "manifests/../../../../secret".into(),
        "manifests/..%2f..%2f..%2f..%2fsecret".into(),
        "manifests/..".into(),
        "tags/list".into(),
        "blobs/uploads/".into(),
        "blobs/uploads/../../../../../secret".into(),
        "blobs/uploads/..%2f..%2f..%2fsecret".into(),
        "blobs/sha256:../../../../secret".into(),
        "blobs/sha256:..%2f..%2f..%2fsecret".into(),
        format!("blobs/sha256:{hex}%2f.."),
        format!("blobs/sha256:{hex}%00"),
        format!("referrers/sha256:..%2f{hex}"),
    ];
    for method in ["GET", "PUT", "DELETE", "POST", "PATCH"] {
        for name in names {
            for end in &ends {
                let target = format!("/v2/{name}/{end}");
                let answer = t.send(method, &target, &[("Content-Type", MANIFEST)], &bytes);
                assert!((400..500).contains(&answer.status), "{method} {target}: {answer}");
            }
        }
        for end in ends.iter().filter(|end| end.contains("..") || end.contains("%00")) {
            let answer = t.send(method, &format!("/v2/a/{end}"), &[("Content-Type", MANIFEST)], &bytes);
            assert!((400..500).contains(&answer.status), "{method} {end}: {answer}");
        }
    }
    // In queries, too.
    for digest in ["../../secret", "sha256:../../../secret", &format!("sha256:{hex}/..")] {
        let answer = t.send("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &[], b"x");
        assert_eq!(answer.status, 400, "{answer}");
        for from in ["../a", "a/../a", "..", "%2e%2e"] {
            let target = format!("/v2/a/blobs/uploads/?mount={}&from={from}", crate::subject::digest(b"x"));
            let location = t.send("POST", &target, &[], b"").expect(202).location();
            t.delete(&location).expect(204);
        }
    }
    assert_eq!(files(&outer.0), before, "nothing was written anywhere");
    crate::subject::RUNTIME.block_on(handle.shutdown());
}

const SHORT: Duration = Duration::from_millis(300);

/// How long it takes until the other side closes.
fn closed(wire: &mut Wire) -> Duration {
    let begun = Instant::now();
    wire.rest();
    begun.elapsed()
}

fn slow_head() {
    let own = Own::start(|b| b.header_timeout(SHORT));
    let mut wire = Wire::open(&own.host);
    wire.send(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ").expect("sent");
    assert!(closed(&mut wire) < SHORT * 8);
    // One byte after the other does not help.
    let mut wire = Wire::open(&own.host);
    let begun = Instant::now();
    while wire.send(b"G").is_ok() && begun.elapsed() < SHORT * 20 {
        std::thread::sleep(SHORT / 4);
    }
    assert!(begun.elapsed() < SHORT * 10, "{:?}", begun.elapsed());
}

fn silent() {
    let own = Own::start(|b| b.header_timeout(SHORT));
    let mut wire = Wire::open(&own.host);
    assert!(closed(&mut wire) < SHORT * 8, "before the first request");
    let mut wire = Wire::open(&own.host);
    wire.head("GET", "/v2/", &[]);
    wire.send(b"\r\n").expect("sent");
    wire.answer(false).expect("an answer").expect(200);
    assert!(closed(&mut wire) < SHORT * 8, "between two requests");
}

fn slow_body() {
    let own = Own::start(|b| b.body_timeout(SHORT));
    let t = own.target();
    let location = t.begin("a");
    let mut wire = Wire::open(&own.host);
    wire.head("PATCH", &location, &[("Content-Length", "1000")]);
    wire.send(b"\r\n0123456789").expect("sent");
    let begun = Instant::now();
    let answer = wire.answer(false).expect("an answer").expect(408);
    assert!(begun.elapsed() < SHORT * 8, "{answer}");
    // What came is there, and the upload goes on.
    assert_eq!(t.get(&location).expect(204).header("range"), Some("0-9"));
    t.patch(&location, Some("10-12"), b"abc").expect(202);
    t.finish(&location, &digest(b"0123456789abc"), b"").expect(201);
}

fn drip() {
    let own = Own::start(|b| b.body_timeout(SHORT));
    let t = own.target();
    let location = t.begin("a");
    let mut wire = Wire::open(&own.host);
    wire.head("PATCH", &location, &[("Content-Length", "100000")]);
    wire.send(b"\r\n").expect("sent");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(15) && wire.send(b"x").is_ok() {
        std::thread::sleep(SHORT / 3);
    }
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

fn slow_reader() {
    let own = Own::start(|b| b.body_timeout(SHORT).max_connections(1));
    let t = own.target();
    let digest = t.blob("a", &noise(32 << 20));
    let mut wire = Wire::open(&own.host);
    wire.head("GET", &format!("/v2/a/blobs/{digest}"), &[]);
    wire.send(b"\r\n").expect("sent");
    let begun = Instant::now();
    // There is one place, and it becomes free.
    t.get("/v2/").expect(200);
    assert!(begun.elapsed() >= SHORT && begun.elapsed() < SHORT * 10, "{:?}", begun.elapsed());
    assert!(wire.rest().len() < 32 << 20);
}

fn connections() {
    let own = Own::start(|b| b.max_connections(2));
    let (one, two) = (Wire::open(&own.host), Wire::open(&own.host));
    std::thread::sleep(Duration::from_millis(50));
    let host = own.host.clone();
    let third = std::thread::spawn(move || Target::new(&host).get("/v2/").status);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!third.is_finished());
    drop(one);
    assert_eq!(third.join().expect("no panic"), 200);
    drop(two);
}

fn short() {
    let own = Own::start(|b| b);
    let t = own.target();
    let location = t.begin("a");
    let target = with_query(&location, "digest", &digest(b"0123456789"));
    let mut wire = Wire::open(&own.host);
    wire.head("PUT", &target, &[("Content-Length", "10")]);
    wire.send(b"\r\n01234").expect("sent");
    drop(wire);
    std::thread::sleep(Duration::from_millis(200));
    t.head(&format!("/v2/a/blobs/{}", digest(b"0123456789"))).expect(404);
    t.head(&format!("/v2/a/blobs/{}", digest(b"01234"))).expect(404);
    // It goes on where it was.
    assert_eq!(t.get(&location).expect(204).header("range"), Some("0-4"));
    t.finish(&location, &digest(b"0123456789"), b"56789").expect(201);
}

fn long() {
    let own = Own::start(|b| b);
    let t = own.target();
    let target = with_query(&t.begin("a"), "digest", &digest(b"01234"));
    let mut wire = Wire::open(&own.host);
    wire.head("PUT", &target, &[("Content-Length", "5")]);
    wire.send(b"\r\n0123456789").expect("sent");
    wire.answer(false).expect("an answer").expect(201);
    assert_eq!(t.get(&format!("/v2/a/blobs/{}", digest(b"01234"))).expect(200).body, b"01234");
    t.head(&format!("/v2/a/blobs/{}", digest(b"0123456789"))).expect(404);
}

fn contradiction() {
    let own = Own::start(|b| b);
    let t = own.target();
    let location = t.begin("a");
    t.patch(&location, Some("0-99"), b"0123456789").refused(400, "SIZE_INVALID");
    t.patch(&location, Some("0-3"), b"0123456789").refused(400, "SIZE_INVALID");
    t.patch(&location, Some("0-9"), b"0123456789").expect(202);
    t.finish(&location, &digest(b"0123456789"), b"").expect(201);
}

fn overlong() {
    let own = Own::start(|b| b);
    let t = own.target();
    let location = t.patch(&t.begin("a"), Some("0-9"), b"0123456789").expect(202).location();
    for (range, body) in [("10-14", "abcdefgh"), ("10-14", "abc")] {
        let mut wire = Wire::open(&own.host);
        let headers = [("Transfer-Encoding", "chunked"), ("Content-Range", range), ("Connection", "close")];
        wire.head("PATCH", &location, &headers);
        wire.send(format!("\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes()).expect("sent");
        wire.answer(false).expect("an answer").refused(400, "SIZE_INVALID");
        assert_eq!(t.get(&location).expect(204).header("range"), Some("0-9"));
    }
    t.patch(&location, Some("10-12"), b"abc").expect(202);
    t.finish(&location, &digest(b"0123456789abc"), b"").expect(201);
}

fn smuggling() {
    let own = Own::start(|b| b);
    let t = own.target();
    for headers in [
        vec![("Content-Length", "5"), ("Content-Length", "10")],
        vec![("Content-Length", "-5")],
        vec![("Content-Length", "5, 10")],
        vec![("Content-Length", "99999999999999999999999")],
        vec![("Transfer-Encoding", "gzip")],
        vec![("Transfer-Encoding", "chunked, identity")],
    ] {
        let location = t.begin("a");
        let mut wire = Wire::open(&own.host);
        wire.head("PATCH", &location, &headers);
        wire.send(b"\r\n0123456789").expect("sent");
        let answer = wire.answer(false);
        assert!(answer.is_none_or(|a| (400..500).contains(&a.status)), "{headers:?}");
        assert_eq!(t.get(&location).expect(204).header("range"), Some("0-0"), "{headers:?}");
    }
    // Both: what the two sides of a proxy could read in two ways is read as chunks, and the connection ends.
    let location = t.begin("a");
    let mut wire = Wire::open(&own.host);
    wire.head("PATCH", &location, &[("Content-Length", "40"), ("Transfer-Encoding", "chunked")]);
    wire.send(b"\r\n3\r\nabc\r\n0\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let answer = wire.answer(false);
    assert!(answer.is_none_or(|a| a.status == 202 || a.status == 400));
    let answer = t.get(&location).expect(204);
    assert!(matches!(answer.header("range"), Some("0-2" | "0-0")), "{answer}");
}

fn endless_head() {
    let own = Own::start(|b| b);
    let mut wire = Wire::open(&own.host);
    wire.head("GET", "/v2/", &[]);
    let mut sent = 0;
    while sent < 10 << 20 && wire.send(&[b'x'; 4096]).is_ok() {
        sent += 4096;
    }
    let answer = wire.answer(false);
    assert!(answer.is_none_or(|a| a.status == 431), "it is refused");
    assert!(sent < 10 << 20, "it does not take everything");
    let mut wire = Wire::open(&own.host);
    let many: Vec<(String, String)> = (0..1000).map(|n| (format!("X-{n}"), "y".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    wire.head("GET", "/v2/", &many);
    let _ = wire.send(b"\r\n");
    assert!(wire.answer(false).is_none_or(|a| a.status == 431));
    let long = format!("/v2/{}/tags/list", "a/".repeat(20_000));
    let answer = Target::new(&own.host).get(&long);
    assert!((400..500).contains(&answer.status), "{answer}");
}

fn large() {
    let own = Own::start(|b| b.max_blob(1000));
    let t = own.target();
    t.blob("a", &noise(1000));
    let bytes = noise(1001);
    let location = t.begin("a");
    t.finish(&location, &digest(&bytes), &bytes).refused(413, "SIZE_INVALID");
    let location = t.patch(&t.begin("a"), None, &bytes[..600]).expect(202).location();
    t.patch(&location, None, &bytes[600..]).refused(413, "SIZE_INVALID");
    // One that does not say how large it is.
    let mut wire = Wire::open(&own.host);
    wire.head("PATCH", &location, &[("Transfer-Encoding", "chunked"), ("Connection", "close")]);
    wire.send(b"\r\n").expect("sent");
    for _ in 0..1000 {
        if wire.send(b"400\r\n").and(wire.send(&[b'x'; 1024])).and(wire.send(b"\r\n")).is_err() {
            break;
        }
    }
    let _ = wire.send(b"0\r\n\r\n");
    assert!(wire.answer(false).is_none_or(|a| a.status == 413));
    assert_eq!(t.get(&location).expect(204).header("range"), Some("0-599"));
}

fn uploads() {
    let own = Own::start(|b| b.max_uploads(3));
    let t = own.target();
    let all: Vec<String> = (0..3).map(|_| t.begin("a")).collect();
    let answer = t.send("POST", "/v2/a/blobs/uploads/", &[], b"").refused(429, "TOOMANYREQUESTS");
    assert!(answer.header("retry-after").is_some());
    t.begin("b");
    t.delete(&all[0]).expect(204);
    t.begin("a");
}

fn leftovers() {
    let own = Own::start(|b| b);
    let t = own.target();
    t.blob("a", b"right");
    let before = files(&own.dir.0);
    for _ in 0..3 {
        let location = t.begin("a");
        t.finish(&location, &digest(b"right"), b"wrong").refused(400, "DIGEST_INVALID");
        let target = format!("/v2/a/blobs/uploads/?digest={}", digest(b"right"));
        t.send("POST", &target, &[], b"wrong").refused(400, "DIGEST_INVALID");
    }
    assert_eq!(files(&own.dir.0), before);
    assert_eq!(t.get(&format!("/v2/a/blobs/{}", digest(b"right"))).expect(200).body, b"right");
}

fn crowd() {
    let own = Own::start(|b| b);
    let bytes = noise(3 << 20);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let (t, bytes) = (own.target(), &bytes);
            scope.spawn(move || {
                let name = format!("a{}", n % 4);
                let location = t.patch(&t.begin(&name), None, &bytes[..1 << 20]).expect(202).location();
                t.finish(&location, &digest(bytes), &bytes[1 << 20..]).expect(201);
                assert!(t.get(&format!("/v2/{name}/blobs/{}", digest(bytes))).expect(200).body == *bytes);
            });
        }
    });
    let blobs: Vec<String> = files(&own.dir.0.join("blobs"));
    assert_eq!(blobs.len(), 1, "{blobs:?}");
    assert!(files(&own.dir.0.join("tmp")).is_empty());
    assert!(files(&own.dir.0).iter().all(|f| !f.contains("_uploads")));
}

fn shared_upload() {
    let own = Own::start(|b| b);
    let t = own.target();
    let location = t.begin("a");
    let parts: Vec<Vec<u8>> = (0..8u8).map(|n| vec![n; 100_000]).collect();
    // All want to be the first, one is.
    let accepted: Vec<usize> = std::thread::scope(|scope| {
        let all: Vec<_> = (parts.iter().enumerate())
            .map(|(n, part)| {
                let (t, location) = (t.clone(), location.clone());
                scope.spawn(move || (n, t.patch(&location, Some("0-99999"), part).status))
            })
            .collect();
        let all: Vec<(usize, u16)> = all.into_iter().map(|a| a.join().expect("no panic")).collect();
        assert!(all.iter().all(|(_, status)| matches!(status, 202 | 416)), "{all:?}");
        all.into_iter().filter(|(_, status)| *status == 202).map(|(n, _)| n).collect()
    });
    assert_eq!(accepted.len(), 1);
    t.finish(&location, &digest(&parts[accepted[0]]), b"").expect(201);
}

fn no_paths() {
    let own = Own::start(|b| b);
    let t = own.target();
    t.tagged("a", "1");
    // What was a directory is a file: every access to it fails.
    let dir = own.dir.0.join("repositories/a/_manifests");
    std::fs::rename(&dir, own.dir.0.join("away")).expect("renamed");
    std::os::unix::fs::symlink("/etc", &dir).expect("made");
    for target in ["/v2/a/manifests/1", "/v2/a/tags/list", "/v2/_catalog"] {
        let answer = t.get(target);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains(&own.dir.0.display().to_string()) && !text.contains("/etc"), "{answer}");
    }
    let answer = t.get("/v2/a/manifests/1");
    assert!(answer.status >= 400, "{answer}");
}

fn damaged() {
    let own = Own::start(|b| b);
    let t = own.target();
    let bytes = t.tagged("a", "1");
    let hex = digest(&bytes).replace("sha256:", "");
    let file = own.dir.0.join("blobs/sha256").join(hex);
    let mut wrong = bytes.clone();
    wrong[5] ^= 1;
    std::fs::File::create(&file).and_then(|mut f| f.write_all(&wrong)).expect("written");
    t.get("/v2/a/manifests/1").refused(500, "UNKNOWN");
    // Pushing it again heals it.
    t.put("a", "1", MANIFEST, &bytes).expect(201);
    assert_eq!(t.get("/v2/a/manifests/1").expect(200).body, bytes);
}
