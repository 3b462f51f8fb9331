//! Who pulls, pushes and runs, and how long it takes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use boxship::Engine;
use boxship::registry::Client;
use boxship_layers::{Durability, LoadOptions, Store};
use boxship_registry::{ImageRef, PullOptions};
use sha2::Digest as _;

use crate::disk::Disk;
use crate::hub::Hub;
use crate::material::Material;
use crate::tools::{Docker, drain, podman, run, tag, timed, write};

/// What all subjects of a case are given.
pub struct Case<'a> {
    pub image: &'a Material,
    /// The storage of a registry that has the image.
    pub storage: &'a Path,
    pub slow: bool,
    pub runtime: &'a tokio::runtime::Runtime,
}

fn name(hub: &Hub) -> String {
    format!("{}/bench:1", hub.host)
}

fn client(hub: &Hub) -> Client {
    Client::builder().plain_http(&hub.host).build().expect("a client")
}

fn store(disk: &Disk) -> Store {
    Store::open_with(disk.at.join("store"), Durability::Relaxed).expect("a store")
}

/// Docker, and a registry in its own network.
fn docker(c: &Case<'_>, storage: &Path, disk: &Disk) -> Result<(Docker, Hub), String> {
    let docker = Docker::start(&disk.at)?;
    let hub = Hub::start(storage, Some(docker.pid()), c.slow);
    Ok((docker, hub))
}

/// From a name to a tree that can be run, in nanoseconds.
pub fn pull(subject: &str, c: &Case<'_>, disk: &Disk) -> Result<u64, String> {
    if subject == "docker" {
        let (docker, hub) = docker(c, c.storage, disk)?;
        return timed(|| run(docker.client().args(["pull", "-q", &name(&hub)])));
    }
    let hub = Hub::start(c.storage, None, c.slow);
    let remote = format!("docker://{}", name(&hub));
    match subject {
        "boxship" => {
            let (store, client) = (store(disk), client(&hub));
            let reference: ImageRef = name(&hub).parse().expect("a reference");
            let options = PullOptions::default();
            timed(|| {
                let pulled = client.pull(&store, &reference, &options, |_| {});
                c.runtime.block_on(pulled).map_err(|e| e.to_string())
            })
        }
        "podman" => {
            run(podman(&disk.at).args(["images", "-q"]))?;
            timed(|| run(podman(&disk.at).args(["pull", "-q", "--tls-verify=false", &remote])))
        }
        "skopeo" => timed(|| {
            let layout = disk.at.join("layout");
            let to = format!("oci:{}", tag(&layout));
            let copy = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &remote, &to];
            run(Command::new("skopeo").args(copy))?;
            run(Command::new("umoci").args(["unpack", "--image", &tag(&layout)]).arg(disk.at.join("bundle")))
        }),
        _ => timed(|| {
            floor(c.image, &hub, &disk.at.join("root"));
            Ok(())
        }),
    }
}

/// Fetching, hashing and unpacking with nothing else: two layers at once, as there are two cores.
fn floor(image: &Material, hub: &Hub, root: &Path) {
    std::thread::scope(|scope| {
        for worker in 0..2 {
            scope.spawn(move || {
                for layer in image.layers.iter().skip(worker).step_by(2) {
                    let digest = layer.packed.file_name().expect("a digest").to_string_lossy();
                    let mut stream = TcpStream::connect(&hub.host).expect("it listens");
                    let path = format!("/v2/bench/blobs/sha256:{digest}");
                    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").expect("sent");
                    let mut packed = Vec::new();
                    stream.read_to_end(&mut packed).expect("received");
                    let body = packed.windows(4).position(|w| w == b"\r\n\r\n").expect("a header") + 4;
                    let body = &packed[body..];
                    std::hint::black_box(sha2::Sha256::digest(body));
                    let (mut plain, mut hash) = (Vec::new(), sha2::Sha256::new());
                    drain(&mut flate2::read::MultiGzDecoder::new(body), |bytes| {
                        hash.update(bytes);
                        plain.extend_from_slice(bytes);
                    });
                    std::hint::black_box(hash.finalize());
                    write(&plain, root);
                }
            });
        }
    });
}

/// From an image in a store to a registry that has nothing of it.
pub fn push(subject: &str, c: &Case<'_>, disk: &Disk) -> Result<u64, String> {
    let storage = disk.at.join("registry");
    if subject == "docker" {
        let (docker, hub) = docker(c, &storage, disk)?;
        run(docker.client().args(["load", "-q", "-i"]).arg(&c.image.docker))?;
        run(docker.client().args(["tag", "bench:1", &name(&hub)]))?;
        return timed(|| run(docker.client().args(["push", "-q", &name(&hub)])));
    }
    let hub = Hub::start(&storage, None, c.slow);
    let remote = format!("docker://{}", name(&hub));
    let local = format!("oci:{}", tag(&c.image.layout));
    match subject {
        "boxship" => {
            let (store, client) = (store(disk), client(&hub));
            let loaded = store.load_directory(&c.image.layout, &LoadOptions::default(), &mut |_| true);
            let image = loaded.map_err(|e| e.to_string())?.remove(0);
            let reference: ImageRef = name(&hub).parse().expect("a reference");
            let digest = image.digest().to_string();
            timed(|| {
                let pushed = client.push(&store, &digest, &reference, |_| {});
                c.runtime.block_on(pushed).map_err(|e| e.to_string())
            })
        }
        "podman" => {
            run(podman(&disk.at).args(["pull", "-q", &local]))?;
            let id = run(podman(&disk.at).args(["images", "-q"]))?;
            let id = String::from_utf8_lossy(&id).trim().to_owned();
            timed(|| run(podman(&disk.at).args(["push", "-q", "--tls-verify=false", &id, &remote])))
        }
        "skopeo" => {
            let copy = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &local, &remote];
            timed(|| run(Command::new("skopeo").args(copy)))
        }
        _ => Err("has no push".into()),
    }
}

/// From a name to the end of the first process, which ends at once.
pub fn first_process(subject: &str, c: &Case<'_>, disk: &Disk) -> Result<u64, String> {
    if subject == "docker" {
        let (docker, hub) = docker(c, c.storage, disk)?;
        return timed(|| run(docker.client().args(["run", "--rm", "--network", "none", &name(&hub)])));
    }
    let hub = Hub::start(c.storage, None, c.slow);
    match subject {
        "boxship" => {
            let client = client(&hub);
            let engine = c.runtime.block_on(Engine::open(disk.at.join("engine"))).map_err(|e| e.chain())?;
            timed(|| {
                let out = engine.container().image(name(&hub)).registry(&client).output();
                let out = c.runtime.block_on(out).map_err(|e| e.chain())?;
                if out.status.success() { Ok(()) } else { Err(out.status.to_string()) }
            })
        }
        "podman" => {
            run(podman(&disk.at).args(["images", "-q"]))?;
            let remote = format!("docker://{}", name(&hub));
            let args = ["run", "-q", "--rm", "--network", "none", "--tls-verify=false", &remote];
            timed(|| run(podman(&disk.at).args(args)))
        }
        _ => Err("runs nothing".into()),
    }
}
