//! The form that every microbatch of a job must have.

use std::sync::Arc;

use forebay_proto::header;
use forebay_proto::types::{Digest, Layout, MicrobatchName, MixedBy, PixelFormat};
use forebay_proto::v1::{self, Header};

use crate::description::Description;
use crate::error::{Cause, WireError};

/// The form of a job's microbatches.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) description: Arc<Description>,
    pub(crate) seed: u64,
    pub(crate) format: PixelFormat,
    /// Largest payload that is accepted, in bytes.
    pub(crate) max_bytes: u64,
}

impl Expected {
    /// The number of bytes of a microbatch's pixels.
    pub(crate) fn bytes(&self, name: MicrobatchName) -> usize {
        let side = u64::from(self.description.image_size_at(name.epoch));
        let sample = side.saturating_mul(side).saturating_mul(3 * self.format.dtype.bytes() as u64);
        let samples = self.description.samples(name.step, name.index);
        usize::try_from(samples.saturating_mul(sample)).unwrap_or(usize::MAX)
    }

    /// Accepts the header of the microbatch of that name, and rejects every other one.
    ///
    /// # Errors
    /// When the header is invalid, or belongs to another microbatch or job.
    pub(crate) fn check(&self, header: &Header, name: MicrobatchName) -> Result<(), Cause> {
        header::check(header, self.max_bytes).map_err(WireError::from)?;
        let Header { seed, epoch, step, microbatch: index, .. } = *header;
        let found = MicrobatchName { seed, epoch, step, index };
        if found != (MicrobatchName { seed, ..name }) {
            return Err(WireError::Order { expected: name, found }.into());
        }
        check_digest("dataset", self.description.dataset_digest, &header.dataset_digest)?;
        check_digest("recipe", self.description.recipe_digest, &header.recipe_digest)?;
        let PixelFormat { dtype, layout, .. } = self.format;
        let side = u64::from(self.description.image_size_at(name.epoch));
        let shape = match layout {
            Layout::Nhwc => &header.shape[1..3],
            Layout::Nchw => &header.shape[2..4],
        };
        let number = |value: i32| u64::try_from(value).unwrap_or(u64::MAX);
        let samples = self.description.samples(name.step, name.index);
        for (what, expected, found) in [
            ("the seed", name.seed, seed),
            ("the dtype's number", number(v1::DType::from(dtype).into()), number(header.dtype)),
            ("the layout's number", number(v1::Layout::from(layout).into()), number(header.layout)),
            ("the number of samples", samples, header.records.len() as u64),
            ("the height", side, shape[0].into()),
            ("the width", side, shape[1].into()),
        ] {
            if expected != found {
                return Err(WireError::Unexpected { what, expected, found }.into());
            }
        }
        self.check_samples(header)?;
        Ok(())
    }

    /// Accepts records and labels that the dataset has, and a plan to mix by if the trainer mixes.
    fn check_samples(&self, header: &Header) -> Result<(), WireError> {
        let Description { records, classes, .. } = &*self.description;
        let labels = header.label_a.iter().chain(&header.label_b).copied().map(u64::from);
        for (what, largest, limit) in [
            ("a record", header.records.iter().copied().max(), *records),
            ("a label", labels.max(), classes.len() as u64),
        ] {
            if let Some(found) = largest.filter(|largest| *largest >= limit) {
                return Err(WireError::Beyond { what, found, limit });
            }
        }
        match (self.format.mixed_by, &header.mix) {
            (MixedBy::Trainer, None) => {
                Err(WireError::Malformed("no plan to mix by, although the trainer mixes"))
            }
            (MixedBy::Server, Some(_)) => {
                Err(WireError::Malformed("a plan to mix by, although the server mixes"))
            }
            _ => Ok(()),
        }
    }
}

/// Accepts the job's digest of its dataset or recipe, which `what` names.
pub(crate) fn check_digest(
    what: &'static str,
    expected: Digest,
    found: &[u8],
) -> Result<(), Cause> {
    let found = <[u8; 32]>::try_from(found)
        .map(Digest)
        .map_err(|_error| WireError::Malformed("a digest that is not 32 bytes long"))?;
    if found == expected { Ok(()) } else { Err(Cause::Mismatch { what, expected, found }) }
}
