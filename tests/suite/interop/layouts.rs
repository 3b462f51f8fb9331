//! Images to and from skopeo and umoci.

use std::process::Command;

use boxship::Engine;
use boxship::image::Platform;
use boxship_layers::{Digest, Store};

use super::made::made;
use super::{
    SHOW, Tree, Wanted, assert_same, comes_back, config_digest, done, in_seconds, json, line, output_of,
    scratch, seen, skopeo, tree, tree_of, unpacked,
};

pub async fn to_skopeo() {
    let f = made().await;
    let root = scratch("to-skopeo");
    for m in &f.all {
        let one = root.0.join("one.tar");
        m.image.save(&one).await.expect("saved");
        for (i, from) in [
            f.layout(m.name),
            format!("oci-archive:{}", one.display()),
            format!("docker-archive:{}", one.display()),
            format!("docker-archive:{}:{}", f.archive.display(), m.name),
        ]
        .iter()
        .enumerate()
        {
            assert_eq!(seen(from), (m.config.clone(), m.image.layers()), "{from}");
            // It compares all digests when it copies.
            let to = root.0.join(format!("{i}-{}", m.name.replace(':', "-")));
            done(&mut skopeo("copy", &["--dest-compress", from, &format!("oci:{}:x", to.display())]));
            let (_, layers) = seen(&format!("oci:{}:x", to.display()));
            assert_eq!(layers, m.image.layers(), "{from}");
            if m.name == "odd:1" || m.name == "deep:1" {
                assert_same(from, &unpacked(&to, "x"), &m.tree);
            }
            std::fs::remove_dir_all(&to).expect("removed");
        }
        std::fs::remove_file(&one).expect("removed");
    }
}

pub async fn from_skopeo() {
    let f = made().await;
    let root = scratch("from-skopeo");
    for m in &f.all {
        let name = m.name.replace(':', "-");
        for (transport, suffix) in
            [("oci", ":back:1"), ("oci-archive", ":back:1"), ("docker-archive", ":back:1")]
        {
            for from in [f.layout(m.name), format!("docker-archive:{}:{}", f.archive.display(), m.name)] {
                // Docker's form has no zstd, and skopeo does not unpack it. The rest would take long.
                let zstd = transport == "docker-archive" && m.name == "zstd:1" && from.starts_with("oci:");
                let again = !from.starts_with("oci:") && m.name != "odd:1" && m.name != "zstd:1";
                if zstd || again {
                    continue;
                }
                let path = root.0.join(format!("{transport}-{name}"));
                let to = format!("{transport}:{}{suffix}", path.display());
                done(&mut skopeo("copy", &[&from, &to]));
                let configs = comes_back(&path, &[Wanted::new(to.clone(), "back:1", m)]).await;
                // From Docker's form to OCI's, skopeo writes the config anew.
                if from.starts_with("oci:") || transport == "docker-archive" {
                    assert_eq!(configs, [m.config.as_str()], "{from} to {to}");
                }
                match path.is_dir() {
                    true => std::fs::remove_dir_all(&path).expect("removed"),
                    false => std::fs::remove_file(&path).expect("removed"),
                }
            }
        }
    }
    // Several in one layout.
    let path = root.0.join("several");
    let references: Vec<String> =
        f.all.iter().map(|m| format!("oci:{}:{}", path.display(), m.name)).collect();
    for (m, to) in f.all.iter().zip(&references) {
        done(&mut skopeo("copy", &[&f.layout(m.name), to]));
    }
    let images = f.all.iter().zip(references).map(|(m, r)| Wanted::new(r, m.name, m));
    comes_back(&path, &images.collect::<Vec<_>>()).await;
}

pub async fn to_umoci() {
    let f = made().await;
    for (m, layout) in f.all.iter().zip(&f.layouts) {
        // umoci 0.4 cannot read zstd.
        if m.name != "zstd:1" {
            assert_same(m.name, &unpacked(layout, "1"), &m.tree);
        }
        let stat = line(
            Command::new("umoci").args(["stat", "--json", "--image"]).arg(format!("{}:1", layout.display())),
        );
        let history = json(stat.as_bytes())["history"].as_array().expect("a list").len();
        assert_eq!(history, m.image.history().len(), "{}", m.name);
    }
}

pub async fn from_umoci() {
    let f = made().await;
    let root = scratch("from-umoci");
    for name in ["layered:1", "odd:1"] {
        let layout = root.0.join(name.replace(':', "-"));
        f.store.save_directory(&[name.to_owned()], &layout, &mut |_| true).expect("saved");
        let (image, bundle) = (format!("{}:1", layout.display()), root.0.join("bundle"));
        done(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
        let rootfs = bundle.join("rootfs");
        let removed = if name == "odd:1" { "odd/sticky" } else { "d/link" };
        let path = rootfs.join(removed);
        path.symlink_metadata().expect("there");
        done(Command::new("rm").arg("-r").arg(path));
        std::fs::write(rootfs.join("etc/new"), "new").expect("written");
        done(
            Command::new("umoci")
                .args(["repack", "--image", &format!("{}:back", layout.display())])
                .arg(&bundle),
        );
        done(Command::new("umoci").args(["rm", "--image", &image]));
        let mut tree = tree(&rootfs);
        // umoci 0.4 keeps whole seconds in the layers that it writes, the nearest.
        let reference = format!("oci:{}:back", layout.display());
        let (_, layers) = seen(&reference);
        assert_eq!(layers.len(), f.get(name).image.layers().len() + 1);
        let written = in_seconds(&tree, true);
        tree.extend(
            ["etc", "etc/new", "odd", "d"]
                .iter()
                .filter_map(|n| written.get_key_value(*n).map(|(n, t)| (n.clone(), t.clone()))),
        );
        assert!(tree.contains_key("etc/new") && !tree.contains_key(removed));
        let mut inside = Command::new("chroot");
        let output = done(inside.arg(&rootfs).args(["/bin/sh", "-c", SHOW]).env_remove("STEP"));
        let output = String::from_utf8(output).expect("UTF-8");
        comes_back(&layout, &[Wanted { reference, name: "back".into(), tree: &tree, output: &output }]).await;
        std::fs::remove_dir_all(&bundle).expect("removed");
    }
}

/// Whiteouts speak of the layers below, wherever in an archive they are: what their own layer has stays.
pub async fn whiteouts() {
    let f = made().await;
    let root = scratch("whiteouts");
    let (layout, top, tar) = (root.0.join("layout"), root.0.join("top"), root.0.join("layer.tar"));
    f.store.save_directory(&["deep:1".to_owned()], &layout, &mut |_| true).expect("saved");
    for dir in ["w/keep", "w/d12", "w/again", "w/hard1", "etc"] {
        std::fs::create_dir_all(top.join(dir)).expect("made");
    }
    let names = [
        ["w", "w/.wh.last", "w/.wh.none"],
        ["w/.wh.keep", "w/keep", "w/keep/mine"],
        ["etc", "etc/mine", ".wh.etc"],
        ["w/d12", "w/d12/mine", "w/d12/.wh..wh..opq"],
        ["w/.wh.hard1", "w/hard1", "w/hard1/mine"],
        ["w/f12", "w/.wh.f12", "w/.wh.hard2"],
        ["w/again", "w/again/mine", "w/.wh.again"],
    ]
    .concat();
    for name in &names {
        let path = top.join(name);
        if !path.is_dir() {
            let content = if name.contains(".wh.") { "" } else { "mine\n" };
            std::fs::write(path, content).expect("written");
        }
    }
    done(Command::new("tar").arg("-cf").arg(&tar).arg("--no-recursion").arg("-C").arg(&top).args(&names));
    let image = format!("{}:1", layout.display());
    done(Command::new("umoci").args(["raw", "add-layer", "--image", &image]).arg(&tar));
    let e = Engine::open(root.0.join("engine")).await.expect("an engine");
    let image = e.image().load(&layout).await.expect("loaded").remove(0);
    let mut found = tree_of(&e, &image).await;
    let mut wanted = f.get("deep:1").tree.clone();
    let hidden = ["w/keep", "w/d12", "w/hard1", "w/hard2", "w/f12", "w/again", "w/last", "etc"];
    let below = |n: &str, dir: &str| n.strip_prefix(dir).is_some_and(|r| r.is_empty() || r.starts_with('/'));
    wanted.retain(|n, _| !hidden.iter().any(|dir| below(n, dir)));
    assert!(wanted.len() + 10 < f.get("deep:1").tree.len());
    wanted.extend(tree(&top).into_iter().filter(|(n, _)| n != "w" && !n.contains(".wh.")));
    let names = |t: &Tree| t.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&wanted));
    // A late whiteout gives the directory another time in umoci.
    let mut seen = unpacked(&layout, "1");
    assert!(found.remove("etc").is_some() && seen.remove("etc").is_some());
    assert_same("umoci", &found, &seen);
}

/// An index that skopeo copied whole; its members for other processors have other programs.
pub async fn platforms() {
    let f = made().await;
    let root = scratch("index");
    let layout = root.0.join("multi");
    let names = ["tools:1".to_owned(), "layered:1".to_owned()];
    f.store.save_directory(&names, &layout, &mut |_| true).expect("saved");
    let saved = json(&std::fs::read(layout.join("index.json")).expect("index"));
    let member = |n: usize, arch: &str, variant: Option<&str>| {
        let mut m = saved["manifests"][n].clone();
        m.as_object_mut().expect("an object").remove("annotations");
        m["platform"] = serde_json::json!({"os": "linux", "architecture": arch});
        if let Some(v) = variant {
            m["platform"]["variant"] = v.into();
        }
        m
    };
    let kind = "application/vnd.oci.image.index.v1+json";
    let inner = serde_json::json!({"schemaVersion": 2, "mediaType": kind,
        "manifests": [member(0, "arm64", Some("v8")), member(1, "amd64", None)]});
    let inner = inner.to_string();
    let digest = Digest::of(inner.as_bytes());
    std::fs::write(layout.join("blobs/sha256").join(digest.hex()), &inner).expect("written");
    let outer = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": [{"mediaType": kind,
        "digest": digest.to_string(), "size": inner.len(),
        "annotations": {"org.opencontainers.image.ref.name": "multi:1"}}]});
    std::fs::write(layout.join("index.json"), outer.to_string()).expect("written");
    let from = format!("oci:{}:multi:1", layout.display());
    for (transport, format) in
        [("oci", None), ("oci", Some("gzip")), ("oci-archive", None), ("oci", Some("zstd"))]
    {
        let path = root.0.join(format!("{transport}-{}", format.unwrap_or("plain")));
        let mut copy = skopeo("copy", &["--all", &from]);
        if let Some(format) = format {
            copy.args(["--dest-compress", "--dest-compress-format", format]);
        }
        done(copy.arg(format!("{transport}:{}:multi:1", path.display())));
        for (platform, name) in
            [("linux/arm64", "tools:1"), ("linux/arm64/v8", "tools:1"), ("linux/amd64", "layered:1")]
        {
            let e = Engine::open(root.0.join("engine")).await.expect("an engine");
            let store = Store::open(root.0.join("engine")).expect("the same store");
            let wanted: Platform = platform.parse().expect("a platform");
            let images =
                e.image().load_for(&path, wanted).await.unwrap_or_else(|e| panic!("{path:?}: {e:?}"));
            let m = f.get(name);
            assert_eq!((images.len(), images[0].name()), (1, Some("multi:1")));
            assert_eq!(images[0].layers(), m.image.layers(), "{path:?} for {platform}");
            assert_eq!(config_digest(&store, &images[0]), m.config, "{path:?} for {platform}");
            assert_same(platform, &tree_of(&e, &images[0]).await, &m.tree);
            assert_eq!(output_of(&e, &images[0]).await, m.output, "{path:?} for {platform}");
            drop((e, store));
            std::fs::remove_dir_all(root.0.join("engine")).expect("removed");
        }
        let e = Engine::open(root.0.join("engine")).await.expect("an engine");
        let absent = e.image().load_for(&path, "linux/s390x".parse().expect("a platform")).await;
        assert_eq!(crate::kind(absent), boxship::ErrorKind::NotFound);
    }
    assert_eq!(
        f.engine.image().list().await.expect("listed").iter().filter(|i| i.name == "multi:1").count(),
        0
    );
}
