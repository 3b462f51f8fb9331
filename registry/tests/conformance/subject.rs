//! Registries to ask: ours, and Debian's docker-registry.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use boxship_layers::{Digest, Durability};
use boxship_registry::{Registry, RegistryBuilder, RegistryHandle};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::http::{Answer, ask};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

/// A directory that goes with this.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("boxship-conformance-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A registry of ours with a directory of its own.
pub struct Own {
    pub host: String,
    pub handle: Option<RegistryHandle>,
    pub dir: Dir,
}

impl Own {
    pub fn start(options: impl FnOnce(RegistryBuilder) -> RegistryBuilder) -> Own {
        let dir = Dir::new();
        let builder = options(builder(&dir.0));
        let handle = RUNTIME.block_on(builder.spawn()).expect("it starts");
        Own { host: handle.address().to_string(), handle: Some(handle), dir }
    }

    /// Ends it, and starts another one on the same directory.
    pub fn restart(&mut self, options: impl FnOnce(RegistryBuilder) -> RegistryBuilder) {
        self.stop();
        let builder = options(builder(&self.dir.0));
        let handle = RUNTIME.block_on(builder.spawn()).expect("it starts");
        self.host = handle.address().to_string();
        self.handle = Some(handle);
    }

    pub fn stop(&mut self) {
        if let Some(handle) = self.handle.take() {
            RUNTIME.block_on(handle.shutdown());
        }
    }

    pub fn target(&self) -> Target {
        Target::new(&self.host)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn builder(dir: &Path) -> RegistryBuilder {
    Registry::builder().root(dir).bind("127.0.0.1:0").durability(Durability::Relaxed)
}

/// A docker-registry; it ends with this.
pub struct Peer {
    pub host: String,
    process: Child,
    _dir: Dir,
}

impl Peer {
    pub fn start() -> Peer {
        let dir = Dir::new();
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = free.local_addr().expect("bound").to_string();
        drop(free);
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: \
             {{rootdirectory: {}/data}}\n  delete: {{enabled: true}}\nhttp:\n  addr: {host}\n  secret: x\n",
            dir.0.display()
        );
        std::fs::write(dir.0.join("config.yml"), config).expect("written");
        let mut c = Command::new("setpriv");
        c.args(["--pdeathsig", "KILL", "docker-registry", "serve"]).arg(dir.0.join("config.yml"));
        let process = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let peer = Peer { host, process: process.expect("it starts"), _dir: dir };
        let up = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(25));
            std::net::TcpStream::connect(&peer.host).is_ok()
        });
        assert!(up, "docker-registry does not come up");
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The registries that all conformance tests share.
pub static OURS: OnceLock<String> = OnceLock::new();
pub static THEIRS: OnceLock<String> = OnceLock::new();

/// A registry, with credentials if it needs some.
#[derive(Clone, Debug)]
pub struct Target {
    pub host: String,
    pub ours: bool,
    pub authorization: Option<String>,
}

pub fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// Bytes that are no others'.
pub fn noise(n: usize) -> Vec<u8> {
    static SEED: AtomicUsize = AtomicUsize::new(1);
    let mut state = (SEED.fetch_add(1, Ordering::Relaxed) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes: Vec<u8> = Vec::with_capacity(n + 8);
    while bytes.len() < n {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(n);
    bytes
}

impl Target {
    pub fn new(host: &str) -> Target {
        Target { host: host.to_owned(), ours: true, authorization: None }
    }

    pub fn with(&self, authorization: &str) -> Target {
        Target { authorization: Some(authorization.to_owned()), ..self.clone() }
    }

    pub fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut headers = headers.to_vec();
        if let Some(value) = &self.authorization {
            headers.push(("Authorization", value));
        }
        ask(&self.host, method, target, &headers, body)
    }

    pub fn get(&self, target: &str) -> Answer {
        // docker-registry turns what nobody says to accept into something older.
        let accept = [MANIFEST, INDEX, "application/vnd.docker.distribution.manifest.v2+json"].join(", ");
        self.send("GET", target, &[("Accept", &accept)], b"")
    }

    pub fn head(&self, target: &str) -> Answer {
        let accept = [MANIFEST, INDEX, "application/vnd.docker.distribution.manifest.v2+json"].join(", ");
        self.send("HEAD", target, &[("Accept", &accept)], b"")
    }

    pub fn delete(&self, target: &str) -> Answer {
        self.send("DELETE", target, &[], b"")
    }

    /// Begins an upload; where it goes on.
    #[track_caller]
    pub fn begin(&self, name: &str) -> String {
        self.send("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"").expect(202).location()
    }

    /// Pushes a blob as most clients do; its digest.
    #[track_caller]
    pub fn blob(&self, name: &str, bytes: &[u8]) -> String {
        let location = self.begin(name);
        self.finish(&location, &digest(bytes), bytes).expect(201);
        digest(bytes)
    }

    pub fn finish(&self, location: &str, digest: &str, bytes: &[u8]) -> Answer {
        let target = with_query(location, "digest", digest);
        self.send("PUT", &target, &[("Content-Type", "application/octet-stream")], bytes)
    }

    pub fn patch(&self, location: &str, range: Option<&str>, bytes: &[u8]) -> Answer {
        let mut headers = vec![("Content-Type", "application/octet-stream")];
        headers.extend(range.map(|r| ("Content-Range", r)));
        self.send("PATCH", location, &headers, bytes)
    }

    /// An image of two blobs that the repository has from now on; its manifest.
    #[track_caller]
    pub fn image(&self, name: &str) -> Vec<u8> {
        let (config, layer) = (noise(300), noise(2000));
        self.blob(name, &config);
        self.blob(name, &layer);
        manifest(&config, &[layer]).to_string().into_bytes()
    }

    #[track_caller]
    pub fn put(&self, name: &str, reference: &str, kind: &str, bytes: &[u8]) -> Answer {
        self.send("PUT", &format!("/v2/{name}/manifests/{reference}"), &[("Content-Type", kind)], bytes)
    }

    /// Pushes an image under a tag; its manifest.
    #[track_caller]
    pub fn tagged(&self, name: &str, tag: &str) -> Vec<u8> {
        let bytes = self.image(name);
        self.put(name, tag, MANIFEST, &bytes).expect(201);
        bytes
    }
}

pub fn with_query(location: &str, key: &str, value: &str) -> String {
    format!("{location}{}{key}={value}", if location.contains('?') { "&" } else { "?" })
}

pub fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

pub fn manifest(config: &[u8], layers: &[Vec<u8>]) -> Value {
    let layers: Vec<Value> = layers.iter().map(|l| descriptor(LAYER, l)).collect();
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, config), "layers": layers})
}
