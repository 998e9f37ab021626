//! Threads of low priority, for work that is in no client's share of the workers.
//!
//! They stay until the server ends, because the scheduler keeps account of each thread's CPU time: after a piece of
//! work that took long, the thread waits until the workers have had their share. A new thread starts without debt, so
//! that one for each piece would get a whole slice of a core every time, whatever its priority.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use rustix::process::{getpid, getpriority_process, setpriority_process};

type Work = Box<dyn FnOnce() + Send>;

/// Threads that start when they are first needed.
#[derive(Debug)]
pub(crate) struct LowPriority {
    name: &'static str,
    /// Above that of the process.
    niceness: i32,
    threads: usize,
    started: Mutex<Option<SyncSender<Work>>>,
}

impl LowPriority {
    pub(crate) const fn new(name: &'static str, niceness: i32, threads: usize) -> Self {
        Self { name, niceness, threads, started: Mutex::new(None) }
    }

    /// Number of threads. It is less where the system has no more.
    pub(crate) const fn count(&self) -> usize {
        self.threads
    }

    /// Runs a piece of work. A panic ends it and nothing else.
    ///
    /// # Errors
    /// When the system has no threads for it, or more pieces of work wait than there are threads.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut started = lock(&self.started);
        let sender = match &*started {
            Some(sender) => sender,
            None => started.insert(self.start()?),
        };
        sender.try_send(Box::new(work)).map_err(|_full| io::Error::other("too much work waits"))
    }

    /// Starts the threads, or as many as the system has, which end when the sender is dropped.
    fn start(&self) -> io::Result<SyncSender<Work>> {
        let (sender, receiver) = sync_channel(self.threads);
        let (receiver, niceness) = (Arc::new(Mutex::new(receiver)), self.niceness);
        for number in 0..self.threads {
            let receiver = Arc::clone(&receiver);
            let started = Builder::new().name(self.name.into()).spawn(move || {
                lower_priority(niceness);
                work(&receiver);
            });
            match started {
                Err(error) if number == 0 => return Err(error),
                Err(_fewer) => break,
                Ok(_thread) => {}
            }
        }
        Ok(sender)
    }
}

fn work(receiver: &Mutex<Receiver<Work>>) {
    loop {
        // One thread waits for work, and the others for their turn to wait.
        let received = lock(receiver).recv();
        let Ok(work) = received else { return };
        // The panic hook has logged it, and the task that waits for the result finds its channel closed.
        catch_unwind(AssertUnwindSafe(work)).ok();
    }
}

/// Lowers the priority of this thread below that of the process, whose first thread has it.
fn lower_priority(niceness: i32) {
    let Ok(process) = getpriority_process(Some(getpid())) else { return };
    // On Linux each thread has a priority of its own. If it cannot be set, the work is as urgent as any other.
    setpriority_process(None, (process + niceness).min(19)).ok();
}

/// No code that could panic runs under these locks, so a poisoned one is used as it is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn work_runs_at_a_low_priority_on_threads_that_stay() {
        let threads = LowPriority::new("low", 7, 2);
        let (sender, results) = sync_channel(1);
        let mut seen = Vec::new();
        for _ in 0..20 {
            let sender = sender.clone();
            let look = move || {
                let priority = getpriority_process(None).unwrap();
                sender.send((thread::current().id(), priority)).unwrap();
            };
            threads.run(look).unwrap();
            seen.push(results.recv().unwrap());
        }
        let of_process = getpriority_process(Some(getpid())).unwrap();
        assert!(seen.iter().all(|(_, priority)| *priority == (of_process + 7).min(19)));
        let mut ids: Vec<_> = seen.iter().map(|(id, _)| format!("{id:?}")).collect();
        ids.sort();
        ids.dedup();
        assert!(ids.len() <= 2, "{ids:?}");
    }

    #[test]
    fn a_panic_ends_neither_the_thread_nor_other_work() {
        let threads = LowPriority::new("low", 0, 1);
        let (sender, results) = sync_channel(1);
        let held = sender.clone();
        let panics = threads.run(move || {
            held.send(1).unwrap();
            panic!("as a test");
        });
        panics.unwrap();
        assert_eq!(results.recv(), Ok(1));
        // The queue has room for one, whether or not the first has ended.
        threads.run(move || sender.send(2).unwrap()).unwrap();
        assert_eq!(results.recv(), Ok(2));
    }

    #[test]
    fn more_work_than_may_wait_is_refused() {
        let threads = LowPriority::new("low", 0, 1);
        let (sender, results) = sync_channel(0);
        let mut refused = false;
        // One piece of work that does not end, and one that waits.
        for _ in 0..3 {
            let sender = sender.clone();
            refused |= threads.run(move || sender.send(()).unwrap_or_default()).is_err();
        }
        assert!(refused);
        results.recv().unwrap();
    }
}
