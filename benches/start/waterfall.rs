//! Where the time of one start goes: from boxship's own tracing spans and the helper's moments.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use boxship::Profile;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::{Bench, chart};

/// (name, begin, end) in ns since 1970.
type Span = (String, u64, u64);

struct Recorder {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, (&'static str, u64)>>,
    done: Mutex<Vec<Span>>,
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos())
        .expect("before 2554")
}

#[derive(Default)]
struct Numbers(BTreeMap<&'static str, u64>);

impl Visit for Numbers {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), value);
    }
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl Subscriber for &'static Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().expect("sound").insert(id, (attributes.metadata().name(), now()));
        Id::from_u64(id)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut n = Numbers::default();
        event.record(&mut n);
        let moment = |key| n.0.get(key).copied();
        if let (Some(begun), Some(cloned), Some(executing), Some(started)) =
            (moment("begun"), moment("cloned"), moment("executing"), moment("started"))
        {
            self.done.lock().expect("sound").extend([
                ("helper: receive the plan, clone".to_owned(), begun, cloned),
                ("container: mounts, limits, privileges".to_owned(), cloned, executing),
                ("execve seen by the monitor".to_owned(), executing, started),
            ]);
        }
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
    fn try_close(&self, id: Id) -> bool {
        if let Some((name, begin)) = self.open.lock().expect("sound").remove(&id.into_u64()) {
            self.done.lock().expect("sound").push((name.to_owned(), begin, now()));
        }
        true
    }
}

/// Draws the start whose total is the median of a hundred.
pub fn draw(b: &Bench) {
    let recorder: &'static Recorder = Box::leak(Box::new(Recorder {
        next: AtomicU64::new(0),
        open: Mutex::default(),
        done: Mutex::default(),
    }));
    tracing::subscriber::set_global_default(recorder).expect("the first");
    let mut runs: Vec<(u64, u64, Vec<Span>)> = Vec::new();
    for _ in 0..100 {
        recorder.done.lock().expect("sound").clear();
        let begin = now();
        b.runtime.block_on(b.start(Profile::Default));
        runs.push((now() - begin, begin, std::mem::take(&mut *recorder.done.lock().expect("sound"))));
    }
    runs.sort_by_key(|r| r.0);
    let (total, begin, mut spans) = runs.swap_remove(50);
    spans.push(("output(): builder to removed".to_owned(), begin, begin + total));
    spans.sort_by_key(|s| (s.1, std::cmp::Reverse(s.2)));
    let (left, width) = (250.0, 560.0);
    let x = |ns: u64| left + ns.saturating_sub(begin) as f64 / total as f64 * width;
    let mut body = String::new();
    for (i, (name, from, to)) in spans.iter().enumerate() {
        let y = 48.0 + i as f64 * 21.0;
        let class = if name.contains("helper") || name.contains("container") {
            "b"
        } else if name.contains("execve") {
            "c"
        } else {
            "a"
        };
        let _ = write!(
            body,
            r#"<text x="{}" y="{}" class="name">{name}</text><rect x="{:.1}" y="{y}" width="{:.1}" height="15" rx="2" class="{class}"/><text x="{:.1}" y="{}">{:.2} ms</text>"#,
            left - 8.0,
            y + 12.0,
            x(*from),
            (x(*to) - x(*from)).max(1.0),
            x(*to) + 6.0,
            y + 12.0,
            (to - from) as f64 / 1e6
        );
        println!(
            "{:>8.3} ms  {:>8.3} ms  {name}",
            from.saturating_sub(begin) as f64 / 1e6,
            (to - from) as f64 / 1e6
        );
    }
    let height = 64.0 + spans.len() as f64 * 21.0;
    let svg = chart::page(
        left + width + 100.0,
        height,
        "One start under the Default profile (median of 100)",
        &body,
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/start-waterfall.svg");
    std::fs::write(&path, svg).expect("written");
    println!("written: {}", path.display());
}
