//! Frames from an untrusted peer.

use bytes::Bytes;
use forebay_proto::frame::Join;
use forebay_proto::header;
use forebay_proto::v1::{DType, Frame, Header, Layout};
use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64;

use super::Input;

/// Limit of the receiver on the bytes of a microbatch.
const LIMIT: u64 = 1 << 16;

/// A joined microbatch always matches its header, and after an error or an end of stream the next valid microbatch
/// is received.
///
/// Input: messages of a kind (u8), a length (u16) and bytes. Kinds: 0 an encoded frame; 1 the valid header and the
/// first `length` bytes of its payload; 2 the next bytes of the payload; 3 bytes of the payload from an explicit
/// offset; 4 the end of a stream.
pub fn frames(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut join = Join::new(LIMIT);
    let (header, payload) = valid_microbatch(input.u8());
    let mut at = 0;
    while !input.0.is_empty() {
        let kind = input.u8() % 5;
        let length = usize::from(input.u16());
        let frame = match kind {
            0 => match Frame::decode(input.take(length)) {
                Ok(frame) => frame,
                Err(_) => continue,
            },
            4 => {
                join.end().ok();
                continue;
            }
            _ => {
                at = if kind == 1 { 0 } else { at };
                let start = if kind == 3 { usize::from(input.u16()) } else { at };
                let start = start.min(payload.len());
                at = (start + length).min(payload.len());
                let header = (kind == 1).then(|| header.clone());
                Frame { header, offset: start as u64, payload: payload.slice(start..at) }
            }
        };
        if let Ok(Some((header, slab))) = join.push(frame) {
            check(&header, &slab);
            join.recycle(slab);
        }
        assert!(join.received().is_none_or(|(header, slab)| {
            header.payload_bytes <= LIMIT && (slab.len() as u64) < header.payload_bytes
        }));
    }
    join.end().ok();
    let frame = Frame { header: Some(header.clone()), offset: 0, payload: payload.clone() };
    let (received, slab) = join.push(frame).expect("a valid frame").expect("a whole microbatch");
    assert!(received == header && slab == payload);
}

/// Checks that the header and the payload match.
fn check(header: &Header, slab: &[u8]) {
    assert_eq!(header::check(header, LIMIT), Ok(()));
    assert_eq!(header.payload_bytes, slab.len() as u64);
    assert_eq!(header.payload_xxh3, xxh3_64(slab));
}

/// A small valid microbatch.
pub(super) fn valid_microbatch(seed: u8) -> (Header, Bytes) {
    let (n, side) = (1 + u32::from(seed % 3), 1 + u32::from(seed / 3 % 20));
    let dtype = [DType::DtypeU8, DType::DtypeF16, DType::DtypeF32][usize::from(seed % 3)];
    let bytes = dtype.specified().expect("a dtype").bytes() as u64 * u64::from(n * side * side * 3);
    let payload: Vec<u8> =
        (0..bytes).map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes()[2]).collect();
    let header = Header {
        dataset_digest: Bytes::from_static(&[1; 32]),
        recipe_digest: Bytes::from_static(&[2; 32]),
        dtype: dtype.into(),
        layout: Layout::Nhwc.into(),
        shape: vec![n, side, side, 3],
        payload_bytes: bytes,
        payload_xxh3: xxh3_64(&payload),
        records: vec![5; n as usize],
        label_a: vec![1; n as usize],
        label_b: vec![2; n as usize],
        lambda: vec![0.25; n as usize],
        ..Header::default()
    };
    (header, payload.into())
}
