//! Round trips of skopeo, Podman and Docker with our server.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use boxship_layers::Store;
use boxship_registry::{Client, ImageRef, PullOptions, Rights, TokenAuth, Users};

use crate::Test;
use crate::access::{certificate, real_image};
use crate::subject::{Dir, Own, RUNTIME, digest};

pub const TESTS: &[Test] = &[
    ("peers::skopeo_with_tokens_over_tls", Some("image-tools"), skopeo),
    ("peers::podman_with_a_password", Some("image-tools"), podman),
    ("peers::docker", Some("docker"), docker),
];

#[track_caller]
fn run(c: &mut Command) -> String {
    let out = c.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{c:?}: {e}"));
    assert!(out.status.success(), "{c:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn users() -> Users {
    Users::new().with("ci", "c1", Rights::Delete)
}

/// What a peer pushed, as our client unpacks it.
fn pulled(own: &Own, client: &Client, name: &str) {
    let dir = Dir::new();
    let store = Store::open(&dir.0).expect("a store");
    let reference: ImageRef = format!("{}/{name}", own.host).parse().expect("a reference");
    let image = RUNTIME.block_on(client.pull(&store, &reference, &PullOptions::default(), |_| {}));
    let image = image.expect("pulled");
    let file = dir.0.join("layers").join(image.layers()[0].hex()).join("file");
    assert_eq!(std::fs::read(file).expect("unpacked"), b"hello\n");
}

fn skopeo() {
    let dir = Dir::new();
    let (cert, key) = certificate(&dir.0);
    std::fs::rename(dir.0.join("cert.pem"), dir.0.join("ca.crt")).expect("renamed");
    std::fs::remove_file(dir.0.join("key.pem")).expect("removed");
    let mut own = Own::start(|b| b);
    let bytes = real_image(&own.target(), "a");
    own.restart(|b| b.tls(cert, key).token_auth(users(), TokenAuth::new()));
    let skopeo =
        |args: &[&str]| run(Command::new("skopeo").arg("--insecure-policy").args(args).env("HOME", &dir.0));
    let at = |name: &str| format!("docker://{}/{name}", own.host);
    let certs = dir.0.display().to_string();
    let flat = format!("dir:{}", dir.0.join("flat").display());
    let (from, to) = (at("a:1"), at("by/skopeo:2"));
    skopeo(&["copy", "--src-cert-dir", &certs, "--src-creds", "ci:c1", &from, &flat]);
    assert_eq!(std::fs::read(dir.0.join("flat/manifest.json")).expect("copied"), bytes);
    let creds = ["--dest-cert-dir", &certs, "--dest-creds", "ci:c1"];
    skopeo(&[&["copy", "--preserve-digests"], &creds[..], &[&flat, &to]].concat());
    let inspect = ["inspect", "--cert-dir", &certs, "--creds", "ci:c1", "--format", "{{.Digest}}"];
    assert_eq!(skopeo(&[&inspect[..], &[&to]].concat()), digest(&bytes));
    // From one repository to another: by mounting.
    let third = at("third:3");
    let source = ["--src-cert-dir", &certs, "--src-creds", "ci:c1"];
    skopeo(&[&["copy", "--preserve-digests"], &source[..], &creds[..], &[&to, &third]].concat());
    assert_eq!(skopeo(&[&inspect[..], &[&third]].concat()), digest(&bytes));
    skopeo(&["delete", "--cert-dir", &certs, "--creds", "ci:c1", &third]);
    let mut gone = Command::new("skopeo");
    gone.args(["inspect", "--cert-dir", &certs, "--creds", "ci:c1", &third]).env("HOME", &dir.0);
    assert!(!gone.output().expect("it runs").status.success());
}

fn podman() {
    let own = Own::start(|b| b.basic_auth(users()));
    let known = own.target().with("Basic Y2k6YzE=");
    let bytes = real_image(&known, "a");
    let dir = Dir::new();
    // Its locks and its list of what runs are in these, whatever storage it is given. One namespace for all of
    // it: what it mounts ends with that.
    let script = format!(
        "for d in /dev/shm /run /sys/fs/cgroup; do mount -t tmpfs none $d; done\n\
         p() {{ podman --runtime crun --root {0}/root --runroot {0}/run \"$@\"; }}\n\
         p pull -q --tls-verify=false --creds ci:c1 {1}/a:1\n\
         p image inspect --format '{{{{.Digest}}}}' {1}/a:1\n\
         p tag {1}/a:1 {1}/by/podman:2\n\
         p push -q --tls-verify=false --creds ci:c1 {1}/by/podman:2\n\
         p rmi -af >/dev/null\n\
         p pull -q --tls-verify=false --creds ci:c1 {1}/by/podman:2\n",
        dir.0.display(),
        own.host
    );
    let mut c = Command::new("unshare");
    c.args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec", &script]).env("HOME", &dir.0);
    let out = run(&mut c);
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 3 && lines[0] == lines[2] && lines[1] == digest(&bytes), "{out}");
    let keys =
        boxship_registry::Keyring::new().with(&own.host, boxship_registry::Credentials::basic("ci", "c1"));
    let client = Client::builder().plain_http(&own.host).credentials(keys).build().expect("a client");
    pulled(&own, &client, "by/podman:2");
}

/// A dockerd; it ends with this.
struct Dockerd {
    process: Child,
    dir: PathBuf,
}

impl Dockerd {
    fn start(dir: &Path) -> Dockerd {
        let log = std::fs::File::create(dir.join("log")).expect("made");
        let mut c = Command::new("setpriv");
        c.args([
            "--pdeathsig",
            "TERM",
            "unshare",
            "--mount",
            "dockerd",
            "--iptables=false",
            "--bridge=none",
            "-H",
        ]);
        c.arg(format!("unix://{}", dir.join("sock").display()));
        for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            c.arg(option).arg(dir.join(name));
        }
        let process = c.stdin(Stdio::null()).stdout(log.try_clone().expect("one more")).stderr(log).spawn();
        let docker = Dockerd { process: process.expect("it starts"), dir: dir.to_owned() };
        let up = (0..150).any(|_| {
            std::thread::sleep(Duration::from_millis(200));
            docker.client().arg("info").output().is_ok_and(|o| o.status.success())
        });
        assert!(up, "{}", std::fs::read_to_string(dir.join("log")).unwrap_or_default());
        docker
    }

    fn client(&self) -> Command {
        let program = if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" };
        let mut c = Command::new(program);
        c.args(["-H", &format!("unix://{}", self.dir.join("sock").display())]).env("HOME", &self.dir);
        c
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // Not by force: it has a containerd to end.
        let _ = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

fn docker() {
    let own = Own::start(|b| b);
    let bytes = real_image(&own.target(), "a");
    let dir = Dir::new();
    let dockerd = Dockerd::start(&dir.0);
    let docker = |args: &[&str]| run(dockerd.client().args(args));
    let (from, to) = (format!("{}/a:1", own.host), format!("{}/by/docker:2", own.host));
    assert!(docker(&["pull", &from]).contains(&digest(&bytes)));
    docker(&["tag", &from, &to]);
    docker(&["push", &to]);
    docker(&["rmi", &from, &to]);
    docker(&["pull", &to]);
    let listed = own.target().get("/v2/_catalog").expect(200);
    assert_eq!(listed.json()["repositories"], serde_json::json!(["a", "by/docker"]));
    let client = Client::builder().plain_http(&own.host).build().expect("a client");
    pulled(&own, &client, "by/docker:2");
}
