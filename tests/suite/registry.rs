//! Pull and push with Debian's docker-registry, as it is and behind every kind of door, and with skopeo.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use boxship::registry::{Client, Credentials, Keyring, PullPolicy};
use boxship::{Engine, ErrorKind, Image};
use libtest_mimic::Trial;

use crate::images::{SHOW, layered};
use crate::need::Need::{Registry, UserNamespaces};
use crate::token::TokenService;
use crate::{Root, kind, own_engine, sh, test, text};

pub fn tests() -> Vec<Trial> {
    let any = &[UserNamespaces, Registry];
    vec![
        test("registry_round_trip", any, round_trip),
        test("registry_with_a_password", any, password),
        test("registry_with_an_authority_of_its_own", any, authority),
        test("registry_with_a_token_service", any, tokens),
        test("a_missing_image_is_pulled_and_run", any, missing),
    ]
}

/// A docker-registry; it ends with this.
pub struct Hub {
    pub host: String,
    process: Child,
}

impl Hub {
    /// `more` is configuration text: what stands below `http:`, then further sections.
    pub fn start(dir: &Path, more: &str) -> Hub {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = free.local_addr().expect("bound").to_string();
        drop(free);
        std::fs::create_dir_all(dir.join("data")).expect("made");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: \
             {{rootdirectory: {}/data}}\n  delete: {{enabled: true}}\nhttp:\n  addr: {host}\n  secret: x\n{more}",
            dir.display()
        );
        std::fs::write(dir.join("config.yml"), config).expect("written");
        let log = std::fs::File::create(dir.join("log")).expect("made");
        let mut c = Command::new("setpriv");
        c.args(["--pdeathsig", "KILL", "docker-registry", "serve"]).arg(dir.join("config.yml"));
        let process = c.stdin(Stdio::null()).stdout(log.try_clone().expect("one more")).stderr(log).spawn();
        let hub = Hub { host, process: process.expect("it starts") };
        let up = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(25));
            std::net::TcpStream::connect(&hub.host).is_ok()
        });
        assert!(up, "{}", std::fs::read_to_string(dir.join("log")).unwrap_or_default());
        hub
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    fn plain(&self) -> Client {
        Client::builder().plain_http(&self.host).build().expect("a client")
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn skopeo(args: &[&str]) -> String {
    // An ordinary user that CI makes has root's home in its environment.
    let home = std::env::temp_dir();
    let out = Command::new("skopeo").arg("--insecure-policy").args(args).env("HOME", home).output();
    let out = out.expect("installed");
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

async fn shown(e: &Engine, image: &Image) -> String {
    text(sh(e, SHOW).image(image).output().await.expect("it runs"))
}

async fn round_trip() {
    let root = Root::new("registry");
    let hub = Hub::start(&root.0.join("hub"), "");
    let client = hub.plain();
    let e = own_engine(&root.0.join("one")).await;
    let image = layered(&e).await;
    let pushed = image.push(hub.name("team/app:1")).client(&client).await.expect("pushed");
    assert_eq!(pushed, image.digest());
    let seen = format!("docker://{}", hub.name("team/app:1"));
    let digest = skopeo(&["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &seen]);
    assert_eq!(digest, pushed, "as skopeo sees it");
    // By skopeo to another name, and from there to another engine.
    let copy = format!("docker://{}", hub.name("team/copy:2"));
    skopeo(&[
        "copy",
        "--preserve-digests",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        &seen,
        &copy,
    ]);
    let two = Engine::open(root.0.join("two")).await.expect("an engine");
    let pulled = two.image().pull(hub.name("team/copy:2")).client(&client).await.expect("pulled");
    assert_eq!(pulled.digest(), pushed);
    assert_eq!(shown(&two, &pulled).await, shown(&e, &image).await);
    // What was pulled goes on byte for byte, to a tag and to a digest.
    assert_eq!(pulled.push(hub.name("other/app:3")).client(&client).await.expect("pushed"), pushed);
    let pinned = hub.name(&format!("other/app:3@{pushed}"));
    let again = two.image().pull(pinned).client(&client).await.expect("pulled");
    assert_eq!(again.digest(), pushed);
    // What skopeo made of a directory, in Docker's format.
    let flat = format!("dir:{}", root.0.join("flat").display());
    let docker = format!("docker://{}", hub.name("team/docker:1"));
    skopeo(&["copy", "--src-tls-verify=false", "--format", "v2s2", &seen, &flat]);
    skopeo(&["copy", "--dest-tls-verify=false", &flat, &docker]);
    let docker = two.image().pull(hub.name("team/docker:1")).client(&client).await.expect("pulled");
    assert_eq!(shown(&two, &docker).await, shown(&e, &image).await);
    let reference = hub.name("team/app").parse().expect("a reference");
    assert_eq!(client.tags(&reference).await.expect("listed"), ["1"]);
    let none = two.image().pull(hub.name("team/none:1")).client(&client).await;
    assert_eq!(kind(none), ErrorKind::NotFound);
}

async fn password() {
    let root = Root::new("registry-password");
    std::fs::create_dir_all(&root.0).expect("made");
    let file = root.0.join("htpasswd");
    // "secret" by bcrypt.
    std::fs::write(&file, "me:$2b$04$RUtlktDAR8/uZlDsoxlypeKj7PmX7pKRH38njxG6f6bcocbob95rC\n")
        .expect("written");
    let auth = format!("auth:\n  htpasswd: {{realm: here, path: {}}}\n", file.display());
    let hub = Hub::start(&root.0.join("hub"), &auth);
    let e = own_engine(&root.0.join("store")).await;
    let image = e.image().get("tools:1").await.expect("made");
    let name = hub.name("private/tools:1");
    let with = |password: &str| {
        let ring = Keyring::new().with(&hub.host, Credentials::basic("me", password));
        Client::builder().plain_http(&hub.host).credentials(ring).build().expect("a client")
    };
    assert_eq!(kind(image.push(&name).client(&hub.plain()).await), ErrorKind::PermissionDenied);
    let wrong = image.push(&name).client(&with("wrong")).await.expect_err("refused");
    assert_eq!(wrong.kind(), ErrorKind::PermissionDenied);
    assert!(wrong.chain().contains(&hub.host) && !wrong.chain().contains("wrong"), "{}", wrong.chain());
    let pushed = image.push(&name).client(&with("secret")).await.expect("pushed");
    let creds = format!("docker://{name}");
    let seen =
        skopeo(&["inspect", "--creds", "me:secret", "--tls-verify=false", "--format", "{{.Digest}}", &creds]);
    assert_eq!(seen, pushed);
    let two = Engine::open(root.0.join("two")).await.expect("an engine");
    assert_eq!(kind(two.image().pull(&name).client(&hub.plain()).await), ErrorKind::PermissionDenied);
    assert_eq!(two.image().pull(&name).client(&with("secret")).await.expect("pulled").digest(), pushed);
}

/// A certificate for 127.0.0.1 and its key.
pub fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    std::fs::create_dir_all(dir).expect("made");
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let mut c = Command::new("openssl");
    c.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=registry"]);
    c.args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]);
    let out = c.arg("-keyout").arg(&key).arg("-out").arg(&cert).output().expect("openssl");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (cert, key)
}

async fn authority() {
    let root = Root::new("registry-tls");
    let (cert, key) = certificate(&root.0.join("tls"));
    let tls = format!("  tls: {{certificate: {}, key: {}}}\n", cert.display(), key.display());
    let hub = Hub::start(&root.0.join("hub"), &tls);
    let e = own_engine(&root.0.join("store")).await;
    let image = e.image().get("tools:1").await.expect("made");
    let name = hub.name("tls/tools:1");
    // Nobody vouches for it.
    let unknown = image.push(&name).await.expect_err("refused");
    assert_eq!(unknown.kind(), ErrorKind::Unreachable);
    assert!(unknown.chain().contains(&hub.host), "{}", unknown.chain());
    assert!(unknown.chain().to_lowercase().contains("certificate"), "{}", unknown.chain());
    // Nor is it talked to without TLS.
    assert!(image.push(&name).client(&hub.plain()).await.is_err());
    let pem = std::fs::read(&cert).expect("read");
    let client = Client::builder().certificate_authority(pem).build().expect("a client");
    let pushed = image.push(&name).client(&client).await.expect("pushed");
    let two = Engine::open(root.0.join("two")).await.expect("an engine");
    let pulled = two.image().pull(&name).client(&client).await.expect("pulled");
    assert_eq!(pulled.digest(), pushed);
}

async fn tokens() {
    let root = Root::new("registry-token");
    let (cert, key) = certificate(&root.0.join("tls"));
    let service = TokenService::start(&cert, &key);
    let auth = format!(
        "auth:\n  token: {{realm: \"http://{}/token\", service: hub, issuer: tests, rootcertbundle: {}}}\n",
        service.host,
        cert.display()
    );
    let hub = Hub::start(&root.0.join("hub"), &auth);
    let e = own_engine(&root.0.join("store")).await;
    let image = e.image().get("tools:1").await.expect("made");
    let name = hub.name("team/tools:1");
    let ring = Keyring::new().with(&hub.host, Credentials::basic("me", "secret"));
    let client = Client::builder().plain_http(&hub.host).credentials(ring);
    let client = client.token_service(&hub.host, &service.host).build().expect("a client");
    // Everybody may pull here, who is known may push.
    assert_eq!(kind(image.push(&name).client(&hub.plain()).await), ErrorKind::PermissionDenied);
    let pushed = image.push(&name).client(&client).await.expect("pushed");
    let two = Engine::open(root.0.join("two")).await.expect("an engine");
    let pulled = two.image().pull(&name).client(&hub.plain()).await.expect("pulled");
    assert_eq!(pulled.digest(), pushed);
    let scopes = service.scopes();
    assert!(scopes.contains(&"repository:team/tools:pull,push".to_owned()), "{scopes:?}");
    assert!(scopes.contains(&"repository:team/tools:pull".to_owned()), "{scopes:?}");
}

async fn missing() {
    let root = Root::new("registry-missing");
    let hub = Hub::start(&root.0.join("hub"), "");
    let client = hub.plain();
    let e = own_engine(&root.0.join("store")).await;
    let name = hub.name("team/tools:1");
    e.image().get("tools:1").await.expect("made").push(&name).client(&client).await.expect("pushed");
    let two = Engine::open(root.0.join("two")).await.expect("an engine");
    let run = || two.container().image(&name).command(["/bin/echo", "hi"]).registry(&client);
    assert_eq!(kind(run().pull(PullPolicy::Never).output().await), ErrorKind::NotFound);
    assert_eq!(run().output().await.expect("it runs").stdout, b"hi\n");
    // By digest, with a name before it.
    let pushed = e.image().get("tools:1").await.expect("made").digest().to_string();
    let three = Engine::open(root.0.join("three")).await.expect("an engine");
    let pinned = format!("{}@{pushed}", hub.name("team/tools"));
    let run_pinned = || three.container().image(&pinned).command(["/bin/echo", "hi"]).registry(&client);
    assert_eq!(run_pinned().output().await.expect("it runs").stdout, b"hi\n");
    assert_eq!(run_pinned().pull(PullPolicy::Never).output().await.expect("it runs").stdout, b"hi\n");
    // Now it is here, and the registry is not needed any more.
    drop(hub);
    assert_eq!(run().output().await.expect("it runs").stdout, b"hi\n");
    let error = run().pull(PullPolicy::Always).output().await.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.chain().contains("127.0.0.1"), "{}", error.chain());
    // No socket for this one: the listener sees nobody.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("set");
    let name = format!("{}/x:1", listener.local_addr().expect("bound"));
    let never = two.container().image(name).command(["x"]).registry(&client).pull(PullPolicy::Never);
    assert_eq!(kind(never.output().await), ErrorKind::NotFound);
    assert_eq!(listener.accept().expect_err("nobody came").kind(), std::io::ErrorKind::WouldBlock);
}
