//! Frames round-trip, and malformed ones are errors.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::{Bytes, BytesMut};
use forebay_proto::frame::{self, Bounds, FRAME_BYTES, HEADER_BYTES, Join, JoinError, SplitError};
use forebay_proto::header::HeaderError;
use forebay_proto::v1::mix_parameters::Kind;
use forebay_proto::v1::{
    DType, Frame, Header, Layout, MixParameters, Rect, ServerTimings, TrainerMix,
};
use proptest::prelude::*;
use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64;

const LIMIT: u64 = 64 << 20;

fn microbatch(shape: [u32; 4], dtype: DType) -> (Header, Bytes) {
    let bytes_per_value = dtype.specified().unwrap().bytes() as u64;
    let bytes = shape.iter().map(|n| u64::from(*n)).product::<u64>() * bytes_per_value;
    let payload: Vec<u8> =
        (0..bytes).map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes()[2]).collect();
    let n = shape[0] as usize;
    let header = Header {
        epoch: 3,
        step: 1 << 40,
        microbatch: 2,
        seed: 7,
        dataset_digest: Bytes::from_static(&[1; 32]),
        recipe_digest: Bytes::from_static(&[2; 32]),
        dtype: dtype.into(),
        layout: Layout::Nhwc.into(),
        shape: shape.to_vec(),
        payload_bytes: bytes,
        payload_xxh3: xxh3_64(&payload),
        records: (0..n as u64).collect(),
        label_a: vec![1; n],
        label_b: vec![2; n],
        lambda: vec![0.25; n],
        mix: Some(TrainerMix { samples: vec![MixParameters::default(); n] }),
        timings: Some(ServerTimings { decode: 5, ..ServerTimings::default() }),
        targets_xxh3: None,
        lease: 0,
    };
    (header, payload.into())
}

fn frames(shape: [u32; 4]) -> Vec<Frame> {
    let (header, payload) = microbatch(shape, DType::DtypeU8);
    frame::split(header, payload).unwrap().collect()
}

/// Joins frames until one completes a microbatch or is an error.
fn join(frames: impl IntoIterator<Item = Frame>) -> Result<Option<(Header, Vec<u8>)>, JoinError> {
    let mut join = Join::new(LIMIT);
    for frame in frames {
        if let Some(whole) = join.push(frame)? {
            return Ok(Some(whole));
        }
    }
    join.end().map(|()| None)
}

/// The error of three frames (of 2 MiB and 48 bytes) after a change.
fn refused(change: impl FnOnce(&mut Vec<Frame>)) -> JoinError {
    let mut three = frames([2, 1024, 342, 3]);
    assert_eq!(three.len(), 3);
    change(&mut three);
    join(three).unwrap_err()
}

#[test]
fn frames_have_at_most_one_mebibyte_and_default_limits_hold() {
    let (mut header, payload) = microbatch([7, 224, 224, 3], DType::DtypeF32);
    header.mix = None;
    for frame in frame::split(header, payload).unwrap() {
        assert!(frame.payload.len() <= FRAME_BYTES);
        assert!(frame.encoded_len() < 4 << 20);
    }
}

#[test]
fn a_header_too_large_for_clients_is_not_sent() {
    let (mut header, payload) = microbatch([300_000, 1, 1, 3], DType::DtypeU8);
    header.mix.as_mut().unwrap().samples.iter_mut().for_each(|sample| sample.lambda = 0.5);
    let bytes = header.encoded_len();
    assert!(bytes > HEADER_BYTES);
    assert_eq!(frame::split(header, payload).err(), Some(SplitError::HeaderTooLarge { bytes }));
}

#[test]
fn a_header_that_contradicts_itself_or_its_payload_is_not_sent() {
    let (header, payload) = microbatch([2, 3, 4, 3], DType::DtypeF16);
    let short = payload.slice(1..);
    let error = frame::split(header.clone(), short).err();
    assert_eq!(error, Some(SplitError::Payload { payload: 143, stated: 144 }));
    let error = frame::split(Header { lambda: vec![], ..header }, payload).err();
    let entries = HeaderError::Entries { field: "lambda", found: 0, samples: 2 };
    assert_eq!(error, Some(SplitError::Header(entries)));
}

#[test]
fn each_kind_of_malformed_frame_has_its_own_error() {
    let error = refused(|f| f[0].header = None);
    assert_eq!(error, JoinError::NoHeader { offset: 0 });

    let error = refused(|f| f[1].header = f[0].header.clone());
    let received = FRAME_BYTES as u64;
    let payload_bytes = 2 * 1024 * 342 * 3;
    assert_eq!(error, JoinError::SecondHeader { offset: received, received, payload_bytes });

    let error = refused(|f| f.swap(1, 2));
    assert_eq!(error, JoinError::Gap { offset: 2 * received, expected: received });
    let error = refused(|f| f[0].offset = u64::MAX);
    assert_eq!(error, JoinError::Gap { offset: u64::MAX, expected: 0 });

    let error = refused(|f| f[1].payload = Bytes::new());
    assert_eq!(error, JoinError::FrameBytes { bytes: 0, offset: received, payload_bytes });
    let error = refused(|f| f[1].payload = vec![0; FRAME_BYTES + 1].into());
    assert!(matches!(error, JoinError::FrameBytes { bytes, .. } if bytes == FRAME_BYTES + 1));
    let error = refused(|f| f[2].payload = vec![0; FRAME_BYTES].into());
    assert!(matches!(error, JoinError::FrameBytes { offset, .. } if offset == 2 * received));

    let error = refused(|f| f.truncate(2));
    assert_eq!(error, JoinError::Short { received: 2 * received, payload_bytes });

    let error = refused(|f| f[1].payload = vec![0; FRAME_BYTES].into());
    assert!(matches!(error, JoinError::Digest { epoch: 3, microbatch: 2, .. }));
}

#[test]
fn a_header_that_lies_costs_no_memory() {
    let lie = |change: &dyn Fn(&mut Header)| refused(|f| change(f[0].header.as_mut().unwrap()));
    let header = |error| match error {
        JoinError::Header { source, .. } => source,
        other => panic!("{other}"),
    };
    let error = lie(&|h| {
        h.shape = vec![2, 1 << 20, 1 << 20, 3];
        h.payload_bytes = 6 << 40;
    });
    assert_eq!(header(error), HeaderError::Limit { stated: 6 << 40, limit: LIMIT });
    let shape = |numbers: &[u32]| header(lie(&|h| h.shape = numbers.to_vec()));
    assert_eq!(shape(&[u32::MAX; 4]), HeaderError::Shape(vec![u32::MAX; 4]));
    assert_eq!(shape(&[0, 1, 1, 3]), HeaderError::Shape(vec![0, 1, 1, 3]));
    assert_eq!(shape(&vec![1; 100_000]), HeaderError::Shape(vec![1; 5]));
    let enumeration = |field, value| HeaderError::Enumeration { field, value };
    assert_eq!(header(lie(&|h| h.dtype = 0)), enumeration("dtype", 0));
    assert_eq!(header(lie(&|h| h.layout = 9)), enumeration("layout", 9));
    let payload = HeaderError::Payload { stated: 5, expected: 2 * 1024 * 342 * 3 };
    assert_eq!(header(lie(&|h| h.payload_bytes = 5)), payload);
    let entries = |field, found| HeaderError::Entries { field, found, samples: 2 };
    assert_eq!(header(lie(&|h| h.records.push(1))), entries("records", 3));
    assert_eq!(header(lie(&|h| h.label_b.clear())), entries("label_b", 0));
    let mix = Some(TrainerMix::default());
    assert_eq!(header(lie(&|h| h.mix = mix.clone())), entries("mix.samples", 0));
}

#[test]
fn a_join_restarts_after_a_microbatch_and_after_an_error() {
    let all = frames([2, 1024, 342, 3]);
    let mut join = Join::new(LIMIT);
    join.push(all[0].clone()).unwrap();
    assert_eq!(join.received().unwrap().1.len(), FRAME_BYTES);
    join.push(all[0].clone()).unwrap_err();
    assert!(join.received().is_none());
    for _ in 0..2 {
        let done: Vec<_> = all.iter().filter_map(|f| join.push(f.clone()).unwrap()).collect();
        assert_eq!(done.len(), 1);
        let slab = done.into_iter().next().unwrap().1;
        join.recycle(slab);
    }
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let number = prop_oneof![0..6u32, any::<u32>()];
    let any_shape = prop::collection::vec(number, 0..6);
    let image = (0..3u32, 1..4u32, 1..4u32).prop_map(|(n, h, w)| vec![n, h, w, 3]);
    let header = (
        prop_oneof![1 => any_shape, 3 => image],
        (-1..6i32, 0..4i32, any::<u64>()),
        prop_oneof![0..200u64, any::<u64>()],
        0..6usize,
        prop::option::of(0..6usize),
    );
    let header = header.prop_map(|(shape, (dtype, layout, xxh3), bytes, n, mix)| {
        let right = shape.iter().try_fold(1u64, |p, n| p.checked_mul(u64::from(*n)));
        Header {
            payload_bytes: right.filter(|_| bytes % 4 != 0).unwrap_or(bytes),
            payload_xxh3: xxh3,
            dataset_digest: Bytes::from_static(&[1; 32]),
            recipe_digest: Bytes::from_static(&[2; 32]),
            records: vec![0; n],
            label_a: vec![0; n],
            label_b: vec![0; n],
            lambda: vec![0.0; n],
            mix: mix.map(|n| TrainerMix { samples: vec![MixParameters::default(); n] }),
            shape,
            dtype,
            layout,
            ..Header::default()
        }
    });
    let payload = prop::collection::vec(any::<u8>(), 0..100);
    let offset = prop_oneof![Just(0), 0..200u64, any::<u64>()];
    (prop::option::of(header), offset, payload).prop_map(|(header, offset, payload)| Frame {
        header,
        offset,
        payload: payload.into(),
    })
}

fn any_dtype() -> impl Strategy<Value = DType> {
    prop_oneof![
        Just(DType::DtypeU8),
        Just(DType::DtypeF16),
        Just(DType::DtypeBf16),
        Just(DType::DtypeF32)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn splitting_and_joining_round_trips(n in 1..5u32, h in 1..600u32, w in 1..600u32, dtype in any_dtype()) {
        let (header, payload) = microbatch([n, h, w, 3], dtype);
        let frames = frame::split(header.clone(), payload.clone()).unwrap();
        let (joined, slab) = join(frames).unwrap().unwrap();
        prop_assert_eq!(joined, header);
        prop_assert!(slab == payload);
    }

    #[test]
    fn head_and_payload_equal_the_encoding_by_prost(n in 1..5u32, h in 1..600u32, dtype in any_dtype()) {
        let (header, payload) = microbatch([n, h, 301, 3], dtype);
        let ranges = frame::ranges(payload.len());
        let frames = frame::split(header, payload.clone()).unwrap();
        prop_assert_eq!(ranges.len(), payload.len().div_ceil(FRAME_BYTES));
        for (range, frame) in ranges.zip(frames) {
            let mut bytes = BytesMut::new();
            frame::head(frame.header.clone(), &range, &mut bytes);
            bytes.extend_from_slice(&payload[range]);
            prop_assert!(bytes == frame.encode_to_vec());
            prop_assert_eq!(Frame::decode(bytes).unwrap(), frame);
        }
    }

    #[test]
    fn arbitrary_frames_never_make_a_join_panic_or_exceed_its_limit(frames in prop::collection::vec(any_frame(), 0..20)) {
        let mut join = Join::new(64);
        for frame in frames {
            if let Ok(Some((header, slab))) = join.push(frame) {
                prop_assert_eq!(header.payload_xxh3, xxh3_64(&slab));
            }
            if let Some((header, slab)) = join.received() {
                prop_assert!(header.payload_bytes <= 64 && slab.len() < 64);
            }
        }
    }

    #[test]
    fn a_changed_byte_never_passes(at in any::<prop::sample::Index>(), by in 1..=255u8) {
        let mut all = frames([2, 1024, 342, 3]);
        let range = at.index(all.len());
        let mut bytes = all[range].payload.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        all[range].payload = bytes.into();
        let digest = matches!(join(all), Err(JoinError::Digest { .. }));
        prop_assert!(digest);
    }
}

/// The largest header of a job.
fn largest(bounds: Bounds) -> Header {
    let n = usize::try_from(bounds.samples).unwrap();
    let label = u32::try_from(bounds.classes - 1).unwrap();
    let all = ServerTimings {
        queue: u64::MAX,
        make: u64::MAX,
        read: u64::MAX,
        decode: u64::MAX,
        resize: u64::MAX,
        augment: u64::MAX,
        mix: u64::MAX,
        digest: u64::MAX,
    };
    let plan = |side| MixParameters {
        kind: Kind::Cutmix.into(),
        lambda: 0.5,
        partner_lambda: 0.5,
        rect: Some(Rect { top: side, left: side, height: side, width: side }),
    };
    Header {
        epoch: u64::MAX,
        step: u64::MAX,
        microbatch: u32::MAX,
        seed: u64::MAX,
        dataset_digest: Bytes::from_static(&[1; 32]),
        recipe_digest: Bytes::from_static(&[2; 32]),
        dtype: i32::MAX,
        layout: i32::MAX,
        shape: vec![u32::MAX; 4],
        payload_bytes: u64::MAX,
        payload_xxh3: u64::MAX,
        records: vec![bounds.records - 1; n],
        label_a: vec![label; n],
        label_b: vec![label; n],
        lambda: vec![0.5; n],
        mix: bounds.mixed_size.map(|side| TrainerMix { samples: vec![plan(side); n] }),
        timings: Some(all),
        targets_xxh3: Some(u64::MAX),
        lease: u64::MAX,
    }
}

#[test]
fn the_largest_header_of_a_job_is_known_before_any_is_made() {
    for samples in [1, 2, 256, 29_000, 1 << 20] {
        for (records, classes, mixed_size) in [
            (1, 1, None),
            (1_281_167, 1000, None),
            (1_281_167, 1000, Some(224)),
            (1 << 40, 1 << 20, Some(4096)),
        ] {
            let bounds = Bounds { samples, records, classes, mixed_size };
            let (bound, header) = (bounds.max_header_bytes(), largest(bounds).encoded_len());
            assert!((header..header + 512).contains(&bound), "{bounds:?}: {header}, {bound}");
            assert_eq!(bounds.check().is_ok(), bound <= HEADER_BYTES);
        }
    }
    let huge = Bounds { samples: u64::MAX / 8, records: 9, classes: 9, mixed_size: Some(224) };
    assert!(huge.check().is_err());
}
