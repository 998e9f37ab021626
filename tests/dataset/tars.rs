use std::fs;
use std::path::Path;
use std::process::Command;

use forebay::dataset::{Dataset, index_path};
use tempfile::tempdir;

use crate::make::{files, image, index, listing, message, opened, skipped, tar};

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
        ("./x/1.0.seg.png", b"another image".to_vec()),
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

pub(crate) fn a_folder_and_a_pattern_name_the_same_dataset() {
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

pub(crate) fn class_names_are_the_lines_of_classes_txt() {
    let root = tempdir().unwrap();
    two_shards(root.path());
    files(root.path(), &[("classes.txt", b"cat\ndog\n".to_vec())]);
    assert_eq!(opened(root.path()).classes(), ["cat", "dog"]);
    files(root.path(), &[("classes.txt", b"\n".to_vec())]);
    assert!(message(index(root.path())).contains("the number of classes is 0"));
    files(root.path(), &[("classes.txt", b"cat\n\ndog\n".to_vec())]);
    assert!(message(index(root.path())).contains("classes.txt: line 2: it is blank"));
    files(root.path(), &[("classes.txt", b"cat\n\xFF\n".to_vec())]);
    assert!(message(index(root.path())).contains("classes.txt: line 2: it is not UTF-8"));
    files(root.path(), &[("classes.txt", b"cat\n".to_vec())]);
    let message = message(index(root.path()));
    assert!(
        message.contains("t-0.tar/a.jpg has label 1, but the number of classes is 1"),
        "{message}"
    );
}

pub(crate) fn malformed_labels_are_refused_with_their_sample() {
    let cases = [
        (vec![("k.jpg", image(1)), ("k.cls", b"-1".to_vec())], "from 0 in its .cls"),
        (vec![("k.jpg", image(1)), ("k.cls", b"cat".to_vec())], "from 0 in its .cls"),
        (vec![("k.jpg", image(1)), ("k.json", b"{}".to_vec())], "`label` or `cls` in its .json"),
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

pub(crate) fn a_truncated_tar_is_refused() {
    let root = tempdir().unwrap();
    two_shards(root.path());
    let whole = fs::read(root.path().join("t-0.tar")).unwrap();
    files(root.path(), &[("t-0.tar", whole[..700].to_vec())]);
    let message = message(index(root.path()));
    assert!(message.contains("t-0.tar: at byte 0: the file is truncated"), "{message}");
    assert!(Dataset::open(root.path(), None).is_err());
}

pub(crate) fn two_samples_of_one_key_are_refused_because_their_labels_could_be_exchanged() {
    let (first, second) = (("k.jpg", image(1)), ("k.JPG", image(2)));
    let label = |name, label: &str| (name, label.as_bytes().to_vec());
    for members in [
        vec![first.clone(), label("k.cls", "0"), second.clone(), label("k.cls", "1")],
        vec![first.clone(), second, label("k.cls", "0")],
        vec![first.clone(), label("k.cls", "0"), label("k.cls", "1")],
        vec![first, label("k.json", "{\"cls\": 0}"), label("k.json", "{\"cls\": 1}")],
    ] {
        let root = tempdir().unwrap();
        files(root.path(), &[("s.tar", tar(&members))]);
        let refused = message(index(&root.path().join("s.tar")));
        let says = "sample `k`: two of its members have the same extension";
        assert!(refused.contains(says), "{refused}");
    }
}

pub(crate) fn members_that_are_not_samples_are_skipped_and_counted() {
    let root = tempdir().unwrap();
    let shard = tar(&[
        ("README.md", b"text".to_vec()),
        ("a.jpg", image(1)),
        ("a.cls", b"1".to_vec()),
        ("b.jpg", image(2)),
        ("c.jpg", image(3)),
        ("d.cls", b"1".to_vec()),
        ("e.jpg", image(4)),
        ("e.cls", b"0".to_vec()),
    ]);
    files(root.path(), &[("s.tar", shard)]);
    let dataset = opened(&root.path().join("s.tar"));
    assert_eq!(listing(&dataset), [("s.tar/a.jpg", 1), ("s.tar/e.jpg", 0)]);
    let names = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    let no_image = "no image (.jpg, .jpeg, .png or .webp)";
    assert_eq!(
        skipped(&dataset),
        [
            (2, no_image.to_owned(), names(["s.tar/README", "s.tar/d"])),
            (2, "no label (.cls or .json)".to_owned(), names(["s.tar/b", "s.tar/c"])),
        ]
    );
    let table = dataset.summary().to_string();
    let line = "2 samples with no label (.cls or .json), such as s.tar/b, s.tar/c";
    assert!(table.contains(line), "{table}");
}

pub(crate) fn a_dataset_without_samples_says_what_was_skipped() {
    let root = tempdir().unwrap();
    files(root.path(), &[("s.tar", tar(&[("a.jpg", image(1)), ("b.jpg", image(2))]))]);
    let message = message(index(&root.path().join("s.tar")));
    let expected = "skipped: 2 samples with no label (.cls or .json), such as s.tar/a, s.tar/b";
    assert!(message.contains(expected), "{message}");
}

pub(crate) fn class_folders_may_have_their_tars_beside_them() {
    let root = tempdir().unwrap();
    files(
        root.path(),
        &[
            ("n1/1.jpg", image(1)),
            ("n2/2.jpg", image(2)),
            ("n1.tar", tar(&[("1.jpg", image(1))])),
            ("n2.tar", tar(&[("2.jpg", image(2))])),
        ],
    );
    assert_eq!(listing(&opened(root.path())), [("n1/1.jpg", 0), ("n2/2.jpg", 1)]);
}

pub(crate) fn tars_with_other_folders_of_images_beside_them_are_the_dataset() {
    let root = tempdir().unwrap();
    two_shards(root.path());
    let expected = [("t-0.tar/a.jpg", 1), ("t-1.tar/b.JPG", 0)];
    files(root.path(), &[("assets/preview.png", image(3)), (".cache/x/1.jpg", image(4))]);
    assert_eq!(listing(&opened(root.path())), expected);
    files(root.path(), &[("docs/figures/1.png", image(5)), ("docs/text.md", b"text".to_vec())]);
    assert_eq!(listing(&opened(root.path())), expected);
    // Folders that look as classes do, of which no tar has the name.
    files(root.path(), &[("docs/2.png", image(6))]);
    let refused = message(index(root.path()));
    let both = "it has shards, such as t-0.tar, and folders with images, such as assets";
    assert!(refused.contains(both) && refused.contains("'*.tar'"), "{refused}");
    assert_eq!(listing(&opened(&root.path().join("*.tar"))), expected);
    // A hidden folder does not hide that a tar is compressed either.
    let hidden = tempdir().unwrap();
    files(hidden.path(), &[(".cache/1.jpg", image(1)), ("a.tar.gz", b"gz".to_vec())]);
    assert!(message(index(hidden.path())).contains("decompress it"));
}

pub(crate) fn a_folder_of_tars_may_have_folders_without_images() {
    let root = tempdir().unwrap();
    two_shards(root.path());
    files(root.path(), &[("logs/out.txt", b"text".to_vec()), ("._t-0.tar", b"junk".to_vec())]);
    assert_eq!(listing(&opened(root.path())), [("t-0.tar/a.jpg", 1), ("t-1.tar/b.JPG", 0)]);
}

pub(crate) fn patterns_may_be_in_folders() {
    let root = tempdir().unwrap();
    let shard = |number| tar(&[("a.jpg", image(number)), ("a.cls", b"0".to_vec())]);
    files(root.path(), &[("p0/s.tar", shard(0)), ("p1/s.tar", shard(1)), ("p1/t-0.tar", shard(2))]);
    let expected = [("p0/s.tar/a.jpg", 0), ("p1/s.tar/a.jpg", 0)];
    for pattern in ["p{0..1}/s.tar", "p*/s.tar", "p[01]/s.tar", "p?/?.tar"] {
        let path = root.path().join(pattern);
        let dataset = opened(&path);
        assert_eq!(listing(&dataset), expected, "{pattern}");
        assert_eq!(dataset.read(1, &mut Vec::new()).unwrap(), image(1));
        assert_eq!(index_path(&path, None).parent(), Some(root.path()));
    }
    assert_eq!(listing(&opened(&root.path().join("p1/t-[01].tar"))), [("t-0.tar/a.jpg", 0)]);
    let missing = message(index(&root.path().join("p{0..2}/s.tar")));
    assert!(missing.contains("p2/s.tar"), "{missing}");
    let malformed = message(index(&root.path().join("p[0/s.tar")));
    assert!(malformed.contains("malformed pattern"), "{malformed}");
}

pub(crate) fn a_compressed_tar_is_refused_with_advice() {
    let root = tempdir().unwrap();
    files(root.path(), &[("s/a.tar.gz", b"gz".to_vec()), ("s/b.tar.gz", b"gz".to_vec())]);
    for path in ["s", "s/a.tar.gz", "s/*.tar.gz"] {
        let message = message(index(&root.path().join(path)));
        assert!(message.contains("decompress it"), "{path}: {message}");
    }
}

pub(crate) fn shards_that_are_compressed_are_not_left_out_silently() {
    let root = tempdir().unwrap();
    two_shards(root.path());
    // What is not a shard of them, and a copy of one of them, are nothing to speak of.
    files(root.path(), &[("devkit_2.tar.gz", b"gz".to_vec()), ("t-1.tar.gz", b"gz".to_vec())]);
    assert_eq!(opened(root.path()).len(), 2);
    files(root.path(), &[("t-2.tar.gz", b"gz".to_vec())]);
    let refused = message(index(root.path()));
    assert!(refused.contains("t-2.tar.gz") && refused.contains("decompress it"), "{refused}");
    for name in ["x.tfrecord.gz", "train-00000-of-00002.gz", "x.parquet.zst"] {
        let root = tempdir().unwrap();
        files(root.path(), &[(name, b"gz".to_vec())]);
        for path in [root.path().to_owned(), root.path().join(name)] {
            let refused = message(index(&path));
            assert!(refused.contains(name) && refused.contains("decompress it"), "{refused}");
        }
    }
}

/// GNU tar itself makes what is read here: long names in both of its formats, a sparse file and a hard link.
pub(crate) fn tars_of_gnu_tar_are_read() {
    let root = tempdir().unwrap();
    let folder = "f".repeat(120);
    let (jpg, cls) =
        (format!("{folder}/{}.jpg", "n".repeat(90)), format!("{folder}/{}.cls", "n".repeat(90)));
    files(root.path(), &[("data/x.jpg", image(1)), ("data/x.cls", b"1".to_vec())]);
    files(&root.path().join("data"), &[(&jpg, image(2)), (&cls, b"0".to_vec())]);
    let holes = fs::File::create(root.path().join("data/y.bin")).unwrap();
    holes.set_len(1 << 20).unwrap();
    // A hard link has no data of its own, so that its sample has no image.
    files(root.path(), &[("data/z.cls", b"1".to_vec())]);
    fs::hard_link(root.path().join("data/x.jpg"), root.path().join("data/z.jpg")).unwrap();
    for format in ["gnu", "pax"] {
        let path = root.path().join(format!("{format}.tar"));
        let mut command = Command::new("tar");
        command.arg(format!("--format={format}")).args(["--sparse", "--sort=name", "-cf"]);
        let status = command.arg(&path).arg("-C").arg(root.path().join("data")).arg(".").status();
        assert!(status.unwrap().success());
        let dataset = opened(&path);
        let long = format!("{format}.tar/{jpg}");
        let short = format!("{format}.tar/x.jpg");
        assert_eq!(listing(&dataset), [(long.as_str(), 0), (short.as_str(), 1)]);
        assert_eq!(dataset.read(0, &mut Vec::new()).unwrap(), image(2));
        let [(_, reason, names)]: [_; 1] = skipped(&dataset).try_into().unwrap();
        assert!(reason.starts_with("no image"), "{reason}");
        assert_eq!(names, ["y", "z"].map(|key| format!("{format}.tar/./{key}")));
    }
}

pub(crate) fn an_image_that_is_stored_sparse_is_skipped() {
    let root = tempdir().unwrap();
    files(root.path(), &[("data/x.cls", b"1".to_vec())]);
    files(root.path(), &[("data/a.jpg", image(1)), ("data/a.cls", b"0".to_vec())]);
    let holes = fs::File::create(root.path().join("data/x.jpg")).unwrap();
    holes.set_len(1 << 20).unwrap();
    for format in ["gnu", "pax"] {
        let path = root.path().join(format!("{format}.tar"));
        let mut command = Command::new("tar");
        command.arg(format!("--format={format}")).args(["--sparse", "--sort=name", "-cf"]);
        let status = command.arg(&path).arg("-C").arg(root.path().join("data")).arg(".").status();
        assert!(status.unwrap().success());
        let dataset = opened(&path);
        assert_eq!(listing(&dataset), [(format!("{format}.tar/a.jpg").as_str(), 0)]);
        let [(count, reason, names)]: [_; 1] = skipped(&dataset).try_into().unwrap();
        assert_eq!((count, names), (1, vec![format!("{format}.tar/./x")]));
        assert!(reason.contains("make the tar without --sparse"), "{format}: {reason}");
    }
}
