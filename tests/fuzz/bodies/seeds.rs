//! Generated seeds: small files of every kind that the targets read.

use std::fs;
use std::io::{Cursor, Read as _};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use forebay::dataset::{build, index_path};
use forebay::recipe::PRESETS;
use image::{DynamicImage, ImageFormat, RgbImage};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use prost::Message as _;

use super::frames::valid_microbatch;
use super::writers::{
    Feature, cifar_meta, cifar_pickle, example, mds_index, mds_index_zstd, mds_shard, meta_mat,
    tf_record, zstd,
};

/// The names of the targets and their inputs.
pub fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        ("region", regions()),
        ("picture", pictures()),
        ("index", indexes()),
        ("tar", tars()),
        ("layouts", layouts()),
        ("parquet", parquets()),
        ("frames", streams()),
        ("recipe", recipes()),
    ]
}

/// Parameters of a JPEG file.
#[derive(Clone, Copy, Debug)]
pub struct Jpeg {
    /// Width and height.
    pub size: (u16, u16),
    /// Subsampling of the chroma components.
    pub sampling: SamplingFactor,
    /// Color space of the pixels.
    pub color: ColorType,
    /// Number of scans of a progressive file, 0 for a sequential file.
    pub scans: u8,
    /// MCUs between restart markers, 0 for none.
    pub restart: u16,
    /// Whether the Huffman tables are optimized for the file.
    pub optimized: bool,
}

impl Jpeg {
    /// The most common form: sequential, 4:2:0.
    pub const USUAL: Self = Self {
        size: (43, 37),
        sampling: SamplingFactor::F_2_2,
        color: ColorType::Rgb,
        scans: 0,
        restart: 0,
        optimized: false,
    };

    /// Encodes the file.
    ///
    /// # Panics
    /// If the encoder does not support the parameters.
    pub fn encode(self) -> Vec<u8> {
        let (width, height) = self.size;
        let channels = match self.color {
            ColorType::Luma => 1,
            ColorType::Rgb => 3,
            _ => 4,
        };
        let pixels = pixels(width.into(), height.into(), channels);
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 85);
        encoder.set_sampling_factor(self.sampling);
        encoder.set_restart_interval(self.restart);
        encoder.set_optimized_huffman_tables(self.optimized);
        if self.scans > 0 {
            encoder.set_progressive_scans(self.scans);
        }
        encoder.encode(&pixels, width, height, self.color).expect("supported parameters");
        file
    }
}

/// A deterministic gradient with edges and noise.
fn pixels(width: usize, height: usize, channels: usize) -> Vec<u8> {
    let sample = |i: usize| {
        let (x, y, c) = (i / channels % width, i / channels / width, i % channels);
        let edge = if (x / 9 + y / 7).is_multiple_of(2) { 70 } else { 0 };
        (x * (3 + c) + y * (5 - c) + edge + ((i * 2_654_435_761) >> 13) % 23).to_le_bytes()[0]
    };
    (0..width * height * channels).map(sample).collect()
}

/// JPEGs of each subsampling, process and color space.
pub fn jpegs() -> Vec<Vec<u8>> {
    use SamplingFactor::{F_1_1, F_1_2, F_1_4, F_2_1, F_2_4, F_4_1, F_4_2};
    let usual = Jpeg::USUAL;
    let samplings = [F_1_1, F_2_1, F_1_2, F_4_1, F_4_2, F_1_4, F_2_4];
    let mut all = vec![
        usual,
        Jpeg { optimized: true, size: (90, 21), ..usual },
        Jpeg { restart: 1, ..usual },
        Jpeg { restart: 3, sampling: F_1_1, ..usual },
        Jpeg { size: (1, 1), ..usual },
        Jpeg { size: (5, 70), sampling: F_2_1, ..usual },
        Jpeg { scans: 4, ..usual },
        Jpeg { scans: 9, sampling: F_1_1, optimized: true, ..usual },
        Jpeg { scans: 3, restart: 2, sampling: F_2_1, ..usual },
        Jpeg { color: ColorType::Luma, ..usual },
        Jpeg { color: ColorType::Luma, scans: 5, restart: 4, ..usual },
        Jpeg { color: ColorType::Cmyk, sampling: F_1_1, ..usual },
        Jpeg { color: ColorType::CmykAsYcck, ..usual },
        Jpeg { color: ColorType::CmykAsYcck, scans: 4, ..usual },
    ];
    all.extend(samplings.map(|sampling| Jpeg { sampling, ..usual }));
    all.into_iter().map(Jpeg::encode).collect()
}

fn regions() -> Vec<Vec<u8>> {
    // Boxes at a corner, in the middle, and outside of the image; entry points every 1, 3 and 8 MCUs.
    let heads: [([u16; 4], u16); 3] =
        [([0, 0, 8, 8], 1), ([11, 9, 13, 17], 3), ([30, 30, 400, 2], 8)];
    let files = jpegs();
    let input = |(file, (rect, every)): (&Vec<u8>, &([u16; 4], u16))| {
        let head: Vec<u8> = rect.iter().chain([every]).flat_map(|n| n.to_le_bytes()).collect();
        // The input has no forged entry points, and changes one byte of the correct ones.
        [&head, &[0][..], &[15, 0, 4], &[0; 9], file].concat()
    };
    files.iter().zip(heads.iter().cycle()).map(input).collect()
}

/// The formats of [`odd`].
pub const FORMATS: [&str; 7] = ["bmp", "gif", "jpeg", "png", "pnm", "tiff", "webp"];

/// The odd files of golden suite 13, in the order of [`FORMATS`].
const ODD: [&[u8]; 7] = [
    include_bytes!("../../goldens/13_odd/bmp.gz"),
    include_bytes!("../../goldens/13_odd/gif.gz"),
    include_bytes!("../../goldens/13_odd/jpeg.gz"),
    include_bytes!("../../goldens/13_odd/png.gz"),
    include_bytes!("../../goldens/13_odd/pnm.gz"),
    include_bytes!("../../goldens/13_odd/tiff.gz"),
    include_bytes!("../../goldens/13_odd/webp.gz"),
];

/// The odd files of a format, as inputs of `picture`.
///
/// # Panics
/// If suite 13 lacks the format.
pub fn odd(format: &str) -> Vec<Vec<u8>> {
    let at = FORMATS.iter().position(|name| *name == format).expect("a format");
    with_box(unpacked(ODD[at]))
}

/// The files of an archive of golden suite 13, each of which is stored after its length.
///
/// # Panics
/// If the archive is damaged.
pub fn unpacked(archive: &[u8]) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(archive).read_to_end(&mut bytes).expect("gzip");
    let (mut rest, mut files) = (&bytes[..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk() {
        let (file, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        files.push(file.to_vec());
        rest = after;
    }
    files
}

/// Inputs of `picture`, with a box whose edges lie on those of blocks.
fn with_box(files: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    files.into_iter().map(|file| [&[16, 0, 8, 0, 8, 0, 8, 0], &file[..]].concat()).collect()
}

fn pictures() -> Vec<Vec<u8>> {
    let rgb = RgbImage::from_raw(23, 19, pixels(23, 19, 3)).expect("as many pixels");
    let image = DynamicImage::from(rgb);
    let images = [
        image.clone(),
        image.to_luma8().into(),
        image.to_rgba8().into(),
        image.to_luma16().into(),
        image.to_rgb16().into(),
        image.to_luma_alpha16().into(),
    ];
    let mut files = jpegs();
    let mut add = |image: &DynamicImage, format| {
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, format).expect("a form that the format has");
        files.push(file.into_inner());
    };
    for image in &images {
        add(image, ImageFormat::Png);
    }
    for format in [ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::WebP] {
        add(&image, format);
    }
    with_box(files)
}

/// Writes a dataset of two good records and a bad one, a tar or a folder, and tells its path.
///
/// # Panics
/// When the disk refuses.
pub fn dataset(parent: &Path, is_folder: bool) -> PathBuf {
    let good = Jpeg { size: (20, 12), ..Jpeg::USUAL }.encode();
    let members = [("a/0", &good[..], "0"), ("a/1", &good[..40], "0"), ("b/2", &good, "1")];
    if is_folder {
        let root = parent.join("folder");
        for (name, image, _) in members {
            let path = root.join(name).with_extension("jpg");
            fs::create_dir_all(path.parent().expect("a class")).expect("a folder");
            fs::write(path, image).expect("a file");
        }
        return root;
    }
    let files = members.iter().flat_map(|(name, image, class)| {
        [(format!("{name}.jpg"), *image), (format!("{name}.cls"), class.as_bytes())]
    });
    let path = parent.join("s.tar");
    fs::write(&path, archive(files)).expect("a file");
    path
}

/// Writes a dataset of a Parquet file whose records are in compressed ranges, and tells its path.
///
/// # Panics
/// When the disk refuses.
pub fn compressed(parent: &Path) -> PathBuf {
    let path = parent.join("s.parquet");
    let file = include_bytes!("../../formats/parquet/repeats_snappy.parquet");
    fs::write(&path, file).expect("a file");
    path
}

fn indexes() -> Vec<Vec<u8>> {
    let index = |write: fn(&Path) -> PathBuf| {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let path = write(parent.path());
        build(&path, None, 1, &|_| {}).expect("two good records");
        fs::read(index_path(&path, None)).expect("just built")
    };
    let tar = index(|parent| dataset(parent, false));
    let folder = index(|parent| dataset(parent, true));
    let parquet = index(compressed);
    let input = |flags: u8, file: &[u8]| [&[flags], file].concat();
    vec![input(0, &tar), input(2, &tar), input(3, &folder), input(6, &parquet)]
}

fn archive<'a>(files: impl Iterator<Item = (String, &'a [u8])>) -> Vec<u8> {
    let entries = files.map(|(name, data)| entry(name.as_bytes(), b'0', data));
    let mut bytes = entries.collect::<Vec<_>>().concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A member of a tar.
fn entry(name: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name);
    header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    header[156] = kind;
    header[257..263].copy_from_slice(b"ustar\0");
    seal(&mut header);
    let mut bytes = [&header, data].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Sets the checksum of a tar header.
pub(super) fn seal(header: &mut [u8; 512]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn tars() -> Vec<Vec<u8>> {
    let image = Jpeg { size: (9, 9), ..Jpeg::USUAL }.encode();
    let plain: [(&str, &[u8]); 3] = [("x/0.jpg", &image), ("x/0.cls", b"1"), ("x/0.txt", b"words")];
    let json: [(&str, &[u8]); 2] = [("1.png", &image), ("1.json", br#"{"label": 2}"#)];
    let long = [
        entry(b"././@LongLink", b'L', &[&[b'n'; 150][..], b".jpg\0"].concat()),
        entry(b"n", b'0', &image),
        entry(b"pax", b'x', b"14 path=2.jpg\n11 size=03\n"),
        entry(b"p", b'0', &image[..3]),
        entry(b"folder/", b'5', b""),
        entry(b"2.cls", b'0', b"0"),
    ]
    .concat();
    let tars = [archive(owned(&plain)), archive(owned(&json)), long];
    tars.iter().map(|tar| [&[1], &tar[..]].concat()).collect()
}

const COLUMNS: [(&str, &str, Option<u32>); 2] =
    [("image", "jpeg", None), ("label", "int", Some(8))];

/// A file of each kind of `layouts`.
fn of_layout(kind: usize) -> Vec<u8> {
    let image = Jpeg { size: (9, 9), ..Jpeg::USUAL }.encode();
    let class_tar = |name: &str| archive([(format!("{name}_1.JPEG"), &image[..])].into_iter());
    let shard = || {
        let sample = |label: i64| vec![image.clone(), label.to_le_bytes().to_vec()];
        mds_shard(&COLUMNS, &[sample(0), sample(1)])
    };
    match kind {
        0 => {
            let slim = |label| {
                let fields = [
                    ("image/encoded", Feature::Bytes(&image)),
                    ("image/class/label", Feature::Int(label)),
                    ("image/class/synset", Feature::Bytes(b"n01440764")),
                    ("image/filename", Feature::Bytes(b"a.JPEG")),
                ];
                tf_record(&example(&fields))
            };
            [slim(1), slim(2)].concat()
        }
        1 => {
            let inner =
                ["n01440764", "n01443537"].map(|name| (format!("{name}.tar"), class_tar(name)));
            archive(inner.iter().map(|(name, tar)| (name.clone(), &tar[..])))
        }
        2 => meta_mat(&[(1, "n2", "two", 0), (2, "n1", "one", 0), (3, "n3", "parent", 2)]),
        3 => shard(),
        4 => mds_index(&COLUMNS, &[("shard.00000.mds", 2, shard().len())]).into_bytes(),
        5 => b"path,label,split\na/1.jpg,cat,\n\"a/2.jpg\",dog,\n".to_vec(),
        6 => cifar_pickle("labels", &[vec![7; 3072], vec![9; 3072]], &[0, 1]),
        8 => zstd(&shard()),
        _ => br#"{"featuresDict": {"features": {
            "image": {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image"},
            "label": {"pythonClassName": "x.ClassLabel", "classLabel": {"numClasses": "2"}}}}}"#
            .to_vec(),
    }
}

fn layouts() -> Vec<Vec<u8>> {
    let kinds = (0_u8..9).map(|kind| [&[kind], &of_layout(kind.into())[..]].concat());
    kinds.collect()
}

/// Writes what belongs to the hostile file of a kind of `layouts`, which has `length` bytes, and returns the path of the
/// dataset.
///
/// # Panics
/// When the disk refuses.
pub fn surroundings(root: &Path, kind: usize, length: usize) -> PathBuf {
    let image = Jpeg { size: (9, 9), ..Jpeg::USUAL }.encode();
    let write = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    };
    fs::create_dir_all(root).expect("a folder");
    match kind {
        2 => {
            let images =
                ["1", "2"].map(|n| (format!("ILSVRC2012_val_0000000{n}.JPEG"), &image[..]));
            write("ILSVRC2012_img_val.tar", &archive(images.into_iter()));
            let truth = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt";
            write(truth, b"1\n2\n");
            fs::create_dir_all(root.join("ILSVRC2012_devkit_t12/data")).expect("a folder");
        }
        3 => write("index.json", &of_layout(4)),
        4 => write("shard.00000.mds", &of_layout(3)),
        5 => {
            write("a/1.jpg", &image);
            write("a/2.jpg", &image);
            return root.join("list.csv");
        }
        6 => {
            write("batches.meta", &cifar_meta("label_names", &["cat", "dog"]));
            for batch in
                ["data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
            {
                write(batch, &of_layout(6));
            }
            return PathBuf::from(format!("{}#train", root.display()));
        }
        8 => {
            let plain = String::from_utf8(of_layout(4)).expect("JSON");
            write("index.json", mds_index_zstd(&plain, &[length]).as_bytes());
        }
        7 => {
            let fields = [("image", Feature::Bytes(&image)), ("label", Feature::Int(1))];
            write("x.tfrecord", &tf_record(&example(&fields)));
        }
        _ => {}
    }
    root.to_path_buf()
}

/// Files that pyarrow and datasets wrote, of each compression and kind of page.
fn parquets() -> Vec<Vec<u8>> {
    let files: [&[u8]; 10] = [
        include_bytes!("../../formats/parquet/none_v1_plain.parquet"),
        include_bytes!("../../formats/parquet/snappy_v1_dictionary.parquet"),
        include_bytes!("../../formats/parquet/snappy_v2_plain.parquet"),
        include_bytes!("../../formats/parquet/zstd_v2_dictionary.parquet"),
        include_bytes!("../../formats/parquet/gzip_v1_plain.parquet"),
        include_bytes!("../../formats/parquet/repeats_snappy.parquet"),
        include_bytes!("../../formats/parquet/nulls_v2.parquet"),
        include_bytes!("../../formats/parquet/datasets.parquet"),
        include_bytes!("../../formats/parquet/text.parquet"),
        include_bytes!("../../formats/parquet/manifest_text.parquet"),
    ];
    files.map(<[u8]>::to_vec).into()
}

fn owned<'a>(files: &[(&str, &'a [u8])]) -> impl Iterator<Item = (String, &'a [u8])> {
    files.iter().map(|(name, data)| ((*name).to_owned(), *data))
}

fn streams() -> Vec<Vec<u8>> {
    let message = |kind: u8, length: usize, data: &[u8]| {
        let length = u16::try_from(length).expect("short");
        [&[kind][..], &length.to_le_bytes(), data].concat()
    };
    let (header, payload) = valid_microbatch(7);
    let encoded =
        forebay_proto::v1::Frame { header: Some(header), offset: 0, payload }.encode_to_vec();
    let whole = [&[7], &message(0, encoded.len(), &encoded)[..]].concat();
    let pieces = [message(1, 50, &[]), message(2, 20, &[]), message(2, 9999, &[])].concat();
    let cut = [message(1, 50, &[]), message(4, 0, &[]), message(3, 9, &[50, 0])].concat();
    vec![whole, [&[20], &pieces[..]].concat(), [&[33], &cut[..]].concat()]
}

fn recipes() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = PRESETS.map(|(_, text)| text.as_bytes().to_vec()).into();
    for text in [
        "base = \"a3\"\nimage_size = 128\nbatch = 512\nmix.mode = \"elem\"\ninterpolation = \"random\"\n",
        "base = \"a2\"\0batch = 32\0microbatches = 2\0crop.scale = [0.35, 1.0]\0mix.mode = \"pair\"",
        "base = \"a2\"\n[sampling]\nbalance = 0.5\nweights = { \"a.\\u0007\" = 2, kind = 0 }\0sampling.weights.kind = 1",
        "base = \"a2\"\nauto_augment = \"rand-m9-n3-mstd0.5-inc1-tweights\"\0auto_augment = \"augmix-m5-w4-d2\"",
        "base = \"a1\"\0auto_augment = \"torchvision-rand-n2-m9-bilinear\"\0randaugment.ops = 0",
        "base = \"eval\"\0crop = { kind = \"center\", resize = 256 }\0randaugment = { ops = 3, magnitude = 9, std = 0.5, probability = 1 }",
    ] {
        all.push(text.as_bytes().to_vec());
    }
    all
}
