//! Reads with a deadline.
//!
//! A read can block in the kernel for as long as a disk or a network file system does not answer, and
//! nothing can interrupt it. So a worker does not read: it has a companion thread that does, and waits
//! for it no longer than the deadline.
//!
//! ```text
//!   worker --record, buffer--> companion --bytes--> worker
//!              \ deadline: the worker fails the record and goes on; the read is *stuck*. Its thread
//!                ends when the read returns, and the worker starts another one for its next record.
//! ```
//!
//! A dataset whose file system does not answer must not keep the workers from others. After the first
//! stuck read of a dataset, its reads have a fifth of the deadline, those of a file with a stuck read
//! have none, and after [`MAX_STUCK_READS`](crate::dataset::MAX_STUCK_READS) stuck reads all of them are refused at once, until one returns.
//! So a dataset costs each worker about one deadline for each time that it hangs. Late reads from a bucket are requests
//! of their own, of which none is refused for another: only their number is bounded. A stuck read keeps a
//! thread, a buffer and possibly a file descriptor, which bounds what a dataset can take.

use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use forebay_types::process::CpuTimer;

use crate::dataset::{Dataset, DatasetError, StoreError, StuckRead, Unpacker};
use crate::scratch::bytes_of;
use crate::sync::lock;

/// Stack of a companion: it opens and reads files.
const STACK: usize = 256 << 10;

/// A record to read, and the memory for it.
struct Question {
    dataset: Arc<Dataset>,
    record: u64,
    memory: ReadMemory,
}

/// The memory for reading a record: the buffer for its bytes, and what decompressing them takes.
#[derive(Debug, Default)]
pub(super) struct ReadMemory {
    pub(super) bytes: Vec<u8>,
    unpacker: Unpacker,
}

impl ReadMemory {
    /// Bytes that it holds.
    pub(super) fn held_bytes(&self) -> usize {
        bytes_of(&self.bytes) + self.unpacker.held_bytes()
    }
}

/// The memory, with the record's bytes or not, and the CPU time of reading them.
struct Answer {
    memory: ReadMemory,
    result: Result<(), DatasetError>,
    cpu: Duration,
}

fn read(Question { dataset, record, mut memory }: Question) -> Answer {
    let mut timer = CpuTimer::start();
    let ReadMemory { bytes, unpacker } = &mut memory;
    let result = dataset.read_unpacked(record, unpacker, bytes);
    Answer { memory, result, cpu: timer.lap() }
}

/// Reads records for one worker.
#[derive(Debug, Default)]
pub(super) struct Reader(Option<Companion<Question, Answer>>);

impl Reader {
    /// Reads the bytes of a record and verifies them. Returns the CPU time that it took. If the read is
    /// stuck, it keeps the memory, which is replaced by none.
    ///
    /// # Errors
    /// [`DatasetError::Record`] if the record cannot be read in time, or changed since it was indexed.
    pub(super) fn read(
        &mut self,
        dataset: &Arc<Dataset>,
        record: u64,
        memory: &mut ReadMemory,
        timeout: Duration,
    ) -> Result<Duration, DatasetError> {
        let failed =
            |error| DatasetError::Record { record, name: dataset.name_in_mix(record), error };
        let (file, stuck) = (dataset.file_of(record), dataset.stuck());
        let patience = stuck.patience(file, timeout).map_err(failed)?;
        let companion = match self.0.take() {
            Some(companion) => companion,
            None => Companion::start("reader", read).map_err(StoreError::thread).map_err(failed)?,
        };
        let question = Question { dataset: Arc::clone(dataset), record, memory: mem::take(memory) };
        let Some(answer) = companion.ask(question, patience, || stuck.add(file)) else {
            return Err(failed(StoreError::Stuck { after: patience }));
        };
        self.0 = Some(companion);
        *memory = answer.memory;
        answer.result.map(|()| answer.cpu)
    }
}

/// A thread that answers one question at a time, and can be left with a question that it does not
/// answer.
struct Companion<Q, A>(Arc<Desk<Q, A>>);

/// The place where questions and answers are exchanged. Only one of the two threads waits at it.
struct Desk<Q, A> {
    state: Mutex<State<Q, A>>,
    changed: Condvar,
}

enum State<Q, A> {
    Idle,
    Asked(Q),
    Working,
    Answered(A),
    /// Nobody waits for an answer any more.
    Left(Option<StuckRead>),
}

impl<Q: Send + 'static, A: Send + 'static> Companion<Q, A> {
    /// # Errors
    /// When the operating system refuses a thread.
    fn start(name: &str, work: fn(Q) -> A) -> io::Result<Self> {
        let desk = Arc::new(Desk { state: Mutex::new(State::Idle), changed: Condvar::new() });
        let companion = Self(Arc::clone(&desk));
        let run = move || desk.answer_all(work);
        // It is never joined: a read may not return before the process ends.
        thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(run)?;
        Ok(companion)
    }

    /// Asks, and waits for the answer. If it takes longer than `patience`, returns `None` and keeps
    /// what `stuck` returns until there is one; there must be no further question then.
    fn ask(&self, question: Q, patience: Duration, stuck: impl FnOnce() -> StuckRead) -> Option<A> {
        let Desk { state, changed } = &*self.0;
        let mut guard = lock(state);
        *guard = State::Asked(question);
        changed.notify_one();
        let waiting = |state: &mut State<Q, A>| !matches!(state, State::Answered(_));
        let waited = changed.wait_timeout_while(guard, patience, waiting);
        let (mut guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let State::Answered(answer) = mem::replace(&mut *guard, State::Idle) {
            return Some(answer);
        }
        *guard = State::Left(Some(stuck()));
        None
    }
}

impl<Q, A> Desk<Q, A> {
    fn answer_all(&self, work: fn(Q) -> A) {
        let mut state = lock(&self.state);
        loop {
            match mem::replace(&mut *state, State::Working) {
                State::Asked(question) => {
                    drop(state);
                    let answer = work(question);
                    state = lock(&self.state);
                    if matches!(*state, State::Working) {
                        *state = State::Answered(answer);
                        self.changed.notify_one();
                    }
                }
                State::Left(stuck) => {
                    drop(state);
                    drop(stuck);
                    return;
                }
                other => {
                    *state = other;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl<Q, A> Drop for Companion<Q, A> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if !matches!(*state, State::Left(_)) {
            *state = State::Left(None);
        }
        drop(state);
        self.0.changed.notify_one();
    }
}

impl<Q, A> fmt::Debug for Companion<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Companion").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};
    use std::time::Instant;

    use super::*;
    use crate::dataset::StuckReads;

    /// A time that only a hang exceeds.
    const HANG: Duration = Duration::from_mins(5);

    /// Waits for the answer.
    #[expect(clippy::needless_pass_by_value, reason = "a companion owns its question")]
    fn wait(answer: Receiver<u32>) -> u32 {
        answer.recv().unwrap_or(0)
    }

    #[test]
    fn a_companion_answers_question_after_question() {
        let (companion, stuck) = (Companion::start("test", wait).unwrap(), Arc::default());
        for number in 0..1000 {
            let (sender, answer) = sync_channel(1);
            sender.send(number).unwrap();
            let answer = companion.ask(answer, HANG, || StuckReads::add(&stuck, Some(0)));
            assert_eq!(answer, Some(number));
        }
        assert_eq!(stuck.count(), 0);
    }

    #[test]
    fn a_read_counts_as_stuck_from_its_deadline_until_it_returns() {
        let (companion, stuck) = (Companion::start("test", wait).unwrap(), Arc::default());
        let (sender, answer) = sync_channel(1);
        let patience = Duration::from_millis(20);
        assert_eq!(companion.ask(answer, patience, || StuckReads::add(&stuck, Some(3))), None);
        drop(companion);
        assert_eq!(stuck.count(), 1);
        sender.send(1).unwrap();
        let start = Instant::now();
        while stuck.count() > 0 {
            assert!(start.elapsed() < HANG);
            thread::yield_now();
        }
    }
}
