//! A registry that does what a test says, over real sockets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxship_layers::{Digest, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a client asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: HashMap<String, String>,
    /// How often this target was asked for before.
    pub before: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What the server does.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A whole answer.
    Full(u16, Vec<(String, String)>, Vec<u8>),
    /// Announces all of the body and sends so many bytes of it.
    Cut(Vec<(String, String)>, Vec<u8>, usize),
    /// Closes without a word.
    Close,
    /// Sends so many bytes of the body, and nothing more.
    Stall(Vec<u8>, usize),
    /// Sends bytes as long as they are taken, chunked.
    Endless(u16, Vec<(String, String)>),
}

pub fn ok(kind: &str, body: &[u8]) -> Reply {
    Reply::Full(200, vec![("Content-Type".into(), kind.into())], body.to_vec())
}

pub fn status(code: u16) -> Reply {
    let body = format!("{{\"errors\":[{{\"code\":\"TEST\",\"message\":\"says {code}\"}}]}}");
    Reply::Full(code, vec![("Content-Type".into(), "application/json".into())], body.into_bytes())
}

pub fn with(reply: Reply, name: &str, value: &str) -> Reply {
    let more = (name.to_owned(), value.to_owned());
    match reply {
        Reply::Full(code, mut headers, body) => {
            headers.retain(|(n, _)| *n != more.0);
            headers.push(more);
            Reply::Full(code, headers, body)
        }
        Reply::Cut(mut headers, body, at) => {
            headers.push(more);
            Reply::Cut(headers, body, at)
        }
        other => other,
    }
}

type Handler = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        Server::start_at("127.0.0.1", handler).await
    }

    /// The same at another address of this machine.
    pub async fn start_at(
        address: &str,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind((address, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let handler: Handler = Arc::new(handler);
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(serve(socket, Arc::clone(&handler), Arc::clone(&seen)));
                }
            }
        });
        Server { address, seen, task }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn asked(&self, part: &str) -> usize {
        self.seen.lock().expect("whole").iter().filter(|r| r.target.contains(part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut socket: TcpStream, handler: Handler, seen: Arc<Mutex<Vec<Request>>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match socket.read(&mut byte).await {
                Ok(1) if head.len() < 65_536 => head.push(byte[0]),
                _ => return,
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.lines();
        let mut first = lines.next().unwrap_or_default().split(' ');
        let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let headers: HashMap<String, String> = lines
            .filter_map(|l| l.split_once(':'))
            .map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()))
            .collect();
        let length: usize = headers.get("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if socket.read_exact(&mut body).await.is_err() {
            return;
        }
        let request = {
            let mut seen = seen.lock().expect("whole");
            let before = seen.iter().filter(|r| r.target == target && r.method == method).count();
            let r = Request { method: method.into(), target: target.into(), headers, before };
            seen.push(r.clone());
            r
        };
        if !answer(&mut socket, handler(&request), request.method == "HEAD").await {
            return;
        }
    }
}

fn head(code: u16, headers: &[(String, String)], length: Option<usize>) -> String {
    let mut text = format!("HTTP/1.1 {code} X\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    let own = headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-length"));
    match length {
        Some(n) if !own => text += &format!("Content-Length: {n}\r\n"),
        None => text += "Transfer-Encoding: chunked\r\n",
        _ => {}
    }
    text + "\r\n"
}

/// False when the connection is at its end.
async fn answer(socket: &mut TcpStream, reply: Reply, without_body: bool) -> bool {
    match reply {
        Reply::Full(code, headers, body) => {
            let mut bytes = head(code, &headers, Some(body.len())).into_bytes();
            if !without_body {
                bytes.extend(body);
            }
            socket.write_all(&bytes).await.is_ok()
        }
        Reply::Cut(headers, body, at) => {
            let mut bytes = head(200, &headers, Some(body.len())).into_bytes();
            bytes.extend(&body[..at.min(body.len())]);
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
            false
        }
        Reply::Close => false,
        Reply::Stall(body, at) => {
            let mut bytes = head(200, &[], Some(body.len())).into_bytes();
            bytes.extend(&body[..at.min(body.len())]);
            let _ = socket.write_all(&bytes).await;
            // Until the client gives up.
            let _ = socket.read(&mut [0]).await;
            false
        }
        Reply::Endless(code, headers) => {
            let _ = socket.write_all(head(code, &headers, None).as_bytes()).await;
            let piece =
                [format!("{:x}\r\n", 65_536).into_bytes(), vec![b'a'; 65_536], b"\r\n".to_vec()].concat();
            while socket.write_all(&piece).await.is_ok() {}
            false
        }
    }
}

/// An image of two layers, as documents.
#[derive(Clone)]
pub struct Sample {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: [Vec<u8>; 2],
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

pub fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut h = tar::Header::new_ustar();
    h.set_size(content.len() as u64);
    h.set_mode(0o644);
    tar.append_data(&mut h, name, content).expect("in memory");
    tar.into_inner().expect("in memory")
}

impl Sample {
    pub fn new() -> Sample {
        let noise: Vec<u8> =
            (0..200_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        Sample::of([archive("one", b"first\n"), archive("two", &noise)])
    }

    pub fn of(layers: [Vec<u8>; 2]) -> Sample {
        let ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
        let config = format!(
            "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{}\",\"{}\"]}}}}",
            ids[0], ids[1]
        )
        .into_bytes();
        let manifest = Sample::manifest_of(&config, &layers, LAYER);
        Sample { manifest, config, layers }
    }

    pub fn manifest_of(config: &[u8], layers: &[Vec<u8>], kind: &str) -> Vec<u8> {
        let layers: Vec<String> = layers
            .iter()
            .map(|l| {
                format!("{{\"mediaType\":\"{kind}\",\"digest\":\"{}\",\"size\":{}}}", digest(l), l.len())
            })
            .collect();
        format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"{}\",\"size\":{}}},\"layers\":[{}]}}",
            digest(config),
            config.len(),
            layers.join(",")
        )
        .into_bytes()
    }

    /// What an honest registry answers.
    pub fn honest(&self, r: &Request) -> Reply {
        let path = r.target.split('?').next().unwrap_or_default();
        if path.contains("/manifests/") {
            let mut reply = ok(MANIFEST, &self.manifest);
            if let Reply::Full(_, headers, _) = &mut reply {
                headers.push(("Docker-Content-Digest".into(), digest(&self.manifest)));
            }
            return reply;
        }
        let blobs = [&self.config, &self.layers[0], &self.layers[1]];
        match blobs.iter().find(|b| path.ends_with(&digest(b))) {
            Some(blob) => match r
                .header("range")
                .and_then(|v| v.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok())
            {
                Some(from) if from < blob.len() => {
                    let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                    Reply::Full(206, vec![("Content-Range".into(), range)], blob[from..].to_vec())
                }
                _ => ok("application/octet-stream", blob),
            },
            None => status(404),
        }
    }
}

/// A store that goes with the test.
pub struct Scratch {
    pub dir: PathBuf,
    pub store: Store,
}

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("boxship-registry-test-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let store = Store::open_with(&dir, boxship_layers::Durability::Relaxed).expect("a store");
        Scratch { dir, store }
    }

    pub fn count(&self, part: &str) -> usize {
        std::fs::read_dir(self.dir.join(part)).expect("readable").count()
    }

    pub fn read(&self, image: &boxship_layers::Image, layer: usize, path: impl AsRef<Path>) -> Vec<u8> {
        let hex = image.layers()[layer].hex();
        std::fs::read(self.dir.join("layers").join(hex).join(path)).expect("readable")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub const SHORT: Duration = Duration::from_millis(400);
