//! One of the processes: threads that do anything, and write down what they do.
//!
//! What is collected and what is being added exclude each other, and among so many threads somebody always
//! adds something. So the time has two parts, the same for all processes: a busy one, in which everything is
//! done, and a calm one, in which a few threads remove and collect, nobody begins to add, and most of them look.
//! Then they do so to the same few names: who removes an image meets who makes a writable layer above it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use boxship_layers::{Check, CommitOptions, Digest, Durability, Error, Image, ImageOptions, Owners, Store};

use super::history::{Journal, now};
use super::{LOADS, NAMES, SEEDS, THREADS, name};
use crate::material;

type Result<T> = std::result::Result<T, Error>;

/// What is done, and how often: when it is busy, when it is calm by a few, and by the others then.
const KINDS: [(&str, [u64; 3]); 16] = [
    ("import", [12, 0, 0]),
    ("load", [5, 0, 0]),
    ("commit", [10, 0, 0]),
    ("tag", [12, 0, 0]),
    ("tag-digest", [4, 0, 0]),
    ("remove", [14, 8, 0]),
    ("remove-digest", [3, 2, 0]),
    ("snap", [8, 12, 20]),
    ("drop", [6, 16, 20]),
    ("save", [3, 0, 0]),
    ("gc", [4, 16, 0]),
    ("fsck", [2, 0, 0]),
    ("image", [12, 10, 20]),
    ("images", [4, 4, 4]),
    ("open", [1, 1, 0]),
    ("usage", [1, 1, 1]),
];
/// Threads of a process who are the few.
const FEW: u64 = 3;
/// How long both parts last, and when the calm one begins, in nanoseconds.
const TURN: u64 = 1_250_000_000;
const CALM: u64 = 400_000_000;
/// How many names are everybody's when it is calm, and how long these are the same.
const HOT_NAMES: u64 = 3;
const HOT: u64 = 40_000_000;

fn is_busy(time: u64) -> bool {
    time % TURN < CALM
}

/// The layers of a commit: more would only take time.
const MAX_LAYERS: usize = 4;
/// What a commit records as the time of everything: the same changes are the same layer.
const CREATED: u64 = 1_000_000_000;

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.below(2);
        }
        random
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

struct Thread<'a> {
    dir: &'a Path,
    process: &'a str,
    number: u64,
    journal: &'a Journal,
    store: Store,
    random: Random,
    done: u64,
    /// The writable layer that it has, and what that stands on.
    snapshot: Option<(String, Image)>,
    /// The last image that it has seen.
    digest: Option<Digest>,
}

/// `<directory> <worker> <generation> <seed> <end>`.
pub fn work(args: &[String]) {
    let number = |i: usize| args[i].parse::<u64>().expect("a number");
    let (dir, worker, generation, seed, until) =
        (Path::new(&args[0]), number(1), number(2), number(3), number(4));
    let process = format!("{worker}.{generation}");
    let file =
        std::fs::File::options().create_new(true).append(true).open(dir.join("history").join(&process));
    let journal = Journal(file.expect("a history"));
    let durability = if worker % 2 == 0 { Durability::Full } else { Durability::Relaxed };
    let store = Store::open_with(dir.join("root"), durability).expect("the store opens");
    let mut random = Random::new(seed ^ (worker << 32 | generation << 8));
    clear_up(&store, worker, &journal);
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let mut thread = Thread {
                dir,
                process: &process,
                number,
                journal: &journal,
                store: store.clone(),
                random: Random::new(random.below(u64::MAX)),
                done: 0,
                snapshot: None,
                digest: None,
            };
            scope.spawn(move || {
                while now() < until {
                    thread.step();
                }
                thread.act("drop");
            });
        }
    });
}

/// Removes the writable layers that this worker left when it was killed. What one stands on has to be there.
fn clear_up(store: &Store, worker: u64, journal: &Journal) {
    let numbers = AtomicU64::new(0);
    for id in store.snapshots().expect("a list") {
        if !id.starts_with(&format!("{worker}.")) {
            continue;
        }
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        journal.begin(THREADS, number, &format!("drop {id}"));
        let missing = missing_below(store, &id);
        let result = match store.discard("snapshots", &id) {
            Ok(()) => missing.unwrap_or_else(|| "ok".to_owned()),
            Err(e) => bad(&e),
        };
        journal.end(THREADS, number, &result);
    }
}

/// A layer that a writable layer stands on and that is gone. One that was killed while it was made had not
/// looked for them before it made `upper`.
pub fn missing_below(store: &Store, id: &str) -> Option<String> {
    let base = store.path().join("snapshots").join(id);
    let text = std::fs::read_link(base.join("layers")).ok()?;
    if !base.join("upper").exists() {
        return None;
    }
    let text = text.to_string_lossy().into_owned();
    let mut layers = text.split(':').filter(|l| !l.is_empty());
    let gone = layers.find(|l| !store.path().join("layers").join(l).exists())?;
    Some(format!("bad {id} stands on {gone}, which is gone"))
}

fn bad(e: &Error) -> String {
    let mut text = format!("bad {e}");
    let mut next = std::error::Error::source(e);
    while let Some(source) = next {
        text.push_str(&format!(": {source}"));
        next = source.source();
    }
    text
}

/// An error that others may cause, or one that nobody may.
fn told(kind: &str, e: &Error) -> String {
    match (kind, e) {
        ("image" | "tag" | "remove" | "save", Error::NotFound { what: "image", .. })
        // Its image was removed after it was looked up.
        | ("snap", Error::NotFound { what: "layer", .. })
        | ("commit", Error::NotFound { what: "layer" | "blob", .. }) => "missing".to_owned(),
        ("remove", Error::InUse { .. }) => "used".to_owned(),
        _ => bad(e),
    }
}

impl Thread<'_> {
    fn step(&mut self) {
        let part = match is_busy(now()) {
            true => 0,
            false if self.number < FEW => 1,
            false => 2,
        };
        if part == 2 {
            std::thread::sleep(std::time::Duration::from_millis(self.random.below(10)));
        }
        let mut at = self.random.below(KINDS.iter().map(|(_, weights)| weights[part]).sum());
        let chosen = KINDS.iter().find(|(_, weights)| match at < weights[part] {
            true => true,
            false => {
                at -= weights[part];
                false
            }
        });
        self.act(chosen.expect("below the sum").0);
    }

    fn name(&mut self) -> String {
        let time = now();
        match is_busy(time) || self.random.below(4) == 0 {
            true => name(self.random.below(NAMES)),
            false => name((time / HOT * HOT_NAMES + self.random.below(HOT_NAMES)) % NAMES),
        }
    }

    fn seed(&mut self) -> u64 {
        self.random.below(SEEDS)
    }

    fn material(&self, file: &str) -> PathBuf {
        self.dir.join("material").join(file)
    }

    /// Does something and writes down that it begins and how it ends.
    fn record<T>(&mut self, words: &str, act: impl FnOnce(&mut Self) -> Result<(String, T)>) -> Option<T> {
        self.done += 1;
        let (number, kind) = (self.done, words.split(' ').next().expect("a word"));
        self.journal.begin(self.number, number, words);
        let (result, value) = match act(self) {
            Ok((result, value)) => (result, Some(value)),
            Err(e) => (told(kind, &e), None),
        };
        self.journal.end(self.number, number, &result);
        value
    }

    fn act(&mut self, kind: &str) {
        match kind {
            "import" => self.import(),
            "load" => self.load(),
            "commit" => self.commit(),
            "tag" | "tag-digest" => self.tag(kind == "tag-digest"),
            "remove" | "remove-digest" => self.remove(kind == "remove-digest"),
            "snap" => self.create_snapshot(),
            "drop" => self.remove_snapshot(),
            "save" => self.save(),
            "image" => drop(self.image()),
            "images" => self.images(),
            _ => self.look_after(kind),
        }
    }

    /// A label that makes its image another than all others. The layers are the same as those of others.
    fn label(&self) -> String {
        format!("{}.{}.{}", self.process, self.number, self.done + 1)
    }

    fn options(label: &str) -> ImageOptions {
        ImageOptions { labels: [("op".to_owned(), label.to_owned())].into(), ..Default::default() }
    }

    fn import(&mut self) {
        let (name, label, seed) = (self.name(), self.label(), self.seed());
        self.record(&format!("import {name} {label} {seed}"), |t| {
            let archive = std::fs::File::open(t.material(&format!("{seed}.tar"))).expect("it is there");
            let image = t.store.import(archive, &name, &Self::options(&label), &mut |_| true)?;
            t.digest = Some(*image.digest());
            Ok((format!("ok {}", image.digest()), ()))
        });
    }

    fn load(&mut self) {
        let which = self.random.below(LOADS);
        self.record(&format!("load {which}"), |t| {
            let archive = std::fs::File::open(t.material(&format!("load-{which}.tar"))).expect("it is there");
            let images = t.store.load(archive, &Default::default(), &mut |_| true)?;
            t.digest = images.last().map(|i| *i.digest());
            Ok(("ok".to_owned(), ()))
        });
    }

    fn commit(&mut self) {
        if self.snapshot.is_none() {
            self.create_snapshot();
        }
        let Some((id, base)) = self.snapshot.clone() else { return };
        if base.layers().len() >= MAX_LAYERS {
            return self.remove_snapshot();
        }
        let (name, label, seed) = (self.name(), self.label(), self.seed());
        material::write(&self.store.snapshot(&id, &[]).upper, seed).expect("changes");
        self.record(&format!("commit {name} {label} {seed}"), |t| {
            let options = CommitOptions {
                options: Self::options(&label),
                created: Some(CREATED),
                ..Default::default()
            };
            let image = t.store.commit(&id, &base, Owners::AsTheyAre, &options, Some(&name))?;
            Ok((format!("ok {}", image.digest()), ()))
        });
        self.remove_snapshot();
    }

    fn tag(&mut self, by_digest: bool) {
        let (source, name) = (self.name(), self.name());
        let source = match self.digest.filter(|_| by_digest) {
            Some(digest) => digest.to_string(),
            None if source == name => return,
            None => source,
        };
        self.record(&format!("tag {source} {name}"), |t| {
            let image = t.store.tag_image(&source, &name)?;
            Ok((format!("ok {}", image.digest()), ()))
        });
    }

    fn remove(&mut self, by_digest: bool) {
        let what = match self.digest.filter(|_| by_digest) {
            Some(digest) => digest.to_string(),
            None => self.name(),
        };
        self.record(&format!("remove {what}"), |t| {
            t.store.remove_image(&what)?;
            Ok(("ok".to_owned(), ()))
        });
    }

    fn image(&mut self) -> Option<Image> {
        let name = self.name();
        let image = self.record(&format!("image {name}"), |t| {
            let image = t.store.image(&name)?;
            let labels = image.config().and_then(|c| c.labels().as_ref());
            let label = labels.and_then(|l| l.get("op")).map_or("-", String::as_str);
            Ok((format!("ok {} {label}", image.digest()), image))
        })?;
        self.digest = Some(*image.digest());
        Some(image)
    }

    fn images(&mut self) {
        self.record("images", |t| {
            let all = t.store.images()?;
            let all: Vec<String> = all.iter().map(|i| format!("{}={}", i.name, i.digest)).collect();
            Ok((format!("ok {}", all.join(" ")), ()))
        });
    }

    fn create_snapshot(&mut self) {
        self.remove_snapshot();
        let Some(image) = self.image() else { return };
        let id = format!("{}.{}.{}", self.process, self.number, self.done + 1);
        self.snapshot = self.record(&format!("snap {id}"), |t| {
            t.store.create_snapshot(&id, image.layers(), (0, 0))?;
            Ok(("ok".to_owned(), (id.clone(), image)))
        });
    }

    /// Looks first whether everything is there that it stands on.
    fn remove_snapshot(&mut self) {
        let Some((id, image)) = self.snapshot.take() else { return };
        let thorough = self.random.below(4) == 0;
        self.record(&format!("drop {id}"), |t| {
            let wrong = image.layers().iter().find_map(|layer| {
                let dir = material::layer_dir(&t.store, layer);
                match material::number_of(&dir) {
                    Some(seed) if thorough => material::differs(&dir, seed),
                    Some(_) => None,
                    None => Some("it is gone, or empty".to_owned()),
                }
                .map(|what| format!("bad {id} stands on {layer}: {what}"))
            });
            t.store.discard("snapshots", &id)?;
            Ok((wrong.unwrap_or_else(|| "ok".to_owned()), ()))
        });
    }

    fn save(&mut self) {
        let name = self.name();
        self.record(&format!("save {name}"), |t| {
            let mut saved = Vec::new();
            t.store.save(std::slice::from_ref(&name), &mut saved, &mut |_| true)?;
            Ok((saved_digest(&saved).map_or_else(|e| format!("bad {e}"), |d| format!("ok {d}")), ()))
        });
    }

    fn look_after(&mut self, kind: &str) {
        self.record(kind, |t| {
            let result = match kind {
                "gc" if t.store.gc(false)?.complete => "ok collected".to_owned(),
                "gc" => "ok".to_owned(),
                "usage" => t.store.disk_usage().map(|_| "ok".to_owned())?,
                "open" => Store::open(t.store.path()).map(|_| "ok".to_owned())?,
                "fsck" => match &t.store.fsck(Check::Structure, false)?[..] {
                    [] => "ok".to_owned(),
                    defects => format!("bad {defects:?}"),
                },
                other => panic!("no operation {other:?}"),
            };
            Ok((result, ()))
        });
    }
}

/// The image in an archive, all of whose parts are what they are called.
fn saved_digest(saved: &[u8]) -> std::result::Result<String, String> {
    let mut found = None;
    let mut archive = tar::Archive::new(saved);
    for entry in archive.entries().map_err(|e| e.to_string())? {
        let mut entry = entry.map_err(|e| e.to_string())?;
        let path = entry.path().map_err(|e| e.to_string())?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if path.strip_prefix("blobs/sha256/").is_some_and(|hex| Digest::of(&bytes).hex() != hex) {
            return Err(format!("{path} was saved with another content"));
        }
        if path == "index.json" {
            let index: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
            found = index["manifests"][0]["digest"].as_str().map(str::to_owned);
        }
    }
    found.ok_or_else(|| "no index was saved".to_owned())
}
