//! Archives that other tools wrote long ago, and such with images for several platforms.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test binary")]

use std::collections::BTreeSet;
use std::path::Path;

use boxship_layers::{Check, Digest, Error, LoadOptions, Platform, Store};
use serde_json::{Value, json};

mod support;

use support::Scratch;

fn tar(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &data[..]).expect("written");
    }
    tar.into_inner().expect("whole")
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Two images, one above the other, as Docker 1.9 wrote them.
fn old(repositories: Value, top_parent: &str) -> Vec<u8> {
    let (low, top) = ("a".repeat(64), "b".repeat(64));
    let low_json = json!({"id": low, "created": "2015-01-01T00:00:00Z", "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) ADD"]},
        "docker_version": "1.9.1", "config": {"Cmd": ["/bin/sh"]}, "architecture": "amd64", "os": "linux", "Size": 1});
    let top_json = json!({"id": top, "parent": top_parent, "created": "2015-02-02T00:00:00Z", "author": "me",
        "container_config": {"Cmd": ["/bin/sh", "-c", "touch /top"]}, "config": {"Cmd": ["/top"], "Env": ["A=b"]},
        "architecture": "amd64", "os": "linux", "Size": 0, "comment": "why"});
    let name = |id: &str, file: &str| format!("{id}/{file}");
    tar(&[
        (&name(&top, "VERSION"), b"1.0".to_vec()),
        (&name(&top, "json"), text(&top_json)),
        (&name(&top, "layer.tar"), tar(&[("top", b"top".to_vec())])),
        (&name(&low, "VERSION"), b"1.0".to_vec()),
        (&name(&low, "json"), text(&low_json)),
        (&name(&low, "layer.tar"), tar(&[("low", b"low".to_vec())])),
        ("repositories", text(&repositories)),
    ])
}

/// Red before: "it has neither an OCI layout nor Docker's manifest.json".
#[test]
fn an_archive_of_old_docker_is_loaded() {
    let dir = Scratch::new("old");
    let store = dir.store("store");
    let (low, top) = ("a".repeat(64), "b".repeat(64));
    let repositories = json!({"base": {"1": low}, "docker.io/library/app": {"1": top, "latest": top}});
    let load = |bytes: &[u8]| store.load(bytes, &LoadOptions::default(), &mut |_| true);
    assert_eq!(load(&old(repositories.clone(), &low)).expect("loaded").len(), 3);
    let (base, app) = (store.image("base:1").expect("there"), store.image("app:1").expect("there"));
    assert_eq!(store.image("app").expect("there").digest(), app.digest());
    let layer = |name: &str| Digest::of(&tar(&[(name, name.as_bytes().to_vec())]));
    assert_eq!(base.layers(), [layer("low")]);
    assert_eq!(app.layers(), [layer("low"), layer("top")]);
    let config = app.config().expect("there");
    assert_eq!(config.cmd().as_deref(), Some(&["/top".to_owned()][..]));
    assert_eq!(config.env().as_deref(), Some(&["A=b".to_owned()][..]));
    let history = app.configuration().history().clone().expect("there");
    let lines: Vec<_> = history.iter().map(|h| h.created_by().clone().unwrap_or_default()).collect();
    assert_eq!(lines, ["/bin/sh -c #(nop) ADD", "/bin/sh -c touch /top"]);
    assert_eq!(history[1].comment().as_deref(), Some("why"));
    assert_eq!(app.configuration().created().as_deref(), Some("2015-02-02T00:00:00Z"));
    // The same again is the same images.
    load(&old(repositories, &low)).expect("loaded again");
    assert_eq!(store.image("app:1").expect("there").digest(), app.digest());
    assert_eq!(store.fsck(Check::Content, false).expect("checked"), []);
    // Chains without an end, or that lead out.
    let of_top = json!({"bad": {"1": top}});
    for (parent, repositories) in [
        (top.as_str(), of_top.clone()),
        ("../../etc", of_top.clone()),
        (&"c".repeat(64), of_top),
        (&low, json!({"bad": {"1": "../a"}})),
        (&low, json!({"BAD NAME": {"1": low}})),
        (&low, json!([])),
    ] {
        let result = load(&old(repositories, parent));
        let refused = matches!(
            result,
            Err(Error::Invalid { .. } | Error::NotFound { .. } | Error::Json { .. } | Error::Limit { .. })
        );
        assert!(refused, "{parent}: {result:?}");
        assert!(!store.images().expect("listed").iter().any(|i| i.name.starts_with("bad")));
    }
}

/// A layout with an index of three platforms, one of which is no file system.
fn layout(dir: &Path) -> Digest {
    std::fs::create_dir_all(dir.join("blobs/sha256")).expect("made");
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).expect("written");
        json!({"digest": digest.to_string(), "size": bytes.len()})
    };
    let with = |mut d: Value, key: &str, value: Value| {
        d[key] = value;
        d
    };
    let media = |kind: &str| Value::from(format!("application/vnd.oci.image.{kind}"));
    let here = Platform::default();
    let platform = |os: &str, arch: &str| json!({"os": os, "architecture": arch});
    let mut members = Vec::new();
    for (os, arch) in [("linux", "mips64le"), ("linux", here.architecture.as_str()), ("unknown", "unknown")] {
        let content =
            if os == "unknown" { b"{\"no\": \"tar\"}".to_vec() } else { tar(&[("arch", arch.into())]) };
        let kind =
            if os == "unknown" { "application/vnd.in-toto+json".into() } else { media("layer.v1.tar") };
        let layer = with(put(&content), "mediaType", kind);
        let config = json!({"os": os, "architecture": arch,
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&content).to_string()]}});
        let config = with(put(&text(&config)), "mediaType", media("config.v1+json"));
        let manifest = json!({"schemaVersion": 2, "mediaType": media("manifest.v1+json"), "config": config,
            "layers": [layer]});
        let manifest = with(put(&text(&manifest)), "mediaType", media("manifest.v1+json"));
        members.push(with(manifest, "platform", platform(os, arch)));
    }
    let index = json!({"schemaVersion": 2, "mediaType": media("index.v1+json"), "manifests": members});
    let index = with(put(&text(&index)), "mediaType", media("index.v1+json"));
    let digest = index["digest"].as_str().expect("a digest").parse().expect("a digest");
    let index = with(index, "annotations", json!({"org.opencontainers.image.ref.name": "many:1"}));
    let top = json!({"schemaVersion": 2, "mediaType": media("index.v1+json"), "manifests": [index]});
    std::fs::write(dir.join("index.json"), text(&top)).expect("written");
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    digest
}

fn blobs(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir.join("blobs/sha256")).expect("there");
    entries.map(|e| e.expect("readable").file_name().into_string().expect("UTF-8")).collect()
}

/// Red before: there was no way to keep more than one platform.
#[test]
fn an_index_is_kept_and_saved_whole() {
    let dir = Scratch::new("whole");
    let index = layout(&dir.0.join("layout"));
    let all = blobs(&dir.0.join("layout"));
    assert_eq!(all.len(), 1 + 3 * 3);
    let options = LoadOptions { all_platforms: true, ..LoadOptions::default() };
    let store = dir.store("one");
    let loaded = store.load_directory(&dir.0.join("layout"), &options, &mut |_| true).expect("loaded");
    let count = |store: &Store, dir: &str| std::fs::read_dir(store.path().join(dir)).expect("there").count();
    assert_eq!((loaded.len(), count(&store, "layers")), (1, 1), "the others are not unpacked");
    assert_eq!(blobs(store.path()), all);
    for name in ["many:1", &index.to_string(), &format!("many@{index}")] {
        assert_eq!(store.image(name).expect("there").digest(), loaded[0].digest());
    }
    assert!(store.gc(false).expect("collected").blobs.is_empty());
    assert_eq!(store.fsck(Check::Content, false).expect("checked"), []);
    // As a directory and as a tar; under another name, too.
    store.tag_image("many:1", "other:1").expect("tagged");
    store.remove_image("many:1").expect("removed");
    assert_eq!(blobs(store.path()), all);
    let names = ["other:1".to_owned()];
    let again = dir.0.join("again");
    store.save_directory(&names, &again, &mut |_| true).expect("saved");
    assert_eq!(blobs(&again), all);
    let mut saved = Vec::new();
    store.save(&names, &mut saved, &mut |_| true).expect("saved");
    let (two, three) = (dir.store("two"), dir.store("three"));
    two.load_directory(&again, &options, &mut |_| true).expect("loaded");
    three.load(&saved[..], &options, &mut |_| true).expect("loaded");
    for store in [&two, &three] {
        assert_eq!(blobs(store.path()), all);
        assert_eq!(store.image("other:1").expect("there").digest(), loaded[0].digest());
    }
    // Whoever wants one platform gets that of the other, which is then unpacked; and only this.
    let mips =
        LoadOptions { platform: "linux/mips64le".parse().expect("a platform"), ..LoadOptions::default() };
    let four = dir.store("four");
    four.load(&saved[..], &mips, &mut |_| true).expect("loaded");
    assert_eq!(blobs(four.path()).len(), 3);
    // What is damaged of another platform is found, and does not stay for ever.
    let foreign = four.image("other:1").expect("there");
    std::fs::write(two.blob_path(foreign.digest()), "{}").expect("written");
    let found = two.fsck(Check::Content, true).expect("checked");
    assert!(found.iter().any(|d| d.digest == *foreign.digest() && d.images == ["other:1"]), "{found:?}");
    assert_eq!(two.fsck(Check::Content, false).expect("checked"), []);
    assert!(two.gc(false).expect("collected").complete);
    two.load(&saved[..], &options, &mut |_| true).expect("loaded");
    assert_eq!(blobs(two.path()), all);
    // With the last name all goes.
    store.remove_image("other:1").expect("removed");
    assert_eq!((blobs(store.path()).len(), count(&store, "layers"), count(&store, "pairs")), (0, 0, 0));
    // A part that is not what it should be.
    let layer = three.image("other:1").expect("there").layers()[0];
    let victim = all.iter().find(|b| {
        **b != layer.hex()
            && std::fs::metadata(again.join("blobs/sha256").join(b)).expect("there").len() >= 1024
    });
    std::fs::write(again.join("blobs/sha256").join(victim.expect("a layer of another platform")), "x")
        .expect("written");
    let five = dir.store("five");
    let result = five.load_directory(&again, &options, &mut |_| true);
    assert!(matches!(result, Err(Error::DigestMismatch { .. })), "{result:?}");
    assert!(five.images().expect("listed").is_empty());
}
