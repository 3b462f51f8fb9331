//! The category "pull".

use crate::Requirement;
use crate::Who::{Both, Ours};
use crate::subject::{MANIFEST, Target, digest, noise};

pub const REQUIREMENTS: &[Requirement] = &[
    ("pull::the_base_is_answered_with_200", Both, base),
    ("pull::a_manifest_by_tag_and_by_digest_is_the_bytes_that_were_pushed", Both, manifest),
    ("pull::the_content_type_of_a_manifest_is_its_media_type", Both, content_type),
    ("pull::a_head_of_a_manifest_has_its_length_and_digest_and_no_body", Both, manifest_head),
    ("pull::an_unknown_manifest_is_404_manifest_unknown", Both, manifest_unknown),
    ("pull::a_reference_that_cannot_be_one_is_404", Both, reference_invalid),
    ("pull::an_unknown_repository_is_404", Both, repository_unknown),
    ("pull::a_blob_is_the_bytes_that_were_pushed", Both, blob),
    ("pull::a_head_of_a_blob_has_its_length_and_digest_and_no_body", Both, blob_head),
    ("pull::an_unknown_blob_is_404_blob_unknown", Both, blob_unknown),
    ("pull::a_blob_of_another_repository_is_404", Both, blob_elsewhere),
    ("pull::an_empty_blob", Both, blob_empty),
    ("pull::a_large_blob", Both, blob_large),
    ("pull::a_range_of_a_blob_is_206", Both, ranges),
    ("pull::a_range_outside_of_a_blob_is_416", Ours("it breaks the answer off"), range_outside),
    ("pull::ranges_that_are_none_are_passed_over", Ours("it answers them with 416"), ranges_odd),
    ("pull::what_a_client_has_is_304", Both, not_modified),
    ("pull::several_requests_on_one_connection", Both, keep_alive),
    ("pull::an_encoded_digest_is_understood", Both, encoded),
];

fn base(t: &Target, _: &str) {
    let answer = t.get("/v2/").expect(200);
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
}

fn manifest(t: &Target, name: &str) {
    let bytes = t.tagged(name, "1");
    for reference in ["1".to_owned(), digest(&bytes)] {
        let answer = t.get(&format!("/v2/{name}/manifests/{reference}")).expect(200);
        assert_eq!(answer.body, bytes);
        assert_eq!(answer.header("docker-content-digest"), Some(digest(&bytes).as_str()));
    }
}

fn content_type(t: &Target, name: &str) {
    let bytes = t.tagged(name, "1");
    let answer = t.get(&format!("/v2/{name}/manifests/1")).expect(200);
    assert_eq!(answer.header("content-type"), Some(MANIFEST), "{}", bytes.len());
}

fn manifest_head(t: &Target, name: &str) {
    let bytes = t.tagged(name, "1");
    for reference in ["1".to_owned(), digest(&bytes)] {
        let answer = t.head(&format!("/v2/{name}/manifests/{reference}")).expect(200);
        assert_eq!(answer.header("content-length"), Some(bytes.len().to_string().as_str()));
        assert_eq!(answer.header("docker-content-digest"), Some(digest(&bytes).as_str()));
        assert_eq!(answer.header("content-type"), Some(MANIFEST));
    }
}

fn manifest_unknown(t: &Target, name: &str) {
    t.tagged(name, "1");
    for reference in ["2".to_owned(), digest(b"nothing")] {
        t.get(&format!("/v2/{name}/manifests/{reference}")).refused(404, "MANIFEST_UNKNOWN");
        t.head(&format!("/v2/{name}/manifests/{reference}")).expect(404);
    }
}

fn reference_invalid(t: &Target, name: &str) {
    t.tagged(name, "1");
    t.get(&format!("/v2/{name}/manifests/.INVALID")).expect(404);
    t.head(&format!("/v2/{name}/manifests/.INVALID")).expect(404);
}

fn repository_unknown(t: &Target, name: &str) {
    t.get(&format!("/v2/{name}/none/manifests/1")).expect(404);
    t.get(&format!("/v2/{name}/none/blobs/{}", digest(b"x"))).expect(404);
}

fn blob(t: &Target, name: &str) {
    let bytes = noise(5000);
    let digest = t.blob(name, &bytes);
    let answer = t.get(&format!("/v2/{name}/blobs/{digest}")).expect(200);
    assert_eq!(answer.body, bytes);
    assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
}

fn blob_head(t: &Target, name: &str) {
    let digest = t.blob(name, &noise(5000));
    let answer = t.head(&format!("/v2/{name}/blobs/{digest}")).expect(200);
    assert_eq!(answer.header("content-length"), Some("5000"));
    assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
}

fn blob_unknown(t: &Target, name: &str) {
    t.tagged(name, "1");
    t.get(&format!("/v2/{name}/blobs/{}", digest(b"nothing"))).refused(404, "BLOB_UNKNOWN");
    t.head(&format!("/v2/{name}/blobs/{}", digest(b"nothing"))).expect(404);
}

fn blob_elsewhere(t: &Target, name: &str) {
    let digest = t.blob(name, &noise(100));
    t.tagged(&format!("{name}/other"), "1");
    t.get(&format!("/v2/{name}/other/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
}

fn blob_empty(t: &Target, name: &str) {
    let digest = t.blob(name, b"");
    let answer = t.get(&format!("/v2/{name}/blobs/{digest}")).expect(200);
    assert_eq!((answer.body.len(), answer.header("content-length")), (0, Some("0")));
}

fn blob_large(t: &Target, name: &str) {
    let bytes = noise(9 << 20);
    let digest = t.blob(name, &bytes);
    assert!(t.get(&format!("/v2/{name}/blobs/{digest}")).expect(200).body == bytes);
}

fn ranges(t: &Target, name: &str) {
    let bytes = noise(1 << 20);
    let digest = t.blob(name, &bytes);
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=1000-700000", 1000, 700_001),
        ("bytes=1048000-", 1_048_000, 1 << 20),
        ("bytes=1048000-9999999", 1_048_000, 1 << 20),
        ("bytes=-7", (1 << 20) - 7, 1 << 20),
    ] {
        let answer =
            t.send("GET", &format!("/v2/{name}/blobs/{digest}"), &[("Range", range)], b"").expect(206);
        assert!(answer.body == bytes[from..to], "{range}");
        let want = format!("bytes {from}-{}/{}", to - 1, bytes.len());
        assert_eq!(answer.header("content-range"), Some(want.as_str()));
    }
}

fn range_outside(t: &Target, name: &str) {
    let digest = t.blob(name, &noise(100));
    let answer =
        t.send("GET", &format!("/v2/{name}/blobs/{digest}"), &[("Range", "bytes=100-")], b"").expect(416);
    assert_eq!(answer.header("content-range"), Some("bytes */100"));
}

fn ranges_odd(t: &Target, name: &str) {
    let digest = t.blob(name, &noise(100));
    for range in ["bytes=9-5", "bytes=x", "lines=1-2", "bytes=0-1,5-6", "bytes=99999999999999999999-"] {
        let answer =
            t.send("GET", &format!("/v2/{name}/blobs/{digest}"), &[("Range", range)], b"").expect(200);
        assert_eq!(answer.body.len(), 100, "{range}");
    }
    let other = [("Range", "bytes=0-1"), ("If-Range", "\"other\"")];
    t.send("GET", &format!("/v2/{name}/blobs/{digest}"), &other, b"").expect(200);
}

fn not_modified(t: &Target, name: &str) {
    let bytes = t.tagged(name, "1");
    let answer = t.get(&format!("/v2/{name}/manifests/1")).expect(200);
    let tag = answer.header("etag").expect("an ETag").to_owned();
    let target = format!("/v2/{name}/manifests/1");
    t.send("GET", &target, &[("If-None-Match", &tag), ("Accept", MANIFEST)], b"").expect(304);
    t.send("GET", &target, &[("If-None-Match", "\"other\""), ("Accept", MANIFEST)], b"").expect(200);
    assert_eq!(t.get(&target).body, bytes);
}

fn keep_alive(t: &Target, name: &str) {
    let bytes = noise(300_000);
    let digest = t.blob(name, &bytes);
    let mut wire = crate::http::Wire::open(&t.host);
    for method in ["GET", "HEAD", "GET"] {
        wire.head(method, &format!("/v2/{name}/blobs/{digest}"), &[]);
        wire.send(b"\r\n").expect("sent");
        let answer = wire.answer(method == "HEAD").expect("an answer").expect(200);
        assert!(method == "HEAD" || answer.body == bytes);
    }
}

fn encoded(t: &Target, name: &str) {
    let bytes = t.tagged(name, "1");
    let digest = digest(&bytes).replace(':', "%3A");
    t.get(&format!("/v2/{name}/manifests/{digest}")).expect(200);
}
