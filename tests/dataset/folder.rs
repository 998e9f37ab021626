use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Mutex;

use forebay::dataset::{Dataset, Progress, build, index_path};
use tempfile::tempdir;

use crate::make::{cut_image, files, image, index, index_skipping, listing, message, opened};

pub(crate) fn order_and_labels_are_those_of_torchvision() {
    let root = tempdir().unwrap();
    files(
        root.path(),
        &[
            ("b/2.jpg", image(1)),
            ("b/10.JPEG", image(2)),
            ("b/notes.txt", b"not an image".to_vec()),
            ("B/x.Png", image(3)),
            ("a/s/x/1.jpg", image(4)),
            ("a/s-t/1.jpg", image(5)),
            ("a/z.webp", image(6)),
            ("readme.jpg", image(7)),
        ],
    );
    let dataset = opened(root.path());
    assert_eq!(dataset.classes(), ["B", "a", "b"]);
    let expected = [
        ("B/x.Png", 0),
        ("a/z.webp", 1),
        ("a/s-t/1.jpg", 1),
        ("a/s/x/1.jpg", 1),
        ("b/10.JPEG", 2),
        ("b/2.jpg", 2),
    ];
    assert_eq!(listing(&dataset), expected);
    let mut scratch = Vec::new();
    assert_eq!(dataset.read(1, &mut scratch).unwrap(), image(6));
    let record = dataset.record(1);
    assert_eq!((record.size.height, record.size.width), (18, 26));
}

pub(crate) fn a_record_that_does_not_decode_is_bad_and_replaced() {
    let root = tempdir().unwrap();
    files(
        root.path(),
        &[
            ("a/0.jpg", cut_image()),
            ("a/1.jpg", image(1)),
            ("a/2.jpg", b"text".to_vec()),
            ("a/3.jpg", Vec::new()),
            ("b/4.jpg", image(4)),
            ("b/5.jpg", cut_image()),
        ],
    );
    let summary = index(root.path()).unwrap();
    let bad: Vec<_> = summary.bad.iter().map(|bad| (bad.record, bad.name.as_str())).collect();
    assert_eq!(bad, [(0, "a/0.jpg"), (2, "a/2.jpg"), (3, "a/3.jpg"), (5, "b/5.jpg")]);
    assert!(summary.bad[0].reason.contains("truncated"), "{}", summary.bad[0].reason);
    assert!(summary.bad[1].reason.contains("known format"), "{}", summary.bad[1].reason);
    assert_eq!((summary.records, summary.good), (6, 2));
    let dataset = Dataset::open(root.path(), None).unwrap();
    let good: Vec<_> = (0..6).map(|id| dataset.good_or_next(id)).collect();
    assert_eq!(good, [1, 1, 4, 4, 4, 1]);
    assert_eq!(dataset.bad_count(), 4);
    let json = serde_json::to_value(dataset.summary()).unwrap();
    assert_eq!(json["formats"]["JPEG ycbcr"], 4);
    assert_eq!(json["formats"]["unknown"], 2);
    assert_eq!(json["digest"].as_str().unwrap().len(), 64);
    assert!(summary.to_string().contains("bad        4"), "{summary}");
}

pub(crate) fn equal_copies_have_equal_digests_for_any_number_of_threads() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    let images: Vec<(String, Vec<u8>)> =
        (0..100).map(|number| (format!("c{}/{number}.jpg", number % 3), image(number))).collect();
    for root in [&one, &two] {
        for (name, image) in &images {
            files(root.path(), &[(name, image.clone())]);
        }
    }
    let seen = Mutex::new(Vec::new());
    let progress = |Progress { done, total }| seen.lock().unwrap().push((done, total));
    let first = build(one.path(), None, 1, &progress).unwrap();
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, (1..=100).map(|done| (done, 100)).collect::<Vec<_>>());
    assert_eq!(build(two.path(), None, 8, &|_| {}).unwrap(), first);
    files(two.path(), &[("c0/0.jpg", image(200))]);
    assert_ne!(index(two.path()).unwrap().digest, first.digest);
}

pub(crate) fn linked_folders_are_followed_and_loops_are_refused() {
    let root = tempdir().unwrap();
    let elsewhere = tempdir().unwrap();
    files(root.path(), &[("a/1.jpg", image(1))]);
    files(elsewhere.path(), &[("2.jpg", image(2)), ("deep/3.jpg", image(3))]);
    symlink(elsewhere.path(), root.path().join("b")).unwrap();
    symlink(elsewhere.path(), root.path().join("a/more")).unwrap();
    let expected = [
        ("a/1.jpg", 0),
        ("a/more/2.jpg", 0),
        ("a/more/deep/3.jpg", 0),
        ("b/2.jpg", 1),
        ("b/deep/3.jpg", 1),
    ];
    assert_eq!(listing(&opened(root.path())), expected);
    symlink(elsewhere.path(), elsewhere.path().join("deep/loop")).unwrap();
    let message = message(index(root.path()));
    assert!(message.contains("a/more/deep/loop leads back"), "{message}");
}

pub(crate) fn links_that_multiply_paths_are_refused_and_deep_folders_are_not() {
    let root = tempdir().unwrap();
    let name = |number: usize| root.path().join(format!("a/{number}"));
    // Two links to the next folder in each of 30 have a billion paths.
    for number in 0..30 {
        fs::create_dir_all(name(number)).unwrap();
        for link in ["b", "c"] {
            symlink(name(number + 1), name(number).join(link)).unwrap();
        }
    }
    fs::create_dir_all(name(30)).unwrap();
    let refused = message(index(root.path()));
    assert!(refused.contains("by more than 1000 paths; remove links"), "{refused}");
    let root = tempdir().unwrap();
    let deep = format!("a/{}x.jpg", "d/".repeat(500));
    files(root.path(), &[(&deep, image(1))]);
    assert_eq!(listing(&opened(root.path())), [(&*deep, 0)]);
}

pub(crate) fn the_index_can_be_in_another_folder() {
    let (root, other) = (tempdir().unwrap(), tempdir().unwrap());
    files(root.path(), &[("train/a/1.jpg", image(1))]);
    let path = root.path().join("train");
    let index_dir = other.path().join("new");
    let summary = build(&path, Some(&index_dir), 1, &|_| {}).unwrap();
    assert!(index_path(&path, Some(&index_dir)).exists());
    assert!(!index_path(&path, None).exists());
    assert_eq!(Dataset::open(&path, Some(&index_dir)).unwrap().digest(), summary.digest);
}

pub(crate) fn a_failed_build_leaves_the_previous_index() {
    let root = tempdir().unwrap();
    files(root.path(), &[("train/a/1.jpg", image(1))]);
    let path = root.path().join("train");
    index(&path).unwrap();
    let before = fs::read(index_path(&path, None)).unwrap();
    symlink("nowhere", path.join("a/2.jpg")).unwrap();
    index_skipping(0.0, &path).unwrap_err();
    assert_eq!(fs::read(index_path(&path, None)).unwrap(), before);
    let names = fs::read_dir(root.path()).unwrap().count();
    assert_eq!(names, 2, "the dataset and its index, and no temporary file");
}
