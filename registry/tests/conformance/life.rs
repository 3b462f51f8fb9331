//! From start to end: what a restart keeps, how a server ends, and what a collection takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use boxship_registry::Error;

use crate::Test;
use crate::http::Wire;
use crate::subject::{MANIFEST, Own, RUNTIME, Target, builder, digest, noise};

pub const TESTS: &[Test] = &[
    ("life::a_restart_loses_nothing", None, restart),
    ("life::a_directory_has_one_server", None, one),
    ("life::a_shutdown_lets_requests_end", None, shutdown),
    ("life::a_shutdown_does_not_wait_forever", None, stubborn),
    ("life::a_dropped_handle_ends_the_server", None, dropped),
    ("life::options_that_make_no_sense_are_refused", None, options),
    ("life::a_read_only_registry_changes_nothing", None, read_only),
    ("life::a_collection_takes_what_nothing_references", None, collection),
    ("life::a_collection_leaves_what_is_young_or_asked_for", None, grace),
    ("life::a_collection_leaves_what_is_pushed_meanwhile", None, concurrent),
    ("life::collections_come_by_themselves", None, by_itself),
];

fn restart() {
    let mut own = Own::start(|b| b);
    let t = own.target();
    let bytes = t.tagged("a/b", "1");
    let mut value: serde_json::Value = serde_json::from_slice(&t.image("a/b")).expect("JSON");
    value["subject"] = crate::subject::descriptor(MANIFEST, &bytes);
    t.put("a/b", "2", MANIFEST, value.to_string().as_bytes()).expect(201);
    let location = t.patch(&t.begin("a/b"), Some("0-4"), b"01234").expect(202).location();
    own.restart(|b| b);
    let t = own.target();
    assert_eq!(t.get("/v2/a/b/manifests/1").expect(200).body, bytes);
    assert_eq!(t.get("/v2/a/b/tags/list").expect(200).json()["tags"], serde_json::json!(["1", "2"]));
    assert_eq!(t.get("/v2/_catalog").expect(200).json()["repositories"], serde_json::json!(["a/b"]));
    let referrers = t.get(&format!("/v2/a/b/referrers/{}", digest(&bytes))).expect(200).json();
    assert_eq!(referrers["manifests"].as_array().map(Vec::len), Some(1));
    // The upload goes on, its hash is made again.
    assert_eq!(t.get(&location).expect(204).header("range"), Some("0-4"));
    t.patch(&location, Some("5-9"), b"56789").expect(202);
    t.finish(&location, &digest(b"0123456789"), b"").expect(201);
}

fn one() {
    let mut own = Own::start(|b| b);
    let second = RUNTIME.block_on(builder(&own.dir.0).spawn()).expect_err("refused");
    assert!(matches!(&second, Error::Io { .. }) && second.to_string().contains("another server"), "{second}");
    own.stop();
    own.restart(|b| b);
}

/// A request that has begun and not ended; its target.
fn begun(own: &Own) -> (Wire, String) {
    let location = own.target().begin("a");
    let mut wire = Wire::open(&own.host);
    wire.head("PATCH", &location, &[("Content-Length", "10")]);
    wire.send(b"\r\n01234").expect("sent");
    std::thread::sleep(Duration::from_millis(100));
    (wire, location)
}

fn shutdown() {
    let mut own = Own::start(|b| b);
    let (mut wire, _) = begun(&own);
    let handle = own.handle.take().expect("running");
    let end = std::thread::spawn(move || RUNTIME.block_on(handle.shutdown()));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!end.is_finished(), "it waits");
    assert!(Wire::try_open(&own.host).is_err(), "it takes nobody new");
    wire.send(b"56789").expect("sent");
    wire.answer(false).expect("an answer").expect(202);
    end.join().expect("it ends");
    own.restart(|b| b);
}

fn stubborn() {
    let mut own = Own::start(|b| b.shutdown_timeout(Duration::from_millis(300)));
    let (wire, _) = begun(&own);
    let begun = Instant::now();
    own.stop();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(wire);
}

fn dropped() {
    let mut own = Own::start(|b| b);
    own.target().get("/v2/").expect(200);
    drop(own.handle.take());
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        Wire::try_open(&own.host).is_err()
    });
    assert!(gone);
}

fn options() {
    let dir = crate::subject::Dir::new();
    let refused = |builder: boxship_registry::RegistryBuilder| {
        RUNTIME.block_on(builder.spawn()).expect_err("refused").to_string()
    };
    assert!(refused(boxship_registry::Registry::builder()).contains("root"));
    assert!(refused(builder(&dir.0).tls("x", "y")).contains("certificate"));
    assert!(refused(builder(&dir.0).bind("256.0.0.1:x")).contains("listen"));
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = busy.local_addr().expect("bound").to_string();
    assert!(refused(builder(&dir.0).bind(address)).contains("listen"));
    let client = boxship_registry::Client::builder().build().expect("a client");
    assert!(refused(builder(&dir.0).pull_through(&client, "no host/")).contains("reference"));
    // None of them keeps the directory.
    RUNTIME.block_on(async { builder(&dir.0).spawn().await.expect("it starts").shutdown().await });
}

fn read_only() {
    let mut own = Own::start(|b| b);
    let bytes = own.target().tagged("a", "1");
    let location = own.target().begin("a");
    own.restart(|b| b.read_only(true));
    let t = own.target();
    assert_eq!(t.get("/v2/a/manifests/1").expect(200).body, bytes);
    let digest = digest(&bytes);
    for (method, target) in [
        ("POST", "/v2/a/blobs/uploads/".to_owned()),
        ("POST", format!("/v2/b/blobs/uploads/?mount={digest}&from=a")),
        ("PATCH", location.clone()),
        ("PUT", format!("{location}?digest={digest}")),
        ("DELETE", location.clone()),
        ("PUT", "/v2/a/manifests/2".into()),
        ("DELETE", "/v2/a/manifests/1".into()),
        ("DELETE", format!("/v2/a/manifests/{digest}")),
        ("DELETE", format!("/v2/a/blobs/{digest}")),
    ] {
        t.send(method, &target, &[("Content-Type", MANIFEST)], &bytes).refused(405, "UNSUPPORTED");
    }
    assert_eq!(t.get("/v2/a/manifests/1").expect(200).body, bytes);
}

fn collect(own: &Own) -> boxship_registry::Swept {
    let handle = own.handle.as_ref().expect("running");
    RUNTIME.block_on(handle.collect()).expect("collected")
}

fn collection() {
    let own = Own::start(|b| b.grace(Duration::ZERO));
    let t = own.target();
    let kept = t.tagged("a", "1");
    let gone = t.tagged("a", "2");
    let loose = t.blob("a", &noise(1000));
    let both = t.blob("a", &noise(500));
    t.send("POST", &format!("/v2/b/blobs/uploads/?mount={both}&from=a"), &[], b"").expect(201);
    let upload = t.patch(&t.begin("a"), None, b"some").expect(202).location();
    t.delete(&format!("/v2/a/manifests/{}", digest(&gone))).expect(202);
    let swept = collect(&own);
    // The manifest with its two blobs, the one that nothing references, and the one that was mounted.
    assert_eq!((swept.blobs, swept.uploads), (5, 1), "{swept:?}");
    t.get(&format!("/v2/a/blobs/{loose}")).expect(404);
    t.get(&format!("/v2/b/blobs/{both}")).expect(404);
    t.get(&upload).expect(404);
    whole(&t, "a", "1", &kept);
    assert_eq!(collect(&own), boxship_registry::Swept::default());
    assert_eq!(std::fs::read_dir(own.dir.0.join("blobs/sha256")).expect("readable").count(), 3);
}

/// Whether an image can be pulled with all it needs.
fn whole(t: &Target, name: &str, reference: &str, bytes: &[u8]) {
    let answer = t.get(&format!("/v2/{name}/manifests/{reference}")).expect(200);
    assert!(answer.body == bytes);
    let value = answer.json();
    for d in value["layers"].as_array().expect("a list").iter().chain([&value["config"]]) {
        let wanted = d["digest"].as_str().expect("a digest");
        assert_eq!(digest(&t.get(&format!("/v2/{name}/blobs/{wanted}")).expect(200).body), wanted);
    }
}

fn grace() {
    let own = Own::start(|b| b.grace(Duration::from_secs(3600)));
    let t = own.target();
    let young = t.blob("a", &noise(100));
    let (old, asked) = (t.blob("a", &noise(100)), t.blob("a", &noise(100)));
    let upload = t.begin("a");
    for digest in [&old, &asked] {
        let link = own.dir.0.join("repositories/a/_blobs").join(digest.replace("sha256:", ""));
        let file = std::fs::File::open(link).expect("there");
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(7200)).expect("set");
    }
    // A client that hears that it is there does not send it again.
    t.head(&format!("/v2/a/blobs/{asked}")).expect(200);
    let swept = collect(&own);
    assert_eq!((swept.blobs, swept.uploads), (1, 0));
    t.head(&format!("/v2/a/blobs/{old}")).expect(404);
    t.head(&format!("/v2/a/blobs/{young}")).expect(200);
    t.head(&format!("/v2/a/blobs/{asked}")).expect(200);
    t.get(&upload).expect(204);
}

fn concurrent() {
    let own = Own::start(|b| b.grace(Duration::from_secs(3)));
    let shared = noise(5000);
    let stop = AtomicBool::new(false);
    let collections = std::thread::scope(|scope| {
        let pushers: Vec<_> = (0..3)
            .map(|n| {
                let (t, shared) = (own.target(), &shared);
                scope.spawn(move || {
                    let name = format!("a{n}");
                    for round in 0..25 {
                        // A config of one's own, and a layer that comes and goes with every image.
                        let config = noise(200);
                        t.blob(&name, &config);
                        if t.head(&format!("/v2/{name}/blobs/{}", digest(shared))).status != 200 {
                            t.blob(&name, shared);
                        }
                        let bytes =
                            crate::subject::manifest(&config, std::slice::from_ref(shared)).to_string();
                        t.put(&name, "1", MANIFEST, bytes.as_bytes()).expect(201);
                        whole(&t, &name, "1", bytes.as_bytes());
                        if round % 2 == 0 {
                            let target = format!("/v2/{name}/manifests/{}", digest(bytes.as_bytes()));
                            t.delete(&target).expect(202);
                        }
                    }
                })
            })
            .collect();
        let collector = scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                collect(&own);
                n += 1;
            }
            n
        });
        // Whatever became of them, the collector has to end.
        let pushed: Vec<_> = pushers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(pushed.iter().all(Result::is_ok), "every push is whole");
        collector.join().expect("no panic")
    });
    assert!(collections > 10, "{collections}");
    std::thread::sleep(Duration::from_millis(3200));
    collect(&own);
    for n in 0..3 {
        let links = std::fs::read_dir(own.dir.0.join(format!("repositories/a{n}/_blobs"))).expect("readable");
        let manifests = std::fs::read_dir(own.dir.0.join(format!("repositories/a{n}/_manifests")));
        let manifests = manifests.expect("readable").count();
        assert_eq!(links.count(), if manifests == 0 { 0 } else { manifests + 1 }, "nothing else stays");
    }
}

fn by_itself() {
    let own = Own::start(|b| b.grace(Duration::ZERO).collect_every(Duration::from_millis(50)));
    let t = own.target();
    let digest = t.blob("a", &noise(100));
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        t.head(&format!("/v2/a/blobs/{digest}")).status == 404
    });
    assert!(gone);
}
