//! Reads from a bucket that answers when a test says so, and counts.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::super::cache::BLOCK;
use super::*;
use crate::sync::lock;

/// A time that only a hang exceeds.
const HANG: Duration = Duration::from_mins(5);

/// A bucket in memory.
#[derive(Debug, Default)]
struct TestBucket {
    state: Mutex<TestState>,
    changed: Condvar,
}

#[derive(Default)]
struct TestState {
    objects: BTreeMap<String, Vec<u8>>,
    /// The ranges that were requested.
    log: Vec<(String, Range<u64>)>,
    /// Whether requests are answered at once.
    answers: bool,
    /// Whether they are answered with an error.
    fails: bool,
    waiting: Vec<(String, Range<u64>, OnFetched)>,
}

impl std::fmt::Debug for TestState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestState").finish_non_exhaustive()
    }
}

use super::super::bucket::OnFetched;

fn error(key: &str) -> StoreError {
    StoreError::Remote { action: "read", url: key.to_owned(), what: "status 500".to_owned() }
}

impl TestState {
    fn answer(&self, key: &str, range: &Range<u64>) -> Result<Vec<u8>, StoreError> {
        if self.fails {
            return Err(error(key));
        }
        let index = |at: u64| usize::try_from(at).unwrap();
        Ok(self.objects[key][index(range.start)..index(range.end)].to_vec())
    }
}

impl TestBucket {
    fn new(shards: usize, size: u64) -> Arc<Self> {
        let bucket = Self::default();
        let mut state = lock(&bucket.state);
        state.answers = true;
        for shard in 0..shards {
            let byte =
                |at: u64| u8::try_from((at / 7 + at / BLOCK * 31 + shard as u64) % 251).unwrap();
            state.objects.insert(format!("{shard}.tar"), (0..size).map(byte).collect());
        }
        drop(state);
        Arc::new(bucket)
    }

    fn objects(&self) -> Vec<Object> {
        let state = lock(&self.state);
        let object = |(key, bytes): (&String, &Vec<u8>)| Object {
            key: key.clone(),
            size: bytes.len() as u64,
            tag: "tag".to_owned(),
        };
        state.objects.iter().map(object).collect()
    }

    fn requests(&self) -> usize {
        lock(&self.state).log.len()
    }

    fn bytes(&self) -> u64 {
        lock(&self.state).log.iter().map(|(_, range)| range.end - range.start).sum()
    }

    /// Holds answers back until [`release`](Self::release).
    fn hold(&self) {
        lock(&self.state).answers = false;
    }

    /// Waits until this many requests wait for an answer.
    fn wait_for(&self, requests: usize) {
        let state = lock(&self.state);
        let waited = self
            .changed
            .wait_timeout_while(state, HANG, |state| state.waiting.len() < requests)
            .unwrap();
        assert!(!waited.1.timed_out());
    }

    /// Answers the first requests that wait.
    fn release(&self, requests: usize) {
        let mut state = lock(&self.state);
        let released: Vec<_> = state.waiting.drain(..requests).collect();
        let answers: Vec<_> = released
            .into_iter()
            .map(|(key, range, on_fetched)| (state.answer(&key, &range), on_fetched))
            .collect();
        drop(state);
        for (answer, on_fetched) in answers {
            on_fetched(answer);
        }
    }
}

impl Bucket for TestBucket {
    fn url(&self) -> &'static str {
        "s3://test"
    }

    fn has_lists(&self) -> bool {
        true
    }

    fn list(&self, _folder: &str) -> Result<Vec<Object>, StoreError> {
        Ok(self.objects())
    }

    fn find(&self, _keys: &[String]) -> Result<Vec<Option<Object>>, StoreError> {
        unreachable!()
    }

    fn fetch(&self, object: &Object, range: Range<u64>, on_fetched: OnFetched) {
        let mut state = lock(&self.state);
        state.log.push((object.key.clone(), range.clone()));
        if state.answers {
            let answer = state.answer(&object.key, &range);
            drop(state);
            on_fetched(answer);
        } else {
            state.waiting.push((object.key.clone(), range, on_fetched));
            drop(state);
            self.changed.notify_all();
        }
    }

    fn write(&self, _key: &str, _file: &Path) -> Result<(), StoreError> {
        unreachable!()
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

/// Records of 50,000 bytes, one after the other in each of two shards.
const RECORD: u32 = 50_000;
const PER_SHARD: u64 = 40;
const SIZE: u64 = PER_SHARD * RECORD as u64;

struct Test {
    bucket: Arc<TestBucket>,
    store: RemoteStore,
}

fn cache(folder: &Path, blocks: u64) -> Cache {
    Cache::open(folder, blocks * BLOCK + 2 * 8192).unwrap()
}

fn test(cache: Option<Cache>, memory: u64) -> Test {
    let bucket = TestBucket::new(2, SIZE);
    let storage = Arc::new(Storage::new(cache, memory).unwrap());
    let store = RemoteStore::open(Arc::<TestBucket>::clone(&bucket), bucket.objects(), storage);
    Test { bucket, store: store.unwrap() }
}

fn location(record: u64) -> Location {
    let shard = u32::try_from(record / PER_SHARD).unwrap();
    (shard, record % PER_SHARD * u64::from(RECORD), RECORD)
}

impl Test {
    fn want(&self, client: &str, records: &[u64]) -> (Want, Receiver<Result<(), StoreError>>) {
        self.want_of(&[&self.store], client, records)
    }

    /// Wants records of the same numbers of several stores.
    fn want_of(
        &self,
        stores: &[&RemoteStore],
        client: &str,
        records: &[u64],
    ) -> (Want, Receiver<Result<(), StoreError>>) {
        let (sender, receiver) = sync_channel(1);
        let of = |store: &&RemoteStore| store.runs(records.iter().copied().map(location));
        let runs = stores.iter().map(of).collect();
        let on_ready = Box::new(move |result| drop(sender.send(result)));
        (self.store.storage.want(client.into(), move || runs, on_ready), receiver)
    }

    fn want_ahead(&self, records: &[u64]) -> Want {
        let runs = self.store.runs(records.iter().copied().map(location));
        self.store.storage.want_ahead(move || vec![runs])
    }

    fn read(&self, record: u64) -> Result<(), StoreError> {
        let mut buffer = Vec::new();
        let (shard, offset, length) = location(record);
        let start = usize::try_from(offset).unwrap();
        let state = lock(&self.bucket.state);
        let right = state.objects[&format!("{shard}.tar")][start..start + length as usize].to_vec();
        drop(state);
        self.store.read_checked(location(record), &mut buffer, |bytes| bytes == right)?;
        assert!(buffer == right);
        Ok(())
    }

    /// Reads all records in an order of its own, in microbatches of 8.
    fn epoch(&self, epoch: u64) -> StorageTotals {
        let before = self.totals();
        let records = 2 * PER_SHARD;
        let order: Vec<u64> = (0..records).map(|at| (at * 33 + epoch * 7) % records).collect();
        for records in order.chunks(8) {
            let (want, ready) = self.want("a", records);
            ready.recv_timeout(HANG).unwrap().unwrap();
            for &record in records {
                self.read(record).unwrap();
            }
            drop(want);
        }
        let after = self.totals();
        StorageTotals {
            cache_bytes: after.cache_bytes - before.cache_bytes,
            remote_bytes: after.remote_bytes - before.remote_bytes,
            late_reads: after.late_reads - before.late_reads,
            ..after
        }
    }

    fn totals(&self) -> StorageTotals {
        self.store.storage().totals()
    }

    /// Bytes of the shards that are in the cache.
    fn cached(&self) -> u64 {
        let whole = (0..2).map(|shard| Run { shard, range: 0..SIZE });
        let parts = whole.flat_map(|run| self.store.shards.parts(&run));
        parts.filter(|part| part.is_cached).map(|part| part.range.end - part.range.start).sum()
    }
}

#[test]
fn a_cold_epoch_fetches_each_byte_once_and_the_next_one_none() {
    let folder = tempfile::tempdir().unwrap();
    let test = test(Some(cache(folder.path(), 1000)), 64 << 20);
    let cold = test.epoch(0);
    assert_eq!(test.bucket.bytes(), 2 * SIZE);
    assert_eq!((cold.cache_bytes + cold.remote_bytes, cold.late_reads), (2 * SIZE, 0));
    let warm = test.epoch(1);
    assert_eq!((warm.cache_bytes, warm.remote_bytes, warm.late_reads), (2 * SIZE, 0, 0));
    assert_eq!((test.bucket.bytes(), test.cached()), (2 * SIZE, 2 * SIZE));
}

#[test]
fn hits_are_exactly_the_part_that_is_cached() {
    let folder = tempfile::tempdir().unwrap();
    let test = test(Some(cache(folder.path(), 25)), 64 << 20);
    test.epoch(0);
    let (cached, fetched) = (test.cached(), test.bucket.bytes());
    assert!(cached > 15 * BLOCK && cached <= 25 * BLOCK, "{cached}");
    for epoch in 1..4 {
        let totals = test.epoch(epoch);
        assert_eq!((totals.cache_bytes, totals.remote_bytes), (cached, 2 * SIZE - cached));
        assert_eq!(test.cached(), cached, "nothing is evicted");
        assert_eq!(totals.late_reads, 0);
    }
    // What is missing is requested as it is, or with what is between neighbors.
    let of_epochs = test.bucket.bytes() - fetched;
    assert!(of_epochs >= 3 * (2 * SIZE - cached) && of_epochs < 4 * 2 * SIZE, "{of_epochs}");
}

#[test]
fn without_a_cache_every_epoch_fetches_every_record() {
    let test = test(None, 64 << 20);
    for epoch in 0..2 {
        let totals = test.epoch(epoch);
        assert_eq!((totals.cache_bytes, totals.remote_bytes, totals.late_reads), (0, 2 * SIZE, 0));
    }
    // What was dropped before a want is handled before it.
    let (_want, ready) = test.want("a", &[]);
    ready.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!(test.totals().held_bytes, 0, "nothing is held after it was read");
}

#[test]
fn reads_of_a_microbatch_are_in_flight_together_and_neighbors_in_one_request() {
    let test = test(None, 64 << 20);
    test.bucket.hold();
    // Records 0 and 1 are neighbors, and 10 is far away.
    let (_want, ready) = test.want("a", &[10, 0, 50, 1]);
    test.bucket.wait_for(3);
    assert_eq!(test.totals().waiting, 1);
    test.bucket.release(2);
    assert!(ready.try_recv().is_err());
    test.bucket.release(1);
    ready.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!((test.bucket.requests(), test.totals().waiting), (3, 0));
    for record in [0, 1, 10, 50] {
        test.read(record).unwrap();
    }
    assert_eq!(test.totals().late_reads, 0);
}

#[test]
fn wants_of_the_same_record_share_a_request() {
    let test = test(None, 64 << 20);
    test.bucket.hold();
    let (a, ready_a) = test.want("a", &[3, 20]);
    test.bucket.wait_for(2);
    let (b, ready_b) = test.want("b", &[3]);
    test.bucket.release(2);
    ready_a.recv_timeout(HANG).unwrap().unwrap();
    ready_b.recv_timeout(HANG).unwrap().unwrap();
    drop(a);
    test.read(3).unwrap();
    assert_eq!(test.bucket.requests(), 2);
    drop(b);
}

#[test]
fn memory_is_bounded_and_clients_take_turns() {
    // Room for four records.
    let test = test(None, 4 * u64::from(RECORD));
    test.bucket.hold();
    let (first, ready) = test.want("a", &[0, 10, 20, 30]);
    test.bucket.wait_for(4);
    let (a, ready_a) = test.want("a", &[5, 15, 25, 35]);
    let (b, ready_b) = test.want("b", &[45, 55, 65, 75]);
    test.bucket.release(4);
    ready.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!(test.bucket.requests(), 4, "there is no room for more");
    assert_eq!(test.totals().held_bytes, 4 * u64::from(RECORD));
    drop(first);
    test.bucket.wait_for(4);
    // It is the turn of b, which came later.
    test.bucket.release(4);
    ready_b.recv_timeout(HANG).unwrap().unwrap();
    assert!(ready_a.try_recv().is_err());
    drop(b);
    test.bucket.wait_for(4);
    test.bucket.release(4);
    ready_a.recv_timeout(HANG).unwrap().unwrap();
    drop(a);
}

#[test]
fn a_want_that_never_fits_is_fetched_in_part_and_the_rest_is_read_late() {
    let test = test(None, 2 * u64::from(RECORD));
    let records = [0, 10, 20, 30];
    let (_want, ready) = test.want("a", &records);
    ready.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!(test.bucket.requests(), 2);
    for record in records {
        test.read(record).unwrap();
    }
    assert_eq!((test.bucket.requests(), test.totals().late_reads), (4, 2));
}

#[test]
fn a_want_that_never_fits_is_served_though_its_beginning_was_fetched_ahead() {
    let test = test(None, 2 * u64::from(RECORD));
    let records = [0, 10, 20, 30];
    test.bucket.hold();
    let _ahead = test.want_ahead(&records);
    test.bucket.wait_for(1);
    test.bucket.release(1);
    lock(&test.bucket.state).answers = true;
    let (_want, ready) = test.want("a", &records);
    ready.recv_timeout(HANG).unwrap().unwrap();
    for record in records {
        test.read(record).unwrap();
    }
    assert_eq!((test.bucket.requests(), test.totals().late_reads), (4, 2));
}

#[test]
fn what_was_fetched_ahead_is_used_and_makes_room_for_what_is_needed() {
    let test = test(None, 6 * u64::from(RECORD));
    let wanted = [test.want_ahead(&[0]), test.want_ahead(&[20, 40])];
    // A want is planned after those before it.
    let (first, ready) = test.want("a", &[0]);
    ready.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!(test.bucket.requests(), 3);
    // There is room for these only if both of the others are dropped, which nobody needs.
    let (second, ready) = test.want("a", &[10, 30, 50, 60, 70]);
    ready.recv_timeout(HANG).unwrap().unwrap();
    for record in [0, 10, 30, 50, 60, 70] {
        test.read(record).unwrap();
    }
    assert_eq!((test.bucket.requests(), test.totals().late_reads), (8, 0));
    drop((first, second, wanted));
}

#[test]
fn wants_of_several_stores_never_wait_for_the_room_of_each_other() {
    // There is room for one of two microbatches, of which each has a record of either store.
    let test = test(None, 2 * u64::from(RECORD));
    let other = TestBucket::new(2, SIZE);
    let objects = other.objects();
    let storage = Arc::clone(&test.store.storage);
    let other = RemoteStore::open(Arc::<TestBucket>::clone(&other), objects, storage).unwrap();
    let stores = [&test.store, &other];
    let (first, ready) = test.want_of(&stores, "a", &[0]);
    let (second, ready_second) = test.want_of(&stores, "b", &[20]);
    ready.recv_timeout(HANG).unwrap().unwrap();
    // The second has nothing yet that the first could wait for.
    assert_eq!(test.totals().held_bytes, 2 * u64::from(RECORD));
    let mut buffer = Vec::new();
    for store in stores {
        store.read_checked(location(0), &mut buffer, |_| true).unwrap();
    }
    drop(first);
    ready_second.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!(test.totals().late_reads, 0);
    drop(second);
}

#[test]
fn a_failure_is_told_and_the_next_want_tries_again() {
    let folder = tempfile::tempdir().unwrap();
    let test = test(Some(cache(folder.path(), 1000)), 64 << 20);
    let empty = test.store.storage().cache().unwrap().used();
    lock(&test.bucket.state).fails = true;
    // The last block of record 39 is short.
    let (want, ready) = test.want("a", &[0, 39, 50]);
    let error = ready.recv_timeout(HANG).unwrap().unwrap_err().to_string();
    assert!(error.contains("cannot read 0.tar: status 500"), "{error}");
    drop(want);
    assert_eq!(test.store.storage().cache().unwrap().used(), empty, "reservations are given back");
    lock(&test.bucket.state).fails = false;
    let (_want, ready) = test.want("a", &[0, 50]);
    ready.recv_timeout(HANG).unwrap().unwrap();
    test.read(0).unwrap();
    assert_eq!(test.totals().late_reads, 0);
}

#[test]
fn a_request_that_is_dropped_without_an_answer_fails_its_want() {
    let test = test(None, 64 << 20);
    test.bucket.hold();
    let (_want, ready) = test.want("a", &[0]);
    test.bucket.wait_for(1);
    lock(&test.bucket.state).waiting.clear();
    let error = ready.recv_timeout(HANG).unwrap().unwrap_err().to_string();
    assert!(error.contains("shutting down"), "{error}");
}

#[test]
fn a_wrong_block_in_the_cache_is_fetched_again_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let test = test(Some(cache(folder.path(), 1000)), 64 << 20);
    test.epoch(0);
    let bytes = test.bucket.bytes();
    // Block 2 of shard 0 is replaced by zeros, as after a crash of the machine.
    let whole = Run { shard: 0, range: 2 * BLOCK..3 * BLOCK };
    assert!(test.store.shards.keep(&whole, 0, &vec![0; usize::try_from(BLOCK).unwrap()]));
    for _ in 0..2 {
        (0..PER_SHARD).for_each(|record| test.read(record).unwrap());
    }
    // The first record that has a part of the block has all of its blocks replaced, so that no other one is wrong.
    assert_eq!(test.totals().damaged, 1);
    let again = test.bucket.bytes() - bytes;
    assert!((BLOCK..=2 * BLOCK).contains(&again), "{again}");
}

#[test]
fn a_record_that_is_another_one_is_refused_and_not_cached() {
    let folder = tempfile::tempdir().unwrap();
    let test = test(Some(cache(folder.path(), 1000)), 64 << 20);
    let mut buffer = Vec::new();
    for _ in 0..2 {
        let error = test.store.read_checked(location(5), &mut buffer, |_| false).unwrap_err();
        assert!(error.is_change(), "{error}");
    }
    assert_eq!((test.totals().damaged, test.cached()), (2, 0));
}

#[test]
fn a_disk_that_fails_leaves_reads_running() {
    let folder = tempfile::tempdir().unwrap();
    let test = test(Some(cache(folder.path(), 1000)), 64 << 20);
    test.store.storage().cache().unwrap().stop();
    for epoch in 0..2 {
        let totals = test.epoch(epoch);
        assert_eq!((totals.cache_bytes, totals.remote_bytes, totals.late_reads), (0, 2 * SIZE, 0));
    }
}

#[test]
fn blocks_that_are_wrong_give_their_place_back() {
    let folder = tempfile::tempdir().unwrap();
    let test = test(Some(cache(folder.path(), 1000)), 64 << 20);
    let used = || test.store.storage().cache().unwrap().used();
    let (empty, mut buffer) = (used(), Vec::new());
    for fails in [false, false, true] {
        let (want, ready) = test.want("a", &[5]);
        ready.recv_timeout(HANG).unwrap().unwrap();
        drop(want);
        assert!(used() > empty);
        lock(&test.bucket.state).fails = fails;
        test.store.read_checked(location(5), &mut buffer, |_| false).unwrap_err();
        assert_eq!((used(), test.cached()), (empty, 0));
    }
}

#[test]
fn a_block_that_two_processes_fetch_is_reserved_once() {
    let folder = tempfile::tempdir().unwrap();
    let tests = [(); 2].map(|()| test(Some(cache(folder.path(), 1000)), 64 << 20));
    let used = || tests[0].store.storage().cache().unwrap().used();
    let empty = used();
    let wants = tests.each_ref().map(|test| {
        test.bucket.hold();
        let want = test.want("a", &[0]);
        test.bucket.wait_for(1);
        want
    });
    assert_eq!(used(), empty + 2 * BLOCK);
    for (test, (_want, ready)) in tests.iter().zip(&wants) {
        test.bucket.release(1);
        ready.recv_timeout(HANG).unwrap().unwrap();
    }
    assert_eq!((used(), tests[0].cached()), (empty + BLOCK, BLOCK));
}

#[test]
fn blocks_that_the_disk_cannot_read_are_written_again_once_and_then_given_up() {
    let folder = tempfile::tempdir().unwrap();
    // The cache is full, so that there is room for what it has alone.
    let blocks = 2 * SIZE.div_ceil(BLOCK);
    let test = test(Some(cache(folder.path(), blocks)), 64 << 20);
    let cache = || test.store.storage().cache().unwrap();
    test.epoch(0);
    let used = cache().used();
    let lose_last_blocks = || {
        for entry in std::fs::read_dir(folder.path().join("shards")).unwrap() {
            let file = std::fs::OpenOptions::new().write(true).open(entry.unwrap().path()).unwrap();
            file.set_len(file.metadata().unwrap().len() - SIZE % BLOCK).unwrap();
        }
    };
    lose_last_blocks();
    assert_eq!(test.epoch(1).late_reads, 2, "one for each shard");
    assert_eq!((cache().used(), cache().given_up_blocks()), (used, 0));
    let fetched = test.bucket.bytes();
    assert_eq!(test.epoch(2).late_reads, 0);
    assert_eq!((test.epoch(3).cache_bytes, test.bucket.bytes()), (2 * SIZE, fetched));
    lose_last_blocks();
    assert_eq!(test.epoch(4).late_reads, 2);
    for epoch in 5..7 {
        let totals = test.epoch(epoch);
        assert_eq!((totals.remote_bytes, totals.late_reads), (2 * (SIZE % BLOCK), 0));
    }
    assert_eq!((cache().used(), cache().given_up_blocks()), (used, 2));
    assert!(!cache().has_failed());
}

#[test]
fn a_cache_of_which_nothing_can_be_read_any_more_is_repaired_as_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let test = test(Some(cache(folder.path(), 1000)), 64 << 20);
    test.epoch(0);
    for entry in std::fs::read_dir(folder.path().join("shards")).unwrap() {
        // The states are left, and the blocks are not.
        let file = std::fs::OpenOptions::new().write(true).open(entry.unwrap().path()).unwrap();
        file.set_len(8192).unwrap();
    }
    assert!(test.epoch(1).late_reads > 0);
    let fetched = test.bucket.bytes();
    assert_eq!(test.epoch(2).late_reads, 0);
    assert_eq!((test.epoch(3).cache_bytes, test.bucket.bytes()), (2 * SIZE, fetched));
}

#[test]
fn nobody_waits_for_the_lock_of_the_cache_but_the_pool() {
    let folder = tempfile::tempdir().unwrap();
    let test = test(Some(cache(folder.path(), 1000)), 64 << 20);
    let other = std::fs::File::open(folder.path().join("used")).unwrap();
    other.lock().unwrap();
    let (sender, planned) = sync_channel(1);
    let runs = test.store.runs([location(0)]);
    let planned_runs = move || {
        sender.send(()).unwrap();
        vec![runs]
    };
    let _ahead = test.store.storage.want_ahead(planned_runs);
    planned.recv_timeout(HANG).unwrap();
    // From here on the pool waits for the other process, at some time.
    for _ in 0..100 {
        assert!(test.store.storage.pool.held(test.store.number, 0, 0).is_none());
        assert_eq!(test.totals().held_bytes, 0);
        std::thread::sleep(Duration::from_millis(1));
    }
    let (_want, ready) = test.want("a", &[0]);
    other.unlock().unwrap();
    ready.recv_timeout(HANG).unwrap().unwrap();
}

/// Streams over records that are too far from each other to be fetched together, each through its own part of them. As
/// in a server, every stream fetches up to half of the memory ahead, has `window` microbatches requested, and each of
/// these is made as soon as it is ready. Returns the bytes that are requested, and those of the records.
fn bytes_of_streams(streams: usize, memory: u64, window: usize) -> (u64, u64) {
    const APART: usize = 3;
    let test = test(None, memory);
    let records: Vec<u64> = (0..2 * PER_SHARD).step_by(APART).collect();
    let order: Vec<u64> = (0..records.len()).map(|at| records[at * 7 % records.len()]).collect();
    let bytes = |records: &[u64]| records.len() as u64 * u64::from(RECORD);
    let mut names: Vec<_> =
        (0..streams).map(|stream| order.chunks(2).skip(stream).step_by(streams)).collect();
    let mut upcoming: Vec<VecDeque<(&[u64], Want)>> =
        names.iter().map(|_| VecDeque::new()).collect();
    let mut requested: Vec<Vec<_>> = names.iter().map(|_| Vec::new()).collect();
    let begun = std::time::Instant::now();
    loop {
        for (stream, names) in names.iter_mut().enumerate() {
            let upcoming = &mut upcoming[stream];
            while upcoming.iter().map(|(records, _)| bytes(records)).sum::<u64>() < memory / 2
                && let Some(records) = names.next()
            {
                upcoming.push_back((records, test.want_ahead(records)));
            }
            if requested[stream].len() < window
                && let Some((records, ahead)) = upcoming.pop_front()
            {
                let want = test.want(&format!("stream-{stream}"), records);
                requested[stream].push((want, ahead, records));
            }
            for ((want, ready), ahead, records) in std::mem::take(&mut requested[stream]) {
                let Ok(result) = ready.try_recv() else {
                    requested[stream].push(((want, ready), ahead, records));
                    continue;
                };
                result.unwrap();
                for &record in records {
                    test.read(record).unwrap();
                }
                drop(ahead);
                drop(want);
            }
        }
        if upcoming.iter().all(VecDeque::is_empty) && requested.iter().all(Vec::is_empty) {
            break;
        }
        assert!(begun.elapsed() < HANG);
        std::thread::yield_now();
    }
    assert_eq!(test.totals().late_reads, 0);
    (test.bucket.bytes(), bytes(&records))
}

#[test]
fn an_epoch_without_a_cache_fetches_each_record_once_however_many_streams_read_it() {
    for memory in [8, 12, 16, 40] {
        for streams in 1..5 {
            // What is requested, two records each, has room beside what is fetched ahead.
            for window in 1..=memory / 4 / streams {
                let window = usize::try_from(window).unwrap();
                let (fetched, records) = bytes_of_streams(
                    streams.try_into().unwrap(),
                    memory * u64::from(RECORD),
                    window,
                );
                assert_eq!(
                    fetched, records,
                    "{streams} streams, room for {memory}, window {window}"
                );
            }
        }
    }
}
