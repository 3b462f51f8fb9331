//! The category "content management", and what all errors have in common.

use crate::Requirement;
use crate::Who::{Both, Ours};
use crate::subject::{MANIFEST, Target, digest, noise};

pub const REQUIREMENTS: &[Requirement] = &[
    ("management::a_deleted_tag_is_404_and_its_manifest_stays", Ours("it deletes by digest only"), tag),
    ("management::a_deleted_manifest_is_404_by_digest_and_by_tag", Both, manifest),
    ("management::a_deleted_manifest_can_be_pushed_again", Both, again),
    ("management::a_deleted_blob_is_404", Both, blob),
    ("management::a_deleted_blob_stays_elsewhere", Both, elsewhere),
    ("management::what_is_not_there_cannot_be_deleted", Both, unknown),
    ("management::a_method_that_is_none_is_405", Both, method),
    ("management::errors_have_the_form_of_the_specification", Both, errors),
    ("management::a_name_that_is_none_is_refused", Both, name_invalid),
];

fn tag(t: &Target, name: &str) {
    let bytes = t.tagged(name, "1");
    t.put(name, "2", MANIFEST, &bytes).expect(201);
    t.delete(&format!("/v2/{name}/manifests/1")).expect(202);
    t.get(&format!("/v2/{name}/manifests/1")).refused(404, "MANIFEST_UNKNOWN");
    t.delete(&format!("/v2/{name}/manifests/1")).expect(404);
    for reference in ["2".to_owned(), digest(&bytes)] {
        assert_eq!(t.get(&format!("/v2/{name}/manifests/{reference}")).expect(200).body, bytes);
    }
    assert_eq!(t.get(&format!("/v2/{name}/tags/list")).expect(200).json()["tags"], serde_json::json!(["2"]));
}

fn manifest(t: &Target, name: &str) {
    let (bytes, other) = (t.tagged(name, "1"), t.tagged(name, "other"));
    t.put(name, "2", MANIFEST, &bytes).expect(201);
    t.delete(&format!("/v2/{name}/manifests/{}", digest(&bytes))).expect(202);
    for reference in ["1".to_owned(), "2".into(), digest(&bytes)] {
        t.get(&format!("/v2/{name}/manifests/{reference}")).expect(404);
    }
    assert_eq!(
        t.get(&format!("/v2/{name}/tags/list")).expect(200).json()["tags"],
        serde_json::json!(["other"])
    );
    assert_eq!(t.get(&format!("/v2/{name}/manifests/other")).expect(200).body, other);
}

fn again(t: &Target, name: &str) {
    let bytes = t.tagged(name, "1");
    t.delete(&format!("/v2/{name}/manifests/{}", digest(&bytes))).expect(202);
    t.put(name, "1", MANIFEST, &bytes).expect(201);
    assert_eq!(t.get(&format!("/v2/{name}/manifests/1")).expect(200).body, bytes);
}

fn blob(t: &Target, name: &str) {
    let digest = t.blob(name, &noise(100));
    t.delete(&format!("/v2/{name}/blobs/{digest}")).expect(202);
    t.get(&format!("/v2/{name}/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
    t.head(&format!("/v2/{name}/blobs/{digest}")).expect(404);
}

fn elsewhere(t: &Target, name: &str) {
    let bytes = noise(100);
    t.blob(name, &bytes);
    let digest = t.blob(&format!("{name}/other"), &bytes);
    t.delete(&format!("/v2/{name}/blobs/{digest}")).expect(202);
    t.get(&format!("/v2/{name}/blobs/{digest}")).expect(404);
    assert_eq!(t.get(&format!("/v2/{name}/other/blobs/{digest}")).expect(200).body, bytes);
}

fn unknown(t: &Target, name: &str) {
    t.tagged(name, "1");
    t.delete(&format!("/v2/{name}/blobs/{}", digest(b"nothing"))).expect(404);
    t.delete(&format!("/v2/{name}/manifests/{}", digest(b"nothing"))).expect(404);
}

fn method(t: &Target, name: &str) {
    for (method, target) in [
        ("POST", "/v2/".to_owned()),
        ("PATCH", format!("/v2/{name}/manifests/1")),
        ("PUT", format!("/v2/{name}/blobs/{}", digest(b"x"))),
        ("DELETE", format!("/v2/{name}/tags/list")),
    ] {
        let answer = t.send(method, &target, &[], b"");
        // docker-registry answers everything at its base.
        assert!(answer.status == 405 || !t.ours && answer.status == 200, "{method} {target}: {answer}");
    }
}

fn errors(t: &Target, name: &str) {
    let targets = [
        format!("/v2/{name}/manifests/none"),
        format!("/v2/{name}/blobs/{}", digest(b"x")),
        format!("/v2/{name}/tags/list"),
    ];
    for target in targets {
        let answer = t.get(&target).expect(404);
        assert!(!answer.code().is_empty());
        let value = answer.json();
        assert!(value["errors"].as_array().is_some_and(|e| !e.is_empty()), "{answer}");
        assert!(value["errors"][0]["message"].is_string(), "{answer}");
    }
}

fn name_invalid(t: &Target, _: &str) {
    for name in ["A", "a..b", "a//b", "-a", "_a", "a_", "%2e%2e"] {
        let answer = t.get(&format!("/v2/{name}/tags/list"));
        // docker-registry redirects to what it thinks was meant.
        assert!((300..500).contains(&answer.status) && (!t.ours || answer.status >= 400), "{name}: {answer}");
    }
}
