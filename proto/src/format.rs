//! Conversions between pixel formats and their wire enumerations. Each enumeration has an unspecified
//! value, which means the default in a request and is invalid in a header.

use forebay_types::{DType, Layout, MixedBy};

use crate::v1;

impl From<DType> for v1::DType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::U8 => Self::DtypeU8,
            DType::F16 => Self::DtypeF16,
            DType::Bf16 => Self::DtypeBf16,
            DType::F32 => Self::DtypeF32,
        }
    }
}

impl v1::DType {
    /// The specified value, if there is one.
    pub const fn specified(self) -> Option<DType> {
        match self {
            Self::DtypeUnspecified => None,
            Self::DtypeU8 => Some(DType::U8),
            Self::DtypeF16 => Some(DType::F16),
            Self::DtypeBf16 => Some(DType::Bf16),
            Self::DtypeF32 => Some(DType::F32),
        }
    }
}

impl From<Layout> for v1::Layout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Nhwc => Self::Nhwc,
            Layout::Nchw => Self::Nchw,
        }
    }
}

impl v1::Layout {
    /// The specified value, if there is one.
    pub const fn specified(self) -> Option<Layout> {
        match self {
            Self::Unspecified => None,
            Self::Nhwc => Some(Layout::Nhwc),
            Self::Nchw => Some(Layout::Nchw),
        }
    }
}

impl From<MixedBy> for v1::MixedBy {
    fn from(mixed_by: MixedBy) -> Self {
        match mixed_by {
            MixedBy::Server => Self::Server,
            MixedBy::Trainer => Self::Trainer,
        }
    }
}

impl v1::MixedBy {
    /// The specified value, if there is one.
    pub const fn specified(self) -> Option<MixedBy> {
        match self {
            Self::Unspecified => None,
            Self::Server => Some(MixedBy::Server),
            Self::Trainer => Some(MixedBy::Trainer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_survives_the_wire() {
        for dtype in [DType::U8, DType::F16, DType::Bf16, DType::F32] {
            assert_eq!(v1::DType::from(dtype).specified(), Some(dtype));
        }
        for layout in [Layout::Nhwc, Layout::Nchw] {
            assert_eq!(v1::Layout::from(layout).specified(), Some(layout));
        }
        for mixed_by in [MixedBy::Server, MixedBy::Trainer] {
            assert_eq!(v1::MixedBy::from(mixed_by).specified(), Some(mixed_by));
        }
        assert_eq!(v1::DType::default().specified(), None);
        assert_eq!(v1::Layout::default().specified(), None);
        assert_eq!(v1::MixedBy::default().specified(), None);
    }
}
