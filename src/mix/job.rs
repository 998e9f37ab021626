//! The job of a mixer: pixels, plan and output format.

use forebay_types::{DType, Layout, MixedBy, PixelFormat};

use super::normalize::NormalizeTable;
use crate::geometry::Size;
use crate::plan::{MixKind, MixPlan, MixSample};

/// A batch of unmixed pixels, u8 in NHWC, and the format that they are to be delivered in.
///
/// One buffer holds the unmixed pixels and the payload:
///
/// ```text
///   u8 in NHWC           [ pixels, mixed in place ]
///   any other format     [ payload ......................... | unmixed pixels ]
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MixJob<'a> {
    /// Height and width of each sample.
    pub size: Size,
    /// One entry for each sample. Applied if the server mixes.
    pub plan: &'a MixPlan,
    /// Format of the payload.
    pub format: PixelFormat,
    /// Applied unless the payload is u8.
    pub normalize: &'a NormalizeTable,
}

impl MixJob<'_> {
    /// Bytes of the payload, which is at the front of the buffer.
    pub fn payload_bytes(&self) -> usize {
        self.unmixed_bytes() * self.format.dtype.bytes()
    }

    /// Bytes of the unmixed pixels.
    pub fn unmixed_bytes(&self) -> usize {
        self.plan.samples.len() * self.size.rgb_bytes()
    }

    /// Offset of the unmixed pixels in the buffer.
    pub fn unmixed_at(&self) -> usize {
        if self.is_in_place() { 0 } else { self.payload_bytes() }
    }

    /// Bytes of the buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.unmixed_at() + self.unmixed_bytes()
    }

    /// Whether the payload needs no conversion: u8 in NHWC.
    pub fn is_in_place(&self) -> bool {
        matches!((self.format.dtype, self.format.layout), (DType::U8, Layout::Nhwc))
    }

    /// Whether any sample is to be mixed.
    pub fn is_mixed(&self) -> bool {
        let mixed = |sample: &MixSample| sample.kind != MixKind::None;
        self.format.mixed_by == MixedBy::Server && self.plan.samples.iter().any(mixed)
    }
}
