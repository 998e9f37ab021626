//! The memories of a thread, by state space or by generic address.

use super::code::{Space, window};
use super::shared::{Access, Shared};
use super::thread_fault::ThreadFault;
use crate::engine::{FaultKind, Memory};

/// The variables of a module, which live as long as it does.
#[derive(Debug)]
pub(super) struct Variables {
    pub(super) global: Vec<u8>,
    pub(super) constant: Vec<u8>,
}

/// The memories that are shared by threads.
pub(super) struct Spaces<'l> {
    pub(super) device: &'l dyn Memory,
    pub(super) variables: &'l mut Variables,
    pub(super) params: Vec<u8>,
    pub(super) shared: Shared,
}

/// The memories of a single thread.
pub(super) struct ThreadMemory<'t> {
    pub(super) local: &'t mut [u8],
    pub(super) arguments: &'t mut [u8],
    /// Where the arguments of the innermost frame start.
    pub(super) frame_arguments: usize,
    /// The index of the thread in the block.
    pub(super) index: u32,
}

/// A location in one memory.
enum At {
    Device(u64),
    Shared(u64),
    Local(usize),
    Global(usize),
    Constant(usize),
    Param(usize),
    Argument(usize),
}

fn locate(space: Space, address: u64, own: &ThreadMemory<'_>) -> Result<At, ThreadFault> {
    let offset = usize::try_from(address & ((1 << window::SHIFT) - 1)).unwrap_or(usize::MAX);
    Ok(match space {
        Space::Shared => At::Shared(address),
        Space::Local => At::Local(usize::try_from(address).unwrap_or(usize::MAX)),
        Space::Param => At::Param(usize::try_from(address).unwrap_or(usize::MAX)),
        Space::Argument => At::Argument(own.frame_arguments.saturating_add(offset)),
        Space::Generic => match address >> window::SHIFT << window::SHIFT {
            0 => At::Device(address),
            window::SHARED => At::Shared(offset as u64),
            window::LOCAL => At::Local(offset),
            window::GLOBAL => At::Global(offset),
            window::CONST => At::Constant(offset),
            window::PARAM => At::Param(offset),
            _ => {
                let what = format!("{address:#x} is not a valid address");
                return Err(ThreadFault::new(FaultKind::IllegalAddress, what));
            }
        },
    })
}

impl Spaces<'_> {
    pub(super) fn read(
        &mut self,
        (space, address): (Space, u64),
        into: &mut [u8],
        own: &ThreadMemory<'_>,
        access: Access,
    ) -> Result<(), ThreadFault> {
        let length = into.len();
        let (name, memory, at) = match locate(space, address, own)? {
            At::Device(address) => {
                return self.device.read(address, into).map_err(|bad| ThreadFault::of(bad, "read"));
            }
            At::Shared(at) => return self.shared.read(at, into, access),
            At::Local(at) => ("local", &*own.local, at),
            At::Argument(at) => ("argument", &*own.arguments, at),
            At::Global(at) => ("the module's global", self.variables.global.as_slice(), at),
            At::Constant(at) => ("constant", self.variables.constant.as_slice(), at),
            At::Param(at) => ("parameter", self.params.as_slice(), at),
        };
        match memory.get(at..at.saturating_add(length)) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => return Err(outside("read", length, name, at, memory.len())),
        }
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        (space, address): (Space, u64),
        from: &[u8],
        own: &mut ThreadMemory<'_>,
        access: Access,
    ) -> Result<(), ThreadFault> {
        let length = from.len();
        let (name, memory, at) = match locate(space, address, own)? {
            At::Device(address) => {
                return self
                    .device
                    .write(address, from)
                    .map_err(|bad| ThreadFault::of(bad, "write"));
            }
            At::Shared(at) => return self.shared.write(at, from, access),
            At::Local(at) => ("local", &mut *own.local, at),
            At::Argument(at) => ("argument", &mut *own.arguments, at),
            At::Global(at) => ("the module's global", self.variables.global.as_mut_slice(), at),
            At::Constant(_) | At::Param(_) => {
                let what = "write to constant memory or to a parameter";
                return Err(ThreadFault::new(FaultKind::IllegalAddress, what));
            }
        };
        let size = memory.len();
        match memory.get_mut(at..at.saturating_add(length)) {
            Some(bytes) => bytes.copy_from_slice(from),
            None => return Err(outside("write", length, name, at, size)),
        }
        Ok(())
    }
}

fn outside(what: &str, length: usize, name: &str, at: usize, size: usize) -> ThreadFault {
    let what = format!("{what} of {length} bytes at {at:#x} of {size} bytes of {name} memory");
    ThreadFault::new(FaultKind::IllegalAddress, what)
}
