//! Shared waits for a disk: one synchronisation covers all earlier writes.

use std::io;
use std::sync::{Condvar, Mutex, PoisonError};

/// A barrier that callers share. A caller that arrives during a wait may have written after that
/// wait began, so it needs the next one; all callers that arrive before the next wait begins share
/// it.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    waits: Mutex<Waits>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct Waits {
    under_way: bool,
    /// The numbers of waits that have begun (`begun`) and ended (`over`).
    begun: u64,
    over: u64,
    /// The last failed wait, and its error.
    failed: Option<(u64, io::ErrorKind, Option<i32>)>,
}

impl Barrier {
    /// Returns after a `sync` that began after this call did.
    ///
    /// # Errors
    /// The failure of that `sync`, or of a later one that ended before this call checked.
    pub(crate) fn wait(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = waits.begun + 1;
        while waits.under_way && waits.over < mine {
            waits = self.over.wait(waits).unwrap_or_else(PoisonError::into_inner);
        }
        if waits.over < mine {
            waits.under_way = true;
            waits.begun = mine;
            drop(waits);
            let outcome = sync();
            waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
            waits.under_way = false;
            waits.over = mine;
            if let Err(error) = outcome {
                waits.failed = Some((mine, error.kind(), error.raw_os_error()));
            }
            self.over.notify_all();
        }
        match waits.failed {
            Some((failed, kind, code)) if failed >= mine => {
                Err(code.map_or_else(|| kind.into(), io::Error::from_raw_os_error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn those_who_come_while_one_waits_share_the_next_wait() {
        let (barrier, syncs) = (Barrier::default(), AtomicU64::new(0));
        let sync = || {
            syncs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let (entered, is_in) = mpsc::channel();
        let (leave, may_leave) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                barrier.wait(move || {
                    entered.send(()).unwrap();
                    may_leave.recv().unwrap();
                    sync()
                })
            });
            is_in.recv().unwrap();
            let others: Vec<_> = (0..8).map(|_| scope.spawn(|| barrier.wait(sync))).collect();
            assert_eq!(
                syncs.load(Ordering::Relaxed),
                0,
                "nobody is let through by one before them"
            );
            leave.send(()).unwrap();
            first.join().unwrap().unwrap();
            others.into_iter().for_each(|other| other.join().unwrap().unwrap());
        });
        let syncs = syncs.load(Ordering::Relaxed);
        assert!((2..=9).contains(&syncs), "{syncs}");
    }

    #[test]
    fn everybody_is_covered_by_a_wait_that_began_after_they_came() {
        let (barrier, clock) = (Barrier::default(), AtomicU64::new(0));
        let last_begun = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let came = clock.fetch_add(1, Ordering::SeqCst);
                        let sync = || {
                            let now = clock.fetch_add(1, Ordering::SeqCst);
                            last_begun.fetch_max(now, Ordering::SeqCst);
                            thread::yield_now();
                            Ok(())
                        };
                        barrier.wait(sync).unwrap();
                        assert!(last_begun.load(Ordering::SeqCst) > came);
                    }
                });
            }
        });
    }

    #[test]
    fn a_failure_is_told_to_those_whose_wait_it_was_and_to_nobody_after() {
        let barrier = Barrier::default();
        let failed = barrier.wait(|| Err(io::Error::from_raw_os_error(5))).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(5));
        assert!(barrier.wait(|| Ok(())).is_ok());
    }
}
