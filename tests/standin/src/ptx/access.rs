//! Loads, stores and atomics of a thread, between its slots and the memories.

use super::code::{Place, Slot, Space};
use super::shared::Access;
use super::spaces::{Spaces, ThreadMemory};
use super::thread_fault::ThreadFault;
use crate::engine::FaultKind;

/// The address of an access. It must be a multiple of the size.
fn address(place: &Place, s: &[u64]) -> Result<(Space, u64), ThreadFault> {
    let address = s[usize::from(place.base)].wrapping_add_signed(i64::from(place.offset));
    let bytes = u64::from(place.width) * u64::from(place.count);
    if !address.is_multiple_of(bytes) {
        let what = format!("{address:#x} is not a multiple of the {bytes} bytes of the access");
        return Err(ThreadFault::new(FaultKind::MisalignedAddress, what));
    }
    Ok((place.space, address))
}

pub(super) fn load(
    place: &Place,
    to: [Slot; 4],
    used: u16,
    s: &mut [u64],
    spaces: &mut Spaces<'_>,
    own: &ThreadMemory<'_>,
) -> Result<(), ThreadFault> {
    let (space, start) = address(place, s)?;
    let (width, count) = (usize::from(place.width), usize::from(place.count));
    let access = Access { thread: own.index, freely: place.shared_freely };
    let mut bytes = [0; 32];
    let all = u16::MAX >> (16 - (width * count).min(16));
    if used & all == all {
        spaces.read((space, start), &mut bytes[..width * count], own, access)?;
    } else {
        for at in (0..width * count).filter(|at| used >> at & 1 == 1) {
            spaces.read((space, start + at as u64), &mut bytes[at..=at], own, access)?;
        }
    }
    for (element, to) in bytes.chunks_exact(width).zip(to).take(count) {
        let mut value = [0; 8];
        value[..width].copy_from_slice(element);
        s[usize::from(to)] = u64::from_le_bytes(value);
    }
    Ok(())
}

pub(super) fn store(
    place: &Place,
    from: [Slot; 4],
    s: &[u64],
    spaces: &mut Spaces<'_>,
    own: &mut ThreadMemory<'_>,
) -> Result<(), ThreadFault> {
    let at = address(place, s)?;
    let (width, count) = (usize::from(place.width), usize::from(place.count));
    let mut bytes = [0; 32];
    for (element, from) in bytes.chunks_exact_mut(width).zip(from).take(count) {
        element.copy_from_slice(&s[usize::from(from)].to_le_bytes()[..width]);
    }
    let access = Access { thread: own.index, freely: place.shared_freely };
    spaces.write(at, &bytes[..width * count], own, access)
}

/// Reads, computes and writes. Returns the old value.
pub(super) fn atomic(
    place: &Place,
    change: impl Fn(u64) -> u64,
    s: &[u64],
    spaces: &mut Spaces<'_>,
    own: &mut ThreadMemory<'_>,
) -> Result<u64, ThreadFault> {
    let at = address(place, s)?;
    let width = usize::from(place.width);
    let access = Access { thread: own.index, freely: true };
    let mut bytes = [0; 8];
    spaces.read(at, &mut bytes[..width], own, access)?;
    let old = u64::from_le_bytes(bytes);
    spaces.write(at, &change(old).to_le_bytes()[..width], own, access)?;
    Ok(old)
}
