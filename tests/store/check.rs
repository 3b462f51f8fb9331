//! What must be true of a store after an attack, told from outside.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use boxship_layers::{Check, CommitOptions, Expected, Owners, Publish, Store};

use crate::material;
use crate::operation::{makes, operate};
use crate::tracer::Report;

/// A store to attack copies of, and what the operations need.
///
/// Its images: `base:1` (layer 1), `two:1` (layer 2 above it), `moved:1` (layer 6). The container `snap` above
/// `base:1` has the changes 3, the container `keeper` stands on layer 5, which no image names any more. Layer
/// 4 is nobody's.
pub struct Arena {
    dir: PathBuf,
    images: Vec<(&'static str, String, u64)>,
    keeper: boxship_layers::Digest,
    orphan: boxship_layers::Digest,
    base: boxship_layers::Digest,
}

/// A directory for stores whose disk may be slow: these attacks are not on the disk.
pub fn scratch(name: &str, megabytes: u64) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let roomy = rustix::fs::statvfs(memory).is_ok_and(|s| (s.f_bavail * s.f_frsize) >> 20 >= megabytes);
    let writable = rustix::fs::access(memory, rustix::fs::Access::WRITE_OK).is_ok();
    let parent = if roomy && writable { memory.to_owned() } else { std::env::temp_dir() };
    parent.join(format!("boxship-store-{}-{name}", std::process::id()))
}

impl Arena {
    pub fn new(name: &str) -> Arena {
        Arena::at(scratch(name, 256))
    }

    pub fn at(dir: PathBuf) -> Arena {
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("material")).expect("a directory");
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(dir.join("material").join(name), bytes).expect("written");
        };
        let snapshot = |store: &Store, id: &str, image: &boxship_layers::Image, seed: u64| {
            let made = store.create_snapshot(id, image.layers(), (0, 0)).expect("a snapshot");
            material::write(&made.upper, seed).expect("written");
        };
        let import = |store: &Store, name: &str, seed: u64| {
            let archive = material::archive(seed);
            store.import(&archive[..], name, &Default::default(), &mut |_| true).expect("imported")
        };
        let commit = |store: &Store, base: &boxship_layers::Image, name: &str, seed: u64| {
            snapshot(store, "temporary", base, seed);
            let options = CommitOptions::default();
            store.commit("temporary", base, Owners::AsTheyAre, &options, Some(name)).expect("committed");
            store.discard("snapshots", "temporary").expect("removed");
        };
        // What will be loaded.
        let side = Store::open(dir.join("side")).expect("a store");
        let a = import(&side, "load-a:1", 200);
        commit(&side, &a, "load-b:1", 201);
        let mut saved = Vec::new();
        side.save(&["load-a:1".into(), "load-b:1".into()], &mut saved, &mut |_| true).expect("saved");
        write("load.tar", &saved);
        commit(&side, &a, "unpack:1", 300);
        let manifest = side.image("unpack:1").and_then(|i| i.manifest()).expect("there");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        let blob = manifest["layers"][1]["digest"].as_str().expect("two layers").parse().expect("a digest");
        write("unpack.tar.gz", &std::fs::read(side.blob_path(&blob)).expect("there"));
        write("new.tar", &material::archive(100));
        // What it is loaded into.
        let store = Store::open(dir.join("template")).expect("a store");
        let base = import(&store, "base:1", 1);
        commit(&store, &base, "two:1", 2);
        snapshot(&store, "snap", &base, 3);
        let moved = import(&store, "moved:1", 5);
        snapshot(&store, "keeper", &moved, 7);
        import(&store, "moved:1", 6);
        store.gc(false).expect("collected");
        let add = store.begin(Publish::Each).expect("begun");
        let archive = material::archive(4);
        let orphan = add.layer(&archive[..], Expected::default(), &mut |_| true).expect("added").diff_id;
        drop(add);
        let mut saved = Vec::new();
        store.save(&["base:1".into(), "two:1".into()], &mut saved, &mut |_| true).expect("saved");
        write("saved.tar", &saved);
        let images = [("base:1", 1), ("two:1", 2), ("moved:1", 6)]
            .map(|(name, seed)| (name, store.image(name).expect("there").digest().to_string(), seed));
        Arena { dir, images: images.into(), keeper: moved.layers()[0], orphan, base: base.layers()[0] }
    }

    pub fn material(&self) -> PathBuf {
        self.dir.join("material")
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Puts the store back to where the operation begins.
    pub fn renew(&self, operation: &str) {
        let root = self.root();
        let _ = std::fs::remove_dir_all(&root);
        let _ = std::fs::remove_file(root.with_extension("saved"));
        if operation != "open" {
            let done = Command::new("cp").arg("-a").arg(self.dir.join("template")).arg(&root).status();
            assert!(done.expect("cp").success(), "copied");
        }
        if operation == "repair" {
            let victim = root.join("layers").join(self.base.hex()).join("d0-1/f0");
            std::fs::write(victim, b"other content").expect("it is there");
        }
    }

    /// The claims that hold whatever was done to the victim. Each violated one is described.
    pub fn check(&self, operation: &str, report: &Report, deep: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        if report.hung {
            wrong.push("it hung".to_owned());
        }
        if report.code == Some(101) || report.stderr.contains("panicked") {
            wrong.push(format!("it panicked: {}", report.stderr.trim()));
        } else if report.code.is_some_and(|c| c != 0) {
            wrong.push(format!("it ended with {:?}: {}", report.code, report.stderr.trim()));
        }
        let said: Vec<&str> = report.stdout.lines().collect();
        wrong.extend(said.iter().filter(|l| l.starts_with("broken")).map(|l| (*l).to_owned()));
        let store = match Store::open(self.root()) {
            Ok(store) => store,
            Err(e) => return vec![format!("it does not open: {e}")],
        };
        // Until it is repaired, what was damaged is.
        if operation != "repair" || said.contains(&"repaired") {
            self.holds(&store, operation, &said, deep, &mut wrong);
        }
        for layer in said.iter().filter_map(|l| l.strip_prefix("layer sha256:")) {
            let dir = store.path().join("layers").join(layer);
            wrong.extend(material::differs(&dir, 300).map(|what| format!("the added layer: {what}")));
        }
        // What died can be done now.
        let mut again = Vec::new();
        let mut say = |line: &str| again.push(line.to_owned());
        if let Err(e) = operate(operation, &self.root(), &self.material(), true, &mut say) {
            wrong.push(format!("afterwards it fails: {e}"));
        }
        let again: Vec<&str> = again.iter().map(String::as_str).collect();
        if again.is_empty() || !wrong.is_empty() {
            return wrong;
        }
        match store.gc(false) {
            Ok(collected) if collected.complete => {}
            other => wrong.push(format!("it does not collect: {other:?}")),
        }
        self.holds(&store, operation, &again, deep, &mut wrong);
        self.nothing_else(&store, &mut wrong);
        wrong
    }

    /// Everything that was acknowledged, and what was there before, is there and whole.
    fn holds(&self, store: &Store, operation: &str, said: &[&str], deep: bool, wrong: &mut Vec<String>) {
        let begin = wrong.len();
        let depth = if deep { Check::Content } else { Check::Structure };
        match store.fsck(depth, false) {
            Ok(defects) if defects.is_empty() => {}
            other => wrong.push(format!("fsck: {other:?}")),
        }
        leftovers(store, wrong);
        modes(store.path(), wrong);
        whole(store, wrong);
        if operation == "open" {
            return;
        }
        let names: BTreeSet<String> = match store.images() {
            Ok(all) => all.into_iter().map(|i| i.name).collect(),
            Err(e) => return wrong.push(format!("it does not list: {e}")),
        };
        let mut known = BTreeSet::new();
        for (name, digest, seed) in &self.images {
            known.insert((*name).to_owned());
            let doomed = *name == "two:1" && operation == "remove_image";
            if doomed && said.contains(&"removed") {
                if names.contains(*name) {
                    wrong.push(format!("{name} was acknowledged as removed and is there"));
                }
            } else if !doomed || names.contains(*name) {
                wrong.extend(material::image_differs(store, name, Some(digest), *seed));
            }
        }
        for (name, seed) in makes(operation) {
            known.insert((*name).to_owned());
            let digest = said.iter().find_map(|l| {
                l.strip_prefix("image ")?.strip_prefix(name)?.strip_prefix(' ')?.split(' ').next()
            });
            // Whether it was acknowledged or not: it is there whole, or not at all.
            if digest.is_some() || names.contains(*name) {
                wrong.extend(material::image_differs(store, name, digest, *seed));
            }
        }
        if !names.is_subset(&known) {
            wrong.push(format!("nobody made {:?}", names.difference(&known).collect::<Vec<_>>()));
        }
        if said.contains(&"saved") {
            let read = |path: PathBuf| std::fs::read(path).unwrap_or_default();
            if read(self.root().with_extension("saved")) != read(self.material().join("saved.tar")) {
                wrong.push("what was saved is not what it should be".to_owned());
            }
        }
        let kept = material::differs(&material::layer_dir(store, &self.keeper), 5);
        wrong.extend(kept.map(|what| format!("the layer of a container: {what}")));
        for (id, seed) in [("snap", 3), ("keeper", 7)] {
            let changes = material::differs(&store.snapshot(id, &[]).upper, seed);
            wrong.extend(changes.map(|what| format!("the changes of {id}: {what}")));
        }
        if wrong.len() > begin {
            wrong.push(format!("(said: {said:?})"));
        }
    }

    /// After a collection there is nothing that nobody needs.
    fn nothing_else(&self, store: &Store, wrong: &mut Vec<String>) {
        let is_empty = store.images().unwrap_or_default().is_empty();
        let kept = (!is_empty).then(|| self.keeper.hex());
        nobodys(store, kept.into_iter().collect(), wrong);
        if material::layer_dir(store, &self.orphan).exists() {
            wrong.push("the layer that is nobody's is still there".to_owned());
        }
        let there: BTreeSet<String> = listing(&store.path().join("blobs/sha256")).into_iter().collect();
        let pairs = listing(&store.path().join("pairs")).into_iter().filter(|blob| !there.contains(blob));
        wrong.extend(pairs.map(|blob| format!("a pair of the blob {blob}, which is gone")));
        let used = |name: &String| {
            store.snapshots().is_ok_and(|s| !s.is_empty()) && name.starts_with(&self.base.hex())
        };
        let replaced = listing(&store.path().join("replaced")).into_iter().filter(|name| !used(name));
        wrong.extend(replaced.map(|name| format!("left in replaced: {name}")));
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What is neither an image's nor one of these layers (hex), or is missing of them, after a collection. Told
/// without the store's own idea of that.
pub fn nobodys(store: &Store, mut layers: BTreeSet<String>, wrong: &mut Vec<String>) {
    let mut blobs = BTreeSet::new();
    for info in store.images().unwrap_or_default() {
        let Ok(image) = store.image(&info.name) else { continue };
        let manifest: serde_json::Value =
            serde_json::from_slice(&image.manifest().expect("there")).expect("JSON");
        let parts = manifest["layers"].as_array().expect("a list").iter().chain([&manifest["config"]]);
        let hex = |v: &serde_json::Value| v["digest"].as_str().expect("a digest")[7..].to_owned();
        blobs.extend(parts.map(hex));
        blobs.insert(image.digest().hex());
        layers.extend(image.layers().iter().map(|l| l.hex()));
    }
    for (part, expected) in [("blobs/sha256", blobs), ("layers", layers)] {
        let found: BTreeSet<String> = listing(&store.path().join(part)).into_iter().collect();
        let difference: Vec<&String> = found.symmetric_difference(&expected).collect();
        if !difference.is_empty() {
            wrong.push(format!("{part} after a collection: {difference:?}"));
        }
    }
    let hidden = listing(store.path()).into_iter().filter(|name| name.starts_with('.'));
    wrong.extend(hidden.map(|name| format!("left behind: {name}")));
}

/// What dead processes left that an opening should have removed.
pub fn leftovers(store: &Store, wrong: &mut Vec<String>) {
    for part in ["ingest", "trash"] {
        let left = listing(&store.path().join(part));
        if !left.is_empty() {
            wrong.push(format!("left in {part}: {left:?}"));
        }
    }
}

pub fn listing(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("it is there").map(|e| e.expect("read"));
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// Whatever is there, named or not, is what its name says.
pub fn whole(store: &Store, wrong: &mut Vec<String>) {
    let blobs = store.path().join("blobs/sha256");
    for name in listing(&blobs).into_iter().filter(|name| !name.starts_with('.')) {
        let bytes = std::fs::read(blobs.join(&name)).expect("it is there");
        if boxship_layers::Digest::of(&bytes).hex() != name {
            wrong.push(format!("the blob {name} has another digest"));
        }
    }
    let layers = store.path().join("layers");
    for name in listing(&layers) {
        match material::number_of(&layers.join(&name)) {
            Some(seed) => {
                let differs = material::differs(&layers.join(&name), seed);
                wrong.extend(differs.map(|what| format!("the layer {name}: {what}")));
            }
            None => wrong.push(format!("the layer {name} is nothing")),
        }
    }
}

/// Nobody else comes in, and what containers see of the topmost layer is for everybody.
pub fn modes(root: &Path, wrong: &mut Vec<String>) {
    let mut expect = |path: PathBuf, mode: u32| match std::fs::metadata(&path).map(|m| m.mode() & 0o7777) {
        Ok(found) if found == mode => {}
        Ok(found) => wrong.push(format!("{path:?} has the mode {found:o}, not {mode:o}")),
        Err(e) => wrong.push(format!("{path:?}: {e}")),
    };
    expect(root.to_owned(), 0o700);
    let private = [
        "blobs",
        "pairs",
        "layers",
        "replaced",
        "snapshots",
        "ingest",
        "trash",
        "containers",
        "names",
        "ids",
    ];
    for part in private {
        expect(root.join(part), 0o700);
    }
    for part in ["", "dev", "proc", "sys", "run", "etc"] {
        expect(root.join("top").join(part), 0o755);
    }
    for part in ["hosts", "hostname", "resolv.conf"] {
        expect(root.join("top/etc").join(part), 0o644);
    }
}

/// Children of this process.
pub fn children() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
    let lists = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok());
    lists.flat_map(|l| l.split(' ').filter_map(|p| p.trim().parse().ok()).collect::<Vec<u32>>()).collect()
}
