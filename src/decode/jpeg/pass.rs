//! The part of its blocks' coefficients that one scan codes (T.81 G.1.1.1).

use super::error::JpegError;
use super::header::{Process, Scan};

/// The part of a block that a scan codes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pass {
    /// Whole blocks.
    Whole,
    /// DC, all bits from `low` on.
    DcFirst { low: u8 },
    /// Bit `low` of DC.
    DcRefine { low: u8 },
    /// A band of AC coefficients, all bits from its lowest on.
    AcFirst(Band),
    /// The lowest bit of a band of AC coefficients.
    AcRefine(Band),
}

/// The AC coefficients `from..=to` in zigzag order, from bit `low` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Band {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) low: u8,
}

impl Pass {
    /// The pass of a scan.
    pub(super) fn of(process: Process, scan: &Scan) -> Result<Self, JpegError> {
        if process == Process::Sequential {
            return Ok(Self::Whole);
        }
        let ((from, to), (high, low)) = (scan.spectral, scan.approximation);
        let dc = from == 0;
        let band = if dc { to == 0 } else { from <= to && to < 64 && scan.count == 1 };
        if !band || low > 13 || (high != 0 && high - 1 != low) {
            let what = "the parameters of a progressive scan";
            return Err(JpegError::Malformed { what, offset: scan.data });
        }
        let band = Band { from: usize::from(from), to: usize::from(to), low };
        Ok(match (dc, high) {
            (true, 0) => Self::DcFirst { low },
            (true, _) => Self::DcRefine { low },
            (false, 0) => Self::AcFirst(band),
            (false, _) => Self::AcRefine(band),
        })
    }

    /// Whether it uses DC tables, and AC tables.
    pub(super) const fn needs(self) -> (bool, bool) {
        match self {
            Self::Whole => (true, true),
            Self::DcFirst { .. } => (true, false),
            Self::DcRefine { .. } => (false, false),
            Self::AcFirst(_) | Self::AcRefine(_) => (false, true),
        }
    }
}
