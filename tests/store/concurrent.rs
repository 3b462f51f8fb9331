//! Processes with threads do everything at once to one store, on the same names and the same layers, and some
//! are killed meanwhile. Each writes down what it begins and what it is answered; afterwards there must be an
//! order of all that explains every answer, nothing may be gone that is named, and nothing left that is not.

mod history;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use boxship_layers::{Check, CommitOptions, Owners, Store};
use libtest_mimic::Failed;

use crate::check::{leftovers, modes, nobodys, scratch, whole};
use crate::material;
pub use history::checks_itself;
use history::{Effect, Op, Record, State, now};
use worker::Random;
pub use worker::work;

const WORKERS: u64 = 8;
const THREADS: u64 = 8;
/// So few that they meet all the time.
const NAMES: u64 = 20;
/// Different layers to import, and as many to commit.
const SEEDS: u64 = 24;
/// Archives of two images each.
const LOADS: u64 = 4;
/// Between two kills, in milliseconds.
const BETWEEN: u64 = 300;
/// How long an operation may take after the end.
const PATIENCE: Duration = Duration::from_secs(120);

fn name(i: u64) -> String {
    format!("n{i}:1")
}

/// The store, its workers, and what they leave.
struct Crowd {
    dir: PathBuf,
    seed: u64,
    until: u64,
    workers: Vec<(String, Child)>,
    /// When a process was known to be dead, and whether it was killed.
    deaths: BTreeMap<String, (u64, bool)>,
    /// The images that each archive has.
    loads: Vec<[(String, String); 2]>,
    wrong: Vec<String>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for (_, worker) in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Eight times eight do so for this long.
pub fn processes(seconds: usize) -> Result<String, Failed> {
    let given = std::env::var("BOXSHIP_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut crowd = Crowd::new(given.unwrap_or_else(now));
    crowd.until = now() + seconds as u64 * 1_000_000_000;
    crowd.run();
    let store = Store::open(crowd.dir.join("root"))?;
    let records = crowd.records();
    let orders = crowd.explain(&store, &records);
    crowd.look(&store, &records);
    let kills = crowd.deaths.values().filter(|(_, killed)| *killed).count();
    let summary = format!("BOXSHIP_SEED={}: {kills} kills; {orders}; {}", crowd.seed, counted(&records));
    match crowd.wrong.len() {
        0 => Ok(summary),
        n => {
            crowd.wrong.truncate(20);
            Err(format!("{n} claims failed: {:#?}\n{}\n{summary}", crowd.wrong, crowd.stderr()).into())
        }
    }
}

/// How often what was answered what.
fn counted(records: &[Record]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for record in records {
        let words = record.result.as_deref().unwrap_or("killed").split(' ');
        let answer: Vec<&str> = words.take_while(|w| !w.starts_with("sha256:") && !w.contains('=')).collect();
        *counts.entry(format!("{} {}", record.words[0], answer.first().unwrap_or(&""))).or_default() += 1;
        if answer.contains(&"collected") {
            *counts.entry("gc collected".to_owned()).or_default() += 1;
        }
    }
    let acknowledged = records.iter().filter(|r| r.result.is_some()).count();
    format!("{acknowledged} operations acknowledged: {counts:?}")
}

impl Crowd {
    fn new(seed: u64) -> Crowd {
        let dir = scratch("concurrent", 1024);
        let _ = std::fs::remove_dir_all(&dir);
        let mut crowd = Crowd {
            dir: dir.clone(),
            seed,
            until: 0,
            workers: vec![],
            deaths: [].into(),
            loads: vec![],
            wrong: vec![],
        };
        for part in ["material", "history"] {
            std::fs::create_dir_all(dir.join(part)).expect("a directory");
        }
        for seed in 0..SEEDS {
            let path = dir.join("material").join(format!("{seed}.tar"));
            std::fs::write(path, material::archive(seed)).expect("written");
        }
        let side = Store::open(dir.join("side")).expect("a store");
        crowd.loads = (0..LOADS).map(|i| archive_of_images(&side, &dir, i)).collect();
        crowd
    }

    fn start(&self, worker: u64, generation: u64) -> (String, Child) {
        let stderr = File::options().create(true).append(true).open(self.dir.join("stderr")).expect("a file");
        let child = Command::new(std::env::current_exe().expect("this program"))
            .arg("--as=concurrent-worker")
            .arg(&self.dir)
            .args([worker, generation, self.seed, self.until].map(|n| n.to_string()))
            .stderr(stderr)
            .spawn();
        (format!("{worker}.{generation}"), child.expect("starts"))
    }

    /// Until the time is over: kills one, and starts another in its place.
    fn run(&mut self) {
        let mut random = Random::new(self.seed);
        let mut generations = [0; WORKERS as usize];
        self.workers = (0..WORKERS).map(|worker| self.start(worker, 0)).collect();
        while now() < self.until && self.wrong.is_empty() {
            std::thread::sleep(Duration::from_millis(random.below(BETWEEN)));
            for (process, child) in &mut self.workers {
                if let Some(status) = child.try_wait().expect("ours")
                    && now() < self.until
                {
                    self.wrong.push(format!("{process} ended by itself: {status}"));
                }
            }
            let i = random.below(WORKERS) as usize;
            self.end(i, true);
            generations[i] += 1;
            self.workers[i] = self.start(i as u64, generations[i]);
        }
        let patient = std::time::Instant::now();
        for i in 0..self.workers.len() {
            let child = &mut self.workers[i].1;
            while child.try_wait().expect("ours").is_none() && patient.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.end(i, false);
        }
    }

    /// Waits for the end of a process: from then on it does nothing.
    fn end(&mut self, i: usize, killed: bool) {
        let (process, child) = &mut self.workers[i];
        let hangs = child.try_wait().expect("ours").is_none();
        if hangs {
            child.kill().expect("ours");
        }
        let status = child.wait().expect("ours");
        if !killed && (hangs || !status.success()) {
            self.wrong.push(format!("{process} ended with {status}, hung: {hangs}"));
        }
        self.deaths.insert(process.clone(), (now(), killed));
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
    }

    fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        for (process, (death, killed)) in &self.deaths {
            // None: killed before it wrote anything.
            let text = std::fs::read(self.dir.join("history").join(process)).unwrap_or_default();
            let own = history::read(process, &String::from_utf8_lossy(&text), *death);
            let open = own.iter().filter(|r| r.result.is_none() && !killed);
            self.wrong.extend(open.map(|r| format!("it never ended: {r:?}")));
            let bad = own.iter().filter(|r| r.result.as_ref().is_some_and(|r| r.starts_with("bad")));
            self.wrong.extend(bad.map(|r| format!("{}: {:?}: {:?}", r.id, r.words, r.result)));
            records.extend(own);
        }
        records
    }

    /// Whether all that was answered, and what is there now, can be.
    fn explain(&mut self, store: &Store, records: &[Record]) -> String {
        let mut told = Told::default();
        told.learn(records, &mut self.wrong);
        records.iter().for_each(|record| told.add(record, &self.loads));
        for name in (0..NAMES).map(name) {
            let state = match store.image(&name) {
                Ok(image) => told.image(&image.digest().to_string()),
                Err(boxship_layers::Error::NotFound { .. }) => State::Absent,
                Err(e) => {
                    self.wrong.push(format!("at the end {name}: {e}"));
                    continue;
                }
            };
            let (begin, end) = (now(), now());
            let text = "the end".to_owned();
            told.names.entry(name).or_default().push(Op {
                begin,
                end,
                effect: Effect::Read(state),
                optional: false,
                text,
            });
        }
        told.take();
        let mut ops = 0;
        for (name, history) in &told.names {
            ops += history.len();
            if let Err(e) = history::explain(history) {
                self.wrong.push(format!("no order explains {name}: {e}"));
            }
        }
        format!("{ops} writes and reads of {} names explained", told.names.len())
    }

    /// What is there now is whole, and is all that has to be there.
    fn look(&mut self, store: &Store, records: &[Record]) {
        let wrong = &mut self.wrong;
        leftovers(store, wrong);
        modes(store.path(), wrong);
        whole(store, wrong);
        match store.fsck(Check::Content, false) {
            Ok(defects) if defects.is_empty() => {}
            other => wrong.push(format!("fsck: {other:?}")),
        }
        let images = match store.images() {
            Ok(images) => images,
            Err(e) => return wrong.push(format!("it does not list: {e}")),
        };
        for image in &images {
            let foreign = !(0..NAMES).map(name).any(|name| name == image.name);
            if foreign || store.image(&image.name).is_err() {
                wrong.push(format!("{image:?} is foreign or does not open"));
            }
        }
        let mut layers = BTreeSet::new();
        let snapshots = store.snapshots().expect("a list");
        for id in &snapshots {
            wrong.extend(worker::missing_below(store, id));
            // One that was killed while it was made may have none yet.
            let text = std::fs::read_link(store.path().join("snapshots").join(id).join("layers"));
            let text = text.unwrap_or_default().to_string_lossy().into_owned();
            layers.extend(text.split(':').filter(|l| !l.is_empty()).map(str::to_owned));
        }
        let gone = acknowledged_snapshots(records).into_iter().filter(|id| !snapshots.contains(id));
        wrong.extend(gone.map(|id| format!("the writable layer {id} is gone")));
        // A layer that is nowhere was told of above.
        layers.retain(|l| store.path().join("layers").join(l).exists());
        collect(store, layers, wrong);
        snapshots.iter().for_each(|id| store.discard("snapshots", id).expect("removed"));
        collect(store, [].into(), wrong);
        for image in &images {
            if let Err(e) = store.remove_image(&image.name) {
                wrong.push(format!("at the end {} is not removed: {e}", image.name));
            }
        }
        collect(store, [].into(), wrong);
    }
}

/// Collects; then there is what images have, and these layers, which containers stand on.
fn collect(store: &Store, layers: BTreeSet<String>, wrong: &mut Vec<String>) {
    match store.gc(false) {
        Ok(collected) if collected.complete => {}
        other => wrong.push(format!("it does not collect: {other:?}")),
    }
    nobodys(store, layers, wrong);
}

/// Two images, one above the other, in an archive. Their layers are also what others import.
fn archive_of_images(side: &Store, dir: &Path, i: u64) -> [(String, String); 2] {
    let (lower, upper) = (name(i), name(i + LOADS));
    let archive = material::archive(i);
    let base = side.import(&archive[..], &lower, &Default::default(), &mut |_| true).expect("imported");
    let snapshot = side.create_snapshot("temporary", base.layers(), (0, 0)).expect("a snapshot");
    material::write(&snapshot.upper, SEEDS + i).expect("written");
    let options = CommitOptions::default();
    let image =
        side.commit("temporary", &base, Owners::AsTheyAre, &options, Some(&upper)).expect("committed");
    side.discard("snapshots", "temporary").expect("removed");
    let out = File::create(dir.join("material").join(format!("load-{i}.tar"))).expect("a file");
    side.save(&[lower.clone(), upper.clone()], out, &mut |_| true).expect("saved");
    [(lower, base.digest().to_string()), (upper, image.digest().to_string())]
}

/// The writable layers that were acknowledged and that nobody began to remove.
fn acknowledged_snapshots(records: &[Record]) -> BTreeSet<String> {
    let made = records.iter().filter(|r| r.words[0] == "snap" && r.result.as_deref() == Some("ok"));
    let mut made: BTreeSet<String> = made.map(|r| r.words[1].clone()).collect();
    for record in records.iter().filter(|r| r.words[0] == "drop") {
        made.remove(&record.words[1]);
    }
    made
}

/// The operations on each name, from what was written down.
#[derive(Default)]
struct Told {
    names: BTreeMap<String, Vec<Op>>,
    digests: BTreeMap<String, u32>,
    /// The digests of what was made, by label: also of what nobody lived to acknowledge.
    labels: BTreeMap<String, String>,
    /// Removals by digest, which concern any name.
    taken: Vec<Op>,
}

impl Told {
    fn image(&mut self, digest: &str) -> State {
        let next = u32::try_from(self.digests.len()).expect("few");
        State::Image(*self.digests.entry(digest.to_owned()).or_insert(next))
    }

    /// What the labels stand for. A digest stands for itself.
    fn learn(&mut self, records: &[Record], wrong: &mut Vec<String>) {
        for record in records {
            let words: Vec<&str> = record.words.iter().map(String::as_str).collect();
            let result: Vec<&str> = record.result.iter().flat_map(|r| r.split(' ')).collect();
            let (label, digest) = match (&words[..], &result[..]) {
                (["import" | "commit", _, label, _], ["ok", digest]) => (label, digest),
                (["tag", source, _], ["ok", digest]) if source.starts_with("sha256:") => (source, digest),
                (["image", _], ["ok", digest, label]) if *label != "-" => (label, digest),
                _ => continue,
            };
            let itself = label.starts_with("sha256:").then(|| (*label).to_owned());
            let made = itself.unwrap_or_else(|| (*digest).to_owned());
            let known = self.labels.entry((*label).to_owned()).or_insert(made);
            if known != digest {
                wrong.push(format!("{}: {words:?} made or found {digest}, not {known}", record.id));
            }
        }
    }

    fn op(&mut self, record: &Record, name: &str, effect: Effect) {
        let short = |text: &str| -> String {
            text.split(' ')
                .map(|w| if w.starts_with("sha256:") { &w[..15] } else { w })
                .collect::<Vec<_>>()
                .join(" ")
        };
        let result = record.result.as_deref().filter(|_| record.words[0] != "images");
        let text =
            format!("{}: {} -> {}", record.id, short(&record.words.join(" ")), short(result.unwrap_or("…")));
        let (begin, end, optional) = (record.begin, record.end, record.result.is_none());
        let op = Op { begin, end, effect, optional, text };
        match effect {
            Effect::Take(_) => self.taken.push(op),
            _ => self.names.entry(name.to_owned()).or_default().push(op),
        }
    }

    fn add(&mut self, record: &Record, loads: &[[(String, String); 2]]) {
        let words: Vec<&str> = record.words.iter().map(String::as_str).collect();
        let result: Vec<&str> = record.result.iter().flat_map(|r| r.split(' ')).collect();
        let absent = Effect::Read(State::Absent);
        match (&words[..], &result[..]) {
            (["import" | "commit", name, ..], ["ok", digest]) => self.set(record, name, Some(digest)),
            (["import" | "commit", name, label, _], []) => {
                let digest = self.labels.get(*label).cloned();
                self.set(record, name, digest.as_deref());
            }
            (["load", i], ["ok"] | []) => {
                let load = &loads[i.parse::<usize>().expect("a number")];
                load.iter().for_each(|(name, digest)| self.set(record, name, Some(digest)));
            }
            (["tag", source, name], ["ok", digest]) => {
                self.set(record, name, Some(digest));
                if !source.starts_with("sha256:") {
                    self.read(record, source, digest);
                }
            }
            (["tag", source, name], []) => {
                self.set(record, name, Some(*source).filter(|s| s.starts_with("sha256:")));
            }
            (["remove", digest], ["ok"] | []) if digest.starts_with("sha256:") => {
                if let State::Image(digest) = self.image(digest) {
                    self.op(record, "", Effect::Take(digest));
                }
            }
            (["tag" | "remove", digest, ..], _) if digest.starts_with("sha256:") => {}
            (["remove", name], ["ok"] | []) => self.op(record, name, Effect::Remove),
            (["remove", name], ["used"]) => self.op(record, name, Effect::There),
            (["image" | "save", name], ["ok", digest, ..]) => self.read(record, name, digest),
            (["image" | "save" | "remove" | "tag", name, ..], ["missing"]) => self.op(record, name, absent),
            (["images"], ["ok", all @ ..]) => {
                let all: BTreeMap<&str, &str> = all.iter().filter_map(|i| i.split_once('=')).collect();
                for name in (0..NAMES).map(name) {
                    match all.get(name.as_str()) {
                        Some(digest) => self.read(record, &name, digest),
                        None => self.op(record, &name, absent),
                    }
                }
            }
            _ => {}
        }
    }

    fn set(&mut self, record: &Record, name: &str, digest: Option<&str>) {
        let state = digest.map_or(State::Unknown, |digest| self.image(digest));
        self.op(record, name, Effect::Set(state));
    }

    fn read(&mut self, record: &Record, name: &str, digest: &str) {
        let state = self.image(digest);
        self.op(record, name, Effect::Read(state));
    }

    /// Removals by digest, on the names that may have had it.
    fn take(&mut self) {
        for history in self.names.values_mut() {
            let has = |op: &Op| match op.effect {
                Effect::Set(state) | Effect::Read(state) => Some(state),
                _ => None,
            };
            let had: BTreeSet<State> = history.iter().filter_map(has).collect();
            let concerns =
                |op: &&Op| matches!(op.effect, Effect::Take(digest) if had.contains(&State::Image(digest)));
            let taken: Vec<Op> = self.taken.iter().filter(concerns).cloned().collect();
            history.extend(taken);
        }
    }
}
