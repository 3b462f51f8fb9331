//! Changes, commits, archives of images, collection and repair.

use std::path::Path;
use std::time::{Duration, SystemTime};

use boxship::container::{Change, ChangeKind};
use boxship::image::{Platform, TransferEvent};
use boxship::{Check, Engine, ErrorKind, Image};
use libtest_mimic::Trial;

use crate::need::Need::UserNamespaces;
use crate::{Root, kind, own_engine, sh, test, text};

pub fn tests() -> Vec<Trial> {
    let any = &[UserNamespaces];
    vec![
        test("diff_commit_and_run_what_was_committed", any, commit),
        test("commit_of_the_same_state_has_the_same_digest", any, reproducible),
        test("export_is_the_tree_as_the_container_sees_it", any, export),
        test("save_and_load_several_images", any, save_load),
        test("load_chooses_the_platform", any, platforms),
        test("load_refuses_what_is_broken_or_ambiguous", any, broken),
        test("a_dropped_transfer_leaves_nothing", any, cancelled),
        test("gc_removes_what_nobody_needs", any, collection),
        test("a_container_whose_image_lost_its_name_is_committed", any, nameless),
        test("sparse_files_of_gnu_tar_keep_their_holes", any, sparse),
        test("disk_usage_tells_what_is_shared", any, usage),
        test("fsck_finds_and_repairs", any, repair),
        test("a_store_of_a_newer_version_is_read_if_it_can_be", any, newer),
    ]
}

/// An image of three layers with all kinds of files, deletions and replacements.
pub async fn layered(e: &Engine) -> Image {
    let steps = [
        "mkdir -p /d/sub /gone /opq/old; echo one > /d/one; echo x > /gone/x; echo y > /opq/old/y; \
         touch -d 2001-02-03T04:05:06.789 /d/one; ln -s one /d/link; ln /d/one /d/hard; mkfifo /d/fifo; chmod 622 /d/fifo; \
         chmod 4755 /d/sub; echo ro > /d/ro; chmod 444 /d/ro; echo weird > '/d/\u{fc}n\u{ef} c\u{f6}d\u{e9} $(x)'",
        "rm -r /gone /opq; mkdir /opq; echo new > /opq/new; echo two > /d/two; rm /d/ro",
        "echo changed > /d/one; mv /d/two /d/three; rm -r /d/sub; echo file > /d/sub",
    ];
    let mut image = e.image().get("tools:1").await.expect("the shared image");
    for (i, script) in steps.iter().enumerate() {
        let c = sh(e, script).image(&image).create().await.expect("made");
        c.start().await.expect("starts");
        let end = c.wait().await.expect("ends");
        assert!(end.success(), "{end}: {:?}", c.logs().lines().await);
        image = c.commit().tag(format!("layered:{i}")).await.expect("committed");
        c.remove().await.expect("removed");
    }
    image
}

pub const SHOW: &str = "cd /; for f in d d/* opq opq/*; do ls -ldn --time-style=full-iso \"$f\" | head -n 1; done; \
    cat d/one d/link d/hard d/three d/sub opq/new; ls /gone /opq/old 2>&1; true";

async fn commit() {
    let root = Root::new("commit");
    let e = own_engine(&root.0).await;
    let script = "mkdir /new; echo a > /new/a; echo x >> /etc/passwd; rm /etc/group; rm -r /root; mkdir /root; echo r > /root/r";
    let c = sh(&e, script).create().await.expect("made");
    c.start().await.expect("starts");
    assert!(c.wait().await.expect("ends").success());
    let mut changes = c.diff().await.expect("compared");
    changes.retain(|c| !c.path.starts_with("/tmp"));
    use ChangeKind::{Added, Deleted, Modified};
    let want = [
        ("/etc", Modified),
        ("/etc/group", Deleted),
        ("/etc/passwd", Modified),
        ("/new", Added),
        ("/new/a", Added),
        ("/root", Modified),
        ("/root/r", Added),
    ];
    let want: Vec<Change> = want.map(|(path, kind)| Change { path: path.into(), kind }).into();
    assert_eq!(changes, want);
    let image = c.commit().tag("mine:1").command(["/bin/cat", "/new/a"]).env("K", "v").comment("why").await;
    let image = image.expect("committed");
    assert_eq!(image.layers().len(), 2);
    assert_eq!(image.history().last().and_then(|h| h.comment().clone()).as_deref(), Some("why"));
    c.remove().await.expect("removed");
    assert_eq!(text(e.container().image("mine:1").output().await.expect("it runs")), "a\n");
    let out =
        sh(&e, "echo $K; ls /etc/group; cat /root/r; id -u").image("mine:1").output().await.expect("it runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "v\nr\n0\n");
    let layered = layered(&e).await;
    let show = text(sh(&e, SHOW).image(&layered).output().await.expect("it runs"));
    assert!(show.contains("changed\nchanged\none\ntwo\nfile\nnew\n"), "{show}");
    assert!(show.contains("2001-02-03 04:05:06.789"), "times to the nanosecond: {show}");
    assert!(show.contains("prw--w--w-"), "whatever the umask: {show}");
    assert!(!show.contains("/ro") && show.contains("/gone"), "{show}");
}

async fn reproducible() {
    let root = Root::new("reproducible");
    let e = own_engine(&root.0).await;
    let mut digests = Vec::new();
    for i in 0..2 {
        let c =
            sh(&e, "mkdir /b /a; echo 1 > /b/1; echo 2 > /a/2; rm /etc/group").create().await.expect("made");
        c.start().await.expect("starts");
        c.wait().await.expect("ends");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        let image = c.commit().tag(format!("same:{i}")).label("b", "2").label("a", "1").created(time).await;
        digests.push(image.expect("committed").digest());
        c.remove().await.expect("removed");
    }
    assert_eq!(digests[0], digests[1]);
}

async fn export() {
    let root = Root::new("export");
    let e = own_engine(&root.0).await;
    let layered = layered(&e).await;
    let c = sh(&e, "echo mine > /mine; rm /d/three").image(&layered).create().await.expect("made");
    c.start().await.expect("starts");
    c.wait().await.expect("ends");
    let tar = root.0.join("export.tar");
    c.export(&tar).await.expect("exported");
    assert_eq!(kind(c.export(&tar).await), ErrorKind::AlreadyExists);
    // The same tree again, flat.
    e.image().import(&tar).tag("flat:1").await.expect("imported");
    let flat = sh(&e, SHOW).image("flat:1").output().await.expect("it runs");
    let own = c.commit().tag("own:1").await.expect("committed");
    let own = sh(&e, SHOW).image(&own).output().await.expect("it runs");
    // The number of links of a directory is the file system's business.
    let without_links = |out: &[u8]| {
        let text = String::from_utf8_lossy(out).into_owned();
        text.lines()
            .map(|l| {
                l.split_whitespace()
                    .enumerate()
                    .filter(|(i, _)| *i != 1 || !l.contains(':'))
                    .map(|(_, w)| w)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(without_links(&flat.stdout), without_links(&own.stdout));
    let listing = std::process::Command::new("tar").args(["-tvf"]).arg(&tar).output().expect("GNU tar");
    assert!(listing.status.success(), "GNU tar reads it: {}", String::from_utf8_lossy(&listing.stderr));
    assert!(String::from_utf8_lossy(&listing.stdout).contains(" mine\n"));
    c.remove().await.expect("removed");
}

async fn save_load() {
    let root = Root::new("save-load");
    let e = own_engine(&root.0.join("one")).await;
    let image = layered(&e).await;
    let other = e.image().get("layered:0").await.expect("there");
    let tar = root.0.join("images.tar");
    e.image().save(["layered:2", "layered:0"], &tar).await.expect("saved");
    assert_eq!(kind(e.image().save(["layered:2"], &tar).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(e.image().save(["nothing:1"], root.0.join("none")).await), ErrorKind::NotFound);
    assert!(!root.0.join("none").exists(), "a failed save leaves no file");
    let again = root.0.join("again.tar");
    e.image().save(["layered:2", "layered:0"], &again).await.expect("saved");
    assert_eq!(std::fs::read(&tar).expect("tar"), std::fs::read(&again).expect("tar"), "the same bytes");
    let two = Engine::open(root.0.join("two")).await.expect("an engine");
    let mut events = two.image().load(&tar).events();
    let (mut bytes, mut loaded) = (0, Vec::new());
    while let Some(event) = events.next().await {
        match event.expect("loads") {
            TransferEvent::Bytes(n) => {
                assert!(n >= bytes, "{n} after {bytes}");
                bytes = n;
            }
            TransferEvent::Done(images) => loaded = images,
            _ => {}
        }
    }
    let size = tar.metadata().expect("there").len();
    assert!(bytes >= size / 2, "{bytes} of {size}");
    let names: Vec<_> = loaded.iter().map(|i| (i.name().map(str::to_owned), i.digest())).collect();
    assert_eq!(
        names,
        [(Some("layered:2".into()), image.digest()), (Some("layered:0".into()), other.digest())]
    );
    let show = |e: &Engine| sh(e, SHOW).image("layered:2").output();
    assert_eq!(text(show(&two).await.expect("it runs")), text(show(&e).await.expect("it runs")));
    // A second time there is nothing to do, and nothing breaks.
    two.image().load(&tar).await.expect("loads again");
    assert!(two.fsck(Check::Content, false).await.expect("checked").is_empty());
    // Compressed, and as a directory.
    let gz = std::process::Command::new("gzip").arg("-kf").arg(&tar).status().expect("gzip");
    assert!(gz.success());
    let three = Engine::open(root.0.join("three")).await.expect("an engine");
    three.image().load(root.0.join("images.tar.gz")).await.expect("loads");
    let dir = root.0.join("layout");
    let three_image = three.image().get("layered:2").await.expect("there");
    three_image.save_directory(&dir).await.expect("saved");
    let again = three.image().save_directory(["layered:2"], &dir).await;
    assert_eq!(kind(again), ErrorKind::InvalidInput, "it is not empty");
    let missing = three.image().save_directory(["nothing:1"], root.0.join("none")).await;
    assert_eq!(kind(missing), ErrorKind::NotFound);
    assert!(!root.0.join("none").exists(), "a failed save leaves no directory");
    let four = Engine::open(root.0.join("four")).await.expect("an engine");
    assert_eq!(four.image().load(&dir).await.expect("loads")[0].digest(), image.digest());
}

/// The documents of a layout, by hand.
struct Layout(std::path::PathBuf);

impl Layout {
    fn blob(&self, bytes: &[u8]) -> (String, usize) {
        let digest = boxship_layers::Digest::of(bytes);
        std::fs::write(self.0.join("blobs/sha256").join(digest.hex()), bytes).expect("written");
        (digest.to_string(), bytes.len())
    }

    fn index(&self, members: &[serde_json::Value]) -> serde_json::Value {
        serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": members})
    }

    fn publish(&self, member: serde_json::Value) {
        std::fs::write(self.0.join("index.json"), self.index(&[member]).to_string()).expect("written");
    }
}

async fn platforms() {
    let root = Root::new("platforms");
    let e = own_engine(&root.0.join("one")).await;
    let store = boxship_layers::Store::open(root.0.join("one")).expect("the same store");
    let layout = Layout(root.0.join("layout"));
    store.save_directory(&["tools:1".into()], &layout.0, &mut |_| true).expect("saved");
    let text = std::fs::read_to_string(layout.0.join("index.json")).expect("index");
    let saved: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let of = |arch: &str, variant: Option<&str>| {
        let mut member = saved["manifests"][0].clone();
        member["platform"] = serde_json::json!({"os": "linux", "architecture": arch});
        if let Some(v) = variant {
            member["platform"]["variant"] = v.into();
        }
        member.as_object_mut().expect("an object").remove("annotations");
        member
    };
    // The image for the other processor is not in the archive at all.
    let mut absent = of("arm64", Some("v8"));
    absent["digest"] = format!("sha256:{}", "ab".repeat(32)).into();
    let inner = layout.index(&[absent, of("amd64", None), of("arm", Some("v7"))]).to_string();
    let (digest, size) = layout.blob(inner.as_bytes());
    layout.publish(serde_json::json!({
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": size,
        "annotations": {"org.opencontainers.image.ref.name": "docker.io/library/multi:1"},
    }));
    let two = Engine::open(root.0.join("two")).await.expect("an engine");
    let digest = e.image().get("tools:1").await.expect("there").digest();
    for (platform, found) in [
        ("linux/amd64", true),
        ("linux/arm/v7", true),
        ("linux/arm64", false),
        ("linux/arm/v6", false),
        ("windows/amd64", false),
    ] {
        let platform: Platform = platform.parse().expect("a platform");
        match two.image().load_for(&layout.0, platform.clone()).await {
            Ok(images) => {
                assert!(found, "{platform}");
                assert_eq!((images[0].name(), images[0].digest()), (Some("multi:1"), digest.clone()));
            }
            Err(e) => assert!(!found && e.kind() == ErrorKind::NotFound, "{platform}: {e:?}"),
        }
    }
    assert_eq!(two.image().get("docker.io/library/multi:1").await.expect("the same name").digest(), digest);
}

async fn broken() {
    let root = Root::new("broken");
    let e = own_engine(&root.0.join("one")).await;
    let store = boxship_layers::Store::open(root.0.join("one")).expect("the same store");
    let two = Engine::open(root.0.join("two")).await.expect("an engine");
    let fresh = |name: &str| {
        let layout = Layout(root.0.join(name));
        store.save_directory(&["tools:1".into()], &layout.0, &mut |_| true).expect("saved");
        layout
    };
    let image = e.image().get("tools:1").await.expect("there");
    let manifest: serde_json::Value = serde_json::from_slice(
        &std::fs::read(blob_path(&root.0.join("one"), &image.digest())).expect("manifest"),
    )
    .expect("JSON");
    let layer =
        manifest["layers"][0]["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
    let config =
        manifest["config"]["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
    let blob = |l: &Layout, hex: &str| l.0.join("blobs/sha256").join(hex);
    let tampered = |name: &str, change: &dyn Fn(&Layout)| {
        let layout = fresh(name);
        change(&layout);
        layout.0
    };
    let flip = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).expect("readable");
        bytes[at] ^= 1;
        std::fs::write(path, bytes).expect("written");
    };
    let cases = [
        tampered("layer-byte", &|l| flip(&blob(l, &layer), 700)),
        tampered("layer-longer", &|l| {
            let mut bytes = std::fs::read(blob(l, &layer)).expect("readable");
            bytes.extend([0; 512]);
            std::fs::write(blob(l, &layer), bytes).expect("written");
        }),
        tampered("layer-shorter", &|l| {
            let bytes = std::fs::read(blob(l, &layer)).expect("readable");
            std::fs::write(blob(l, &layer), &bytes[..bytes.len() - 512]).expect("written");
        }),
        tampered("layer-missing", &|l| std::fs::remove_file(blob(l, &layer)).expect("removed")),
        tampered("config-byte", &|l| flip(&blob(l, &config), 5)),
        tampered("layer-is-a-link", &|l| {
            std::fs::remove_file(blob(l, &layer)).expect("removed");
            std::os::unix::fs::symlink("/etc/passwd", blob(l, &layer)).expect("linked");
        }),
        tampered("index-and-manifest", &|l| {
            let mut both = manifest.clone();
            both["manifests"] = serde_json::json!([]);
            let (digest, size) = l.blob(both.to_string().as_bytes());
            l.publish(serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size}));
        }),
        tampered("too-few-layers", &|l| {
            let mut few = manifest.clone();
            few["layers"] = serde_json::json!([]);
            let (digest, size) = l.blob(few.to_string().as_bytes());
            l.publish(serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size}));
        }),
        tampered("bad-digest", &|l| {
            l.publish(serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:../../../../etc/passwd", "size": 1}));
        }),
        tampered("index-of-itself", &|l| {
            std::fs::write(l.0.join("index.json"), "{").expect("written");
        }),
    ];
    for case in cases {
        let error = two.image().load(&case).await.expect_err("it is refused");
        assert!(
            matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::Io
            ),
            "{case:?}: {error:?}"
        );
        assert!(two.image().list().await.expect("listed").is_empty(), "{case:?}: {error:?}");
    }
    // Nothing of all this stays.
    two.gc(false).await.expect("collected");
    for dir in ["blobs/sha256", "layers", "ingest"] {
        assert_eq!(std::fs::read_dir(root.0.join("two").join(dir)).expect("readable").count(), 0, "{dir}");
    }
    // Archives that name an entry twice, or reach out.
    for (name, script) in [
        ("twice.tar", "tar -cf ../twice.tar * && tar -rf ../twice.tar index.json"),
        ("out.tar", "tar -cPf ../out.tar ../layout-for-tar/oci-layout ../../../../etc/passwd"),
        ("other.tar", "tar -cf ../other.tar oci-layout"),
    ] {
        let layout = Layout(root.0.join("layout-for-tar"));
        if !layout.0.exists() {
            fresh("layout-for-tar");
        }
        let done = std::process::Command::new("sh")
            .args(["-c", script])
            .current_dir(&layout.0)
            .output()
            .expect("sh");
        assert!(root.0.join(name).exists(), "{done:?}");
        let error = two.image().load(root.0.join(name)).await.expect_err("it is refused");
        assert!(
            matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput),
            "{name}: {error:?}"
        );
    }
}

fn blob_path(root: &Path, digest: &str) -> std::path::PathBuf {
    root.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

async fn cancelled() {
    let root = Root::new("cancelled");
    let e = own_engine(&root.0.join("one")).await;
    let tar = root.0.join("images.tar");
    e.image().save(["tools:1"], &tar).await.expect("saved");
    let two = Engine::open(root.0.join("two")).await.expect("an engine");
    let mut events = two.image().load(&tar).events();
    events.next().await.expect("an event").expect("it begins");
    drop(events);
    // It ends at its next part.
    for _ in 0..500 {
        if std::fs::read_dir(root.0.join("two/ingest")).expect("readable").count() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(std::fs::read_dir(root.0.join("two/ingest")).expect("readable").count(), 0);
    // Too late for some: then the image is whole.
    for image in two.image().list().await.expect("listed") {
        assert!(sh(&two, "true").image(&image.name).output().await.expect("it runs").status.success());
    }
}

async fn sparse() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let root = Root::new("sparse");
    let e = own_engine(&root.0).await;
    let tree = root.0.join("tree");
    std::fs::create_dir_all(&tree).expect("made");
    let file = std::fs::File::create(tree.join("holes")).expect("made");
    // More pieces than an old header holds, and a hole at the end.
    for i in 0..60u64 {
        file.write_all_at(format!("piece {i}").as_bytes(), i << 20).expect("written");
    }
    file.set_len(100 << 20).expect("set");
    for (format, name) in [("gnu", "old"), ("posix", "pax")] {
        let tar = root.0.join(format!("{name}.tar"));
        let mut c = std::process::Command::new("tar");
        c.args(["-S", "--format", format, "-C"]).arg(&tree).arg("-cf").arg(&tar).arg("holes");
        assert!(c.status().expect("GNU tar").success());
        assert!(std::fs::metadata(&tar).expect("made").len() < 2 << 20, "it is a sparse archive");
        let image = e.image().import(&tar).tag(format!("{name}:1")).await.expect("imported");
        let layer = root.0.join("layers").join(image.layers()[0].trim_start_matches("sha256:"));
        let unpacked = std::fs::metadata(layer.join("holes")).expect("unpacked");
        assert_eq!(unpacked.len(), 100 << 20);
        assert!(unpacked.blocks() * 512 < 2 << 20, "{} blocks", unpacked.blocks());
        let same =
            std::process::Command::new("cmp").arg(tree.join("holes")).arg(layer.join("holes")).status();
        assert!(same.expect("diffutils").success());
    }
    assert!(e.fsck(Check::Content, false).await.expect("checked").is_empty());
}

async fn usage() {
    let root = Root::new("usage");
    let e = own_engine(&root.0).await;
    layered(&e).await;
    e.image().get("layered:2").await.expect("there").tag("second:name").await.expect("tagged");
    let c = sh(&e, "head -c 300000 /dev/zero > /grown").image("layered:0").create().await.expect("made");
    c.start().await.expect("starts");
    c.wait().await.expect("ends");
    let usage = e.disk_usage().await.expect("measured");
    let names: Vec<&str> = usage.images.iter().filter_map(|i| i.name.as_deref()).collect();
    assert_eq!(names, ["layered:0", "layered:1", "layered:2", "second:name", "tools:1"]);
    let layer = |n: usize| {
        let digest = usage.images[2].layers[n];
        usage.layers.iter().find(|l| l.diff_id == digest).expect("listed")
    };
    assert_eq!([0, 1, 2, 3].map(|n| layer(n).images), [4, 3, 2, 1], "two names of one image count once");
    assert_eq!([0, 1, 2, 3].map(|n| layer(n).containers), [1, 1, 0, 0]);
    let own = |n: usize| layer(n).archive + layer(n).unpacked;
    for name in [2, 3] {
        assert_eq!(usage.images[name].unique, own(3));
        assert_eq!(usage.images[name].shared, own(0) + own(1) + own(2));
    }
    // What du says of the lowest.
    let path = root.0.join("layers").join(layer(0).diff_id.hex());
    let du = std::process::Command::new("du").args(["-sB512"]).arg(&path).output().expect("coreutils");
    let blocks = String::from_utf8_lossy(&du.stdout).split_whitespace().next().map(str::to_owned);
    let blocks: u64 = blocks.and_then(|b| b.parse().ok()).expect("a number");
    let top = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).expect("there"));
    assert_eq!(layer(0).unpacked, (blocks - top) * 512);
    assert!((300_000..400_000).contains(&usage.snapshots[0].bytes), "{:?}", usage.snapshots);
    c.remove().await.expect("removed");
}

async fn collection() {
    let root = Root::new("collection");
    let e = own_engine(&root.0).await;
    layered(&e).await;
    let count = |dir: &str| std::fs::read_dir(root.0.join(dir)).expect("readable").count();
    let (blobs, layers) = (count("blobs/sha256"), count("layers"));
    let found = e.gc(false).await.expect("collected");
    assert!(found.complete && found.blobs.is_empty() && found.layers.is_empty(), "{found:?}");
    // What work left that was killed between two steps.
    let digest = boxship_layers::Digest::of(b"orphan");
    std::fs::write(root.0.join("blobs/sha256").join(digest.hex()), b"orphan").expect("written");
    std::fs::create_dir(root.0.join("layers").join(digest.hex())).expect("made");
    let found = e.gc(true).await.expect("looked");
    assert_eq!((found.blobs, found.layers, found.bytes), (vec![digest], vec![digest], 6));
    assert_eq!(count("layers"), layers + 1, "a dry run removes nothing");
    e.gc(false).await.expect("collected");
    assert_eq!((count("blobs/sha256"), count("layers")), (blobs, layers));
    // A container keeps its layers when its image is gone; the image's own documents go.
    let c = sh(&e, "cat /d/one").image("layered:2").create().await.expect("made");
    assert_eq!(kind(e.image().get("layered:2").await.expect("there").remove().await), ErrorKind::InUse);
    c.remove().await.expect("removed");
    for i in [2, 0, 1] {
        e.image().get(&format!("layered:{i}")).await.expect("there").remove().await.expect("removed");
    }
    assert_eq!((count("blobs/sha256"), count("layers")), (3, 1), "the shared layer stays");
    // While images are added, nothing is collected.
    let store = boxship_layers::Store::open(&root.0).expect("the same store");
    let adding = store.begin(boxship_layers::Publish::Each).expect("begun");
    adding.document(b"{\"a config\": 1}").expect("stored");
    assert!(!e.gc(false).await.expect("asked").complete);
    assert_eq!(count("blobs/sha256"), 4);
    drop(adding);
    assert_eq!(e.gc(false).await.expect("collected").blobs.len(), 1);
}

/// Its manifest and config were collected before snapshots held them.
async fn nameless() {
    let root = Root::new("nameless");
    let e = own_engine(&root.0).await;
    let c = sh(&e, "echo mine > /mine").create().await.expect("made");
    c.start().await.expect("starts");
    c.wait().await.expect("ends");
    let again = e.image().from_host_programs(crate::PROGRAMS).env("X", "1").tag("tools:1");
    let again = again.await.expect("made");
    assert!(e.gc(false).await.expect("collected").complete);
    let image = c.commit().tag("mine:1").await.expect("committed");
    let inspected = image.inspect().config().clone().and_then(|c| c.env().clone()).unwrap_or_default();
    assert!(!inspected.contains(&"X=1".to_owned()), "that of its own image, and not of the name");
    assert_eq!(text(sh(&e, "cat /mine").image(&image).output().await.expect("it runs")), "mine\n");
    for remove in [&image, &again] {
        remove.remove().await.expect("no container was made from it");
    }
    c.remove().await.expect("removed");
    e.gc(false).await.expect("collected");
    for dir in ["layers", "blobs/sha256"] {
        assert_eq!(std::fs::read_dir(root.0.join(dir)).expect("readable").count(), 0, "{dir}");
    }
}

async fn newer() {
    let root = Root::new("newer");
    let e = own_engine(&root.0).await;
    let c = sh(&e, "true").name("old").create().await.expect("made");
    drop(e);
    let text = r#"{"version":1,"compatible":[],"read_only_compatible":["later"],"incompatible":[]}"#;
    std::fs::write(root.0.join("format"), text).expect("written");
    let e = Engine::open(&root.0).await.expect("it can be read");
    assert_eq!(e.image().list().await.expect("lists").len(), 1);
    assert_eq!(e.get("old").await.expect("there").id(), c.id());
    e.get("old").await.expect("there").export(root.0.join("out.tar")).await.expect("exported");
    let old = e.get("old").await.expect("there");
    assert_eq!(kind(sh(&e, "true").output().await), ErrorKind::Unsupported);
    assert_eq!(kind(old.start().await), ErrorKind::Unsupported);
    assert_eq!(kind(old.remove().await), ErrorKind::Unsupported);
    assert_eq!(kind(e.recover().await), ErrorKind::Unsupported);
    assert!(old.inspect().await.is_ok());
}

async fn repair() {
    let root = Root::new("repair");
    let e = own_engine(&root.0).await;
    let image = layered(&e).await;
    for depth in [Check::Structure, Check::Content] {
        assert!(e.fsck(depth, false).await.expect("checked").is_empty(), "{depth:?}");
    }
    let layer = |n: usize| root.0.join("layers").join(image.layers()[n].trim_start_matches("sha256:"));
    let damage: [(&str, &dyn Fn()); 4] = [
        ("content", &|| std::fs::write(layer(1).join("d/one"), "ONE\n").expect("written")),
        ("a file more", &|| std::fs::write(layer(2).join("more"), "").expect("written")),
        ("mode", &|| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(layer(1).join("d/ro"), PermissionsExt::from_mode(0o666)).expect("set");
        }),
        ("whiteout", &|| std::fs::remove_file(layer(2).join("gone")).expect("removed")),
    ];
    for (what, damage) in damage {
        damage();
        assert!(e.fsck(Check::Structure, false).await.expect("checked").is_empty(), "{what}: not looked for");
        let found = e.fsck(Check::Content, false).await.expect("checked");
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        assert!(!found[0].repaired && found[0].images.contains(&"layered:2".to_owned()), "{found:?}");
        let found = e.fsck(Check::Content, true).await.expect("checked");
        assert!(found.len() == 1 && found[0].repaired, "{what}: {found:?}");
        assert!(e.fsck(Check::Content, false).await.expect("checked").is_empty(), "{what}: repaired");
    }
    std::fs::remove_dir_all(layer(3)).expect("removed");
    assert!(e.fsck(Check::Structure, true).await.expect("checked")[0].repaired, "a missing layer");
    assert!(e.fsck(Check::Content, false).await.expect("checked").is_empty());
    // A bad blob cannot be made anew; gc does not touch what it does not understand.
    let manifest = blob_path(&root.0, &image.digest());
    let good = std::fs::read(&manifest).expect("readable");
    std::fs::write(&manifest, b"{}").expect("written");
    let found = e.fsck(Check::Structure, true).await.expect("checked");
    assert!(!found.is_empty() && found.iter().all(|d| !d.repaired), "{found:?}");
    assert_eq!(kind(e.gc(false).await), ErrorKind::InvalidData);
    std::fs::write(&manifest, good).expect("written");
    assert!(e.fsck(Check::Content, false).await.expect("checked").is_empty());
}
