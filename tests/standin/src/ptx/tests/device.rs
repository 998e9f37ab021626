//! The device memory of these tests, which records the written bytes of each allocation.

use std::cell::RefCell;

use crate::engine::{BadAccess, Memory};

#[derive(Debug)]
struct Allocation {
    start: u64,
    bytes: Vec<Option<u8>>,
}

#[derive(Debug, Default)]
pub(super) struct Device {
    allocations: RefCell<Vec<Allocation>>,
}

/// A number type in device memory.
pub(super) trait Number: Copy {
    fn bytes(self) -> Vec<u8>;
    fn of(bytes: &[u8]) -> Self;
    const SIZE: usize;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Number for $t {
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn of(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap())
            }
            const SIZE: usize = size_of::<$t>();
        }
    )*};
}

numbers!(u8, u16, u32, i32, u64, f32, f64);

impl Device {
    pub(super) fn alloc(&self, bytes: usize) -> u64 {
        let mut allocations = self.allocations.borrow_mut();
        let start = 0x7f00_0000_0000 + (allocations.len() as u64 + 1) * (1 << 24);
        allocations.push(Allocation { start, bytes: vec![None; bytes] });
        start
    }

    pub(super) fn upload<T: Number>(&self, values: &[T]) -> u64 {
        let start = self.alloc(values.len() * T::SIZE);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.bytes()).collect();
        self.write(start, &bytes).unwrap();
        start
    }

    /// The first `count` values. Panics if one was never written.
    pub(super) fn download<T: Number>(&self, start: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * T::SIZE];
        self.read(start, &mut bytes).unwrap();
        bytes.chunks_exact(T::SIZE).map(T::of).collect()
    }

    fn with<R>(
        &self,
        address: u64,
        length: usize,
        run: impl FnOnce(&mut [Option<u8>]) -> Result<R, BadAccess>,
    ) -> Result<R, BadAccess> {
        let mut allocations = self.allocations.borrow_mut();
        let found = allocations.iter_mut().find_map(|allocation| {
            let start = usize::try_from(address.checked_sub(allocation.start)?).ok()?;
            allocation.bytes.get_mut(start..start + length)
        });
        run(found.ok_or_else(|| BadAccess::Illegal(format!("{address:#x} is outside")))?)
    }
}

impl Memory for Device {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BadAccess> {
        self.with(address, into.len(), |bytes| {
            for (to, from) in into.iter_mut().zip(bytes) {
                *to = from.ok_or_else(|| {
                    BadAccess::Unwritten(format!("{address:#x} was never written"))
                })?;
            }
            Ok(())
        })
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), BadAccess> {
        self.with(address, from.len(), |bytes| {
            bytes.iter_mut().zip(from).for_each(|(to, from)| *to = Some(*from));
            Ok(())
        })
    }
}
