//! The cache of another registry: filled as it is asked, verified, and of use when the other is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use boxship_registry::{Client, RegistryBuilder};

use crate::Test;
use crate::http::Wire;
use crate::subject::{MANIFEST, Own, digest, noise};

pub const TESTS: &[Test] = &[
    ("through::what_is_missing_comes_from_upstream_and_stays", None, fills),
    ("through::a_tag_that_moves_upstream_moves_here", None, moves),
    ("through::a_tag_that_is_fresh_is_not_asked_for", None, fresh),
    ("through::what_upstream_does_not_have_is_404", None, unknown),
    ("through::nothing_can_be_pushed", None, no_push),
    ("through::many_at_once_fetch_a_blob_once", None, once),
    ("through::a_blob_that_is_cut_goes_on", None, cut),
    ("through::what_upstream_lies_about_is_not_served", None, lies),
];

fn client(upstream: &str) -> Client {
    Client::builder()
        .plain_http(upstream)
        .stall_timeout(Duration::from_secs(2))
        .connect_timeout(Duration::from_secs(2))
        .build()
        .expect("a client")
}

fn cache(upstream: &str, options: impl FnOnce(RegistryBuilder) -> RegistryBuilder) -> Own {
    let client = client(upstream);
    Own::start(|b| options(b.pull_through(&client, upstream)))
}

fn fills() {
    let mut upstream = Own::start(|b| b);
    let bytes = upstream.target().tagged("team/app", "1");
    let blob = noise(2 << 20);
    upstream.target().blob("team/app", &blob);
    let cache = cache(&upstream.host, |b| b);
    let t = cache.target();
    assert_eq!(t.get("/v2/team/app/tags/list").expect(200).json()["tags"], serde_json::json!(["1"]));
    t.head("/v2/team/app/manifests/1").expect(200);
    let answer = t.get("/v2/team/app/manifests/1").expect(200);
    assert_eq!((answer.header("content-type"), answer.body.as_slice()), (Some(MANIFEST), bytes.as_slice()));
    let target = format!("/v2/team/app/blobs/{}", digest(&blob));
    let part = t.send("GET", &target, &[("Range", "bytes=1000-1999")], b"").expect(206);
    assert!(part.body == blob[1000..2000]);
    assert!(t.get(&target).expect(200).body == blob);
    upstream.stop();
    // By digest, by tag and in part, without the other.
    t.get(&format!("/v2/team/app/manifests/{}", digest(&bytes))).expect(200);
    assert_eq!(t.get("/v2/team/app/manifests/1").expect(200).body, bytes);
    assert!(t.get(&target).expect(200).body == blob);
    assert_eq!(t.get("/v2/team/app/tags/list").expect(200).json()["tags"], serde_json::json!(["1"]));
    t.get("/v2/team/app/manifests/2").refused(502, "UNKNOWN");
    t.get(&format!("/v2/team/app/blobs/{}", digest(b"x"))).refused(502, "UNKNOWN");
}

fn moves() {
    let upstream = Own::start(|b| b);
    let one = upstream.target().tagged("a", "1");
    let cache = cache(&upstream.host, |b| b);
    assert_eq!(cache.target().get("/v2/a/manifests/1").expect(200).body, one);
    let two = upstream.target().tagged("a", "1");
    assert_eq!(cache.target().get("/v2/a/manifests/1").expect(200).body, two);
}

fn fresh() {
    let upstream = Own::start(|b| b);
    let one = upstream.target().tagged("a", "1");
    let cache = cache(&upstream.host, |b| b.fresh(Duration::from_secs(3600)));
    assert_eq!(cache.target().get("/v2/a/manifests/1").expect(200).body, one);
    upstream.target().tagged("a", "1");
    assert_eq!(cache.target().get("/v2/a/manifests/1").expect(200).body, one);
}

fn unknown() {
    let upstream = Own::start(|b| b);
    upstream.target().tagged("a", "1");
    let cache = cache(&upstream.host, |b| b);
    let t = cache.target();
    t.get("/v2/a/manifests/2").refused(404, "MANIFEST_UNKNOWN");
    t.get("/v2/none/manifests/1").refused(404, "MANIFEST_UNKNOWN");
    t.get(&format!("/v2/a/blobs/{}", digest(b"x"))).refused(404, "BLOB_UNKNOWN");
    t.get("/v2/none/tags/list").refused(404, "NAME_UNKNOWN");
}

fn no_push() {
    let upstream = Own::start(|b| b);
    let bytes = upstream.target().tagged("a", "1");
    let cache = cache(&upstream.host, |b| b);
    let t = cache.target();
    t.send("POST", "/v2/a/blobs/uploads/", &[], b"").refused(405, "UNSUPPORTED");
    t.put("a", "2", MANIFEST, &bytes).refused(405, "UNSUPPORTED");
    t.delete("/v2/a/manifests/1").refused(405, "UNSUPPORTED");
}

/// An upstream that answers each `GET` of a blob as it is told; how often it was asked. Its thread ends with
/// the process.
fn scripted(answer: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = listener.local_addr().expect("bound").to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (counted, answer) = (Arc::clone(&counted), Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut wire = Wire(stream);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if std::io::Read::read(&mut wire.0, &mut byte).unwrap_or(0) == 0 {
                        return;
                    }
                    head.push(byte[0]);
                }
                let n = counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
                let _ = wire.send(&answer(n, &String::from_utf8_lossy(&head)));
            });
        }
    });
    (host, count)
}

fn full(kind: &str, body: &[u8], announced: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn once() {
    let bytes = noise(100_000);
    let body = bytes.clone();
    let (upstream, count) = scripted(move |_, _| full("application/octet-stream", &body, body.len()));
    let cache = cache(&upstream, |b| b);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            let (t, bytes) = (cache.target(), &bytes);
            scope.spawn(move || {
                assert!(t.get(&format!("/v2/a/blobs/{}", digest(bytes))).expect(200).body == *bytes);
            });
        }
    });
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

fn cut() {
    for ranges in [true, false] {
        let bytes = noise(900_000);
        let body = bytes.clone();
        let (upstream, count) = scripted(move |n, head| {
            let from = head.to_lowercase().lines().find_map(|l| {
                l.strip_prefix("range: bytes=")?.trim().strip_suffix('-')?.parse::<usize>().ok()
            });
            match (n, from) {
                (0, _) => full("application/octet-stream", &body[..400_000], body.len()),
                (_, Some(from)) if ranges => {
                    let rest = &body[from..];
                    let head = format!(
                        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\n\
                         Content-Length: {}\r\nConnection: close\r\n\r\n",
                        body.len() - 1,
                        body.len(),
                        rest.len()
                    );
                    [head.as_bytes(), rest].concat()
                }
                _ => full("application/octet-stream", &body, body.len()),
            }
        });
        let cache = cache(&upstream, |b| b);
        let answer = cache.target().get(&format!("/v2/a/blobs/{}", digest(&bytes))).expect(200);
        assert!(answer.body == bytes);
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}

fn lies() {
    let (upstream, _) = scripted(move |_, head| {
        if head.contains("/manifests/") {
            full(MANIFEST, b"{\"schemaVersion\":2,\"config\":{},\"layers\":[],\"manifests\":[]}", 61)
        } else {
            full("application/octet-stream", b"something else", 14)
        }
    });
    let cache = cache(&upstream, |b| b.max_blob(1000));
    let t = cache.target();
    t.get(&format!("/v2/a/blobs/{}", digest(b"something"))).refused(502, "DIGEST_INVALID");
    let answer = t.get(&format!("/v2/a/manifests/{}", digest(b"something")));
    assert_eq!(answer.status, 502, "{answer}");
    let answer = t.get("/v2/a/manifests/1");
    assert!(answer.status >= 400, "{answer}");
    let files = std::fs::read_dir(cache.dir.0.join("blobs/sha256")).expect("readable").count();
    let scratch = std::fs::read_dir(cache.dir.0.join("tmp")).expect("readable").count();
    assert_eq!((files, scratch), (0, 0), "nothing of it was kept");
    // More than was allowed.
    let bytes = noise(2000);
    let body = bytes.clone();
    let (upstream, _) = scripted(move |_, _| full("application/octet-stream", &body, body.len()));
    let cache = super::through::cache(&upstream, |b| b.max_blob(1000));
    cache.target().get(&format!("/v2/a/blobs/{}", digest(&bytes))).refused(413, "SIZE_INVALID");
}
