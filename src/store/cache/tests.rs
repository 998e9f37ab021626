//! The cache of one shard or two, opened as several processes open it.

use std::fs;
use std::path::Path;

use super::*;

const URL: &str = "s3://b/s.tar";
const SIZE: u64 = 5 * BLOCK + 100;

fn shard(cache: &Cache) -> CachedShard {
    cache.shard(URL, SIZE, "tag").unwrap().unwrap()
}

fn part(range: Range<u64>, is_cached: bool) -> Part {
    Part { range, is_cached }
}

/// Room for a shard and this many blocks.
fn limit(blocks: u64) -> u64 {
    shard::overhead(SIZE) + blocks * BLOCK
}

/// Reserves a block and writes it.
fn add(cache: &Cache, shard: &CachedShard, block: u64) -> bool {
    let end = ((block + 1) * BLOCK).min(SIZE);
    let length = usize::try_from(end - block * BLOCK).unwrap();
    let reserved = cache.reserve(BLOCK);
    if reserved {
        let bytes = vec![u8::try_from(block).unwrap() + 1; length];
        cache.add(shard, block * BLOCK, &bytes, BLOCK).unwrap();
    }
    reserved
}

fn refused(folder: &Path) -> String {
    Cache::open(folder, 1 << 30).unwrap_err().to_string()
}

#[test]
fn blocks_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 1 << 30).unwrap();
    let shard = shard(&cache);
    assert_eq!(shard.parts(10..SIZE), [part(10..SIZE, false)]);
    assert!(add(&cache, &shard, 1) && add(&cache, &shard, 5));
    let parts = [
        part(10..BLOCK, false),
        part(BLOCK..2 * BLOCK, true),
        part(2 * BLOCK..5 * BLOCK, false),
        part(5 * BLOCK..SIZE, true),
    ];
    assert_eq!(shard.parts(10..SIZE), parts);
    let mut bytes = [0; 100];
    shard.read(2 * BLOCK - 100, &mut bytes).unwrap();
    assert_eq!(bytes, [2; 100]);
    shard.read(5 * BLOCK, &mut bytes).unwrap();
    assert_eq!(bytes, [6; 100]);
    assert_eq!(shard.missing(&(0..SIZE)), 4);
    assert_eq!(shard.whole_blocks(&(BLOCK + 1..5 * BLOCK + 1)), BLOCK..SIZE);
}

#[test]
fn bytes_are_hits_only_if_they_were_there_before() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 1 << 30).unwrap();
    let (shard, mut bytes) = (shard(&cache), vec![0; 1000]);
    add(&cache, &shard, 0);
    assert_eq!(shard.read(7, &mut bytes).unwrap(), 0, "it was fetched for this read");
    assert_eq!(shard.read(7, &mut bytes).unwrap(), 1000);
    add(&cache, &shard, 1);
    assert_eq!(shard.read(BLOCK - 600, &mut bytes).unwrap(), 600);
}

#[test]
fn a_full_cache_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), limit(2)).unwrap();
    let shard = shard(&cache);
    let added: Vec<bool> = (0..5).map(|block| add(&cache, &shard, block)).collect();
    assert_eq!(added, [true, true, false, false, false]);
    assert_eq!(cache.used(), limit(2));
    assert_eq!(shard.parts(0..SIZE), [part(0..2 * BLOCK, true), part(2 * BLOCK..SIZE, false)]);
    // Nor is there room for another shard.
    assert!(cache.shard("s3://b/t.tar", SIZE, "tag").unwrap().is_none());
    // A smaller limit removes nothing.
    drop((cache, shard));
    let cache = Cache::open(folder.path(), 0).unwrap();
    let shard = cache.shard(URL, SIZE, "tag").unwrap().unwrap();
    assert_eq!(shard.missing(&(0..SIZE)), 4);
    assert!(!cache.reserve(1));
}

#[test]
fn processes_share_blocks_and_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = [(); 2].map(|()| Cache::open(folder.path(), limit(3)).unwrap());
    let (of_a, of_b) = (shard(&a), shard(&b));
    assert!(add(&a, &of_a, 0) && add(&b, &of_b, 3));
    assert_eq!((a.used(), b.used()), (limit(2), limit(2)));
    for shard in [&of_a, &of_b] {
        assert!(shard.parts(0..1)[0].is_cached && shard.parts(3 * BLOCK..SIZE)[0].is_cached);
    }
    assert!(add(&a, &of_a, 1) && !add(&b, &of_b, 2));
}

#[test]
fn a_process_that_was_killed_leaves_a_right_cache() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), limit(3)).unwrap();
    let other = Cache::open(folder.path(), limit(3)).unwrap();
    let of_killed = shard(&cache);
    assert!(add(&cache, &of_killed, 0));
    // It reserved two blocks, and was killed when one of them was written and did not count yet.
    assert!(cache.reserve(2 * BLOCK));
    let data = shard::overhead(SIZE) + BLOCK;
    let path = folder.path().join("shards").join(shard::id(URL, SIZE, "tag"));
    file::open_to_write(&path).unwrap().0.write_all_at(&[9; 1000], data).unwrap();
    drop((cache, of_killed));
    assert!(!other.reserve(BLOCK), "another process may still write");
    drop(other);
    let cache = Cache::open(folder.path(), limit(3)).unwrap();
    assert_eq!(cache.used(), limit(1));
    let shard = shard(&cache);
    assert_eq!(shard.parts(0..SIZE), [part(0..BLOCK, true), part(BLOCK..SIZE, false)]);
    assert!(add(&cache, &shard, 1) && add(&cache, &shard, 2) && !add(&cache, &shard, 3));
}

#[test]
fn a_shard_whose_creation_was_interrupted_is_created_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 1 << 30).unwrap();
    let path = folder.path().join("shards").join(shard::id(URL, SIZE, "tag"));
    for length in [0, 4096, shard::overhead(SIZE) + SIZE] {
        file::open_to_write(&path).unwrap().0.set_len(length).unwrap();
        let shard = shard(&cache);
        assert_eq!(shard.missing(&(0..SIZE)), 6);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn an_object_that_changed_has_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 1 << 30).unwrap();
    add(&cache, &shard(&cache), 0);
    for (url, size, tag) in
        [(URL, SIZE, "new"), (URL, SIZE + 1, "tag"), ("s3://c/s.tar", SIZE, "tag")]
    {
        let shard = cache.shard(url, size, tag).unwrap().unwrap();
        assert_eq!(shard.missing(&(0..SIZE)), 6);
    }
    assert_eq!(shard(&cache).missing(&(0..SIZE)), 5);
}

#[test]
fn only_a_folder_of_its_own_becomes_a_cache_and_no_file_is_ever_removed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "all of it").unwrap();
    let error = refused(folder.path());
    assert!(error.contains("thesis.tex") && error.contains("name an empty folder"), "{error}");
    // So do names that a cache has, where nothing says that it is one.
    for name in ["shards", "used"] {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(name)).unwrap();
        let error = refused(folder.path());
        assert!(error.contains(&format!("such as {name}; name an empty folder")), "{error}");
    }
    // A volume has this folder when it is new.
    let volume = tempfile::tempdir().unwrap();
    fs::create_dir(volume.path().join("lost+found")).unwrap();
    let cache = Cache::open(volume.path(), 1 << 30).unwrap();
    // A file that looks like one of its own is told, and left alone.
    let path = volume.path().join("shards").join(shard::id(URL, SIZE, "tag"));
    fs::write(&path, [1; 5000]).unwrap();
    let error = cache.shard(URL, SIZE, "tag").unwrap_err().to_string();
    assert!(error.contains("not a file of this cache"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), [1; 5000]);
    // So are files beside them, which do not count.
    drop(cache);
    let cache = Cache::open(volume.path(), 1 << 30).unwrap();
    assert_eq!((cache.used(), path.exists()), (0, true));
    fs::write(volume.path().join("forebay-cache"), "forebay cache 2\n").unwrap();
    assert!(refused(volume.path()).contains("another version"));
}

#[test]
fn blocks_that_are_forgotten_can_be_written_again_without_more_room() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), limit(3)).unwrap();
    let shard = shard(&cache);
    for block in [0, 1, 3] {
        assert!(add(&cache, &shard, block));
    }
    let forgotten = cache.forget(&shard, &(100..4 * BLOCK));
    assert_eq!(forgotten, [0..2 * BLOCK, 3 * BLOCK..4 * BLOCK]);
    assert!(cache.forget(&shard, &(100..4 * BLOCK)).is_empty(), "their place is given once");
    assert_eq!(shard.missing(&(0..SIZE)), 6);
    assert!(!cache.reserve(BLOCK));
    let (used, bytes) = (cache.used(), vec![7; usize::try_from(2 * BLOCK).unwrap()]);
    cache.add(&shard, 0, &bytes, 2 * BLOCK).unwrap();
    assert_eq!(cache.used(), used);
    assert_eq!(shard.missing(&(0..SIZE)), 4);
}

#[test]
fn nothing_is_added_after_the_disk_failed() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 1 << 30).unwrap();
    let shard = shard(&cache);
    assert!(add(&cache, &shard, 0));
    cache.stop();
    assert!(!add(&cache, &shard, 1) && cache.has_failed());
    assert!(shard.parts(0..1)[0].is_cached);
}
