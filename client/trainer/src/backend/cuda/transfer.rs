//! Uploads to the GPU's memory that wait until they are done.

use std::ops::Range;

use forebay::gpu::{DeviceError, Gpu, Lane};

/// Uploads bytes to an offset of the lane's memory, and waits.
pub(super) fn upload(
    device: &Gpu,
    lane: &Lane,
    at: usize,
    bytes: &[u8],
) -> Result<(), DeviceError> {
    let mut host = device.pinned(bytes.len())?;
    host.copy_from_slice(bytes);
    lane.upload(&mut host, 0..bytes.len(), at)?;
    host.wait()
}

/// Uploads values to a range of the lane's memory, and waits.
pub(super) fn upload_f32s(
    device: &Gpu,
    lane: &Lane,
    range: &Range<usize>,
    floats: &[f32],
) -> Result<(), DeviceError> {
    let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
    upload(device, lane, range.start, &bytes)
}
