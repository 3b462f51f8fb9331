//! A server that is killed in the middle of pushes: the next one serves what was confirmed, and nothing that
//! is not verified.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

use crate::Test;
use crate::http::{Answer, Wire, try_ask};
use crate::subject::{Dir, MANIFEST, RUNTIME, Target, builder, digest, manifest, noise, with_query};

pub const TESTS: &[Test] = &[
    ("crash::a_killed_server_loses_nothing_confirmed_and_serves_nothing_unverified", None, killed),
    ("crash::memory_does_not_grow_with_a_blob", None, memory),
];

/// The other process: serves until it is killed, or nobody listens any more.
pub fn serve(root: &Path) {
    let handle = RUNTIME.block_on(builder(root).spawn()).expect("it starts");
    println!("{}", handle.address());
    let _ = std::io::stdout().flush();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(handle);
}

struct Server {
    process: Child,
    host: String,
}

impl Server {
    fn start(root: &Path) -> Server {
        let mut c = Command::new(std::env::current_exe().expect("this program"));
        c.arg("--as=server").arg(root).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = c.spawn().expect("it starts");
        let mut line = String::new();
        let out = process.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("an address");
        Server { process, host: line.trim().to_owned() }
    }

    fn kill(mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("it ends");
    }
}

/// What the server has confirmed.
#[derive(Default)]
struct Confirmed {
    blobs: Vec<(String, String)>,
    tags: Vec<(String, String, Vec<u8>)>,
}

/// Pushes until nobody answers any more.
fn push(host: &str, name: &str, round: usize, confirmed: &Mutex<Confirmed>) {
    let ask = |method: &str, target: &str, headers: &[(&str, &str)], body: &[u8], status: u16| {
        try_ask(host, method, target, headers, body).filter(|a| {
            assert_eq!(a.status, status, "{method} {target}: {a}");
            true
        })
    };
    let blob = |bytes: &[u8]| -> Option<()> {
        let mut location = ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"", 202)?.location();
        let mut from = 0;
        for part in bytes.chunks(bytes.len() / 3 + 1) {
            let range = format!("{from}-{}", from + part.len() - 1);
            location = ask("PATCH", &location, &[("Content-Range", &range)], part, 202)?.location();
            from += part.len();
        }
        ask("PUT", &with_query(&location, "digest", &digest(bytes)), &[], b"", 201)?;
        confirmed.lock().expect("whole").blobs.push((name.to_owned(), digest(bytes)));
        Some(())
    };
    let image = |tag: &str| -> Option<()> {
        let (config, layer) = (noise(500), noise(150_000));
        blob(&config)?;
        blob(&layer)?;
        let bytes = manifest(&config, &[layer]).to_string().into_bytes();
        ask("PUT", &format!("/v2/{name}/manifests/{tag}"), &[("Content-Type", MANIFEST)], &bytes, 201)?;
        confirmed.lock().expect("whole").tags.push((name.to_owned(), tag.to_owned(), bytes));
        Some(())
    };
    for n in 0.. {
        if image(&format!("r{round}-{n}")).is_none() {
            return;
        }
    }
}

fn killed() {
    let kills = std::env::var("BOXSHIP_REGISTRY_KILLS").ok().and_then(|v| v.parse().ok()).unwrap_or(12);
    let dir = Dir::new();
    let confirmed = Mutex::new(Confirmed::default());
    let mut moments = noise(kills * 2).into_iter();
    for round in 0..kills {
        let server = Server::start(&dir.0);
        std::thread::scope(|scope| {
            for n in 0..3 {
                let (host, confirmed) = (server.host.clone(), &confirmed);
                scope.spawn(move || push(&host, &format!("a{n}"), round, confirmed));
            }
            let moment = 20 + u64::from(moments.next().unwrap_or(0));
            std::thread::sleep(Duration::from_millis(moment));
            server.kill();
        });
        content(&dir.0);
    }
    let server = Server::start(&dir.0);
    let t = Target::new(&server.host);
    let confirmed = confirmed.into_inner().expect("whole");
    println!("{kills} kills, {} blobs and {} tags confirmed", confirmed.blobs.len(), confirmed.tags.len());
    assert!(confirmed.tags.len() > kills, "something was pushed");
    for (name, wanted) in &confirmed.blobs {
        t.head(&format!("/v2/{name}/blobs/{wanted}")).expect(200);
    }
    for (name, tag, bytes) in &confirmed.tags {
        assert!(t.get(&format!("/v2/{name}/manifests/{tag}")).expect(200).body == *bytes);
    }
    // Also what was not confirmed is right, if it is there.
    for n in 0..3 {
        let list: Answer = t.get(&format!("/v2/a{n}/tags/list")).expect(200);
        for tag in list.json()["tags"].as_array().expect("a list") {
            let tag = tag.as_str().expect("a tag");
            let value: Value = t.get(&format!("/v2/a{n}/manifests/{tag}")).expect(200).json();
            for d in value["layers"].as_array().expect("a list").iter().chain([&value["config"]]) {
                let wanted = d["digest"].as_str().expect("a digest");
                t.head(&format!("/v2/a{n}/blobs/{wanted}")).expect(200);
            }
        }
    }
    server.kill();
}

/// Whatever has a name among the blobs has that digest.
fn content(root: &Path) {
    for entry in std::fs::read_dir(root.join("blobs/sha256")).expect("readable") {
        let entry = entry.expect("readable");
        let bytes = std::fs::read(entry.path()).expect("readable");
        assert_eq!(digest(&bytes), format!("sha256:{}", entry.file_name().to_string_lossy()));
    }
}

/// Pushes and pulls one blob, by default of 256 MB, with another process that has to stay small.
fn memory() {
    let pieces = std::env::var("BOXSHIP_REGISTRY_MB").ok().and_then(|v| v.parse().ok()).unwrap_or(256usize);
    let dir = Dir::new();
    let server = Server::start(&dir.0);
    let t = Target::new(&server.host);
    let piece = noise(1 << 20);
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    (0..pieces).for_each(|_| hash.update(&piece));
    let hex: String = hash.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let digest = format!("sha256:{hex}");
    let target = with_query(&t.begin("a"), "digest", &digest);
    let mut wire = Wire::open(&server.host);
    wire.head("PUT", &target, &[("Content-Length", &(pieces << 20).to_string())]);
    wire.send(b"\r\n").expect("sent");
    for _ in 0..pieces {
        wire.send(&piece).expect("sent");
    }
    wire.answer(false).expect("an answer").expect(201);
    let mut wire = Wire::open(&server.host);
    wire.head("GET", &format!("/v2/a/blobs/{digest}"), &[("Connection", "close")]);
    wire.send(b"\r\n").expect("sent");
    let mut buffer = vec![0; 1 << 20];
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let mut head = Vec::new();
    loop {
        let n = wire.0.read(&mut buffer).expect("it comes");
        if n == 0 {
            break;
        }
        if head.ends_with(b"\r\n\r\n") {
            hash.update(&buffer[..n]);
            continue;
        }
        head.extend_from_slice(&buffer[..n]);
        let end = head.windows(4).position(|w| w == b"\r\n\r\n").expect("a head in one piece") + 4;
        hash.update(&head[end..]);
        head.truncate(end);
    }
    let back: String = hash.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(back, hex);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id())).expect("readable");
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    println!("{pieces} MiB each way, peak {} MiB", peak >> 10);
    assert!(peak < 64 << 10, "{peak} kB");
    server.kill();
}
