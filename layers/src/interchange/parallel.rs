//! Several layers at once: one keeps a core busy, and waits for the disk now and then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use crate::error::{Error, Result};
use crate::store::Progress;

/// Layers that are unpacked at the same time. Each may take a zstd window of 32 MiB.
const AT_ONCE: usize = 2;

/// What a job is given to tell its progress to; answering false cancels it.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Progress) -> bool;

enum Message<T> {
    Progress(usize, Progress),
    Done(usize, Result<T>),
}

/// Runs jobs, some at a time, and returns what they made in their order. What they tell comes to `observe` on
/// the calling thread, as bytes of all together. After the first failure the others end early.
pub(super) fn all<T, J>(jobs: Vec<J>, observe: &mut dyn FnMut(Progress) -> bool) -> Result<Vec<T>>
where
    T: Send,
    J: FnOnce(Tell<'_>) -> Result<T> + Send,
{
    let count = jobs.len();
    let waiting: Mutex<VecDeque<(usize, J)>> = Mutex::new(jobs.into_iter().enumerate().collect());
    let stop = AtomicBool::new(false);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = |messages: mpsc::Sender<Message<T>>| {
        while let Some((i, job)) = next().filter(|_| !stop.load(Ordering::Relaxed)) {
            let mut tell = |progress| {
                let heard = messages.send(Message::Progress(i, progress)).is_ok();
                heard && !stop.load(Ordering::Relaxed)
            };
            let result = job(&mut tell);
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            if messages.send(Message::Done(i, result)).is_err() {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        let (messages, told) = mpsc::channel();
        for _ in 0..count.min(AT_ONCE) {
            let messages = messages.clone();
            let thread = std::thread::Builder::new().name("boxship-load".into());
            let started = thread.spawn_scoped(scope, || work(messages));
            if let Err(source) = started {
                stop.store(true, Ordering::Relaxed);
                return Err(Error::Io {
                    operation: "start a thread for",
                    path: "the archive".into(),
                    source,
                });
            }
        }
        drop(messages);
        collect(count, &told, &stop, observe)
    })
}

fn collect<T>(
    count: usize,
    told: &mpsc::Receiver<Message<T>>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Progress) -> bool,
) -> Result<Vec<T>> {
    let mut done: Vec<Option<T>> = std::iter::repeat_with(|| None).take(count).collect();
    let mut bytes = vec![0; count];
    let mut failure = None;
    for message in told {
        match message {
            Message::Progress(i, Progress::Read { bytes: n }) => {
                bytes[i] = n;
                if !observe(Progress::Read { bytes: bytes.iter().sum() }) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            // Each is published with the others, at the end.
            Message::Progress(..) => {}
            Message::Done(i, Ok(value)) => done[i] = Some(value),
            // What was stopped for another's failure has none of its own.
            Message::Done(_, Err(e)) => match failure {
                None | Some(Error::Cancelled) => failure = Some(e),
                Some(_) => {}
            },
        }
    }
    match failure {
        Some(e) => Err(e),
        None => done.into_iter().collect::<Option<Vec<T>>>().ok_or(Error::Cancelled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_order_of_the_jobs() -> Result<()> {
        let jobs: Vec<_> = (0..20u64)
            .map(|i| {
                move |tell: Tell<'_>| {
                    std::thread::sleep(std::time::Duration::from_millis(20 - i));
                    assert!(tell(Progress::Read { bytes: i }));
                    Ok(i)
                }
            })
            .collect();
        let mut last = 0;
        let all = all(jobs, &mut |progress| {
            if let Progress::Read { bytes } = progress {
                last = last.max(bytes);
            }
            true
        })?;
        assert_eq!(all, (0..20).collect::<Vec<_>>());
        assert_eq!(last, (0..20).sum::<u64>());
        Ok(())
    }

    #[test]
    fn a_failure_ends_the_others() {
        let jobs: Vec<_> = (0..8u64)
            .map(|i| {
                move |tell: Tell<'_>| {
                    if i == 1 {
                        return Err(Error::invalid("job", "the second"));
                    }
                    while tell(Progress::Read { bytes: 1 }) {
                        std::thread::yield_now();
                    }
                    Err::<u64, _>(Error::Cancelled)
                }
            })
            .collect();
        let result = all(jobs, &mut |_| true);
        assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
    }

    #[test]
    fn an_observer_cancels() {
        let jobs: Vec<_> = (0..3u64)
            .map(|_| {
                |tell: Tell<'_>| {
                    while tell(Progress::Read { bytes: 1 }) {
                        std::thread::yield_now();
                    }
                    Err::<u64, _>(Error::Cancelled)
                }
            })
            .collect();
        assert!(matches!(all(jobs, &mut |_| false), Err(Error::Cancelled)));
        assert!(
            matches!(all(Vec::<fn(Tell<'_>) -> Result<u64>>::new(), &mut |_| true), Ok(v) if v.is_empty())
        );
    }
}
