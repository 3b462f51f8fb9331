//! The power is cut: the store's disk, an ext4 on a loop device, is copied at an instant, and the copy is
//! what a machine finds when it starts again.
//!
//! The file behind the loop device lies on a file system of its own, which is frozen while it is copied: no
//! write of the loop device gets through meanwhile, so the copy is one instant and no mixture of several.
//! The store's own file system is not told, and nothing of it is synced.
//!
//! What the loop device was given counts as written: a disk that loses what it has not been told to flush is
//! not simulated. fsync(2) and syncfs(2) of ext4 flush before they return.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use boxship_layers::{Check, CommitOptions, Durability, Image, Owners, Store};
use libtest_mimic::Failed;

use crate::check::listing;
use crate::disk::{Disk, in_own_mounts};
use crate::material;

/// How many images the worker keeps: what is older is removed and collected.
const KEPT: usize = 8;
/// The first copies are compared with their originals: that nothing is written while the file is copied is
/// what all others rely on.
const COMPARED: usize = 3;

/// Cuts the power this often.
pub fn loss(points: usize) -> Result<String, Failed> {
    in_own_mounts("power", &[points.to_string()])
}

/// The driver: makes the disk, has a worker use it, and cuts the power.
pub fn drive(args: &[String]) {
    let (dir, points) = (Path::new(&args[0]), args[1].parse::<usize>().expect("a number"));
    let disk = Disk::two(dir);
    let mut wrong = Vec::new();
    let mut summary = Vec::new();
    for (mode, points) in [("stepped", points.div_ceil(2)), ("free", points), ("relaxed", 2 + points / 10)] {
        let mut cuts = Cuts::new(&disk, mode);
        let found = cuts.run(points);
        summary.push(format!("{mode}: {}", cuts.summary()));
        if mode == "relaxed" {
            // Without a sync it is lost: these attacks do see what a missing one does.
            if cuts.lost == 0 {
                wrong.push("nothing is lost even without durability: the attack proves nothing".to_owned());
            }
        }
        wrong.extend(found.into_iter().map(|w| format!("{mode}: {w}")));
    }
    summary.iter().for_each(|line| println!("{line}"));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A worker and what it was found to have acknowledged.
struct Cuts<'a> {
    disk: &'a Disk,
    mode: &'static str,
    worker: Child,
    said: PathBuf,
    cut: usize,
    images: usize,
    lost: usize,
    by_operation: BTreeMap<String, usize>,
}

impl Drop for Cuts<'_> {
    fn drop(&mut self) {
        let _ = self.worker.kill();
        let _ = self.worker.wait();
    }
}

/// What must be there, as the worker's lines have it.
#[derive(Default)]
struct Expected<'a> {
    /// Acknowledged, and nobody began to remove it: digest and number.
    images: BTreeMap<&'a str, (&'a str, u64)>,
    /// Their removal was acknowledged.
    removed: Vec<&'a str>,
    /// What the name that moves may stand for.
    current: Vec<&'a str>,
}

impl Cuts<'_> {
    fn new<'a>(disk: &'a Disk, mode: &'static str) -> Cuts<'a> {
        let said = disk.dir.join(format!("{mode}.said"));
        let worker = Command::new(std::env::current_exe().expect("this program"))
            .args(["--as=power-worker", &disk.path(&format!("store/{mode}")), &disk.path(mode), mode])
            .stdin(Stdio::piped())
            // A file: what it has said is known at any moment, and outlives nothing that is cut.
            .stdout(File::create(&said).expect("a file"))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("starts");
        let (images, lost, by_operation) = (0, 0, BTreeMap::new());
        Cuts { disk, mode, worker, said, cut: 0, images, lost, by_operation }
    }

    fn summary(&self) -> String {
        let Cuts { cut, images, lost, by_operation, .. } = self;
        format!(
            "{cut} power cuts, {images} acknowledged images looked for, {lost} lost; after {by_operation:?}"
        )
    }

    fn lines(&mut self) -> String {
        if let Some(status) = self.worker.try_wait().expect("ours") {
            panic!("the worker ended: {status}");
        }
        let mut text = std::fs::read_to_string(&self.said).expect("it speaks");
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    }

    fn run(&mut self, points: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut acknowledged = 0;
        while self.cut < points && wrong.len() < 10 {
            if self.mode == "free" {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                std::thread::sleep(Duration::from_micros(random % 40_000));
                if self.lines().contains("import ") {
                    wrong.extend(self.cut());
                }
                continue;
            }
            // The worker does nothing more until it is told to: no later sync helps.
            let text = self.lines();
            let all: Vec<&str> = text.lines().collect();
            if all.last().is_none_or(|l| *l != "waits") || all.len() == acknowledged {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            acknowledged = all.len();
            let operation = all[all.len() - 2].split(' ').next().expect("a word").to_owned();
            *self.by_operation.entry(operation).or_default() += 1;
            wrong.extend(self.cut());
            self.worker.stdin.as_mut().expect("piped").write_all(b"go\n").expect("it waits");
        }
        wrong
    }

    /// One power cut, and what is there afterwards.
    fn cut(&mut self) -> Vec<String> {
        let before = self.lines();
        let copy = self.disk.copy(self.cut < COMPARED);
        let after = self.lines();
        self.cut += 1;
        let mut wrong = Vec::new();
        {
            let mut started = Disk::none(&self.disk.dir);
            started.mount(&copy, "copy");
            self.look(Path::new(&self.disk.path("copy")), &before, &after, &mut wrong);
        }
        let _ = std::fs::remove_file(copy);
        let last = before.lines().last().unwrap_or_default().to_owned();
        wrong.into_iter().map(|w| format!("cut {} (last said: {last:?}): {w}", self.cut)).collect()
    }

    fn look(&mut self, mounted: &Path, before: &str, after: &str, wrong: &mut Vec<String>) {
        let expected = expected(before, after);
        let store = match Store::open(mounted.join(self.mode)) {
            Ok(store) => store,
            Err(e) => return wrong.push(format!("it does not open: {e}")),
        };
        if self.mode == "relaxed" {
            self.images += expected.images.len();
            let is_lost = |(name, (digest, seed)): &(&&str, &(&str, u64))| {
                material::image_differs(&store, name, Some(digest), *seed).is_some()
            };
            self.lost += expected.images.iter().filter(is_lost).count();
            // Whoever did not want it safe has to clear up, and can.
            let defects = store.fsck(Check::Content, false).unwrap_or_default();
            for image in defects.iter().flat_map(|d| &d.images).collect::<BTreeSet<_>>() {
                let removed = match image.strip_prefix("container ") {
                    Some(short) => store.snapshots().and_then(|all| {
                        let mut ids = all.iter().filter(|id| id.starts_with(short));
                        ids.try_for_each(|id| store.discard("snapshots", id))
                    }),
                    None => store.remove_image(image),
                };
                wrong.extend(removed.err().map(|e| format!("{image} is damaged and stays: {e:?}")));
            }
            return usable(&store, wrong);
        }
        match store.fsck(Check::Content, false) {
            Ok(defects) if defects.is_empty() => {}
            other => wrong.push(format!("fsck: {other:?}")),
        }
        for (name, (digest, seed)) in &expected.images {
            self.images += 1;
            if let Some(what) = material::image_differs(&store, name, Some(digest), *seed) {
                self.lost += 1;
                wrong.push(what);
            }
        }
        let names: Vec<String> = match store.images() {
            Ok(all) => all.into_iter().map(|i| i.name).collect(),
            Err(e) => return wrong.push(format!("it does not list: {e}")),
        };
        let back = expected.removed.iter().filter(|name| names.iter().any(|n| n == **name));
        wrong.extend(back.map(|name| format!("{name} was removed and is there again")));
        if let Some(last) = expected.current.first() {
            let found = store.image("current:1").map(|i| i.digest().to_string());
            if !found.as_ref().is_ok_and(|d| expected.current.contains(&d.as_str())) {
                wrong.push(format!("current:1 is {found:?}, not {last}"));
            }
        }
        if !listing(&store.path().join("ingest")).is_empty() {
            wrong.push("something is left in ingest/".to_owned());
        }
        usable(&store, wrong);
    }
}

/// What comes after goes well.
fn usable(store: &Store, wrong: &mut Vec<String>) {
    let archive = material::archive(9);
    if let Err(e) = store.import(&archive[..], "afterwards:1", &Default::default(), &mut |_| true) {
        wrong.push(format!("afterwards nothing can be imported: {e}"));
    }
    wrong.extend(material::image_differs(store, "afterwards:1", None, 9));
    match store.gc(false) {
        Ok(collected) if collected.complete => {}
        other => wrong.push(format!("afterwards it does not collect: {other:?}")),
    }
    match store.fsck(Check::Content, false) {
        Ok(defects) if defects.is_empty() => {}
        other => wrong.push(format!("fsck afterwards: {other:?}")),
    }
}

fn expected<'a>(before: &'a str, after: &'a str) -> Expected<'a> {
    let mut expected = Expected::default();
    let lines = before.lines().count();
    for (i, line) in after.lines().enumerate() {
        let words: Vec<&str> = line.split(' ').collect();
        let acknowledged = i < lines;
        match words[..] {
            ["import" | "load" | "commit", name, digest, seed] if acknowledged => {
                expected.images.insert(name, (digest, seed.parse().expect("a number")));
            }
            ["removing", name] => drop(expected.images.remove(name)),
            ["removed", name] if acknowledged => expected.removed.push(name),
            // The last acknowledged one, or one that was being given.
            ["tagging", digest] => expected.current.push(digest),
            ["tag_image", digest] if acknowledged => expected.current = vec![digest],
            _ => {}
        }
    }
    // Before the first was acknowledged there may be none.
    if !before.contains("tag_image") {
        expected.current.clear();
    }
    expected
}

/// The worker: does everything in turn, for ever, and acknowledges each.
pub fn work(args: &[String]) {
    let (root, side, mode) = (Path::new(&args[0]), Path::new(&args[1]), args[2].as_str());
    let durability = if mode == "relaxed" { Durability::Relaxed } else { Durability::Full };
    let store = Store::open_with(root, durability).expect("a store");
    let side = Store::open_with(side, Durability::Relaxed).expect("a store");
    let say = |line: &str| {
        std::io::stdout().write_all(format!("{line}\n").as_bytes()).expect("it is heard");
    };
    let done = |operation: &str, image: &Image, seed: u64| {
        say(&format!("{operation} {} {} {seed}", image.name().expect("named"), image.digest()));
    };
    let wait = || {
        if mode != "free" {
            say("waits");
            std::io::stdin().lock().read_line(&mut String::new()).expect("the driver");
        }
    };
    let mut kept = VecDeque::new();
    for seed in (1000_u64..).step_by(3) {
        let archive = material::archive(seed);
        let name = format!("import-{seed}:1");
        let base = store.import(&archive[..], &name, &Default::default(), &mut |_| true).expect("imported");
        done("import", &base, seed);
        kept.push_back(name);
        wait();

        let (archive, name) = (material::archive(seed + 1), format!("load-{seed}:1"));
        side.import(&archive[..], &name, &Default::default(), &mut |_| true).expect("imported");
        let mut saved = Vec::new();
        side.save(std::slice::from_ref(&name), &mut saved, &mut |_| true).expect("saved");
        side.remove_image(&name).expect("removed");
        let loaded = store.load(&saved[..], &Default::default(), &mut |_| true).expect("loaded");
        done("load", &loaded[0], seed + 1);
        kept.push_back(name);
        wait();

        let (id, name) = (format!("snap-{seed}"), format!("commit-{seed}:1"));
        let snapshot = store.create_snapshot(&id, base.layers(), (0, 0)).expect("a snapshot");
        material::write(&snapshot.upper, seed + 2).expect("written");
        let options = CommitOptions::default();
        let image = store.commit(&id, &base, Owners::AsTheyAre, &options, Some(&name)).expect("committed");
        done("commit", &image, seed + 2);
        kept.push_back(name);
        wait();
        store.discard("snapshots", &id).expect("removed");

        say(&format!("tagging {}", image.digest()));
        store.tag_image(&image.digest().to_string(), "current:1").expect("tagged");
        say(&format!("tag_image {}", image.digest()));
        wait();

        while kept.len() > KEPT {
            let name = kept.pop_front().expect("some");
            say(&format!("removing {name}"));
            store.remove_image(&name).expect("removed");
            say(&format!("removed {name}"));
        }
        store.gc(false).expect("collected");
    }
}
