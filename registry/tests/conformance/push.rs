//! The category "push".

use serde_json::json;

use crate::Requirement;
use crate::Who::{Both, Ours};
use crate::http::Wire;
use crate::subject::{
    CONFIG, INDEX, LAYER, MANIFEST, Target, descriptor, digest, manifest, noise, with_query,
};

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const NO_REFERRERS: &str = "it has no referrers";
const NO_ORDER: &str = "it does not read Content-Range";

pub const REQUIREMENTS: &[Requirement] = &[
    ("push::a_blob_by_post_then_put", Both, post_then_put),
    ("push::a_blob_by_a_single_post", Ours("it answers 202 and wants a second request"), single_post),
    ("push::a_digest_that_does_not_fit_is_400_digest_invalid", Both, digest_mismatch),
    ("push::a_put_without_a_digest_is_400", Both, no_digest),
    ("push::a_digest_that_is_none_is_400", Both, digest_invalid),
    ("push::chunks_in_order", Both, chunks),
    ("push::a_put_with_the_last_chunk", Both, last_chunk),
    ("push::a_chunk_out_of_order_is_416_and_the_upload_goes_on", Ours(NO_ORDER), out_of_order),
    ("push::a_content_range_that_is_none_is_416", Ours(NO_ORDER), range_invalid),
    ("push::a_body_without_a_range_is_added", Both, streamed),
    ("push::a_body_in_transfer_chunks_is_added", Both, transfer_chunks),
    ("push::the_status_of_an_upload_is_204_with_range_and_location", Both, status),
    ("push::a_cancelled_upload_is_204_and_then_404", Both, cancelled),
    ("push::an_unknown_upload_is_404_blob_upload_unknown", Both, upload_unknown),
    ("push::an_upload_belongs_to_its_repository", Both, upload_elsewhere),
    ("push::a_mounted_blob_is_201", Both, mount),
    ("push::a_mount_of_what_is_not_there_is_202_and_goes_on", Both, mount_unknown),
    ("push::a_manifest_by_tag_is_201_with_location_and_digest", Both, manifest_by_tag),
    ("push::a_manifest_by_digest_is_201", Both, manifest_by_digest),
    ("push::a_manifest_with_another_digest_is_400_digest_invalid", Both, manifest_mismatch),
    ("push::a_manifest_with_missing_blobs_is_refused", Both, manifest_blobs),
    ("push::an_index_with_missing_manifests_is_refused", Both, index_missing),
    ("push::an_index_of_manifests", Both, index),
    ("push::every_byte_of_a_manifest_is_kept", Both, raw),
    ("push::a_manifest_in_dockers_format_keeps_its_type", Both, docker_format),
    ("push::a_manifest_of_more_than_4_mib_is_refused", Both, manifest_large),
    ("push::a_manifest_of_just_4_mib_is_kept", Both, manifest_limit),
    (
        "push::what_is_no_manifest_is_400_manifest_invalid",
        Ours("it answers some of it with 500"),
        manifest_invalid,
    ),
    ("push::a_manifest_that_contradicts_its_type_is_refused", Both, manifest_contradicts),
    ("push::a_document_that_is_manifest_and_index_is_refused", Both, ambiguous),
    ("push::a_size_that_does_not_fit_is_refused", Ours("it does not compare sizes"), size_mismatch),
    ("push::a_tag_moves_to_another_manifest", Both, tag_moves),
    ("push::a_tag_that_is_none_is_refused", Both, tag_invalid),
    ("push::a_subject_is_confirmed_by_oci_subject", Ours(NO_REFERRERS), subject),
    ("push::a_subject_need_not_be_there", Both, subject_missing),
    ("push::an_artifact_without_layers", Both, artifact),
    ("push::layers_with_addresses_of_their_own_need_not_be_there", Ours("it wants them allowed"), foreign),
    ("push::the_same_blob_again", Both, again),
    ("push::names_with_all_that_is_allowed", Both, names),
];

fn post_then_put(t: &Target, name: &str) {
    let bytes = noise(1234);
    let answer = t.send("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"").expect(202);
    let answer = t.finish(&answer.location(), &digest(&bytes), &bytes).expect(201);
    assert_eq!(answer.header("docker-content-digest"), Some(digest(&bytes).as_str()));
    assert_eq!(t.get(&answer.location()).expect(200).body, bytes);
}

fn single_post(t: &Target, name: &str) {
    let bytes = noise(1234);
    let target = format!("/v2/{name}/blobs/uploads/?digest={}", digest(&bytes));
    let answer = t.send("POST", &target, &[], &bytes).expect(201);
    assert_eq!(t.get(&answer.location()).expect(200).body, bytes);
    let target = format!("/v2/{name}/blobs/uploads/?digest={}", digest(b"other"));
    t.send("POST", &target, &[], &bytes).refused(400, "DIGEST_INVALID");
    t.get(&format!("/v2/{name}/blobs/{}", digest(b"other"))).expect(404);
}

fn digest_mismatch(t: &Target, name: &str) {
    let location = t.begin(name);
    t.finish(&location, &digest(b"other"), b"bytes").refused(400, "DIGEST_INVALID");
    for digest in [digest(b"other"), digest(b"bytes")] {
        t.head(&format!("/v2/{name}/blobs/{digest}")).expect(404);
    }
}

fn no_digest(t: &Target, name: &str) {
    let location = t.begin(name);
    t.send("PUT", &location, &[], b"bytes").refused(400, "DIGEST_INVALID");
}

fn digest_invalid(t: &Target, name: &str) {
    for digest in ["sha256:12", "md5:d41d8cd98f00b204e9800998ecf8427e", "x", "sha256:../../../x"] {
        let location = t.begin(name);
        t.finish(&location, digest, b"bytes").refused(400, "DIGEST_INVALID");
    }
}

fn chunks(t: &Target, name: &str) {
    let bytes = noise(3000);
    let mut location = t.begin(name);
    for (from, to) in [(0, 1000), (1000, 1001), (1001, 3000)] {
        let answer = t.patch(&location, Some(&format!("{from}-{}", to - 1)), &bytes[from..to]).expect(202);
        assert_eq!(answer.header("range"), Some(format!("0-{}", to - 1).as_str()));
        location = answer.location();
    }
    t.finish(&location, &digest(&bytes), b"").expect(201);
    assert_eq!(t.get(&format!("/v2/{name}/blobs/{}", digest(&bytes))).expect(200).body, bytes);
}

fn last_chunk(t: &Target, name: &str) {
    let bytes = noise(3000);
    let location = t.patch(&t.begin(name), Some("0-1999"), &bytes[..2000]).expect(202).location();
    let target = with_query(&location, "digest", &digest(&bytes));
    t.send("PUT", &target, &[("Content-Range", "2000-2999")], &bytes[2000..]).expect(201);
    assert_eq!(t.get(&format!("/v2/{name}/blobs/{}", digest(&bytes))).expect(200).body, bytes);
}

fn out_of_order(t: &Target, name: &str) {
    let bytes = noise(3000);
    let start = t.begin(name);
    t.patch(&start, Some("1000-1999"), &bytes[1000..2000]).expect(416);
    let location = t.patch(&start, Some("0-999"), &bytes[..1000]).expect(202).location();
    // Again, and with a hole.
    t.patch(&location, Some("0-999"), &bytes[..1000]).expect(416);
    let answer = t.patch(&location, Some("2000-2999"), &bytes[2000..]).expect(416);
    if t.ours {
        assert_eq!(answer.header("range"), Some("0-999"));
        assert_eq!(answer.location(), location);
    }
    let location = t.get(&location).expect(204).location();
    let location = t.patch(&location, Some("1000-2999"), &bytes[1000..]).expect(202).location();
    t.finish(&location, &digest(&bytes), b"").expect(201);
}

fn range_invalid(t: &Target, name: &str) {
    for range in ["a-b", "9-5"] {
        let location = t.begin(name);
        t.patch(&location, Some(range), &noise(10)).expect(416);
    }
}

fn streamed(t: &Target, name: &str) {
    let bytes = noise(2 << 20);
    let location = t.patch(&t.begin(name), None, &bytes[..1 << 20]).expect(202).location();
    let location = t.patch(&location, None, &bytes[1 << 20..]).expect(202).location();
    t.finish(&location, &digest(&bytes), b"").expect(201);
    assert!(t.get(&format!("/v2/{name}/blobs/{}", digest(&bytes))).expect(200).body == bytes);
}

fn transfer_chunks(t: &Target, name: &str) {
    let bytes = noise(700_000);
    let location = t.begin(name);
    let mut wire = Wire::open(&t.host);
    wire.head("PATCH", &location, &[("Transfer-Encoding", "chunked"), ("Connection", "close")]);
    wire.send(b"\r\n").expect("sent");
    for piece in bytes.chunks(100_000) {
        wire.send(format!("{:x}\r\n", piece.len()).as_bytes()).expect("sent");
        wire.send(piece).expect("sent");
        wire.send(b"\r\n").expect("sent");
    }
    wire.send(b"0\r\n\r\n").expect("sent");
    let location = wire.answer(false).expect("an answer").expect(202).location();
    t.finish(&location, &digest(&bytes), b"").expect(201);
}

fn status(t: &Target, name: &str) {
    let location = t.begin(name);
    let answer = t.get(&location).expect(204);
    assert!(answer.header("range").is_some_and(|r| r.starts_with("0-")), "{answer}");
    let location = t.patch(&answer.location(), Some("0-99"), &noise(100)).expect(202).location();
    let answer = t.get(&location).expect(204);
    assert_eq!(answer.header("range"), Some("0-99"));
    t.patch(&answer.location(), Some("100-199"), &noise(100)).expect(202);
}

fn cancelled(t: &Target, name: &str) {
    let location = t.patch(&t.begin(name), None, &noise(100)).expect(202).location();
    t.delete(&location).expect(204);
    t.get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
    t.patch(&location, None, b"x").expect(404);
    t.finish(&location, &digest(b""), b"").expect(404);
    t.delete(&location).expect(404);
}

fn upload_unknown(t: &Target, name: &str) {
    let target = format!("/v2/{name}/blobs/uploads/{}", "0".repeat(32));
    t.get(&target).expect(404);
    if t.ours {
        t.get(&target).refused(404, "BLOB_UPLOAD_UNKNOWN");
        t.patch(&target, None, b"x").refused(404, "BLOB_UPLOAD_UNKNOWN");
        t.finish(&target, &digest(b"x"), b"x").refused(404, "BLOB_UPLOAD_UNKNOWN");
        t.delete(&target).refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
}

fn upload_elsewhere(t: &Target, name: &str) {
    let location = t.begin(name);
    let other = location.replace(name, &format!("{name}/other"));
    assert_ne!(location, other);
    let answer = t.patch(&other, None, b"x");
    assert!((400..500).contains(&answer.status), "{answer}");
}

fn mount(t: &Target, name: &str) {
    let bytes = noise(777);
    let digest = t.blob(name, &bytes);
    let target = format!("/v2/{name}/copy/blobs/uploads/?mount={digest}&from={name}");
    let answer = t.send("POST", &target, &[], b"").expect(201);
    assert_eq!(t.get(&answer.location()).expect(200).body, bytes);
    assert_eq!(t.get(&format!("/v2/{name}/copy/blobs/{digest}")).expect(200).body, bytes);
}

fn mount_unknown(t: &Target, name: &str) {
    let bytes = noise(777);
    for from in [format!("{name}/none"), "no/such".into()] {
        let target = format!("/v2/{name}/blobs/uploads/?mount={}&from={from}", digest(&bytes));
        let location = t.send("POST", &target, &[], b"").expect(202).location();
        t.finish(&location, &digest(&bytes), &bytes).expect(201);
    }
    // Without a source, too.
    let target = format!("/v2/{name}/blobs/uploads/?mount={}", digest(b"none"));
    t.send("POST", &target, &[], b"").expect(202);
}

fn manifest_by_tag(t: &Target, name: &str) {
    let bytes = t.image(name);
    let answer = t.put(name, "v1.0_x", MANIFEST, &bytes).expect(201);
    assert_eq!(answer.header("docker-content-digest"), Some(digest(&bytes).as_str()));
    assert_eq!(t.get(&answer.location()).expect(200).body, bytes);
}

fn manifest_by_digest(t: &Target, name: &str) {
    let bytes = t.image(name);
    let answer = t.put(name, &digest(&bytes), MANIFEST, &bytes).expect(201);
    assert_eq!(t.get(&answer.location()).expect(200).body, bytes);
}

fn manifest_mismatch(t: &Target, name: &str) {
    let bytes = t.image(name);
    t.put(name, &digest(b"other"), MANIFEST, &bytes).refused(400, "DIGEST_INVALID");
    t.get(&format!("/v2/{name}/manifests/{}", digest(&bytes))).expect(404);
}

fn manifest_blobs(t: &Target, name: &str) {
    let config = noise(10);
    t.blob(name, &config);
    let bytes = manifest(&config, &[noise(11), noise(12)]).to_string();
    let answer = t.put(name, "1", MANIFEST, bytes.as_bytes());
    assert!(matches!(answer.status, 400 | 404), "{answer}");
    assert_eq!(answer.code(), "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(answer.json()["errors"].as_array().map(Vec::len), Some(2), "{answer}");
    t.get(&format!("/v2/{name}/manifests/1")).expect(404);
    // Somebody else's blob is not there, either.
    let (config, layer) = (noise(10), noise(20));
    t.blob(&format!("{name}/other"), &config);
    t.blob(&format!("{name}/other"), &layer);
    let answer = t.put(name, "1", MANIFEST, manifest(&config, &[layer]).to_string().as_bytes());
    assert_eq!(answer.code(), "MANIFEST_BLOB_UNKNOWN");
}

fn index_missing(t: &Target, name: &str) {
    t.tagged(name, "1");
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, b"none")]});
    let answer = t.put(name, "index", INDEX, index.to_string().as_bytes());
    assert!(matches!(answer.status, 400 | 404), "{answer}");
    assert_eq!(answer.code(), "MANIFEST_BLOB_UNKNOWN");
}

fn index(t: &Target, name: &str) {
    let (one, two) = (t.tagged(name, "1"), t.tagged(name, "2"));
    let index = json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [descriptor(MANIFEST, &one), descriptor(MANIFEST, &two)]})
    .to_string();
    t.put(name, "index", INDEX, index.as_bytes()).expect(201);
    let answer = t.get(&format!("/v2/{name}/manifests/index")).expect(200);
    assert_eq!((answer.header("content-type"), answer.body.as_slice()), (Some(INDEX), index.as_bytes()));
}

fn raw(t: &Target, name: &str) {
    let value: serde_json::Value = serde_json::from_slice(&t.image(name)).expect("JSON");
    let mut bytes = serde_json::to_vec_pretty(&value).expect("JSON");
    bytes.extend_from_slice(b"\n\n  \t\r\n");
    t.put(name, "1", MANIFEST, &bytes).expect(201);
    assert_eq!(t.get(&format!("/v2/{name}/manifests/1")).expect(200).body, bytes);
}

fn docker_format(t: &Target, name: &str) {
    let (config, layer) = (noise(10), noise(20));
    t.blob(name, &config);
    t.blob(name, &layer);
    let bytes = json!({"schemaVersion": 2, "mediaType": DOCKER,
        "config": descriptor("application/vnd.docker.container.image.v1+json", &config),
        "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar", &layer)]})
    .to_string();
    t.put(name, "1", DOCKER, bytes.as_bytes()).expect(201);
    let answer = t.get(&format!("/v2/{name}/manifests/1")).expect(200);
    assert_eq!((answer.header("content-type"), answer.body.as_slice()), (Some(DOCKER), bytes.as_bytes()));
}

fn manifest_large(t: &Target, name: &str) {
    let mut bytes = t.image(name);
    bytes.resize((4 << 20) + 1, b' ');
    let answer = t.put(name, "1", MANIFEST, &bytes);
    assert_eq!(answer.status, if t.ours { 413 } else { 400 }, "{answer}");
    t.get(&format!("/v2/{name}/manifests/1")).expect(404);
}

fn manifest_limit(t: &Target, name: &str) {
    let mut bytes = t.image(name);
    // docker-registry counts otherwise.
    bytes.resize((4 << 20) - if t.ours { 0 } else { 1 }, b' ');
    t.put(name, "1", MANIFEST, &bytes).expect(201);
    assert!(t.get(&format!("/v2/{name}/manifests/1")).expect(200).body == bytes);
}

fn manifest_invalid(t: &Target, name: &str) {
    for bytes in [&b""[..], b"{", b"[]", b"\xff\xfe", b"{}", b"null", b"{\"schemaVersion\":3}"] {
        t.put(name, "1", MANIFEST, bytes).refused(400, "MANIFEST_INVALID");
    }
}

fn manifest_contradicts(t: &Target, name: &str) {
    let bytes = t.image(name);
    for kind in [INDEX, DOCKER] {
        let answer = t.put(name, "1", kind, &bytes);
        assert_eq!(answer.status, 400, "{kind}: {answer}");
    }
}

fn ambiguous(t: &Target, name: &str) {
    let mut value: serde_json::Value = serde_json::from_slice(&t.image(name)).expect("JSON");
    value["manifests"] = json!([]);
    t.put(name, "1", MANIFEST, value.to_string().as_bytes()).refused(400, "MANIFEST_INVALID");
}

fn size_mismatch(t: &Target, name: &str) {
    let mut value: serde_json::Value = serde_json::from_slice(&t.image(name)).expect("JSON");
    value["layers"][0]["size"] = json!(1);
    t.put(name, "1", MANIFEST, value.to_string().as_bytes()).refused(400, "SIZE_INVALID");
}

fn tag_moves(t: &Target, name: &str) {
    let (one, two) = (t.tagged(name, "1"), t.tagged(name, "1"));
    assert_eq!(t.get(&format!("/v2/{name}/manifests/1")).expect(200).body, two);
    assert_eq!(t.get(&format!("/v2/{name}/manifests/{}", digest(&one))).expect(200).body, one);
}

fn tag_invalid(t: &Target, name: &str) {
    let bytes = t.image(name);
    for tag in [".a", "-a", "a%20b", &"x".repeat(129)] {
        let answer = t.put(name, tag, MANIFEST, &bytes);
        assert!((400..500).contains(&answer.status), "{tag}: {answer}");
    }
}

fn subject(t: &Target, name: &str) {
    let subject = t.tagged(name, "1");
    let mut value: serde_json::Value = serde_json::from_slice(&t.image(name)).expect("JSON");
    value["subject"] = descriptor(MANIFEST, &subject);
    let bytes = value.to_string();
    let answer = t.put(name, &digest(bytes.as_bytes()), MANIFEST, bytes.as_bytes()).expect(201);
    assert_eq!(answer.header("oci-subject"), Some(digest(&subject).as_str()));
}

fn subject_missing(t: &Target, name: &str) {
    let mut value: serde_json::Value = serde_json::from_slice(&t.image(name)).expect("JSON");
    value["subject"] = descriptor(MANIFEST, b"it will come later");
    t.put(name, "1", MANIFEST, value.to_string().as_bytes()).expect(201);
}

fn artifact(t: &Target, name: &str) {
    t.blob(name, b"{}");
    let value = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x.sbom",
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"), "layers": []});
    t.put(name, "1", MANIFEST, value.to_string().as_bytes()).expect(201);
}

fn foreign(t: &Target, name: &str) {
    let config = noise(10);
    t.blob(name, &config);
    let mut layer = descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", b"elsewhere");
    layer["urls"] = json!(["https://example.com/layer"]);
    let value = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config),
        "layers": [layer]});
    t.put(name, "1", MANIFEST, value.to_string().as_bytes()).expect(201);
}

fn again(t: &Target, name: &str) {
    let bytes = noise(50_000);
    for _ in 0..3 {
        t.blob(name, &bytes);
    }
    assert_eq!(t.get(&format!("/v2/{name}/blobs/{}", digest(&bytes))).expect(200).body, bytes);
}

fn names(t: &Target, name: &str) {
    for more in ["a.b", "a_b", "a__b", "a--b", "0/1/2/3", "blobs/uploads", "manifests", "tags/list"] {
        let name = format!("{name}/{more}");
        let bytes = t.tagged(&name, "latest");
        assert_eq!(t.get(&format!("/v2/{name}/manifests/latest")).expect(200).body, bytes, "{name} {LAYER}");
    }
}
