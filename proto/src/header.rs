//! Validation of headers, by the same function on both ends of the wire.
//!
//! A header is untrusted input: [`check`] accepts it only if all of its numbers agree with each other,
//! so that a caller may size buffers by a header that was checked.

use crate::v1::mix_parameters::Kind;
use crate::v1::{DType, Header, Layout, Rect, TrainerMix};
use xxhash_rust::xxh3::Xxh3;

/// Channels of a pixel.
const CHANNELS: u32 = 3;

/// Bytes of a digest.
const DIGEST: usize = 32;

/// The reason why a header is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The number is not a value of the enumeration, or is the unspecified one.
    #[error(
        "invalid {field}: {value} (expected a value of the .proto's enum, and not UNSPECIFIED)"
    )]
    Enumeration {
        /// The field of the header.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// The shape does not describe images in the header's layout.
    #[error(
        "invalid shape: {0:?} (expected [n, h, w, 3] for NHWC or [n, 3, h, w] for NCHW, all above 0)"
    )]
    Shape(
        /// The shape, truncated to five numbers.
        Vec<u32>,
    ),
    /// The payload's length contradicts the shape and the dtype.
    #[error("invalid payload_bytes: {stated} (expected {expected} from the shape and the dtype)")]
    Payload {
        /// `Header.payload_bytes`.
        stated: u64,
        /// The product of the shape and the bytes of the dtype.
        expected: u64,
    },
    /// The payload is longer than the receiver accepts.
    #[error("payload of {stated} bytes exceeds the limit of {limit}")]
    Limit {
        /// The product of the shape and the bytes of the dtype.
        stated: u128,
        /// The receiver's limit.
        limit: u64,
    },
    /// A field with one entry per sample has more or fewer.
    #[error("invalid {field}: {found} entries for {samples} samples")]
    Entries {
        /// The field of the header.
        field: &'static str,
        /// Number of its entries.
        found: usize,
        /// Samples, by the shape.
        samples: u32,
    },
    /// A digest is not 32 bytes long.
    #[error("invalid {field}: {found} bytes (expected 32)")]
    Digest {
        /// The field of the header.
        field: &'static str,
        /// Its length in bytes.
        found: usize,
    },
    /// A weight is not between 0 and 1.
    #[error("invalid {field} of sample {sample}: {weight} (expected a weight from 0 to 1)")]
    Weight {
        /// The field of the header.
        field: &'static str,
        /// Slot of the sample.
        sample: usize,
        /// The weight.
        weight: f32,
    },
    /// Records, labels, weights or the mix plan differ from what was sent.
    #[error(
        "XXH3 of the targets is {found:016x}, the header states {expected:016x}: corrupted in transit"
    )]
    Targets {
        /// `Header.targets_xxh3`.
        expected: u64,
        /// The hash of what was received.
        found: u64,
    },
    /// A sample of the mix plan takes a rectangle from its partner, and does not say which.
    #[error("invalid mix.rect of sample {sample}: none, although its kind is CUTMIX")]
    NoRect {
        /// Slot of the sample.
        sample: usize,
    },
    /// A rectangle of the mix plan exceeds the image.
    #[error(
        "invalid mix.rect of sample {sample}: it ends at row {bottom} and column {right}, outside of \
         the image of {height} rows and {width} columns"
    )]
    Rect {
        /// Slot of the sample.
        sample: usize,
        /// Row after the last one of the rectangle.
        bottom: u64,
        /// Column after the last one of the rectangle.
        right: u64,
        /// Rows of the image.
        height: u32,
        /// Columns of the image.
        width: u32,
    },
}

/// Accepts a header whose fields agree with each other and whose payload is at most `limit` bytes.
///
/// # Errors
/// When a field is invalid or contradicts another one, or the payload exceeds `limit`.
pub fn check(header: &Header, limit: u64) -> Result<(), HeaderError> {
    let value = header.dtype;
    let dtype = DType::try_from(value).ok().and_then(DType::specified);
    let dtype = dtype.ok_or(HeaderError::Enumeration { field: "dtype", value })?;
    let [samples, height, width] = dimensions(header)?;
    let pixels = u128::from(samples) * u128::from(height) * u128::from(width);
    let payload = pixels * u128::from(CHANNELS) * dtype.bytes() as u128;
    let within = u64::try_from(payload).ok().filter(|bytes| *bytes <= limit);
    let expected = within.ok_or(HeaderError::Limit { stated: payload, limit })?;
    if header.payload_bytes != expected {
        return Err(HeaderError::Payload { stated: header.payload_bytes, expected });
    }
    check_targets(header, samples)?;
    check_digest("dataset_digest", &header.dataset_digest)?;
    check_digest("recipe_digest", &header.recipe_digest)?;
    header.mix.as_ref().map_or(Ok(()), |mix| check_mix(mix, [samples, height, width]))?;
    let found = targets_xxh3(header);
    let expected = header.targets_xxh3.unwrap_or(found);
    if found == expected { Ok(()) } else { Err(HeaderError::Targets { expected, found }) }
}

/// XXH3-64 of everything a trainer learns from besides the pixels, as `Header.targets_xxh3` defines it.
pub fn targets_xxh3(header: &Header) -> u64 {
    let mut hash = Xxh3::new();
    let mut word = |word: u32| hash.update(&word.to_le_bytes());
    for record in &header.records {
        let halves = [*record, *record >> 32].map(|half| (half & 0xffff_ffff) as u32);
        halves.into_iter().for_each(&mut word);
    }
    header.label_a.iter().chain(&header.label_b).copied().for_each(&mut word);
    header.lambda.iter().map(|lambda| lambda.to_bits()).for_each(&mut word);
    for sample in header.mix.iter().flat_map(|mix| &mix.samples) {
        let Rect { top, left, height, width } = sample.rect.unwrap_or_default();
        let weights = [sample.lambda, sample.partner_lambda].map(f32::to_bits);
        word(sample.kind.cast_unsigned());
        weights.into_iter().chain([top, left, height, width]).for_each(&mut word);
    }
    hash.digest()
}

/// Samples, height and width.
fn dimensions(header: &Header) -> Result<[u32; 3], HeaderError> {
    let value = header.layout;
    let layout = Layout::try_from(value).unwrap_or(Layout::Unspecified);
    let dimensions = match (layout, header.shape.as_slice()) {
        (Layout::Nhwc, &[n, h, w, CHANNELS]) | (Layout::Nchw, &[n, CHANNELS, h, w]) => [n, h, w],
        (Layout::Unspecified, _) => {
            return Err(HeaderError::Enumeration { field: "layout", value });
        }
        _ => return Err(shape_error(&header.shape)),
    };
    if dimensions.contains(&0) { Err(shape_error(&header.shape)) } else { Ok(dimensions) }
}

/// Copies at most five numbers, because a peer may send a shape of any length.
fn shape_error(shape: &[u32]) -> HeaderError {
    HeaderError::Shape(shape.iter().copied().take(5).collect())
}

fn check_targets(header: &Header, samples: u32) -> Result<(), HeaderError> {
    check_entries("records", header.records.len(), samples)?;
    check_entries("label_a", header.label_a.len(), samples)?;
    check_entries("label_b", header.label_b.len(), samples)?;
    check_entries("lambda", header.lambda.len(), samples)?;
    for (sample, lambda) in header.lambda.iter().enumerate() {
        check_weight("lambda", *lambda, sample)?;
    }
    Ok(())
}

fn check_mix(mix: &TrainerMix, [samples, height, width]: [u32; 3]) -> Result<(), HeaderError> {
    check_entries("mix.samples", mix.samples.len(), samples)?;
    for (sample, parameters) in mix.samples.iter().enumerate() {
        let value = parameters.kind;
        if Kind::try_from(value).is_err() {
            return Err(HeaderError::Enumeration { field: "mix.kind", value });
        }
        check_weight("mix.lambda", parameters.lambda, sample)?;
        check_weight("mix.partner_lambda", parameters.partner_lambda, sample)?;
        if parameters.kind() == Kind::Cutmix && parameters.rect.is_none() {
            return Err(HeaderError::NoRect { sample });
        }
        if let Some(part) = parameters.rect {
            let bottom = u64::from(part.top) + u64::from(part.height);
            let right = u64::from(part.left) + u64::from(part.width);
            if bottom > u64::from(height) || right > u64::from(width) {
                return Err(HeaderError::Rect { sample, bottom, right, height, width });
            }
        }
    }
    Ok(())
}

fn check_entries(field: &'static str, found: usize, samples: u32) -> Result<(), HeaderError> {
    let agrees = u32::try_from(found).is_ok_and(|found| found == samples);
    if agrees { Ok(()) } else { Err(HeaderError::Entries { field, found, samples }) }
}

fn check_weight(field: &'static str, weight: f32, sample: usize) -> Result<(), HeaderError> {
    let fits = (0.0..=1.0).contains(&weight);
    if fits { Ok(()) } else { Err(HeaderError::Weight { field, sample, weight }) }
}

fn check_digest(field: &'static str, digest: &[u8]) -> Result<(), HeaderError> {
    let found = digest.len();
    if found == DIGEST { Ok(()) } else { Err(HeaderError::Digest { field, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::MixParameters;

    fn good() -> Header {
        Header {
            dataset_digest: vec![1; 32].into(),
            recipe_digest: vec![2; 32].into(),
            dtype: DType::DtypeF16.into(),
            layout: Layout::Nchw.into(),
            shape: vec![2, 3, 5, 7],
            payload_bytes: 2 * 3 * 5 * 7 * 2,
            records: vec![10, 11],
            label_a: vec![0, 1],
            label_b: vec![1, 0],
            lambda: vec![0.25, 1.0],
            mix: Some(TrainerMix { samples: vec![MixParameters::default(); 2] }),
            ..Header::default()
        }
    }

    #[test]
    fn a_header_that_agrees_with_itself_is_accepted() {
        assert_eq!(check(&good(), 420), Ok(()));
        assert_eq!(check(&Header { mix: None, ..good() }, 420), Ok(()));
    }

    #[test]
    fn a_microbatch_of_no_samples_is_refused() {
        let empty = Header {
            shape: vec![0, 3, 5, 7],
            payload_bytes: 0,
            records: vec![],
            label_a: vec![],
            label_b: vec![],
            lambda: vec![],
            mix: None,
            ..good()
        };
        assert_eq!(check(&empty, 420), Err(HeaderError::Shape(vec![0, 3, 5, 7])));
    }

    #[test]
    fn every_field_that_disagrees_is_refused() {
        type Change = fn(&mut Header);
        let changes: [(&str, Change); 17] = [
            ("dtype", |h| h.dtype = 0),
            ("dtype beyond", |h| h.dtype = 77),
            ("layout", |h| h.layout = 0),
            ("the other layout", |h| h.layout = Layout::Nhwc.into()),
            ("three dimensions", |h| h.shape = vec![2, 3, 35]),
            ("no height", |h| h.shape = vec![2, 3, 0, 7]),
            ("product beyond 64 bits", |h| h.shape = vec![u32::MAX, 3, u32::MAX, u32::MAX]),
            ("payload too short", |h| h.payload_bytes -= 1),
            ("payload too long", |h| h.payload_bytes += 1),
            ("records", |h| h.records.push(1)),
            ("label_a", |h| h.label_a.clear()),
            ("label_b", |h| h.label_b.push(0)),
            ("lambda", |h| h.lambda = vec![0.5]),
            ("a lambda of NaN", |h| h.lambda[1] = f32::NAN),
            ("a lambda over 1", |h| h.lambda[0] = 1.5),
            ("dataset digest", |h| h.dataset_digest = vec![1; 31].into()),
            ("recipe digest", |h| h.recipe_digest = vec![].into()),
        ];
        for (what, change) in changes {
            let mut header = good();
            change(&mut header);
            assert!(check(&header, 420).is_err(), "{what}");
        }
        assert_eq!(check(&good(), 419), Err(HeaderError::Limit { stated: 420, limit: 419 }));
    }

    #[test]
    fn a_target_that_changed_in_transit_is_refused() {
        let sent = Header { targets_xxh3: Some(targets_xxh3(&good())), ..good() };
        assert_eq!(check(&sent, 420), Ok(()));
        let changes: [fn(&mut Header); 6] = [
            |h| h.records[1] ^= 1 << 40,
            |h| h.label_a[0] ^= 4,
            |h| h.label_b.swap(0, 1),
            |h| h.lambda[0] = 0.5,
            |h| h.mix.as_mut().unwrap().samples[1].partner_lambda = 0.5,
            |h| h.mix.as_mut().unwrap().samples[0].rect = Some(Rect { top: 1, ..Rect::default() }),
        ];
        for change in changes {
            let mut damaged = sent.clone();
            change(&mut damaged);
            assert!(matches!(check(&damaged, 420), Err(HeaderError::Targets { .. })));
        }
    }

    #[test]
    fn the_error_for_a_long_shape_contains_five_numbers() {
        let long = Header { shape: vec![1; 100_000], ..good() };
        assert_eq!(check(&long, 420), Err(HeaderError::Shape(vec![1; 5])));
    }

    #[test]
    fn a_mix_plan_that_does_not_fit_is_refused() {
        let with = |change: fn(&mut Vec<MixParameters>)| {
            let mut samples = vec![MixParameters::default(); 2];
            change(&mut samples);
            check(&Header { mix: Some(TrainerMix { samples }), ..good() }, 420)
        };
        let part = Rect { top: 3, left: 0, height: 2, width: 7 };
        assert_eq!(check(&good(), 420), Ok(()));
        assert!(with(|s| s.truncate(1)).is_err());
        assert!(with(|s| s[1].kind = 9).is_err());
        assert!(with(|s| s[0].partner_lambda = -0.1).is_err());
        let nowhere = with(|s| s[1].kind = Kind::Cutmix.into());
        assert_eq!(nowhere, Err(HeaderError::NoRect { sample: 1 }));
        let outside = with(|s| s[1].rect = Some(Rect { top: u32::MAX, ..Rect::default() }));
        assert!(matches!(outside, Err(HeaderError::Rect { sample: 1, .. })), "{outside:?}");
        let mut samples = vec![MixParameters::default(); 2];
        samples[0].rect = Some(part);
        assert_eq!(check(&Header { mix: Some(TrainerMix { samples }), ..good() }, 420), Ok(()));
    }
}
