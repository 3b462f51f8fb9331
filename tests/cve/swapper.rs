//! The attacker of a race: a thread that exchanges two names as fast as it can.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags, RenameFlags};

pub struct Swapper {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    /// Exchanges `a` and `b` of `dir`, which is held open: it may be renamed meanwhile.
    pub fn start(dir: &Path, a: &'static str, b: &'static str) -> Swapper {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir: OwnedFd = rustix::fs::open(dir, flags, Mode::empty()).expect("a directory");
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counter) = (stop.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Fails when one of the names was removed: then there is nothing to win any more.
                if rustix::fs::renameat_with(&dir, a, &dir, b, RenameFlags::EXCHANGE).is_ok() {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Swapper { stop, count, thread: Some(thread) }
    }

    /// Ends the race and tells how often the names were exchanged.
    pub fn stop(mut self) -> usize {
        self.end();
        self.count.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.end();
    }
}
