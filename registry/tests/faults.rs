//! Registries that fail, lie and attack: each case ends in the right image or in an error that names the
//! host, with nothing corrupt stored and no credential seen by another host.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "tests"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use boxship_layers::{Check, Image, Platform};
use boxship_registry::{Client, Credentials, Error, Keyring, PullEvent, PullOptions, PullPolicy};
use support::{
    INDEX, MANIFEST, Reply, Request, SHORT, Sample, Scratch, Server, archive, digest, ok, status, with,
};

fn client(server: &Server) -> Client {
    builder(server).build().expect("a client")
}

fn builder(server: &Server) -> boxship_registry::ClientBuilder {
    Client::builder().plain_http(server.host()).stall_timeout(SHORT).connect_timeout(SHORT)
}

fn always() -> PullOptions {
    PullOptions { policy: PullPolicy::Always, ..PullOptions::default() }
}

async fn pull(server: &Server, scratch: &Scratch, name: &str) -> boxship_registry::Result<Image> {
    let reference = format!("{}/{name}", server.host()).parse().expect("a reference");
    client(server).pull(&scratch.store, &reference, &always(), |_| {}).await
}

/// What an attack leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// The right image.
    Right,
    /// An error of this kind.
    Network,
    Status,
    NotFound,
    Unauthorized,
    Untrusted,
    Content,
    Limit,
}

fn end(result: &boxship_registry::Result<Image>) -> End {
    match result {
        Ok(_) => End::Right,
        Err(Error::Network { .. }) => End::Network,
        Err(Error::Status { .. }) => End::Status,
        Err(Error::NotFound { .. }) => End::NotFound,
        Err(Error::Unauthorized { .. }) => End::Unauthorized,
        Err(Error::Untrusted { .. }) => End::Untrusted,
        Err(Error::Content { .. }) => End::Content,
        Err(Error::Limit { .. }) => End::Limit,
        Err(e) => panic!("an error of another kind: {e:?}"),
    }
}

/// Pulls from a server that answers `handler`, and holds what is true after every attack.
async fn attacked(
    name: &str,
    sample: &Sample,
    want: End,
    handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (Server, Scratch) {
    let server = Server::start(handler).await;
    let scratch = Scratch::new();
    let result = tokio::time::timeout(Duration::from_secs(60), pull(&server, &scratch, "team/app:1")).await;
    let result = result.unwrap_or_else(|_| panic!("{name}: it hangs"));
    assert_eq!(end(&result), want, "{name}: {result:?}");
    match &result {
        Ok(image) => {
            assert_eq!(image.manifest().expect("stored"), sample.manifest, "{name}: byte for byte");
            assert_eq!(scratch.read(image, 0, "one"), b"first\n", "{name}");
        }
        Err(e) => {
            assert!(e.to_string().contains("127.0.0.1"), "{name}: the host is named: {e}");
            assert!(scratch.store.images().expect("listed").is_empty(), "{name}: no name appears");
        }
    }
    let defects = scratch.store.fsck(Check::Content, false).expect("checked");
    assert!(defects.is_empty(), "{name}: {defects:?}");
    scratch.store.gc(false).expect("collected");
    let store = boxship_layers::Store::open(&scratch.dir).expect("opens");
    drop(store);
    assert_eq!(scratch.count("ingest"), 0, "{name}: nothing half stays");
    (server, scratch)
}

/// Which answer is attacked.
const PLACES: [&str; 3] = ["manifest", "config", "layer"];

fn is(place: &str, sample: &Sample, r: &Request) -> bool {
    match place {
        "manifest" => r.target.contains("/manifests/"),
        "config" => r.target.ends_with(&digest(&sample.config)),
        _ => r.target.ends_with(&digest(&sample.layers[1])),
    }
}

/// The same faults at each place.
#[tokio::test(flavor = "multi_thread")]
async fn faults_at_every_place() {
    type Fault = fn(&Request, Reply) -> Option<Reply>;
    fn body(reply: Reply) -> (Vec<(String, String)>, Vec<u8>) {
        match reply {
            Reply::Full(_, headers, body) => (headers, body),
            other => panic!("{other:?}"),
        }
    }
    let cases: &[(&str, Fault, [End; 3])] = &[
        ("closed once", |r, _| (r.before == 0).then_some(Reply::Close), [End::Right; 3]),
        ("closed always", |_, _| Some(Reply::Close), [End::Network; 3]),
        (
            "cut always at the start",
            |_, reply| {
                let (h, b) = body(reply);
                Some(Reply::Cut(h, b, 0))
            },
            [End::Network; 3],
        ),
        ("503 once", |r, _| (r.before == 0).then(|| status(503)), [End::Right; 3]),
        ("500 three times", |r, _| (r.before < 3).then(|| status(500)), [End::Right; 3]),
        ("502 always", |_, _| Some(status(502)), [End::Status; 3]),
        (
            "429 with a wait",
            |r, _| (r.before == 0).then(|| with(status(429), "Retry-After", "1")),
            [End::Right; 3],
        ),
        ("429 without", |r, _| (r.before == 0).then(|| status(429)), [End::Right; 3]),
        (
            "429 with nonsense",
            |r, _| (r.before == 0).then(|| with(status(429), "Retry-After", "soon")),
            [End::Right; 3],
        ),
        ("408", |r, _| (r.before == 0).then(|| status(408)), [End::Right; 3]),
        ("404", |_, _| Some(status(404)), [End::NotFound; 3]),
        ("403", |_, _| Some(status(403)), [End::Unauthorized; 3]),
        ("401 without a challenge", |_, _| Some(status(401)), [End::Unauthorized; 3]),
        ("418", |_, _| Some(status(418)), [End::Status; 3]),
        (
            "another byte",
            |_, reply| {
                let (h, mut b) = body(reply);
                let at = b.len() / 2;
                b[at] ^= 1;
                Some(Reply::Full(200, h, b))
            },
            [End::Content; 3],
        ),
        (
            "a byte more",
            |_, reply| {
                let (h, mut b) = body(reply);
                b.push(b' ');
                Some(Reply::Full(200, h, b))
            },
            [End::Content; 3],
        ),
        (
            "a byte less",
            |_, reply| {
                let (h, mut b) = body(reply);
                b.pop();
                Some(Reply::Full(200, h, b))
            },
            [End::Content; 3],
        ),
        ("empty", |_, reply| Some(Reply::Full(200, body(reply).0, Vec::new())), [End::Content; 3]),
        ("endless", |_, _| Some(Reply::Endless(200, Vec::new())), [End::Limit, End::Limit, End::Content]),
        ("stall once", |r, reply| (r.before == 0).then(|| Reply::Stall(body(reply).1, 10)), [End::Right; 3]),
        (
            "redirect in circles",
            |r, _| Some(Reply::Full(307, vec![("Location".into(), r.target.clone())], Vec::new())),
            [End::Untrusted; 3],
        ),
        (
            "redirect to a file",
            |_, _| Some(Reply::Full(307, vec![("Location".into(), "file:///etc/passwd".into())], Vec::new())),
            [End::Untrusted; 3],
        ),
        (
            "redirect inside",
            |_, _| {
                Some(Reply::Full(
                    302,
                    vec![("Location".into(), "http://169.254.169.254/latest".into())],
                    Vec::new(),
                ))
            },
            [End::Untrusted; 3],
        ),
        (
            "redirect to ipv6 loopback",
            |_, _| Some(Reply::Full(302, vec![("Location".into(), "http://[::1]:1/x".into())], Vec::new())),
            [End::Untrusted; 3],
        ),
        (
            "redirect with credentials",
            |_, _| {
                Some(Reply::Full(
                    302,
                    vec![("Location".into(), "https://a:b@example.com/x".into())],
                    Vec::new(),
                ))
            },
            [End::Untrusted; 3],
        ),
        (
            "redirect without address",
            |_, _| Some(Reply::Full(302, Vec::new(), Vec::new())),
            [End::Untrusted; 3],
        ),
        (
            "redirect nowhere",
            |_, _| Some(Reply::Full(302, vec![("Location".into(), "http://".into())], Vec::new())),
            [End::Untrusted; 3],
        ),
        ("endless error", |_, _| Some(Reply::Endless(400, Vec::new())), [End::Status; 3]),
        (
            "error with control characters",
            |_, _| {
                Some(Reply::Full(
                    400,
                    Vec::new(),
                    b"{\"errors\":[{\"code\":\"\\u001b[2J\",\"message\":\"\\n\\n\"}]}".to_vec(),
                ))
            },
            [End::Status; 3],
        ),
    ];
    let sample = Sample::new();
    let mut all = tokio::task::JoinSet::new();
    for (name, fault, ends) in cases {
        for (place, want) in PLACES.iter().zip(ends) {
            let sample = sample.clone();
            all.spawn(async move {
                let server = sample.clone();
                attacked(&format!("{name} at the {place}"), &sample, *want, move |r| {
                    let honest = server.honest(r);
                    if is(place, &server, r) { fault(r, honest.clone()).unwrap_or(honest) } else { honest }
                })
                .await;
            });
        }
    }
    let mut done = 0;
    while let Some(result) = all.join_next().await {
        result.expect("the case holds");
        done += 1;
    }
    assert_eq!(done, cases.len() * 3);
}

/// A layer that comes in pieces.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_layer_goes_on_where_it_was() {
    let sample = Sample::new();
    let layer = sample.layers[1].clone();
    // Every answer ends after 100 000 bytes more.
    let (server, _) = attacked("cuts", &sample.clone(), End::Right, {
        let sample = sample.clone();
        move |r| match (is("layer", &sample, r), sample.honest(r)) {
            (true, Reply::Full(206, headers, body)) => {
                let n = body.len();
                if n > 100_000 {
                    Reply::Full(206, with_length(headers, n), body[..100_000].to_vec())
                } else {
                    Reply::Full(206, headers, body)
                }
            }
            (true, Reply::Full(_, headers, body)) => Reply::Cut(headers, body, 100_000),
            (_, honest) => honest,
        }
    })
    .await;
    let asked: Vec<String> = server
        .seen
        .lock()
        .expect("whole")
        .iter()
        .filter(|r| r.target.ends_with(&digest(&layer)))
        .map(|r| r.header("range").unwrap_or("all").to_owned())
        .collect();
    assert_eq!(asked[..2], ["all", "bytes=100000-"], "{asked:?}");
    assert!(asked.len() >= 8, "{asked:?}");
    // A server that ignores the range sends everything again, and we skip what we have.
    attacked("range ignored", &sample.clone(), End::Right, {
        let sample = sample.clone();
        move |r| {
            let mut whole = r.clone();
            whole.headers.remove("range");
            match (is("layer", &sample, r) && r.before == 0, sample.honest(&whole)) {
                (true, Reply::Full(_, headers, body)) => Reply::Cut(headers, body, 123_457),
                (_, honest) => honest,
            }
        }
    })
    .await;
    // One that lies about it.
    for lie in ["bytes 0-1/2", "bytes 123456-800511/800512", "", "garbage"] {
        attacked("range lies", &sample.clone(), End::Content, {
            let sample = sample.clone();
            move |r| match (is("layer", &sample, r), r.before, sample.honest(r)) {
                (true, 0, Reply::Full(_, headers, body)) => Reply::Cut(headers, body, 123_457),
                (true, _, Reply::Full(code, _, body)) => {
                    Reply::Full(code, vec![("Content-Range".into(), lie.into())], body)
                }
                (_, _, honest) => honest,
            }
        })
        .await;
    }
}

fn with_length(mut headers: Vec<(String, String)>, n: usize) -> Vec<(String, String)> {
    headers.push(("Content-Length".into(), n.to_string()));
    headers.push(("Connection".into(), "close".into()));
    headers
}

/// Documents that say one thing and are another.
#[tokio::test(flavor = "multi_thread")]
async fn lying_documents() {
    let sample = Sample::new();
    let text = String::from_utf8(sample.manifest.clone()).expect("JSON");
    let other = Sample::of([archive("one", b"other\n"), archive("x", b"")]);
    let huge = |text: &str| {
        text.replacen("\"schemaVersion\"", &format!("\"x\":\"{}\",\"schemaVersion\"", "a".repeat(5 << 20)), 1)
    };
    let cases: Vec<(&str, String, String, End)> = vec![
        (
            "both index and manifest",
            text.replacen("{\"schema", "{\"manifests\":[],\"schema", 1),
            MANIFEST.into(),
            End::Content,
        ),
        ("another type than it is sent as", text.clone(), INDEX.into(), End::Content),
        (
            "an index called a manifest",
            format!("{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"manifests\":[]}}"),
            MANIFEST.into(),
            End::Content,
        ),
        ("no JSON", "<html>".into(), MANIFEST.into(), End::Content),
        ("an empty object", "{}".into(), MANIFEST.into(), End::Content),
        ("a list", "[]".into(), MANIFEST.into(), End::Content),
        ("five megabytes", huge(&text), MANIFEST.into(), End::Limit),
        (
            "a layer of another type",
            text.replace("layer.v1.tar", "layer.v1.squashfs"),
            MANIFEST.into(),
            End::Content,
        ),
        (
            "an encrypted layer",
            text.replace("layer.v1.tar", "layer.v1.tar+encrypted"),
            MANIFEST.into(),
            End::Content,
        ),
        (
            "a layer too few",
            {
                let end = text.rfind(",{\"mediaType\"").expect("two layers");
                format!("{}]}}", &text[..end])
            },
            MANIFEST.into(),
            End::Content,
        ),
        ("a digest with a path", text.replacen("sha256:", "sha256:../../", 1), MANIFEST.into(), End::Content),
        ("a digest of another kind", text.replacen("sha256:", "md5:", 1), MANIFEST.into(), End::Content),
        (
            "a digest in capitals",
            text.replace(&digest(&sample.layers[0])[7..], &digest(&sample.layers[0])[7..].to_uppercase()),
            MANIFEST.into(),
            End::Content,
        ),
        (
            "a size too small",
            text.replace(&format!("\"size\":{}", sample.layers[1].len()), "\"size\":1000"),
            MANIFEST.into(),
            End::Content,
        ),
        (
            "a size too large",
            text.replace(&format!("\"size\":{}", sample.layers[1].len()), "\"size\":10000000"),
            MANIFEST.into(),
            End::Content,
        ),
        (
            "a layer of petabytes",
            text.replace(&format!("\"size\":{}", sample.layers[1].len()), "\"size\":1000000000000000"),
            MANIFEST.into(),
            End::Limit,
        ),
        (
            "a negative size",
            text.replace(&format!("\"size\":{}", sample.layers[1].len()), "\"size\":-1"),
            MANIFEST.into(),
            End::Content,
        ),
        (
            "a config of gigabytes",
            text.replace(&format!("\"size\":{}", sample.config.len()), "\"size\":5000000000"),
            MANIFEST.into(),
            End::Limit,
        ),
        (
            "another image's config",
            String::from_utf8(Sample::manifest_of(
                &other.config,
                &sample.layers,
                "application/vnd.oci.image.layer.v1.tar",
            ))
            .expect("JSON"),
            MANIFEST.into(),
            End::Content,
        ),
    ];
    for (name, manifest, kind, want) in cases {
        let served = sample.clone();
        let (config, id) = (other.config.clone(), digest(&other.config));
        attacked(name, &sample, want, move |r| {
            if r.target.contains("/manifests/") {
                ok(&kind, manifest.as_bytes())
            } else if r.target.ends_with(&id) {
                ok("application/json", &config)
            } else {
                served.honest(r)
            }
        })
        .await;
    }
    // A claim about the digest that is not so.
    for (name, claim, want) in [
        ("other digest", digest(b"x"), End::Content),
        ("no digest", "sha256:zz".into(), End::Content),
        ("unknown kind", "sha512:ab".into(), End::Right),
    ] {
        let served = sample.clone();
        attacked(name, &sample, want, move |r| {
            let reply = served.honest(r);
            if r.target.contains("/manifests/") {
                with(reply, "Docker-Content-Digest", &claim)
            } else {
                reply
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_digest_is_what_comes() {
    let sample = Sample::new();
    let served = sample.clone();
    let server = Server::start(move |r| {
        with(served.honest(r), "Docker-Content-Digest", &digest(b"what was asked for"))
    })
    .await;
    let scratch = Scratch::new();
    let wrong = pull(&server, &scratch, &format!("app@{}", digest(b"what was asked for"))).await;
    assert_eq!(end(&wrong), End::Content, "a header is no proof");
    let right = pull(&server, &scratch, &format!("app@{}", digest(&sample.manifest))).await;
    assert_eq!(end(&right), End::Right, "{right:?}");
    assert!(scratch.store.images().expect("listed").is_empty(), "by digest it has no name");
    scratch.store.gc(false).expect("collected");
    assert!(scratch.store.image(&digest(&sample.manifest)).is_ok(), "but it is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_and_platforms() {
    let sample = Sample::new();
    let member = |os: &str, arch: &str, variant: &str, bytes: &[u8]| {
        format!(
            "{{\"mediaType\":\"{MANIFEST}\",\"digest\":\"{}\",\"size\":{},\"platform\":{{\"os\":\"{os}\",\"architecture\":\"{arch}\"{variant}}}}}",
            digest(bytes),
            bytes.len()
        )
    };
    let index = |members: &[String]| {
        format!("{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[{}]}}", members.join(","))
    };
    let v = |name: &str| format!(",\"variant\":\"{name}\"");
    let wanted = |p: &str| p.parse::<Platform>().expect("a platform");
    let here = &sample.manifest;
    let cases: Vec<(&str, String, Platform, End)> = vec![
        (
            "one fits",
            index(&[member("linux", "arm64", "", b"arm"), member("linux", "amd64", "", here)]),
            wanted("linux/amd64"),
            End::Right,
        ),
        ("none fits", index(&[member("linux", "arm64", "", b"arm")]), wanted("linux/amd64"), End::NotFound),
        ("empty", index(&[]), wanted("linux/amd64"), End::NotFound),
        (
            "variant",
            index(&[member("linux", "arm", &v("v6"), b"six"), member("linux", "arm", &v("v7"), here)]),
            wanted("linux/arm/v7"),
            End::Right,
        ),
        (
            "arm64 is v8",
            index(&[member("linux", "arm64", &v("v8"), here)]),
            wanted("linux/arm64"),
            End::Right,
        ),
        (
            "attestations are no images",
            index(&[member("unknown", "unknown", "", b"proof"), member("linux", "amd64", "", here)]),
            wanted("linux/amd64"),
            End::Right,
        ),
        (
            "a lie about the size",
            index(&[
                member("linux", "amd64", "", here).replace(&format!("\"size\":{}", here.len()), "\"size\":7")
            ]),
            wanted("linux/amd64"),
            End::Content,
        ),
    ];
    for (name, index, platform, want) in cases {
        let (served, index) = (sample.clone(), index.clone());
        let server = Server::start(move |r| {
            if r.target.ends_with("/manifests/1") { ok(INDEX, index.as_bytes()) } else { served.honest(r) }
        })
        .await;
        let scratch = Scratch::new();
        let reference = format!("{}/app:1", server.host()).parse().expect("a reference");
        let options = PullOptions { platform: Some(platform), ..always() };
        let result = client(&server).pull(&scratch.store, &reference, &options, |_| {}).await;
        assert_eq!(end(&result), want, "{name}: {result:?}");
    }
    // What was chosen from a pinned index is found by its digest, and counts for its platform only.
    let (served, text) = (sample.clone(), index(&[member("linux", "amd64", "", here)]));
    let pin = digest(text.as_bytes());
    let server = Server::start(move |r| {
        let asked = r.target.rsplit('/').next().unwrap_or_default();
        if asked == digest(text.as_bytes()) { ok(INDEX, text.as_bytes()) } else { served.honest(r) }
    })
    .await;
    let scratch = Scratch::new();
    let reference = format!("{}/app@{pin}", server.host()).parse().expect("a reference");
    let missing = |platform: &str| PullOptions { platform: Some(wanted(platform)), ..PullOptions::default() };
    let c = client(&server);
    let first = c.pull(&scratch.store, &reference, &missing("linux/amd64"), |_| {}).await.expect("pulled");
    let asked = server.asked("/");
    for options in [missing("linux/amd64"), PullOptions::default()] {
        let again = c.pull(&scratch.store, &reference, &options, |_| {}).await.expect("found");
        assert_eq!(again.digest(), first.digest());
    }
    assert_eq!(server.asked("/"), asked, "it is there");
    let found = scratch.store.image(&format!("{}/app@{pin}", server.host())).expect("found by its pin");
    assert_eq!(found.digest(), first.digest());
    let other = c.pull(&scratch.store, &reference, &missing("linux/arm64"), |_| {}).await;
    assert_eq!(end(&other), End::NotFound, "the one in the store is for another platform: {other:?}");
    assert!(server.asked("/") > asked);
    // An index of itself, as deep as one likes.
    let looped = |r: &Request| {
        let n = r.before;
        let body = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[{{\"mediaType\":\"{INDEX}\",\"digest\":\"{}\",\"size\":5,\"platform\":{{\"os\":\"linux\",\"architecture\":\"amd64\"}}}}],\"n\":{n}}}",
            digest(b"more")
        );
        ok(INDEX, body.as_bytes())
    };
    attacked("endless indexes", &sample, End::Content, looped).await;
}

/// Everything about credentials: who may see them, and what a registry may ask.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_at_home() {
    let sample = Sample::new();
    let secret = "Basic bWU6c2VjcmV0";
    let needs_basic = |sample: &Sample, r: &Request| {
        if r.header("authorization") == Some(secret) {
            sample.honest(r)
        } else {
            with(status(401), "WWW-Authenticate", "Basic realm=\"x\"")
        }
    };
    // Basic: asked for once, then sent with each request.
    let served = sample.clone();
    let server = Server::start(move |r| needs_basic(&served, r)).await;
    let ring = Keyring::new().with(server.host(), Credentials::basic("me", "secret"));
    let scratch = Scratch::new();
    let reference = format!("{}/app:1", server.host()).parse().expect("a reference");
    let with_ring = builder(&server).credentials(ring.clone()).build().expect("a client");
    with_ring.pull(&scratch.store, &reference, &always(), |_| {}).await.expect("pulled");
    assert_eq!(
        server.seen.lock().expect("whole").iter().filter(|r| r.header("authorization").is_none()).count(),
        1
    );
    assert_eq!(
        end(&client(&server).pull(&scratch.store, &reference, &always(), |_| {}).await),
        End::Unauthorized
    );
    // Nobody else's credentials.
    let elsewhere = Keyring::new().with("other.example", Credentials::basic("me", "secret"));
    let stranger = builder(&server).credentials(elsewhere).build().expect("a client");
    assert_eq!(end(&stranger.pull(&scratch.store, &reference, &always(), |_| {}).await), End::Unauthorized);
    // A blob elsewhere: fetched, and without them.
    let cdn = Server::start({
        let sample = sample.clone();
        move |r| sample.honest(r)
    })
    .await;
    let (served, to) = (sample.clone(), cdn.host());
    let home = Server::start(move |r| match needs_basic(&served, r) {
        Reply::Full(200, ..) if r.target.contains("/blobs/") => {
            Reply::Full(307, vec![("Location".into(), format!("http://{to}{}", r.target))], Vec::new())
        }
        other => other,
    })
    .await;
    let ring = Keyring::new().with(home.host(), Credentials::basic("me", "secret"));
    let reference = format!("{}/app:1", home.host()).parse().expect("a reference");
    let c = builder(&home).credentials(ring).build().expect("a client");
    let scratch = Scratch::new();
    c.pull(&scratch.store, &reference, &always(), |_| {}).await.expect("pulled");
    assert!(cdn.asked("/blobs/") >= 3);
    assert!(
        cdn.seen.lock().expect("whole").iter().all(|r| r.header("authorization").is_none()),
        "they went to another host"
    );
    // What prints the client prints none, nor what it made of them.
    let printed = format!("{c:?} {with_ring:?}");
    assert!(!printed.contains("secret") && !printed.contains("bWU6"), "{printed}");
}

/// A host that the registry sends us to asks for authorization: it has no say in how we prove ourselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_of_another_host_is_not_heard() {
    let sample = Sample::new();
    let trap = Server::start(|_| ok("application/json", b"{\"token\":\"t\"}")).await;
    for challenge in
        ["Basic realm=\"x\"".to_owned(), format!("Bearer realm=\"http://{}/token\"", trap.host())]
    {
        let asks = challenge.clone();
        let thief = Server::start(move |_| with(status(401), "WWW-Authenticate", &asks)).await;
        let (served, to) = (sample.clone(), thief.host());
        let home = Server::start(move |r| match served.honest(r) {
            Reply::Full(200, ..) if r.target.contains("/blobs/") => {
                Reply::Full(307, vec![("Location".into(), format!("http://{to}{}", r.target))], Vec::new())
            }
            other => other,
        })
        .await;
        let ring = Keyring::new().with(home.host(), Credentials::basic("me", "secret"));
        let reference = format!("{}/app:1", home.host()).parse().expect("a reference");
        let c = builder(&home).credentials(ring).build().expect("a client");
        let scratch = Scratch::new();
        let result = c.pull(&scratch.store, &reference, &always(), |_| {}).await;
        assert_eq!(end(&result), End::Unauthorized, "{challenge}: {result:?}");
        assert!(thief.asked("/blobs/") > 0, "it was asked");
        for server in [&thief, &home] {
            let seen = server.seen.lock().expect("whole");
            assert!(seen.iter().all(|r| r.header("authorization").is_none()), "{challenge}");
        }
    }
    assert_eq!(trap.asked("/"), 0, "the trap saw nothing");
}

/// An upload takes as long as it takes, if only it goes on; and a name that pins another image is refused.
#[tokio::test(flavor = "multi_thread")]
async fn slow_uploads_arrive() {
    let sample = Sample::new();
    let served = sample.clone();
    let source = Server::start(move |r| served.honest(r)).await;
    let scratch = Scratch::new();
    let image = pull(&source, &scratch, "app:1").await.expect("pulled");
    let sink = Server::start(|r| match r.method.as_str() {
        "HEAD" => status(404),
        "POST" => Reply::Full(202, vec![("Location".into(), "/v2/app/blobs/uploads/1".into())], Vec::new()),
        // Longer than a registry may say nothing while it is asked for something.
        "PUT" if r.target.contains("/uploads/") => {
            std::thread::sleep(SHORT * 2);
            status(201)
        }
        _ => status(201),
    })
    .await;
    let reference = format!("{}/app:2", sink.host()).parse().expect("a reference");
    let name = image.digest().to_string();
    client(&sink).push(&scratch.store, &name, &reference, |_| {}).await.expect("pushed");
    assert_eq!(sink.asked("/manifests/2"), 1);
    let other = format!("{}/app:3@{}", sink.host(), digest(b"another")).parse().expect("a reference");
    let result = client(&sink).push(&scratch.store, &name, &other, |_| {}).await;
    assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
    assert_eq!(sink.asked("/manifests/3"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens() {
    let sample = Sample::new();
    // The token service is the registry itself, under another path.
    let make = |realm: Option<String>, life: &'static str, good_for: usize, answer: Option<Reply>| {
        let sample = sample.clone();
        let own: Arc<std::sync::Mutex<String>> = Arc::default();
        let address = Arc::clone(&own);
        (
            move |r: &Request| -> Reply {
                if r.target.starts_with("/token") {
                    if let Some(answer) = &answer {
                        return answer.clone();
                    }
                    return ok(
                        "application/json",
                        format!("{{\"token\":\"t{}\"{life}}}", r.before).as_bytes(),
                    );
                }
                let host = own.lock().expect("whole").clone();
                let realm = realm.clone().unwrap_or_else(|| format!("http://{host}/token"));
                let challenge =
                    format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:other:pull\"");
                let number =
                    r.header("authorization").and_then(|a| a.strip_prefix("Bearer t")?.parse::<usize>().ok());
                match number {
                    Some(_) if r.before < good_for => sample.honest(r),
                    _ => with(status(401), "WWW-Authenticate", &challenge),
                }
            },
            address,
        )
    };
    let case = async |name: &str,
                      realm: Option<String>,
                      life: &'static str,
                      good_for: usize,
                      answer: Option<Reply>,
                      ring: bool,
                      want: End| {
        let (handler, address) = make(realm, life, good_for, answer);
        let server = Server::start(handler).await;
        *address.lock().expect("whole") = server.host();
        let mut b = builder(&server);
        if ring {
            b = b.credentials(Keyring::new().with(server.host(), Credentials::basic("me", "secret")));
        }
        let scratch = Scratch::new();
        let reference = format!("{}/app:1", server.host()).parse().expect("a reference");
        let result = b.build().expect("a client").pull(&scratch.store, &reference, &always(), |_| {}).await;
        assert_eq!(end(&result), want, "{name}: {result:?}");
        server
    };
    let all = usize::MAX;
    let s = case("anonymous", None, "", all, None, false, End::Right).await;
    assert_eq!(s.asked("/token"), 1, "one token for all requests");
    assert!(
        s.seen.lock().expect("whole").iter().any(|r| r.target.contains("scope=repository%3Aapp%3Apull")),
        "our own scope is asked for"
    );
    case("with credentials", None, ",\"expires_in\":300", all, None, true, End::Right).await;
    case("never good", None, "", 0, None, false, End::Unauthorized).await;
    case("refused", None, "", all, Some(status(401)), true, End::Unauthorized).await;
    case("broken service", None, "", all, Some(status(500)), false, End::Status).await;
    case("no JSON", None, "", all, Some(ok("text/html", b"<html>")), false, End::Content).await;
    case("no token", None, "", all, Some(ok("application/json", b"{}")), false, End::Untrusted).await;
    case("endless token", None, "", all, Some(Reply::Endless(200, Vec::new())), false, End::Limit).await;
    case("closed", None, "", all, Some(Reply::Close), false, End::Network).await;
    let answer = |_: &Request| ok("application/json", b"{\"token\":\"t0\"}");
    let (trap, near) = (Server::start_at("127.0.0.2", answer).await, Server::start(answer).await);
    for (name, realm) in [
        ("another address", format!("http://{}/token", trap.host())),
        ("another port", format!("http://{}/token", near.host())),
        ("inside", "http://169.254.169.254/token".into()),
        ("no address", "token".into()),
        ("a file", "file:///etc/passwd".into()),
        ("somebody else with TLS", "https://evil.example/token".into()),
    ] {
        let result = case(
            name,
            Some(realm),
            "",
            all,
            None,
            true,
            if name == "no address" { End::Unauthorized } else { End::Untrusted },
        )
        .await;
        assert!(result.asked("/blobs/") == 0, "{name}");
    }
    for trap in [&trap, &near] {
        assert_eq!(trap.asked("/"), 0, "the trap saw nothing");
    }
    // It could have: whoever names it as the token service gets there.
    let realm = format!("http://{}/token", near.host());
    let served = sample.clone();
    let server = Server::start(move |r| match r.header("authorization") {
        Some("Bearer t0") => served.honest(r),
        _ => with(status(401), "WWW-Authenticate", &format!("Bearer realm=\"{realm}\"")),
    })
    .await;
    let ring = Keyring::new().with(server.host(), Credentials::basic("me", "secret"));
    let c = builder(&server).credentials(ring).token_service(server.host(), near.host());
    let scratch = Scratch::new();
    let reference = format!("{}/app:1", server.host()).parse().expect("a reference");
    c.build().expect("a client").pull(&scratch.store, &reference, &always(), |_| {}).await.expect("pulled");
    assert_eq!(near.asked("/token"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_network() {
    // A port that nobody listens on.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let host = format!("127.0.0.1:{port}");
    let c = Client::builder().plain_http(&host).connect_timeout(SHORT).build().expect("a client");
    let scratch = Scratch::new();
    let reference = format!("{host}/app:1").parse().expect("a reference");
    let result = c.pull(&scratch.store, &reference, &always(), |_| {}).await;
    assert!(matches!(&result, Err(e @ Error::Network { .. }) if e.to_string().contains(&host)), "{result:?}");
    let never = PullOptions { policy: PullPolicy::Never, ..PullOptions::default() };
    let result = c.pull(&scratch.store, &reference, &never, |_| {}).await;
    assert!(matches!(result, Err(Error::Layers(boxship_layers::Error::NotFound { .. }))), "{result:?}");
    // TLS is what is spoken unless somebody says otherwise.
    let server = Server::start(|_| status(200)).await;
    let result = Client::builder()
        .build()
        .expect("a client")
        .pull(
            &scratch.store,
            &format!("{}/app", server.host()).parse().expect("a reference"),
            &always(),
            |_| {},
        )
        .await;
    assert_eq!(end(&result), End::Network, "{result:?}");
    assert_eq!(server.asked("/"), 0);
}

/// What is there is not fetched; what many want is fetched once.
#[tokio::test(flavor = "multi_thread")]
async fn layers_are_fetched_once() {
    let sample = Sample::new();
    let served = sample.clone();
    let server = Server::start(move |r| served.honest(r)).await;
    let scratch = Scratch::new();
    let c = client(&server);
    let mut all = tokio::task::JoinSet::new();
    for i in 0..200 {
        let (c, store) = (c.clone(), scratch.store.clone());
        let reference = format!("{}/app{}:1", server.host(), i % 7).parse().expect("a reference");
        all.spawn(async move { c.pull(&store, &reference, &always(), |_| {}).await });
    }
    while let Some(result) = all.join_next().await {
        result.expect("no panic").expect("pulled");
    }
    for layer in &sample.layers {
        assert_eq!(server.asked(&digest(layer)), 1, "fetched once");
    }
    assert_eq!(scratch.store.images().expect("listed").len(), 7);
    // With what is there, nothing is missing; with the policy "missing", nobody is asked.
    let events: Arc<std::sync::Mutex<Vec<PullEvent>>> = Arc::default();
    let told = Arc::clone(&events);
    let reference = format!("{}/app0:1", server.host()).parse().expect("a reference");
    c.pull(&scratch.store, &reference, &always(), move |e| told.lock().expect("whole").push(e))
        .await
        .expect("pulled");
    assert!(matches!(
        events.lock().expect("whole")[..],
        [PullEvent::Resolved { layers: 2, missing: 0, bytes: 0, .. }]
    ));
    let before = server.asked("/");
    c.pull(&scratch.store, &reference, &PullOptions::default(), |_| {}).await.expect("there");
    assert_eq!(server.asked("/"), before);
}

/// A pull that is given up leaves whole layers, and the next one goes on there.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_goes_on_later() {
    let sample = Sample::new();
    let served = sample.clone();
    let server = Server::start(move |r| match (is("layer", &served, r), r.before, served.honest(r)) {
        (true, 0, Reply::Full(_, _, body)) => Reply::Stall(body, 300_000),
        (_, _, honest) => honest,
    })
    .await;
    let scratch = Scratch::new();
    let c = Client::builder().plain_http(server.host()).build().expect("a client");
    let reference: boxship_registry::ImageRef =
        format!("{}/app:1", server.host()).parse().expect("a reference");
    let (sender, mut first) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn({
        let (c, store, reference) = (c.clone(), scratch.store.clone(), reference.clone());
        async move { c.pull(&store, &reference, &always(), move |e| drop(sender.send(e))).await }
    });
    while !matches!(first.recv().await.expect("events"), PullEvent::Layer(_)) {}
    task.abort();
    assert!(task.await.is_err());
    for _ in 0..500 {
        if scratch.count("ingest") == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(scratch.count("ingest"), 0, "nothing half stays");
    c.pull(&scratch.store, &reference, &always(), |_| {}).await.expect("pulled");
    assert_eq!(server.asked(&digest(&sample.layers[0])), 1, "what was verified is not fetched again");
}
