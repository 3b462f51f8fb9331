//! Images to and from Docker, Podman, skopeo and umoci: equal configs, layers and files.

mod docker;
mod layouts;
mod made;
mod podman;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use boxship::{Engine, Image, Profile};
use boxship_layers::{Digest, Store};
use libtest_mimic::Trial;
use serde_json::Value;

pub use docker::stop;

use made::Made;

use crate::need::Need::{Docker, ImageTools, UserNamespaces};
use crate::{Root, daemon, sh, test, text};

pub fn tests() -> Vec<Trial> {
    let docker = &[UserNamespaces, ImageTools, Docker];
    let tools = &[UserNamespaces, ImageTools];
    vec![
        test("interop_docker_loads_what_is_saved", docker, docker::to),
        test("interop_what_docker_saves_is_loaded", docker, docker::from),
        test("interop_podman_loads_what_is_saved", tools, podman::to),
        test("interop_what_podman_saves_is_loaded", tools, podman::from),
        test("interop_podman_commits_on_a_commit", tools, podman::commits),
        test("interop_skopeo_copies_what_is_saved", tools, layouts::to_skopeo),
        test("interop_what_skopeo_writes_is_loaded", tools, layouts::from_skopeo),
        test("interop_umoci_unpacks_what_is_saved", tools, layouts::to_umoci),
        test("interop_what_umoci_repacks_is_loaded", tools, layouts::from_umoci),
        test("interop_whiteouts_beside_what_they_name", tools, layouts::whiteouts),
        test("interop_an_index_for_several_platforms", tools, layouts::platforms),
    ]
}

/// Where dockerd, the images and their engine are.
fn dir() -> PathBuf {
    std::env::temp_dir().join(format!("boxship-interop-{}", std::process::id()))
}

fn done(c: &mut Command) -> Vec<u8> {
    daemon::output(c).unwrap_or_else(|e| panic!("{e}")).stdout
}

fn line(c: &mut Command) -> String {
    String::from_utf8(done(c)).expect("UTF-8").trim().to_owned()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(bytes)))
}

fn strings(v: &Value) -> Vec<String> {
    v.as_array().expect("a list").iter().map(|s| s.as_str().expect("text").to_owned()).collect()
}

/// Everything of a file tree that an image keeps, by path. The top itself is not compared: an archive need
/// not have it.
type Tree = BTreeMap<String, String>;

fn tree(top: &Path) -> Tree {
    let (mut all, mut inodes) = (Tree::new(), BTreeMap::new());
    let mut todo = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).expect("readable") {
            let path = entry.expect("readable").path();
            let m = path.symlink_metadata().expect("there");
            let name =
                path.strip_prefix(top).expect("below").as_os_str().as_bytes().escape_ascii().to_string();
            let kind = m.file_type();
            let what = if kind.is_dir() {
                todo.push(path.clone());
                "directory".to_owned()
            } else if kind.is_symlink() {
                format!("link to {:?}", std::fs::read_link(&path).expect("a link"))
            } else if kind.is_file() {
                format!("file of {} {}", m.len(), Digest::of(&std::fs::read(&path).expect("readable")))
            } else {
                assert!(kind.is_fifo() || kind.is_char_device() || kind.is_block_device(), "{name}");
                format!("{kind:?} {:x}", m.rdev())
            };
            if !kind.is_dir() && m.nlink() > 1 {
                inodes.entry(m.ino()).or_insert_with(Vec::new).push(name.clone());
            }
            let (mode, owner) = (m.mode() & 0o7777, (m.uid(), m.gid()));
            let (mtime, nanos) = (m.mtime(), m.mtime_nsec());
            let text = format!("{mtime}.{nanos:09} {what} {mode:o} {owner:?}{}", attributes(&path));
            all.insert(name, text);
        }
    }
    for mut names in inodes.into_values() {
        names.sort();
        for name in &names {
            all.get_mut(name).expect("seen").push_str(&format!(" = {names:?}"));
        }
    }
    all
}

fn attributes(path: &Path) -> String {
    let mut list = vec![0u8; 64 << 10];
    let n = rustix::fs::llistxattr(path, &mut list[..]).expect("listed");
    let mut all: Vec<String> = list[..n]
        .split(|c| *c == 0)
        .filter(|key| !key.is_empty())
        .map(|key| {
            let mut value = vec![0u8; 64 << 10];
            let n = rustix::fs::lgetxattr(path, OsStr::from_bytes(key), &mut value[..]).expect("read");
            format!(" {}={}", key.escape_ascii(), value[..n].escape_ascii())
        })
        .collect();
    all.sort();
    all.concat()
}

/// Says which files differ, and not all that are equal.
fn assert_same(what: &str, found: &Tree, wanted: &Tree) {
    let names: std::collections::BTreeSet<&String> = found.keys().chain(wanted.keys()).collect();
    let different: Vec<String> = names
        .into_iter()
        .filter(|n| found.get(*n) != wanted.get(*n))
        .map(|n| format!("{n}\n   found {:?}\n  wanted {:?}", found.get(n), wanted.get(n)))
        .take(12)
        .collect();
    assert!(different.is_empty(), "{what}:\n{}", different.join("\n"));
    assert!(wanted.len() > 5, "{what}: the tree is {wanted:?}");
}

/// A directory of its own, whatever other tests do at the same time.
fn scratch(what: &str) -> Root {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Root::new(&format!("interop-{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A tree that the kernel shows in a mount namespace which ends with the command: `command` prints where.
fn copied_tree(mut command: Command) -> Tree {
    let copy = scratch("copy");
    done(command.env("COPY", &copy.0));
    tree(&copy.0)
}

/// What an engine says is in an image, unpacked by GNU tar.
async fn tree_of(e: &Engine, image: &Image) -> Tree {
    let root = scratch("tree");
    // Without a user namespace: an export has the owners that the container sees.
    let c =
        e.container().image(image).command(["none"]).profile(Profile::Compat).create().await.expect("made");
    let tar = root.0.join("tar");
    c.export(&tar).await.expect("exported");
    c.remove().await.expect("removed");
    let out = root.0.join("out");
    std::fs::create_dir(&out).expect("made");
    let mut unpack = Command::new("tar");
    unpack.args(["--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-xpf"]).arg(tar);
    done(unpack.arg("-C").arg(&out));
    tree(&out)
}

/// The digest of an image's config, which is Docker's id of it.
fn config_digest(store: &Store, image: &Image) -> String {
    let digest: Digest = image.digest().parse().expect("a digest");
    let manifest = json(&std::fs::read(store.blob_path(&digest)).expect("the manifest"));
    manifest["config"]["digest"].as_str().expect("a digest").to_owned()
}

fn skopeo(command: &str, args: &[&str]) -> Command {
    let mut c = Command::new("skopeo");
    // A policy of the host is not our matter.
    c.args(["--insecure-policy", command]).args(args);
    c
}

/// What skopeo sees in an archive: the digest of the config, and the layers as unpacked.
fn seen(reference: &str) -> (String, Vec<String>) {
    let config = done(&mut skopeo("inspect", &["--config", "--raw", reference]));
    (Digest::of(&config).to_string(), strings(&json(&config)["rootfs"]["diff_ids"]))
}

fn unpacked(layout: &Path, tag: &str) -> Tree {
    let root = scratch("unpack");
    let mut c = Command::new("umoci");
    c.args(["unpack", "--image", &format!("{}:{tag}", layout.display())]);
    done(c.arg(root.0.join("bundle")));
    tree(&root.0.join("bundle/rootfs"))
}

/// What a container of each image prints: the same wherever it runs.
const SHOW: &str = "cd /; pwd; id -u; echo $STEP; for d in d opq w odd; do test -d $d || continue; ls -1FRb $d; \
    for f in $d/*; do test $d != odd && test -f $f && echo $f && cat $f; done; done; ls -d gone opq/old w/f1 2>&1; :";

async fn output_of(e: &Engine, image: &Image) -> String {
    let out = sh(e, SHOW).image(image).output().await;
    text(out.unwrap_or_else(|e| panic!("{:?}: {e:?}", image.name())))
}

/// An image in an archive as it has to come back.
struct Wanted<'a> {
    /// How skopeo names it there.
    reference: String,
    name: String,
    tree: &'a Tree,
    /// Of [`SHOW`].
    output: &'a str,
}

impl<'a> Wanted<'a> {
    fn new(reference: String, name: impl Into<String>, made: &'a Made) -> Wanted<'a> {
        Wanted { reference, name: name.into(), tree: &made.tree, output: &made.output }
    }
}

/// Loads an archive in a new engine. Every image in it is the one that skopeo sees there, has this tree and
/// prints this. Answers their digests of configs.
async fn comes_back(archive: &Path, images: &[Wanted<'_>]) -> Vec<String> {
    let name = archive.file_name().expect("one").to_string_lossy().into_owned();
    let root = scratch("back");
    let e = Engine::open(&root.0).await.expect("an engine");
    let store = Store::open(&root.0).expect("the same store");
    let loaded = e.image().load(archive).await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
    let found: Vec<_> = loaded.iter().map(Image::name).collect();
    assert_eq!(found.len(), images.len(), "{name}: {found:?}");
    let mut configs = Vec::new();
    for Wanted { reference, name: tag, tree, output } in images {
        let image = e.image().get(tag).await.unwrap_or_else(|e| panic!("{name} has {found:?}: {e:?}"));
        let (config, layers) = seen(reference);
        assert_eq!(config_digest(&store, &image), config, "{reference}");
        assert_eq!(image.layers(), layers, "{reference}");
        assert_same(reference, &tree_of(&e, &image).await, tree);
        assert_eq!(&output_of(&e, &image).await, output, "{reference}");
        configs.push(config);
    }
    assert!(e.fsck(boxship::Check::Content, false).await.expect("checked").is_empty(), "{name}");
    configs
}

/// Docker and Podman make 1970 of times before.
fn early_is_1970(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    for text in tree.values_mut().filter(|t| t.starts_with('-')) {
        *text = format!("0.000000000{}", &text[text.find(' ').expect("a time")..]);
    }
    tree
}

/// A tree without nanoseconds, which some archives lack; `half` when its writer takes the nearest second.
fn in_seconds(tree: &Tree, half: bool) -> Tree {
    let change = |text: &String| {
        let (time, rest) = text.split_once(' ').expect("a time");
        let (seconds, nanos) = time.split_once('.').expect("nanoseconds");
        let seconds: i64 = seconds.parse().expect("a number");
        let up = half && nanos.as_bytes()[0] >= b'5';
        format!("{}.000000000 {rest}", seconds + i64::from(up))
    };
    tree.iter().map(|(name, text)| (name.clone(), change(text))).collect()
}

/// A tree without the places where engines mount something, which their exports have.
fn without_mounts(tree: &Tree) -> Tree {
    let mounts = ["dev", "etc", "proc", "sys", "run", "tmp", ".dockerenv"];
    let mounted = |name: &String| mounts.contains(&name.split('/').next().unwrap_or_default());
    tree.iter().filter(|(name, _)| !mounted(name)).map(|(n, t)| (n.clone(), t.clone())).collect()
}
