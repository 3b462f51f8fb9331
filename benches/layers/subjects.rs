//! Who unpacks, commits and collects, and how long it takes; everything below a new file system.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use boxship_layers::{CommitOptions, Durability, LoadOptions, Owners, Store};
use sha2::Digest as _;

use crate::disk::Disk;
use crate::material::{Material, Text};
use crate::tools::{Docker, drain, podman, run, tag, timed, write};

pub fn store(subject: &str, at: &Path) -> Store {
    let durability = if subject == "boxship-full" { Durability::Full } else { Durability::Relaxed };
    Store::open_with(at.join("store"), durability).expect("a store")
}

pub fn load(store: &Store, layout: &Path) {
    store.load_directory(layout, &LoadOptions::default(), &mut |_| true).expect("loaded");
}

/// From the image's archive to its files, in nanoseconds.
pub fn unpack(subject: &str, m: &Material, disk: &Disk) -> Result<u64, String> {
    let at = disk.at.as_path();
    let zstd = m.layout.to_string_lossy().contains("zstd");
    match subject {
        "boxship-full" | "boxship-relaxed" => {
            let store = store(subject, at);
            timed(|| {
                load(&store, &m.layout);
                Ok(())
            })
        }
        "docker" => {
            let docker = Docker::start(at)?;
            timed(|| run(docker.client().args(["load", "-q", "-i"]).arg(&m.docker)))
        }
        "podman" => {
            // It makes its directories first.
            run(podman(at).args(["images", "-q"]))?;
            timed(|| run(podman(at).args(["pull", "-q"]).arg(format!("oci:{}", tag(&m.layout)))))
        }
        "umoci" => timed(|| {
            run(Command::new("umoci").args(["unpack", "--image", &tag(&m.layout)]).arg(at.join("bundle")))
        }),
        "skopeo" => {
            let (from, to) =
                (format!("oci:{}", tag(&m.layout)), format!("dir:{}", at.join("copy").display()));
            timed(|| run(Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &from, &to])))
        }
        "tar" => timed(|| {
            let root = at.join("root");
            std::fs::create_dir(&root).expect("made");
            for layer in &m.layers {
                let script = if zstd {
                    "zstd -q -dc \"$0\" | tar -xf - -C \"$1\""
                } else {
                    "tar -xzf \"$0\" -C \"$1\""
                };
                run(Command::new("sh").args(["-c", script]).arg(&layer.packed).arg(&root))?;
            }
            Ok(())
        }),
        "floor-decompress" => timed(|| {
            for layer in &m.layers {
                let file = File::open(&layer.packed).expect("open");
                let mut plain: Box<dyn Read> = if zstd {
                    Box::new(zstd::Decoder::new(file).expect("zstd"))
                } else {
                    Box::new(flate2::bufread::MultiGzDecoder::new(std::io::BufReader::with_capacity(
                        256 << 10,
                        file,
                    )))
                };
                drain(&mut plain, |_| {});
            }
            Ok(())
        }),
        "floor-hash" => timed(|| {
            for path in m.layers.iter().map(|l| &l.tar) {
                let mut hash = sha2::Sha256::new();
                drain(&mut File::open(path).expect("open"), |bytes| hash.update(bytes));
                std::hint::black_box(hash.finalize());
            }
            Ok(())
        }),
        _ => {
            // The plain archive is read before: nothing but writing counts.
            let plain: Vec<Vec<u8>> = m.layers.iter().map(|l| std::fs::read(&l.tar).expect("read")).collect();
            timed(|| {
                plain.iter().for_each(|bytes| write(bytes, &at.join("root")));
                Ok(())
            })
        }
    }
}

/// 1,000 changed files below `root`.
fn change(root: &Path) {
    let mut text = Text::new(7);
    for i in 0..1000usize {
        let dir = root.join(format!("changed/{}", i % 50));
        std::fs::create_dir_all(&dir).expect("made");
        std::fs::write(dir.join(format!("f{i}")), text.bytes(1000 + i * 8)).expect("written");
    }
}

/// A commit of 1,000 changed files above an image.
pub fn commit(subject: &str, m: &Material, disk: &Disk) -> Result<u64, String> {
    let at = disk.at.as_path();
    match subject {
        "boxship-full" | "boxship-relaxed" => {
            let store = store(subject, at);
            load(&store, &m.layout);
            let image = store.images().expect("listed").remove(0);
            let image = store.image(&image.name).expect("there");
            store.create_snapshot("c1", image.layers(), (0, 0)).expect("made");
            change(&at.join("store/snapshots/c1/upper"));
            timed(|| {
                store
                    .commit("c1", &image, Owners::AsTheyAre, &CommitOptions::default(), Some("commit:1"))
                    .map_err(|e| e.to_string())
            })
        }
        "docker" => {
            let docker = Docker::start(at)?;
            run(docker.client().args(["load", "-q", "-i"]).arg(&m.docker))?;
            run(docker.client().args(["create", "--name", "c1", "bench:1", "/x"]))?;
            change(&at.join("changes"));
            run(docker.client().arg("cp").arg(at.join("changes/.")).arg("c1:/"))?;
            timed(|| run(docker.client().args(["commit", "c1", "commit:1"])))
        }
        "podman" => {
            run(podman(at).args(["pull", "-q"]).arg(format!("oci:{}", tag(&m.layout))))?;
            let id = run(podman(at).args(["images", "-q"]))?;
            let id = String::from_utf8_lossy(&id).trim().to_owned();
            run(podman(at).args(["create", "--network", "none", "--name", "c1", &id, "/x"]))?;
            change(&at.join("changes"));
            run(podman(at).arg("cp").arg(at.join("changes/.")).arg("c1:/"))?;
            timed(|| run(podman(at).args(["commit", "-q", "c1", "commit:1"])))
        }
        "umoci" => {
            run(Command::new("cp").arg("-r").arg(&m.layout).arg(at.join("layout")))?;
            let image = tag(&at.join("layout"));
            run(Command::new("umoci").args(["unpack", "--image", &image]).arg(at.join("bundle")))?;
            change(&at.join("bundle/rootfs"));
            timed(|| run(Command::new("umoci").args(["repack", "--image", &image]).arg(at.join("bundle"))))
        }
        _ => Err("has no commit".into()),
    }
}

/// Removal of 200 images with a layer of their own each, and everything that was theirs.
pub fn collect(subject: &str, all: &[Material], disk: &Disk) -> Result<u64, String> {
    let at = disk.at.as_path();
    match subject {
        "boxship-full" | "boxship-relaxed" => {
            let store = store(subject, at);
            for (i, m) in all.iter().enumerate() {
                load(&store, &m.layout);
                store.tag_image("v:latest", &format!("many:{i}")).expect("tagged");
            }
            timed(|| {
                for image in store.images().map_err(|e| e.to_string())? {
                    store.remove_image(&image.name).map_err(|e| e.to_string())?;
                }
                store.gc(false).map_err(|e| e.to_string())
            })
        }
        "docker" => {
            let docker = Docker::start(at)?;
            for m in all {
                run(docker.client().args(["load", "-q", "-i"]).arg(&m.docker))?;
            }
            let ids = run(docker.client().args(["images", "-aq"]))?;
            let ids = String::from_utf8_lossy(&ids).into_owned();
            timed(|| run(docker.client().args(["rmi", "-f"]).args(ids.split_whitespace())))
        }
        "umoci" => {
            let layout = at.join("layout");
            run(Command::new("umoci").args(["init", "--layout"]).arg(&layout))?;
            for (i, m) in all.iter().enumerate() {
                let (from, to) =
                    (format!("oci:{}", tag(&m.layout)), format!("oci:{}:t{i}", layout.display()));
                run(Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &from, &to]))?;
            }
            timed(|| {
                for i in 0..all.len() {
                    run(Command::new("umoci").args([
                        "rm",
                        "--image",
                        &format!("{}:t{i}", layout.display()),
                    ]))?;
                }
                run(Command::new("umoci").args(["gc", "--layout"]).arg(&layout))
            })
        }
        _ => Err("is not measured here".into()),
    }
}

/// The largest memory of a child that loads this layout, in bytes.
pub fn memory(layout: &Path, at: &Path) -> u64 {
    let me: PathBuf = std::env::current_exe().expect("this program");
    let out = run(Command::new(me).arg("--load").arg(layout).arg(at)).expect("it loads");
    String::from_utf8_lossy(&out).trim().parse().expect("a number")
}

/// What that child does.
pub fn load_and_tell(layout: &Path, at: &Path) -> u64 {
    load(&store("boxship-relaxed", at), layout);
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("listed");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}
