//! The category "content discovery": tags, referrers, and what is older than the specification, the catalog.

use serde_json::{Value, json};

use crate::Requirement;
use crate::Who::{Both, Ours};
use crate::http::Answer;
use crate::subject::{INDEX, MANIFEST, Target, descriptor, digest, noise};

const NO_REFERRERS: &str = "it has no referrers";

pub const REQUIREMENTS: &[Requirement] = &[
    ("discovery::the_tags_of_a_repository_are_sorted", Ours("it does not sort"), tags),
    ("discovery::tags_are_sorted_without_regard_to_case", Ours("it does not sort"), case),
    ("discovery::tags_of_an_unknown_repository_are_404_name_unknown", Both, unknown),
    ("discovery::n_limits_the_tags_and_link_leads_on", Ours("2.8 has no pages of tags"), pages),
    ("discovery::n_of_zero_is_an_empty_list_without_link", Ours("2.8 has no pages of tags"), zero),
    ("discovery::last_begins_after_a_tag", Ours("2.8 has no pages of tags"), last),
    ("discovery::an_n_that_is_no_number_is_400", Ours("2.8 has no pages of tags"), number),
    ("discovery::the_catalog_lists_repositories_page_by_page", Both, catalog),
    ("discovery::referrers_of_an_unknown_subject_are_an_empty_index", Ours(NO_REFERRERS), nobody),
    ("discovery::referrers_of_what_is_no_digest_are_400", Ours(NO_REFERRERS), no_digest),
    ("discovery::referrers_have_their_descriptors", Ours(NO_REFERRERS), referrers),
    ("discovery::referrers_are_filtered_by_artifact_type", Ours(NO_REFERRERS), filter),
    ("discovery::an_index_can_be_a_referrer", Ours(NO_REFERRERS), index),
    ("discovery::many_referrers_come_page_by_page", Ours(NO_REFERRERS), many),
    ("discovery::a_subject_may_come_after_its_referrers", Ours(NO_REFERRERS), later),
    ("discovery::a_deleted_referrer_is_none", Ours(NO_REFERRERS), deleted),
];

fn list(answer: &Answer, key: &str) -> Vec<String> {
    let value = answer.json();
    let strings = value[key].as_array().unwrap_or_else(|| panic!("{answer}"));
    strings.iter().map(|s| s.as_str().expect("a string").to_owned()).collect()
}

/// Where `Link` leads, without the host.
fn next(answer: &Answer) -> Option<String> {
    let (address, rest) = answer.header("link")?.strip_prefix('<')?.split_once('>')?;
    assert!(rest.contains("rel=\"next\""), "{answer}");
    let path = address.split_once("://").map_or(address, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
    Some(path.to_owned())
}

fn tags(t: &Target, name: &str) {
    let bytes = t.image(name);
    for tag in ["c", "a", "d.1", "b"] {
        t.put(name, tag, MANIFEST, &bytes).expect(201);
    }
    let answer = t.get(&format!("/v2/{name}/tags/list")).expect(200);
    assert_eq!(answer.json()["name"], name);
    assert_eq!(list(&answer, "tags"), ["a", "b", "c", "d.1"]);
    assert!(answer.header("content-type").is_some_and(|k| k.starts_with("application/json")), "{answer}");
}

fn case(t: &Target, name: &str) {
    let bytes = t.image(name);
    for tag in ["b", "A", "C", "a"] {
        t.put(name, tag, MANIFEST, &bytes).expect(201);
    }
    assert_eq!(list(&t.get(&format!("/v2/{name}/tags/list")), "tags"), ["A", "a", "b", "C"]);
}

fn unknown(t: &Target, name: &str) {
    t.get(&format!("/v2/{name}/none/tags/list")).refused(404, "NAME_UNKNOWN");
}

fn ten(t: &Target, name: &str) -> Vec<String> {
    let bytes = t.image(name);
    let tags: Vec<String> = (0..10).map(|n| format!("v{n}")).collect();
    for tag in &tags {
        t.put(name, tag, MANIFEST, &bytes).expect(201);
    }
    tags
}

fn pages(t: &Target, name: &str) {
    let tags = ten(t, name);
    for n in [1, 3, 5, 9, 10, 11] {
        let (mut found, mut target) = (Vec::new(), Some(format!("/v2/{name}/tags/list?n={n}")));
        let mut requests = 0;
        while let Some(at) = target {
            let answer = t.get(&at).expect(200);
            let page = list(&answer, "tags");
            target = next(&answer);
            assert!(page.len() == n || target.is_none() && page.len() < n, "{answer}");
            found.extend(page);
            requests += 1;
        }
        assert_eq!(found, tags, "{n}");
        assert_eq!(requests, 10usize.div_ceil(n), "no page is empty");
    }
}

fn zero(t: &Target, name: &str) {
    ten(t, name);
    let answer = t.get(&format!("/v2/{name}/tags/list?n=0")).expect(200);
    assert!(list(&answer, "tags").is_empty() && answer.header("link").is_none(), "{answer}");
}

fn last(t: &Target, name: &str) {
    ten(t, name);
    let tags = |query: &str| list(&t.get(&format!("/v2/{name}/tags/list?{query}")).expect(200), "tags");
    assert_eq!(tags("last=v7"), ["v8", "v9"]);
    assert_eq!(tags("last=v6&n=2"), ["v7", "v8"]);
    assert_eq!(tags("last=v77"), ["v8", "v9"], "a tag that is not there");
    assert!(tags("last=v9").is_empty() && tags("last=zzz&n=3").is_empty());
}

fn number(t: &Target, name: &str) {
    ten(t, name);
    for n in ["x", "-1", "1.5", "%00"] {
        let answer = t.get(&format!("/v2/{name}/tags/list?n={n}")).expect(400);
        assert!(!answer.code().is_empty());
    }
    t.get(&format!("/v2/{name}/tags/list?n=99999999999999999999")).expect(400);
}

fn catalog(t: &Target, name: &str) {
    let names: Vec<String> = ["a", "b", "b/c", "d"].iter().map(|n| format!("{name}/{n}")).collect();
    for name in &names {
        t.tagged(name, "1");
    }
    let mut found = Vec::new();
    let mut target = Some("/v2/_catalog?n=2".to_owned());
    while let Some(at) = target {
        let answer = t.get(&at).expect(200);
        let page = list(&answer, "repositories");
        assert!(page.len() <= 2, "{answer}");
        found.extend(page);
        target = next(&answer);
    }
    // docker-registry walks trees: its order of a name and what is below it is another one.
    let mut own: Vec<String> = found.into_iter().filter(|n| n.starts_with(name)).collect();
    if !t.ours {
        own.sort();
    }
    assert_eq!(own, names);
}

/// An artifact with this subject; its digest.
fn refer(t: &Target, name: &str, subject: &[u8], kind: &str, note: &str) -> String {
    t.blob(name, b"{}");
    let content = noise(20);
    t.blob(name, &content);
    let bytes = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [descriptor("text/plain", &content)],
        "subject": descriptor(MANIFEST, subject), "annotations": {"note": note}})
    .to_string();
    t.put(name, &digest(bytes.as_bytes()), MANIFEST, bytes.as_bytes()).expect(201);
    digest(bytes.as_bytes())
}

fn manifests(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.header("content-type"), Some(INDEX));
    let value = answer.json();
    assert_eq!((&value["schemaVersion"], &value["mediaType"]), (&json!(2), &json!(INDEX)));
    value["manifests"].as_array().expect("a list").clone()
}

fn nobody(t: &Target, name: &str) {
    let target = format!("/v2/{name}/referrers/{}", digest(b"nothing"));
    assert!(manifests(&t.get(&target).expect(200)).is_empty());
    t.tagged(name, "1");
    assert!(manifests(&t.get(&target).expect(200)).is_empty());
}

fn no_digest(t: &Target, name: &str) {
    for bad in ["latest", "sha256:12", "sha256:zz", "md5:12"] {
        t.get(&format!("/v2/{name}/referrers/{bad}")).expect(400);
    }
}

fn referrers(t: &Target, name: &str) {
    let subject = t.tagged(name, "1");
    let other = t.tagged(name, "2");
    let one = refer(t, name, &subject, "application/x.one", "first");
    let two = refer(t, name, &subject, "application/x.two", "second");
    refer(t, name, &other, "application/x.one", "of another");
    let found = manifests(&t.get(&format!("/v2/{name}/referrers/{}", digest(&subject))).expect(200));
    assert_eq!(found.len(), 2);
    let of = |digest: &str| found.iter().find(|d| d["digest"] == digest).expect("listed").clone();
    assert_eq!(of(&one)["artifactType"], "application/x.one");
    assert_eq!(of(&two)["annotations"]["note"], "second");
    assert_eq!(of(&two)["mediaType"], MANIFEST);
    let size = t.get(&format!("/v2/{name}/manifests/{two}")).expect(200).body.len();
    assert_eq!(of(&two)["size"], size);
    // Without a type of its own it has that of its config.
    let mut value: Value = serde_json::from_slice(&t.image(name)).expect("JSON");
    value["subject"] = descriptor(MANIFEST, &subject);
    t.put(name, "3", MANIFEST, value.to_string().as_bytes()).expect(201);
    let found = manifests(&t.get(&format!("/v2/{name}/referrers/{}", digest(&subject))).expect(200));
    assert!(found.iter().any(|d| d["artifactType"] == crate::subject::CONFIG), "{found:?}");
}

fn filter(t: &Target, name: &str) {
    let subject = t.tagged(name, "1");
    let one = refer(t, name, &subject, "application/x.one", "");
    refer(t, name, &subject, "application/x.two", "");
    let target = format!("/v2/{name}/referrers/{}", digest(&subject));
    let answer = t.get(&format!("{target}?artifactType=application%2Fx.one")).expect(200);
    assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    let found = manifests(&answer);
    assert!(found.len() == 1 && found[0]["digest"] == one, "{answer}");
    let answer = t.get(&format!("{target}?artifactType=application/x.none")).expect(200);
    assert!(manifests(&answer).is_empty());
    assert_eq!(t.get(&target).expect(200).header("oci-filters-applied"), None);
}

fn index(t: &Target, name: &str) {
    let subject = t.tagged(name, "1");
    let bytes = json!({"schemaVersion": 2, "mediaType": INDEX, "artifactType": "application/x.index",
        "manifests": [descriptor(MANIFEST, &subject)], "subject": descriptor(MANIFEST, &subject)})
    .to_string();
    t.put(name, "index", INDEX, bytes.as_bytes()).expect(201);
    let found = manifests(&t.get(&format!("/v2/{name}/referrers/{}", digest(&subject))).expect(200));
    assert_eq!((found.len(), &found[0]["mediaType"]), (1, &json!(INDEX)));
    assert_eq!(found[0]["artifactType"], "application/x.index");
}

fn many(t: &Target, name: &str) {
    let subject = t.tagged(name, "1");
    let mut all: Vec<String> =
        (0..7).map(|n| refer(t, name, &subject, "application/x.one", &n.to_string())).collect();
    all.sort();
    let (mut found, mut pages) = (Vec::new(), 0);
    let mut target =
        Some(format!("/v2/{name}/referrers/{}?n=3&artifactType=application/x.one", digest(&subject)));
    while let Some(at) = target {
        let answer = t.get(&at).expect(200);
        found.extend(manifests(&answer).iter().map(|d| d["digest"].as_str().expect("one").to_owned()));
        target = next(&answer);
        pages += 1;
        assert!(pages < 10, "{answer}");
    }
    assert_eq!(found, all);
}

fn later(t: &Target, name: &str) {
    let subject = t.image(name);
    refer(t, name, &subject, "application/x.one", "");
    let target = format!("/v2/{name}/referrers/{}", digest(&subject));
    assert_eq!(manifests(&t.get(&target).expect(200)).len(), 1);
    t.put(name, "1", MANIFEST, &subject).expect(201);
    assert_eq!(manifests(&t.get(&target).expect(200)).len(), 1);
    // And go before them.
    t.delete(&format!("/v2/{name}/manifests/{}", digest(&subject))).expect(202);
    assert_eq!(manifests(&t.get(&target).expect(200)).len(), 1);
}

fn deleted(t: &Target, name: &str) {
    let subject = t.tagged(name, "1");
    let one = refer(t, name, &subject, "application/x.one", "");
    t.delete(&format!("/v2/{name}/manifests/{one}")).expect(202);
    let target = format!("/v2/{name}/referrers/{}", digest(&subject));
    assert!(manifests(&t.get(&target).expect(200)).is_empty());
}
