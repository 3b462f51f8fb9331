//! Pushes to a registry that fails in every way at every step: each ends with the manifest there, or in a typed
//! error that names the host and with no manifest there.

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

use boxship_registry::{Client, Error, PullOptions};
use support::{Reply, Request, Sample, Scratch, Server, digest, status, with};

const SHORT: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Right,
    Network,
    Status,
    NotFound,
    Unauthorized,
    Untrusted,
    Content,
}

fn end(result: &boxship_registry::Result<impl std::fmt::Debug>) -> End {
    match result {
        Ok(_) => End::Right,
        Err(Error::Network { .. }) => End::Network,
        Err(Error::Status { .. }) => End::Status,
        Err(Error::NotFound { .. }) => End::NotFound,
        Err(Error::Unauthorized { .. }) => End::Unauthorized,
        Err(Error::Untrusted { .. }) => End::Untrusted,
        Err(Error::Content { .. }) => End::Content,
        Err(e) => panic!("an error of another kind: {e:?}"),
    }
}

/// The steps of a push, for one layer and the manifest.
const STEPS: [&str; 4] = ["look", "begin", "send", "manifest"];

fn is(step: &str, layer: &str, r: &Request) -> bool {
    match step {
        "look" => r.method == "HEAD" && r.target.ends_with(layer),
        "begin" => r.method == "POST",
        "send" => r.method == "PUT" && r.target.contains(&layer.replace(':', "%3A")),
        _ => r.method == "PUT" && r.target.contains("/manifests/"),
    }
}

/// A registry that has nothing and takes everything.
fn honest(r: &Request) -> Reply {
    match r.method.as_str() {
        "HEAD" => status(404),
        "POST" => with(status(202), "Location", "/v2/team/app/blobs/uploads/1?state=x"),
        _ => status(201),
    }
}

/// An image in a store, which the attacks share.
struct Source {
    scratch: Scratch,
    image: String,
    layer: String,
}

async fn source() -> Arc<Source> {
    let sample = Sample::new();
    let layer = digest(&sample.layers[1]);
    let server = Server::start(move |r| sample.honest(r)).await;
    let scratch = Scratch::new();
    let reference = format!("{}/app:1", server.host()).parse().expect("a reference");
    let client = Client::builder().plain_http(server.host()).build().expect("a client");
    let options = PullOptions::default();
    let image = client.pull(&scratch.store, &reference, &options, |_| {}).await.expect("pulled");
    Arc::new(Source { image: image.digest().to_string(), scratch, layer })
}

async fn attacked(
    name: &str,
    source: &Source,
    want: End,
    handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> Server {
    let server = Server::start(handler).await;
    let client = Client::builder().plain_http(server.host()).stall_timeout(SHORT).connect_timeout(SHORT);
    let client = client.build().expect("a client");
    let reference = format!("{}/team/app:1", server.host()).parse().expect("a reference");
    let push = client.push(&source.scratch.store, &source.image, &reference, |_| {});
    let result = tokio::time::timeout(Duration::from_secs(60), push).await;
    let result = result.unwrap_or_else(|_| panic!("{name}: it hangs"));
    assert_eq!(end(&result), want, "{name}: {result:?}");
    match &result {
        Ok(digest) => assert_eq!(digest.to_string(), source.image, "{name}"),
        Err(e) => assert!(e.to_string().contains("127.0.0.1"), "{name}: the host is named: {e}"),
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_at_every_step() {
    type Fault = fn(&Request) -> Option<Reply>;
    use End::{Network, NotFound, Right, Status, Unauthorized};
    let cases: &[(&str, Fault, [End; 4])] = &[
        ("closed once", |r| (r.before == 0).then_some(Reply::Close), [Right; 4]),
        ("closed always", |_| Some(Reply::Close), [Network; 4]),
        // Its head is a success, and nobody waits for what it says.
        (
            "200 and a stall",
            |r| (r.before == 0).then(|| Reply::Stall(vec![0; 9], 0)),
            [Right, End::Content, Right, Right],
        ),
        ("503 once", |r| (r.before == 0).then(|| status(503)), [Right; 4]),
        ("429 with a wait", |r| (r.before == 0).then(|| with(status(429), "Retry-After", "1")), [Right; 4]),
        ("502 always", |_| Some(status(502)), [Status; 4]),
        ("403", |_| Some(status(403)), [Unauthorized; 4]),
        (
            "401 without a challenge",
            |_| Some(status(401)),
            [Unauthorized, Unauthorized, Network, Unauthorized],
        ),
        ("404", |_| Some(status(404)), [Right, NotFound, NotFound, NotFound]),
        ("418", |_| Some(status(418)), [Status; 4]),
        (
            "400 without end",
            |r| (r.method != "HEAD").then(|| Reply::Endless(400, Vec::new())),
            [Right, Status, Status, Status],
        ),
    ];
    let source = source().await;
    let mut all = tokio::task::JoinSet::new();
    for (name, fault, ends) in cases {
        for (step, want) in STEPS.iter().zip(ends) {
            let source = Arc::clone(&source);
            all.spawn(async move {
                let layer = source.layer.clone();
                let name = format!("{name} at {step}");
                let server = attacked(&name, &source, *want, move |r| {
                    let faulty = is(step, &layer, r).then(|| fault(r)).flatten();
                    faulty.unwrap_or_else(|| honest(r))
                })
                .await;
                // Nothing names what is not whole.
                if *want != Right && *step != "manifest" {
                    assert_eq!(server.asked("/manifests/"), 0, "{name}");
                }
            });
        }
    }
    let mut done = 0;
    while let Some(result) = all.join_next().await {
        result.expect("the case holds");
        done += 1;
    }
    assert_eq!(done, cases.len() * STEPS.len());
}

/// Where a registry says that a layer should go, and what it says of the manifest.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_says_is_judged() {
    let source = source().await;
    let trap = Server::start_at("127.0.0.2", |_| status(201)).await;
    for (name, location, want) in [
        ("no address", String::new(), End::Content),
        ("another scheme", "ftp://127.0.0.1/x".into(), End::Untrusted),
        ("a file", "file:///etc/passwd".into(), End::Untrusted),
        ("a machine inside", format!("http://{}/up", trap.host()), End::Untrusted),
        ("the cloud's own", "http://169.254.169.254/up".into(), End::Untrusted),
        ("with credentials", "http://a:b@example.com/up".into(), End::Untrusted),
        ("nonsense", "http://".into(), End::Untrusted),
    ] {
        let server = attacked(name, &source, want, move |r| match r.method.as_str() {
            "POST" if location.is_empty() => status(202),
            "POST" => with(status(202), "Location", &location),
            _ => honest(r),
        })
        .await;
        assert_eq!(server.asked("/manifests/"), 0, "{name}");
    }
    assert_eq!(trap.asked("/"), 0, "the trap saw nothing");
    attacked("an upload that is done at once", &source, End::Content, |r| {
        if r.method == "POST" { with(status(201), "Location", "/x") } else { honest(r) }
    })
    .await;
    attacked("another digest for the manifest", &source, End::Content, |r| {
        let other = digest(b"other");
        if is("manifest", "", r) { with(status(201), "Docker-Content-Digest", &other) } else { honest(r) }
    })
    .await;
    // What is there is not sent again.
    let server =
        attacked(
            "all there",
            &source,
            End::Right,
            |r| {
                if r.method == "HEAD" { status(200) } else { honest(r) }
            },
        )
        .await;
    assert_eq!((server.asked("/uploads/"), server.asked("/manifests/")), (0, 1));
}
