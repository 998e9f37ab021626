//! Runs a kernel once, and compares all of its memory with that of its twin.

#![expect(unsafe_code, reason = "launches")]

use std::fmt::Debug;

use forebay::gpu::{Arg, DeviceError, Gpu, Grid, Kernel};
use half::f16;
use libtest_mimic::Failed;

use crate::kernels::Kernels;
use crate::precision::Precision;
use crate::twin::{Stored, THREADS};

/// The name of a kernel, and its test in bf16, f16 and f32.
pub(crate) type Test = (&'static str, [fn(&Rig) -> Result<(), Failed>; 3]);

/// A GPU and the kernels in each precision.
pub(crate) struct Rig {
    device: Gpu,
    bf16: Kernels,
    f16: Kernels,
    f32: Kernels,
}

/// A storage type of activations.
pub(crate) trait Format: Stored + Plain {
    const PRECISION: Precision;
    /// Values in 16 bytes.
    const WIDE: usize = 16 / size_of::<Self>();
}

impl Format for u16 {
    const PRECISION: Precision = Precision::Bf16;
}

impl Format for f16 {
    const PRECISION: Precision = Precision::F16;
}

impl Format for f32 {
    const PRECISION: Precision = Precision::F32;
}

/// A type of value in the GPU's memory.
pub(crate) trait Plain: Copy + Debug {
    fn write(self, to: &mut Vec<u8>);
    fn read(from: &[u8]) -> Self;
    /// Whether the bits are equal. All NaNs count as equal, because their bits are not specified.
    fn same(self, other: Self) -> bool;
}

macro_rules! plain {
    ($($number:ty: $same:expr;)*) => {$(
        impl Plain for $number {
            fn write(self, to: &mut Vec<u8>) {
                to.extend(self.to_ne_bytes());
            }

            fn read(from: &[u8]) -> Self {
                Self::from_ne_bytes(from.try_into().unwrap())
            }

            fn same(self, other: Self) -> bool {
                let same: fn(Self, Self) -> bool = $same;
                same(self, other)
            }
        }
    )*};
}

plain! {
    u8: |a, b| a == b;
    u16: |a, b| a == b;
    u32: |a, b| a == b;
    f16: |a, b| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    f32: |a, b| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    f64: |a, b| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
}

impl<T: Plain, const N: usize> Plain for [T; N] {
    fn write(self, to: &mut Vec<u8>) {
        for number in self {
            number.write(to);
        }
    }

    fn read(from: &[u8]) -> Self {
        let size = size_of::<T>();
        std::array::from_fn(|i| T::read(&from[i * size..][..size]))
    }

    fn same(self, other: Self) -> bool {
        self.into_iter().zip(other).all(|(a, b)| a.same(b))
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    /// The address of a part; `None` is a null pointer.
    Part(Option<Part>),
    U32(u32),
    F32(f32),
    F64(f64),
}

/// A part of the memory of a case, by index.
#[derive(Clone, Copy)]
pub(crate) struct Part(usize);

impl From<Part> for Value {
    fn from(part: Part) -> Self {
        Self::Part(Some(part))
    }
}

impl From<Option<Part>> for Value {
    fn from(part: Option<Part>) -> Self {
        Self::Part(part)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::U32(u32::try_from(number).unwrap())
    }
}

impl From<bool> for Value {
    fn from(number: bool) -> Self {
        Self::U32(number.into())
    }
}

impl From<f32> for Value {
    fn from(number: f32) -> Self {
        Self::F32(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::F64(number)
    }
}

/// Builds a list of arguments of different types.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$($crate::rig::Value::from($arg)),*] };
}
pub(crate) use args;

/// Checks the contents of a part after the kernel.
type Check = Box<dyn Fn(&[u8]) -> Result<(), String>>;

/// The memory of one launch. Each part is an allocation of its own, so that the stand-in detects every access
/// outside of it.
#[derive(Default)]
pub(crate) struct Case(Vec<Memory>);

struct Memory {
    /// Contents before the launch; empty if the kernel only writes.
    before: Vec<u8>,
    len: usize,
    check: Check,
}

impl Case {
    /// A part that the kernel must not change.
    pub(crate) fn kept<T: Plain + 'static>(&mut self, values: &[T]) -> Part {
        self.changed(values, values)
    }

    /// A part without contents that must become `expected`.
    pub(crate) fn written<T: Plain + 'static>(&mut self, expected: &[T]) -> Part {
        self.changed(&[], expected)
    }

    /// A part that must become `expected`.
    pub(crate) fn changed<T: Plain + 'static>(&mut self, values: &[T], expected: &[T]) -> Part {
        let mut before = Vec::new();
        for value in values {
            value.write(&mut before);
        }
        let (part, expected) = (self.0.len(), expected.to_vec());
        let len = size_of_val(&expected[..]);
        let check = Box::new(move |bytes: &[u8]| same(part, bytes, &expected));
        self.0.push(Memory { before, len, check });
        Part(part)
    }
}

fn same<T: Plain>(part: usize, bytes: &[u8], expected: &[T]) -> Result<(), String> {
    let numbers = bytes.chunks(size_of::<T>()).map(T::read);
    let mut pairs = numbers.zip(expected).enumerate();
    match pairs.find(|(_, (got, expected))| !got.same(**expected)) {
        None => Ok(()),
        Some((at, (got, wanted))) => Err(format!(
            "part {part} has {got:?} at {at} of {}, but its twin has {wanted:?}",
            expected.len()
        )),
    }
}

impl Rig {
    pub(crate) fn open(number: u32) -> Result<Self, DeviceError> {
        let device = Gpu::open(number)?;
        let [bf16, f16, f32] = [Precision::Bf16, Precision::F16, Precision::F32]
            .map(|number| Kernels::compile(&device, number));
        Ok(Self { device, bf16: bf16?, f16: f16?, f32: f32? })
    }

    /// Runs a kernel in one precision.
    pub(crate) fn run<S: Format>(
        &self,
        case: &Case,
        kernel: fn(&Kernels) -> &Kernel,
        blocks: [usize; 2],
        args: &[Value],
    ) -> Result<(), Failed> {
        let mut lanes = Vec::new();
        for Memory { before, len, .. } in &case.0 {
            let lane = self.device.lane(0, *len)?;
            let mut pinned = self.device.pinned(*len)?;
            pinned[..before.len()].copy_from_slice(before);
            lane.upload(&mut pinned, 0..before.len(), 0)?;
            pinned.wait()?;
            lanes.push((lane, pinned));
        }
        let arg = |value: &Value| match *value {
            Value::Part(part) => Arg::Address(part.map_or(0, |part| {
                let lane = &lanes[part.0].0;
                lane.address(0..lane.len())
            })),
            Value::U32(number) => Arg::U32(number),
            Value::F32(number) => Arg::F32(number),
            Value::F64(number) => Arg::F64(number),
        };
        let args: Vec<Arg> = args.iter().map(arg).collect();
        let kernels = match S::PRECISION {
            Precision::Bf16 => &self.bf16,
            Precision::F16 => &self.f16,
            Precision::F32 => &self.f32,
        };
        let blocks = blocks.map(|count| u32::try_from(count).unwrap());
        let grid = Grid { blocks, threads: u32::try_from(THREADS).unwrap() };
        // SAFETY: each test gives the arguments of the kernel's signature, and parts of the sizes that it works on.
        unsafe { lanes[0].0.launch(kernel(kernels), grid, &args) }?;
        lanes[0].0.wait()?;
        for (Memory { check, .. }, (lane, pinned)) in case.0.iter().zip(&mut lanes) {
            lane.download(0, pinned, 0..lane.len())?;
            pinned.wait()?;
            check(pinned)?;
        }
        Ok(())
    }
}
