//! Whether other containers that start or end keep the cores busy.
//!
//! A start that has the machine for itself is sooner done on two cores; among others that costs a thread
//! and a process more for nothing. Containers that live longer than [`YOUNG`] no longer count: what they
//! do to the cores is nobody's guess, and a machine full of idle ones must not slow down the next start.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A start takes some 3 ms, an end 1 ms; the rest is the life of short commands.
const YOUNG: Duration = Duration::from_millis(20);

/// The starts of one runtime in this process.
#[derive(Debug, Default)]
pub(crate) struct Busy(Arc<Mutex<Flights>>);

#[derive(Debug, Default)]
struct Flights {
    begun: u64,
    under_way: Vec<(u64, Instant)>,
}

/// One of them, until dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    all: Arc<Mutex<Flights>>,
    number: u64,
    alone: bool,
}

impl Busy {
    pub(crate) fn begin(&self) -> Flight {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.under_way.retain(|(_, begun)| now.duration_since(*begun) < YOUNG);
        let alone = all.under_way.is_empty();
        all.begun += 1;
        let number = all.begun;
        all.under_way.push((number, now));
        Flight { all: Arc::clone(&self.0), number, alone }
    }
}

impl Flight {
    /// Whether no other was under way when it began.
    pub(crate) fn alone(&self) -> bool {
        self.alone
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.under_way.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_alone_and_the_next_is_not_until_the_others_ended_or_grew_old() {
        let busy = Busy::default();
        let first = busy.begin();
        assert!(first.alone());
        let second = busy.begin();
        assert!(!second.alone());
        drop((first, second));
        let third = busy.begin();
        assert!(third.alone());
        busy.0.lock().unwrap().under_way[0].1 -= YOUNG;
        assert!(busy.begin().alone(), "one that has lived for long does not count");
    }
}
