use std::path::Path;

use forebay::dataset::Dataset;
use tempfile::tempdir;

use crate::make::{files, image, index, listing, message, opened, tar};

fn two_shards(root: &Path) {
    files(
        root,
        &[
            ("t-0.tar", tar(&[("a.jpg", image(1)), ("a.cls", b"1".to_vec())])),
            ("t-1.tar", tar(&[("b.cls", b"0\n".to_vec()), ("b.JPG", image(2))])),
        ],
    );
}

pub(crate) fn labels_come_from_cls_or_json() {
    let root = tempdir().unwrap();
    let path = root.path().join("s.tar");
    let shard = tar(&[
        ("./x/1.0.seg.png", b"not the image".to_vec()),
        ("./x/1.json", br#"{"label": 7}"#.to_vec()),
        ("./x/1.cls", b" 2 ".to_vec()),
        ("./x/1.png", image(9)),
        ("./x/1.jpg", image(1)),
        ("y/2.jpeg", image(2)),
        ("y/2.json", br#"{"cls": 3, "text": "a.b"}"#.to_vec()),
        ("y/.hidden", b"".to_vec()),
        ("__head__", b"".to_vec()),
    ]);
    files(root.path(), &[("s.tar", shard)]);
    let dataset = opened(&path);
    assert_eq!(listing(&dataset), [("s.tar/x/1.jpg", 2), ("s.tar/y/2.jpeg", 3)]);
    assert_eq!(dataset.classes(), ["0", "1", "2", "3"]);
    let mut scratch = Vec::new();
    assert_eq!(dataset.read(1, &mut scratch).unwrap(), image(2));
}

pub(crate) fn shards_by_folder_and_by_pattern_are_the_same_dataset() {
    let root = tempdir().unwrap();
    two_shards(root.path());
    let folder = index(root.path()).unwrap();
    assert_eq!((folder.records, folder.shards), (2, 2));
    for pattern in ["t-*.tar", "t-{0..1}.tar", "t-{1,0}.tar", "{t-0,t-1}.tar"] {
        let dataset = opened(&root.path().join(pattern));
        assert_eq!(dataset.digest(), folder.digest, "{pattern}");
        assert_eq!(listing(&dataset), [("t-0.tar/a.jpg", 1), ("t-1.tar/b.JPG", 0)]);
    }
    let missing = message(index(&root.path().join("t-{0..2}.tar")));
    assert!(missing.contains("t-2.tar"), "{missing}");
    assert!(message(index(&root.path().join("u-*.tar"))).contains("no dataset"));
}

pub(crate) fn classes_have_names_where_classes_txt_is() {
    let root = tempdir().unwrap();
    two_shards(root.path());
    files(root.path(), &[("classes.txt", b"cat\ndog\n".to_vec())]);
    assert_eq!(opened(root.path()).classes(), ["cat", "dog"]);
    files(root.path(), &[("classes.txt", b"\n".to_vec())]);
    assert!(message(index(root.path())).contains("there are 0 classes"));
    files(root.path(), &[("classes.txt", b"cat\n".to_vec())]);
    let message = message(index(root.path()));
    assert!(message.contains("t-0.tar/a.jpg: label 1, but there are 1 classes"), "{message}");
}

pub(crate) fn samples_that_lack_something_are_named() {
    let cases = [
        (vec![("k.jpg", image(1))], "it has no label"),
        (vec![("k.cls", b"1".to_vec())], "it has no image"),
        (vec![("k.jpg", image(1)), ("k.cls", b"-1".to_vec())], ".cls is not a whole number"),
        (vec![("k.jpg", image(1)), ("k.cls", b"cat".to_vec())], ".cls is not a whole number"),
        (vec![("k.jpg", image(1)), ("k.json", b"{}".to_vec())], ".json has no whole number"),
    ];
    for (sample, expected) in cases {
        let root = tempdir().unwrap();
        let good = [("a.jpg", image(1)), ("a.cls", b"1".to_vec())];
        files(root.path(), &[("s.tar", tar(&[&good[..], &sample].concat()))]);
        let message = message(index(&root.path().join("s.tar")));
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("s.tar: at byte 2560: sample `k`"), "{message}");
    }
}

pub(crate) fn a_cut_tar_is_refused() {
    let root = tempdir().unwrap();
    two_shards(root.path());
    let whole = std::fs::read(root.path().join("t-0.tar")).unwrap();
    files(root.path(), &[("t-0.tar", whole[..700].to_vec())]);
    let message = message(index(root.path()));
    assert!(message.contains("t-0.tar: at byte 0: the file is truncated"), "{message}");
    assert!(Dataset::open(root.path(), None).is_err());
}
