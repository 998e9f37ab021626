//! Small writers of the layouts that datasets are stored in, for seeds and for tests. They write what the
//! libraries that people use write, byte for byte where these have no choice.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

/// A feature of a `tf.train.Example`.
#[derive(Clone, Copy, Debug)]
pub enum Feature<'a> {
    /// A list of one byte string.
    Bytes(&'a [u8]),
    /// A packed list of one integer.
    Int(i64),
}

/// CRC-32C, bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82F6_3B78 };
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes()
}

/// A record of a TFRecord file.
pub fn tf_record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length, &masked(&length)[..], data, &masked(data)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7F).expect("7 bits") | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("7 bits"));
    bytes
}

/// A field of bytes in a message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2], &varint(content.len() as u64)[..], content].concat()
}

/// A `tf.train.Example`.
pub fn example(features: &[(&str, Feature<'_>)]) -> Vec<u8> {
    let entry = |(key, feature): &(&str, Feature<'_>)| {
        let value = match feature {
            Feature::Bytes(bytes) => field(1, &field(1, bytes)),
            Feature::Int(value) => field(3, &field(1, &varint(value.cast_unsigned()))),
        };
        field(1, &[field(1, key.as_bytes()), field(2, &value)].concat())
    };
    field(1, &features.iter().map(entry).collect::<Vec<_>>().concat())
}

/// A column of an MDS shard: its name, its encoding, and its size if that is fixed.
pub type Column<'a> = (&'a str, &'a str, Option<u32>);

/// An MDS shard with a value for each column of each sample.
///
/// # Panics
/// If it is larger than 4 GB.
pub fn mds_shard(columns: &[Column<'_>], samples: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let size = |length: usize| u32::try_from(length).expect("a small shard").to_le_bytes();
    let sample = |values: &Vec<Vec<u8>>| {
        let variable = columns.iter().zip(values).filter(|((.., size), _)| size.is_none());
        let mut bytes: Vec<u8> = variable.flat_map(|(_, value)| size(value.len())).collect();
        bytes.extend(values.concat());
        bytes
    };
    let samples: Vec<Vec<u8>> = samples.iter().map(sample).collect();
    let config = b"{\"format\": \"mds\"}";
    let mut at = 4 * (samples.len() + 2) + config.len();
    let mut head = size(samples.len()).to_vec();
    head.extend(size(at));
    for sample in &samples {
        at += sample.len();
        head.extend(size(at));
    }
    [head, config.to_vec(), samples.concat()].concat()
}

/// The `index.json` of shards: the name, the samples and the bytes of each.
pub fn mds_index(columns: &[Column<'_>], shards: &[(&str, usize, usize)]) -> String {
    let list = |values: Vec<String>| format!("[{}]", values.join(", "));
    let names = list(columns.iter().map(|(name, ..)| format!("{name:?}")).collect());
    let encodings = list(columns.iter().map(|(_, encoding, _)| format!("{encoding:?}")).collect());
    let size = |size: &Option<u32>| size.map_or("null".to_owned(), |size| size.to_string());
    let sizes = list(columns.iter().map(|(.., fixed)| size(fixed)).collect());
    let shard = |(name, samples, bytes): &(&str, usize, usize)| {
        format!(
            r#"{{"column_encodings": {encodings}, "column_names": {names}, "column_sizes": {sizes},
            "compression": null, "format": "mds", "hashes": [], "samples": {samples}, "size_limit": 67108864,
            "raw_data": {{"basename": "{name}", "bytes": {bytes}, "hashes": {{}}}}, "version": 2,
            "zip_data": null}}"#
        )
    };
    let shards = list(shards.iter().map(shard).collect());
    format!(r#"{{"shards": {shards}, "version": 2}}"#)
}

/// An `index.json` whose shards are compressed, without plain files. `zips` are the lengths of the compressed files.
pub fn mds_index_zstd(index: &str, zips: &[usize]) -> String {
    let zip = |(number, bytes): (usize, &usize)| {
        let name = format!("shard.{number:05}.mds.zstd");
        format!(r#""zip_data": {{"basename": "{name}", "bytes": {bytes}, "hashes": {{}}}}"#)
    };
    let zips = zips.iter().enumerate().map(zip);
    let text =
        zips.fold(index.to_owned(), |text, zip| text.replacen("\"zip_data\": null", &zip, 1));
    text.replace("\"compression\": null", "\"compression\": \"zstd:7\"")
}

/// A frame of Zstandard that compresses nothing, with a window of 1 MiB.
///
/// # Panics
/// If it is larger than 4 GB.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a small file").to_le_bytes();
    let mut frame = [&[0x28, 0xB5, 0x2F, 0xFD, 0x80, 0x50][..], &length].concat();
    let mut rest = bytes;
    loop {
        let (block, after) = rest.split_at(rest.len().min(128 << 10));
        let header =
            u32::try_from(block.len()).expect("128 KiB") << 3 | u32::from(after.is_empty());
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
        if after.is_empty() {
            return frame;
        }
        rest = after;
    }
}

/// A row of the table of synsets: id, synset, words, number of children.
pub type Synset<'a> = (u16, &'a str, &'a str, u8);

/// The `meta.mat` of ILSVRC's development kit.
///
/// # Panics
/// If it is larger than 4 GB.
pub fn meta_mat(synsets: &[Synset<'_>]) -> Vec<u8> {
    let fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children"];
    let names = fields.map(|name| {
        let mut padded = name.as_bytes().to_vec();
        padded.resize(32, 0);
        padded
    });
    let rows = i32::try_from(synsets.len()).expect("a small table");
    let mut parts = vec![
        element(6, &[[2, 0, 0, 0], [0; 4]].concat()),
        element(5, &[rows.to_le_bytes(), 1_i32.to_le_bytes()].concat()),
        element(1, b"synsets"),
        // The length of the names, in the short form.
        [5_u16.to_le_bytes(), 4_u16.to_le_bytes(), 32_u16.to_le_bytes(), [0; 2]].concat(),
        element(1, &names.concat()),
    ];
    for (id, wnid, words, children) in synsets {
        parts.push(matrix(6, 4, 1, &id.to_le_bytes()));
        parts.push(characters(wnid));
        parts.push(characters(words));
        parts.push(characters("a gloss"));
        parts.push(matrix(6, 2, 1, &[*children]));
    }
    let table = element(14, &parts.concat());
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&table).expect("memory");
    let compressed = encoder.finish().expect("memory");
    let mut file = vec![b' '; 124];
    file.extend([0, 1, b'I', b'M']);
    file.extend(15_u32.to_le_bytes());
    file.extend(u32::try_from(compressed.len()).expect("a small table").to_le_bytes());
    file.extend(compressed);
    file
}

/// An element of a MAT file: type, length, data, padding.
fn element(kind: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("a small table");
    let mut bytes = [&kind.to_le_bytes(), &length.to_le_bytes(), data].concat();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// A matrix of one row, of values of a type.
fn matrix(class: u8, kind: u32, columns: usize, data: &[u8]) -> Vec<u8> {
    let columns = i32::try_from(columns).expect("a short text");
    let parts = [
        element(6, &[[class, 0, 0, 0], [0; 4]].concat()),
        element(5, &[1_i32.to_le_bytes(), columns.to_le_bytes()].concat()),
        element(1, b""),
        element(kind, data),
    ];
    element(14, &parts.concat())
}

fn characters(text: &str) -> Vec<u8> {
    let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    matrix(4, 4, text.len(), &units)
}

/// A file that gzip compressed.
///
/// # Panics
/// Never: memory is written.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// A batch of CIFAR as Python 2 pickled it: images of 3072 bytes, labels under a key, and file names.
///
/// # Panics
/// If it is larger than 4 GB.
pub fn cifar_pickle(key: &str, images: &[Vec<u8>], labels: &[u8]) -> Vec<u8> {
    let long = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).expect("a small batch").to_le_bytes();
        [b"T", &length[..], bytes].concat()
    };
    let rows = u16::try_from(images.len()).expect("a small batch").to_le_bytes();
    let array = [
        &b"cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\nq\x05K\x00\x85U\x01bq\x06\x87Rq\x07"[..],
        &[&b"(K\x01M"[..], &rows, b"M\x00\x0c\x86q\x08"].concat(),
        b"cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a",
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
        &long(&images.concat()),
        b"tb",
    ]
    .concat();
    let numbers: Vec<u8> = labels.iter().flat_map(|label| [b'K', *label]).collect();
    let names = (0..labels.len()).flat_map(|index| short(&format!("image_{index:03}.png")));
    let names: Vec<u8> = names.collect();
    [
        &b"\x80\x02}q\x01("[..],
        &[&short("data")[..], b"q\x03", &array].concat(),
        &[&short(key)[..], b"]q\x0b(", &numbers, b"e"].concat(),
        &[&short("filenames")[..], b"]q\x0c(", &names, b"e"].concat(),
        &[&short("batch_label")[..], &short("batch 1 of 5")].concat(),
        b"u.",
    ]
    .concat()
}

/// The names of CIFAR's classes as Python 2 pickled them.
pub fn cifar_meta(key: &str, names: &[&str]) -> Vec<u8> {
    let names: Vec<u8> = names.iter().flat_map(|name| short(name)).collect();
    [&b"\x80\x02}q\x01("[..], &short(key), b"]q\x02(", &names, b"eu."].concat()
}

/// A short string of a pickle.
fn short(text: &str) -> Vec<u8> {
    [b"U", &[u8::try_from(text.len()).expect("a short text")][..], text.as_bytes()].concat()
}
