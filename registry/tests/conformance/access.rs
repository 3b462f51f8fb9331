//! Who may do what: passwords, tokens and TLS.

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxship_registry::{
    Client, Credentials, Error, ImageRef, Keyring, PullOptions, Rights, TokenAuth, Users,
};
use serde_json::json;

use crate::Test;
use crate::http::{Answer, ask};
use crate::subject::{Dir, MANIFEST, Own, RUNTIME, Target, descriptor, digest, manifest, noise};

pub const TESTS: &[Test] = &[
    ("access::without_a_password_every_endpoint_is_401", None, everything_basic),
    ("access::without_a_token_every_endpoint_is_401", None, everything_token),
    ("access::passwords_have_to_be_right", None, passwords),
    ("access::rights_end_where_they_end", None, rights),
    ("access::anonymous_may_what_they_may", None, anonymous),
    ("access::a_mount_needs_the_right_to_read", None, mount),
    ("access::a_token_is_for_what_it_says", None, scopes),
    ("access::a_token_ends", None, expiry),
    ("access::a_forged_token_is_refused", None, forged),
    ("access::tokens_by_form_and_by_refresh", None, forms),
    ("access::our_client_pushes_and_pulls_with_tokens_over_tls", Some("openssl"), tls),
    ("access::our_client_pushes_and_pulls_with_a_password", None, client_basic),
];

fn users() -> Users {
    Users::new()
        .with("root", "r00t", Rights::Delete)
        .with("ci", "c1", Rights::Push)
        .with("eye", "3y3", Rights::Pull)
        .with_below("guest", "gu:est", Rights::Push, "public")
}

fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

/// Every endpoint, on things that are there and on things that are not.
fn endpoints(bytes: &[u8], upload: &str) -> Vec<(&'static str, String)> {
    let digest = digest(bytes);
    let mut all = vec![
        ("GET", "/v2/".to_owned()),
        ("GET", "/v2/_catalog".into()),
        ("GET", upload.to_owned()),
        ("PATCH", upload.to_owned()),
        ("PUT", format!("{upload}?digest={digest}")),
        ("DELETE", upload.to_owned()),
    ];
    for name in ["a", "none"] {
        for method in ["GET", "HEAD", "DELETE", "PUT"] {
            all.push((method, format!("/v2/{name}/manifests/1")));
            all.push((method, format!("/v2/{name}/manifests/{digest}")));
            all.push((method, format!("/v2/{name}/blobs/{digest}")));
        }
        all.push(("GET", format!("/v2/{name}/tags/list")));
        all.push(("GET", format!("/v2/{name}/referrers/{digest}")));
        all.push(("POST", format!("/v2/{name}/blobs/uploads/")));
        all.push(("POST", format!("/v2/{name}/blobs/uploads/?digest={digest}")));
        all.push(("POST", format!("/v2/{name}/blobs/uploads/?mount={digest}&from=a")));
    }
    all
}

fn unauthorized(answer: Answer, method: &str, scheme: &str) {
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    assert!(answer.status == 401 && challenge.starts_with(scheme), "{answer}");
    assert!(method == "HEAD" || answer.code() == "UNAUTHORIZED", "{answer}");
}

fn everything_basic() {
    let own = Own::start(|b| b.basic_auth(users()));
    let known = own.target().with(&basic("root:r00t"));
    let bytes = known.tagged("a", "1");
    let upload = known.begin("a");
    for (method, target) in endpoints(&bytes, &upload) {
        for value in [None, Some(basic("root:wrong")), Some(basic("nobody:")), Some("Bearer x".into())] {
            let t = Target { authorization: value, ..own.target() };
            unauthorized(t.send(method, &target, &[("Content-Type", MANIFEST)], &bytes), method, "Basic ");
        }
    }
    assert_eq!(known.get("/v2/a/manifests/1").expect(200).body, bytes);
    assert_eq!(known.get(&upload).expect(204).header("range"), Some("0-0"));
}

fn everything_token() {
    let own = Own::start(|b| b.token_auth(users(), TokenAuth::new()));
    let known = bearer(&own, "root:r00t", "repository:a:pull,push");
    let bytes = known.tagged("a", "1");
    let upload = known.begin("a");
    for (method, target) in endpoints(&bytes, &upload) {
        for value in [None, Some(basic("root:r00t")), Some("Bearer x".into()), Some("Bearer ".into())] {
            let t = Target { authorization: value, ..own.target() };
            unauthorized(t.send(method, &target, &[("Content-Type", MANIFEST)], &bytes), method, "Bearer ");
        }
    }
    assert_eq!(known.get("/v2/a/manifests/1").expect(200).body, bytes);
}

fn passwords() {
    let own = Own::start(|b| b.basic_auth(users()));
    let t = |value: &str| own.target().with(value).get("/v2/").status;
    assert_eq!(t(&basic("eye:3y3")), 200);
    assert_eq!(t(&basic("guest:gu:est")), 200, "a password may have colons");
    assert_eq!(t(&basic("eye:3y3").replace("Basic", "bASIC")), 200);
    let decoded = STANDARD.encode("eye");
    for bad in [
        basic("eye:3y"),
        basic("eye:3y33"),
        basic("eye:"),
        basic(":"),
        basic("Eye:3y3"),
        basic("eye:3y3\n"),
        basic("guest:gu"),
        format!("Basic {decoded}"),
        "Basic".into(),
        "Basic !!!".into(),
        "Negotiate abc".into(),
        String::new(),
    ] {
        assert_eq!(t(&bad), 401, "{bad:?}");
    }
}

fn rights() {
    let own = Own::start(|b| b.basic_auth(users()));
    let who = |pair: &str| own.target().with(&basic(pair));
    let (root, ci, eye, guest) = (who("root:r00t"), who("ci:c1"), who("eye:3y3"), who("guest:gu:est"));
    let bytes = ci.tagged("a", "1");
    assert_eq!(eye.get("/v2/a/manifests/1").expect(200).body, bytes);
    eye.get("/v2/_catalog").expect(200);
    eye.send("POST", "/v2/a/blobs/uploads/", &[], b"").refused(403, "DENIED");
    eye.put("a", "2", MANIFEST, &bytes).refused(403, "DENIED");
    for t in [&eye, &ci, &guest] {
        t.delete("/v2/a/manifests/1").refused(403, "DENIED");
        t.delete(&format!("/v2/a/blobs/{}", digest(&bytes))).refused(403, "DENIED");
    }
    // An upload is cancelled by who may push.
    let upload = ci.begin("a");
    eye.get(&upload).refused(403, "DENIED");
    eye.delete(&upload).refused(403, "DENIED");
    ci.delete(&upload).expect(204);
    // Below one repository only, and not in what begins alike.
    guest.tagged("public/x", "1");
    guest.tagged("public", "1");
    for target in ["/v2/a/manifests/1", "/v2/publicity/manifests/1", "/v2/_catalog", "/v2/x/public/tags/list"]
    {
        guest.get(target).refused(403, "DENIED");
    }
    guest.delete("/v2/public/manifests/1").refused(403, "DENIED");
    root.delete("/v2/a/manifests/1").expect(202);
}

fn anonymous() {
    let own = Own::start(|b| b.basic_auth(users().anonymous(Rights::Pull)));
    let bytes = own.target().with(&basic("ci:c1")).tagged("a", "1");
    let t = own.target();
    assert_eq!(t.get("/v2/a/manifests/1").expect(200).body, bytes);
    // Clients learn here how to log in.
    t.get("/v2/").expect(401);
    t.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(401);
    t.delete("/v2/a/manifests/1").expect(401);
    // Who says a wrong password is not taken for nobody.
    t.with(&basic("ci:wrong")).get("/v2/a/manifests/1").expect(401);
}

fn mount() {
    let own = Own::start(|b| b.basic_auth(users()));
    let secret = own.target().with(&basic("ci:c1")).blob("private", &noise(100));
    let guest = own.target().with(&basic("guest:gu:est"));
    let target = format!("/v2/public/x/blobs/uploads/?mount={secret}&from=private");
    guest.send("POST", &target, &[], b"").expect(202);
    guest.get(&format!("/v2/public/x/blobs/{secret}")).expect(404);
    // Nor does a token for one repository open another.
    let own = Own::start(|b| b.token_auth(users(), TokenAuth::new()));
    let secret = bearer(&own, "ci:c1", "repository:private:pull,push").blob("private", &noise(100));
    let one = bearer(&own, "ci:c1", "repository:a:pull,push");
    let target = format!("/v2/a/blobs/uploads/?mount={secret}&from=private");
    one.send("POST", &target, &[], b"").expect(202);
    let both = bearer(&own, "ci:c1", "repository:a:pull,push&scope=repository:private:pull");
    both.send("POST", &target, &[], b"").expect(201);
}

/// Asks for a token.
fn token(own: &Own, pair: Option<&str>, query: &str) -> Answer {
    let value = pair.map(basic);
    let headers: Vec<(&str, &str)> = value.iter().map(|v| ("Authorization", v.as_str())).collect();
    ask(&own.host, "GET", &format!("/token?service=boxship-registry&{query}"), &headers, b"")
}

fn text(answer: &Answer, key: &str) -> String {
    answer.json()[key].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// The registry for somebody with a token of this scope.
fn bearer(own: &Own, pair: &str, scope: &str) -> Target {
    let answer = token(own, Some(pair), &format!("scope={scope}")).expect(200);
    own.target().with(&format!("Bearer {}", text(&answer, "token")))
}

fn scopes() {
    let own = Own::start(|b| b.token_auth(users().anonymous(Rights::Pull), TokenAuth::new()));
    let challenge = own.target().send("PUT", "/v2/a/b/manifests/1", &[], b"").expect(401);
    let challenge = challenge.header("www-authenticate").expect("a challenge").to_owned();
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"boxship-registry\"", own.host);
    assert_eq!(challenge, format!("{realm},scope=\"repository:a/b:pull,push\""));
    let push = bearer(&own, "ci:c1", "repository:a:pull,push");
    let bytes = push.tagged("a", "1");
    push.get("/v2/b/manifests/1").refused(401, "UNAUTHORIZED");
    push.delete("/v2/a/manifests/1").refused(401, "UNAUTHORIZED");
    push.get("/v2/_catalog").refused(401, "UNAUTHORIZED");
    let pull = bearer(&own, "ci:c1", "repository:a:pull");
    assert_eq!(pull.get("/v2/a/manifests/1").expect(200).body, bytes);
    let answer = pull.put("a", "2", MANIFEST, &bytes).refused(401, "UNAUTHORIZED");
    assert!(answer.header("www-authenticate").is_some_and(|c| c.contains("insufficient_scope")), "{answer}");
    // Nobody gets more than he may have, whatever he asks for.
    let more = bearer(&own, "eye:3y3", "repository:a:pull,push,delete,*");
    more.get("/v2/a/manifests/1").expect(200);
    more.put("a", "2", MANIFEST, &bytes).expect(401);
    more.delete("/v2/a/manifests/1").expect(401);
    let answer = token(&own, None, "scope=repository:a:pull,push").expect(200);
    let nobody = own.target().with(&format!("Bearer {}", text(&answer, "token")));
    nobody.get("/v2/a/manifests/1").expect(200);
    nobody.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(401);
    let guest = bearer(&own, "guest:gu:est", "repository:a:pull,push");
    guest.get("/v2/a/manifests/1").expect(401);
    bearer(&own, "root:r00t", "registry:catalog:*").get("/v2/_catalog").expect(200);
    bearer(&own, "root:r00t", "repository:a:delete").delete("/v2/a/manifests/1").expect(202);
    // A scope that is none gives a token for nothing.
    for scope in ["x", "repository:..:pull", "repository::pull", ":::", "registry:other:*"] {
        let t = bearer(&own, "root:r00t", scope);
        t.get("/v2/").expect(200);
        t.get("/v2/a/manifests/1").expect(401);
    }
    token(&own, Some("root:wrong"), "").expect(401);
    let locked = Own::start(|b| b.token_auth(users(), TokenAuth::new()));
    token(&locked, None, "scope=repository:a:pull").expect(401);
    // A host that is no host is not repeated.
    let mut wire = crate::http::Wire::open(&own.host);
    wire.send(b"GET /v2/ HTTP/1.1\r\nHost: x\",realm=\"http://evil/\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let answer = wire.answer(false).expect("an answer");
    assert!(!answer.header("www-authenticate").is_some_and(|c| c.contains("evil")), "{answer}");
}

fn expiry() {
    let own = Own::start(|b| b.token_auth(users(), TokenAuth::new().lifetime(Duration::from_secs(2))));
    let t = bearer(&own, "ci:c1", "repository:a:pull,push");
    t.tagged("a", "1");
    std::thread::sleep(Duration::from_millis(2100));
    t.get("/v2/a/manifests/1").refused(401, "UNAUTHORIZED");
}

fn forged() {
    let key = vec![3; 32];
    let own = Own::start(|b| b.token_auth(users(), TokenAuth::new().key(key.clone())));
    let other = Own::start(|b| b.token_auth(users(), TokenAuth::new()));
    let same = Own::start(|b| b.token_auth(users(), TokenAuth::new().key(key)));
    let scope = "repository:a:pull,push";
    let value = |own: &Own| bearer(own, "ci:c1", scope).authorization.expect("a token");
    assert_eq!(own.target().with(&value(&own)).get("/v2/").status, 200);
    assert_eq!(own.target().with(&value(&same)).get("/v2/").status, 200, "by whoever has the key");
    assert_eq!(own.target().with(&value(&other)).get("/v2/").status, 401, "another key");
    let good = value(&own);
    let parts: Vec<&str> = good.split('.').collect();
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = String::from_utf8(engine.decode(parts[1]).expect("base64")).expect("text");
    let more = engine.encode(claims.replace("\"push\"", "\"delete\""));
    for bad in [
        format!("{}.{more}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("Bearer {}.{}.{}", engine.encode(r#"{"alg":"none"}"#), parts[1], parts[2]),
        format!("{good}x"),
        good[..good.len() - 2].to_owned(),
        format!("Bearer {}", "a.".repeat(20_000)),
    ] {
        let answer = own.target().with(&bad).get("/v2/");
        assert!(matches!(answer.status, 401 | 431), "{answer}");
    }
}

fn forms() {
    let own = Own::start(|b| b.token_auth(users(), TokenAuth::new()));
    let post = |body: &str| {
        let kind = [("Content-Type", "application/x-www-form-urlencoded")];
        ask(&own.host, "POST", "/token", &kind, body.as_bytes())
    };
    let scope = "scope=repository%3Aa%3Apull%2Cpush&service=boxship-registry&client_id=x";
    let password = format!("grant_type=password&username=ci&password=c1&access_type=offline&{scope}");
    let answer = post(&password).expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    own.target().with(&format!("Bearer {}", text(&answer, "access_token"))).tagged("a", "1");
    let refresh = text(&answer, "refresh_token");
    let answer = post(&format!("grant_type=refresh_token&refresh_token={refresh}&{scope}")).expect(200);
    own.target().with(&format!("Bearer {}", text(&answer, "token"))).get("/v2/a/manifests/1").expect(200);
    // It opens nothing by itself, and a token is none.
    own.target().with(&format!("Bearer {refresh}")).get("/v2/").expect(401);
    let token = text(&answer, "token");
    post(&format!("grant_type=refresh_token&refresh_token={token}&{scope}")).expect(401);
    post(&format!("grant_type=password&username=ci&password=no&{scope}")).expect(401);
    post("grant_type=magic").expect(400);
    post("").expect(400);
    post(&"x".repeat(100_000)).expect(413);
}

/// An image that unpacks; its manifest.
pub fn real_image(t: &Target, name: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(6);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &b"hello\n"[..]).expect("in memory");
    let layer = tar.into_inner().expect("in memory");
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}})
    .to_string()
    .into_bytes();
    t.blob(name, &config);
    t.blob(name, &layer);
    let bytes = manifest(&config, &[layer]).to_string().into_bytes();
    t.put(name, "1", MANIFEST, &bytes).expect(201);
    assert_eq!(descriptor(MANIFEST, &bytes)["size"], bytes.len());
    bytes
}

/// Pulls an image, pushes it under another name, and pulls that.
fn round_trip(client: &Client, host: &str, bytes: &[u8]) {
    let dir = Dir::new();
    let store = |n: &str| {
        let options = boxship_layers::Durability::Relaxed;
        boxship_layers::Store::open_with(dir.0.join(n), options).expect("a store")
    };
    let name = |n: &str| format!("{host}/{n}").parse::<ImageRef>().expect("a reference");
    let (one, two) = (store("one"), store("two"));
    RUNTIME.block_on(async {
        let options = PullOptions::default();
        let image = client.pull(&one, &name("a:1"), &options, |_| {}).await.expect("pulled");
        assert_eq!(image.digest().to_string(), digest(bytes));
        let local = name("a:1").local_name().expect("a tag");
        let pushed = client.push(&one, &local, &name("copy/a:2"), |_| {}).await.expect("pushed");
        assert_eq!(&pushed, image.digest());
        let image = client.pull(&two, &name("copy/a:2"), &options, |_| {}).await.expect("pulled");
        assert_eq!(image.digest().to_string(), digest(bytes));
        assert_eq!(client.tags(&name("copy/a")).await.expect("listed"), ["2"]);
    });
}

fn client_basic() {
    let own = Own::start(|b| b.basic_auth(users()));
    let bytes = real_image(&own.target().with(&basic("ci:c1")), "a");
    let client = |pair: Option<(&str, &str)>| {
        let ring = match pair {
            Some((user, password)) => Keyring::new().with(&own.host, Credentials::basic(user, password)),
            None => Keyring::new(),
        };
        Client::builder().plain_http(&own.host).credentials(ring).build().expect("a client")
    };
    round_trip(&client(Some(("ci", "c1"))), &own.host, &bytes);
    let dir = Dir::new();
    let store = boxship_layers::Store::open(&dir.0).expect("a store");
    for bad in [None, Some(("ci", "no"))] {
        let name = format!("{}/a:1", own.host).parse().expect("a reference");
        let error = RUNTIME.block_on(client(bad).pull(&store, &name, &PullOptions::default(), |_| {}));
        assert!(matches!(error, Err(Error::Unauthorized { .. })), "{error:?}");
    }
}

/// A certificate for 127.0.0.1 and its key.
pub fn certificate(dir: &std::path::Path) -> (Vec<u8>, Vec<u8>) {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let mut c = Command::new("openssl");
    c.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=registry"]);
    c.args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]);
    let out = c.arg("-keyout").arg(&key).arg("-out").arg(&cert).output().expect("openssl");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (std::fs::read(&cert).expect("read"), std::fs::read(&key).expect("read"))
}

fn tls() {
    let dir = Dir::new();
    let (cert, key) = certificate(&dir.0);
    let mut own = Own::start(|b| b);
    let bytes = real_image(&own.target(), "a");
    own.restart(|b| {
        b.tls(cert.clone(), key).token_auth(users(), TokenAuth::new()).header_timeout(Duration::from_secs(2))
    });
    let ring = Keyring::new().with(&own.host, Credentials::basic("ci", "c1"));
    let client = || Client::builder().credentials(ring.clone());
    round_trip(&client().certificate_authority(cert.clone()).build().expect("a client"), &own.host, &bytes);
    // Who does not know the certificate does not talk to it, and nobody talks without TLS.
    let store = boxship_layers::Store::open(dir.0.join("store")).expect("a store");
    let name: ImageRef = format!("{}/a:1", own.host).parse().expect("a reference");
    for client in [client(), client().plain_http(&own.host)] {
        let client = client.build().expect("a client");
        let error = RUNTIME.block_on(client.pull(&store, &name, &PullOptions::default(), |_| {}));
        assert!(error.is_err());
    }
    // One that says nothing does not stay.
    let begun = std::time::Instant::now();
    let mut wire = crate::http::Wire::open(&own.host);
    wire.rest();
    assert!(begun.elapsed() < Duration::from_secs(10));
}
