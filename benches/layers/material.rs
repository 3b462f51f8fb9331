//! The images that are unpacked: as OCI layout for those who read it, and as `docker save` writes for Docker.

#![allow(dead_code, reason = "each of the benches that share it needs a part")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use boxship_layers::Digest;
use serde_json::{Value, json};

/// One image in both forms, and its layers for the floors.
pub struct Material {
    pub layout: PathBuf,
    pub docker: PathBuf,
    pub layers: Vec<Layer>,
}

pub struct Layer {
    pub tar: PathBuf,
    pub packed: PathBuf,
}

/// Bytes that compress to about half, the same each time.
pub struct Text(u64);

impl Text {
    pub fn new(seed: u64) -> Text {
        Text(seed | 1)
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut out = self.noise(n);
        out.iter_mut().for_each(|b| *b = b"etaoin shrdlu\nETA"[usize::from(*b & 15)]);
        out
    }

    /// Bytes that do not compress.
    pub fn noise(&mut self, n: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(n + 8);
        while out.len() < n {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            out.extend(self.0.to_le_bytes());
        }
        out.truncate(n);
        out
    }
}

pub fn tar_of(path: &Path, files: impl Iterator<Item = (String, Vec<u8>)>) {
    let mut out = tar::Builder::new(std::io::BufWriter::new(std::fs::File::create(path).expect("made")));
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(if name.starts_with("bin/") { 0o755 } else { 0o644 });
        header.set_mtime(1_600_000_000);
        out.append_data(&mut header, name, content.as_slice()).expect("written");
    }
    out.into_inner().and_then(|mut f| f.flush()).expect("written");
}

/// An archive of five files of its own.
pub fn small(path: &Path, seed: u64) {
    std::fs::create_dir_all(path.parent().expect("below a directory")).expect("made");
    let mut text = Text::new(seed);
    tar_of(path, (0..5).map(|i| (format!("d/f{i}"), text.bytes(5000))));
}

/// The plain archives of a case, the lowest first; `None` when something is missing.
pub fn archives(case: &str, dir: &Path) -> Option<Vec<PathBuf>> {
    std::fs::create_dir_all(dir).expect("made");
    let one = |files: &mut dyn Iterator<Item = (String, Vec<u8>)>| {
        let path = dir.join("0.tar");
        tar_of(&path, files);
        Some(vec![path])
    };
    let mut text = Text::new(42);
    match case {
        "debian-gzip" | "debian-zstd" => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian.tar");
            path.exists().then(|| vec![path])
        }
        // 20 in each of 2,500 directories, one after the other as `tar` finds them.
        "small-files-gzip" => one(&mut (0..50_000).map(|i| {
            let n = 200 + usize::try_from(i % 1801).expect("small");
            (format!("d{:03}/s{}/file-{i:05}", i / 100, i / 20 % 5), text.bytes(n))
        })),
        "big-file" => one(&mut [("big".to_owned(), text.bytes(500 << 20))].into_iter()),
        "twelve-layers" => Some(
            (0..12)
                .map(|layer| {
                    let path = dir.join(format!("{layer}.tar"));
                    let mut text = Text::new(1000 + layer);
                    let files = (0..400u32).map(|i| {
                        (
                            format!("l{layer}/d{}/f{i}", i % 20),
                            text.bytes(usize::try_from(16_000 + i * 160).expect("small")),
                        )
                    });
                    tar_of(&path, files);
                    path
                })
                .collect(),
        ),
        _ => None,
    }
}

fn blob(layout: &Path, bytes: &[u8], kind: &str) -> Value {
    let digest = Digest::of(bytes);
    std::fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).expect("written");
    json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()})
}

/// An image of these archives in `dir`, compressed by the usual program.
pub fn image(dir: &Path, tars: Vec<PathBuf>, zstd: bool) -> Material {
    let layout = dir.join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).expect("made");
    let (mut layers, mut descriptors, mut diff_ids, mut packed) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for tar in tars {
        let mut c = Command::new(if zstd { "zstd" } else { "gzip" });
        let out =
            c.args(if zstd { ["-q", "-3", "-c"].as_slice() } else { &["-n", "-6", "-c"] }).arg(&tar).output();
        let bytes = out.expect("installed").stdout;
        let kind = format!("application/vnd.oci.image.layer.v1.tar+{}", if zstd { "zstd" } else { "gzip" });
        let d = blob(&layout, &bytes, &kind);
        diff_ids.push(Digest::of(&std::fs::read(&tar).expect("read")).to_string());
        let digest: Digest = d["digest"].as_str().expect("text").parse().expect("a digest");
        layers.push(Layer { tar, packed: layout.join("blobs/sha256").join(digest.hex()) });
        packed.push(bytes);
        descriptors.push(d);
    }
    let config = json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Cmd": ["/bin/true"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string();
    let config_blob = blob(&layout, config.as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_blob, "layers": descriptors});
    let mut d = blob(&layout, manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    d["annotations"] = json!({"org.opencontainers.image.ref.name": "v"});
    std::fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [d]}).to_string())
        .expect("written");
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    let docker = dir.join("docker.tar");
    let mut names = Vec::new();
    let layers_of = packed.into_iter().enumerate().map(|(i, bytes)| (format!("{i}/layer.tar"), bytes));
    let mut files: Vec<(String, Vec<u8>)> = layers_of.inspect(|(name, _)| names.push(name.clone())).collect();
    files.insert(0, ("config.json".into(), config.into_bytes()));
    let list = json!([{"Config": "config.json", "RepoTags": ["bench:1"], "Layers": names}]);
    files.push(("manifest.json".into(), list.to_string().into_bytes()));
    tar_of(&docker, files.into_iter());
    Material { layout, docker, layers }
}
