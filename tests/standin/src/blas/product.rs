//! Products, which are checked at the call and enqueued on the stream of the handle.

use std::ffi::{c_int, c_longlong};

use super::handle::{Handle, get};
use super::matrix::Stored;
use super::{Answer, Status, code, wrong};
use crate::engine::Fault;
use crate::gemm::{DEPTH, Matrix, add_product};
use crate::machine::{Machine, inside};
use crate::memory::Operand;
use crate::number::{Number, blend, tf32};

/// A matrix argument of a call.
#[derive(Clone, Copy)]
pub(super) struct Given {
    pub(super) address: u64,
    pub(super) kind: u32,
    pub(super) leading: c_int,
    /// The number of elements from one matrix of a batch to the next.
    pub(super) stride: c_longlong,
}

/// The arguments of a call: `alpha * op(A) * op(B) + beta * C`.
pub(super) struct Call {
    pub(super) transposed: [u32; 2],
    pub(super) sizes: [c_int; 3],
    pub(super) scales: [Option<f32>; 2],
    pub(super) matrices: [Given; 3],
    pub(super) batch: c_int,
    pub(super) compute: u32,
}

/// A checked product.
struct Product {
    /// The sizes m, n and k.
    sizes: [usize; 3],
    transposed: [bool; 2],
    scales: [f32; 2],
    matrices: [Stored; 3],
    batch: usize,
    tf32: bool,
    /// Whether parts of a sum may be rounded to the type of C.
    rounds_parts: bool,
    workspace: Option<Operand>,
}

impl Call {
    pub(super) fn queue(self, handle: usize) -> u32 {
        code(inside(|machine| {
            let handle = get(handle)?;
            let stream = machine.resolve(handle.stream)?;
            let Some(product) = self.check(&handle, machine.config.capability)? else {
                return Ok(());
            };
            let [m, n, k] = product.sizes;
            let what = format!("cuBLAS {m}x{n}x{k}");
            machine.queue(stream, what, move |machine: &mut Machine| product.run(machine));
            Ok(())
        }))
    }

    /// Checks the arguments. `None` if there is nothing to do.
    fn check(self, handle: &Handle, capability: (i32, i32)) -> Answer<Option<Product>> {
        let mut sizes = [0; 4];
        let [m, n, k] = self.sizes;
        for (size, given) in sizes.iter_mut().zip([m, n, k, self.batch]) {
            let Ok(given) = usize::try_from(given) else {
                return wrong(Status::INVALID_VALUE, format!("sizes {:?}", self.sizes));
            };
            *size = given;
        }
        let [m, n, k, batch] = sizes;
        let numbers = self.numbers(capability)?;
        let transposed = self.transposed();
        let [a, b] = transposed?;
        let shapes = [if a { [k, m] } else { [m, k] }, if b { [n, k] } else { [k, n] }, [m, n]];
        let mut matrices = Vec::with_capacity(3);
        for (i, name) in ["A", "B", "C"].into_iter().enumerate() {
            let Given { address, leading, stride, .. } = self.matrices[i];
            let [rows, columns] = shapes[i];
            let leading = match usize::try_from(leading) {
                Ok(leading) if leading >= rows.max(1) => leading,
                _ => {
                    let what =
                        format!("the leading dimension of {name} is {leading}, of {rows} rows");
                    return wrong(Status::INVALID_VALUE, what);
                }
            };
            matrices.push(Stored {
                name,
                address,
                number: numbers[i],
                rows,
                columns,
                leading,
                stride,
            });
        }
        let [Some(alpha), Some(beta)] = self.scales else {
            return wrong(Status::INVALID_VALUE, "alpha or beta is NULL");
        };
        if m == 0 || n == 0 || batch == 0 {
            return Ok(None);
        }
        if batch > 1
            && self.matrices[2].stride.unsigned_abs() < ((n - 1) * matrices[2].leading + m) as u64
        {
            return wrong(Status::INVALID_VALUE, "the matrices C of the batch overlap");
        }
        let matrices = matrices.try_into().map_err(|_three: Vec<_>| Status::INVALID_VALUE)?;
        let tf32 = numbers[0] == Number::F32
            && capability >= (8, 0)
            && (self.compute == FAST_TF32 || (self.compute == COMPUTE_32F && handle.math & 3 == 3));
        let rounds_parts =
            numbers[2] != Number::F32 && self.compute == COMPUTE_32F && handle.math & 16 == 0;
        let workspace = handle.workspace.clone();
        let (sizes, scales, transposed) = ([m, n, k], [alpha, beta], [a, b]);
        Ok(Some(Product {
            sizes,
            transposed,
            scales,
            matrices,
            batch,
            tf32,
            rounds_parts,
            workspace,
        }))
    }

    fn transposed(&self) -> Answer<[bool; 2]> {
        match self.transposed {
            [0..=2, 0..=2] => Ok(self.transposed.map(|operation| operation != 0)),
            _ => wrong(Status::INVALID_VALUE, "an operation other than N, T and C"),
        }
    }

    fn numbers(&self, capability: (i32, i32)) -> Answer<[Number; 3]> {
        if !matches!(self.compute, COMPUTE_32F | COMPUTE_32F_PEDANTIC | FAST_TF32) {
            return wrong(Status::NOT_SUPPORTED, format!("compute type {}", self.compute));
        }
        // The numbers of cudaDataType_t.
        let number = |given: Given| match given.kind {
            0 => Ok(Number::F32),
            2 => Ok(Number::F16),
            14 => Ok(Number::Bf16),
            other => wrong(Status::NOT_SUPPORTED, format!("data type {other}")),
        };
        let [a, b, c] = self.matrices;
        let numbers = [number(a)?, number(b)?, number(c)?];
        let [a, b, c] = numbers;
        if a != b || (c != a && c != Number::F32) {
            return wrong(Status::NOT_SUPPORTED, format!("{a:?} by {b:?} into {c:?}"));
        }
        if a == Number::Bf16 && capability < (8, 0) {
            return wrong(Status::ARCH_MISMATCH, "bf16 below compute capability 8.0");
        }
        Ok(numbers)
    }
}

pub(super) const COMPUTE_32F: u32 = 68;
const COMPUTE_32F_PEDANTIC: u32 = 69;
const FAST_TF32: u32 = 77;

impl Product {
    fn run(&self, machine: &mut Machine) -> Result<(), Fault> {
        self.spoil_workspace(machine)?;
        for index in 0..self.batch {
            self.one(index, machine)?;
        }
        self.spoil_workspace(machine)
    }

    fn spoil_workspace(&self, machine: &mut Machine) -> Result<(), Fault> {
        self.workspace.as_ref().map_or(Ok(()), |workspace| machine.space.spoil(workspace))
    }

    fn one(&self, index: usize, machine: &mut Machine) -> Result<(), Fault> {
        let [a, b, c] = self.matrices.each_ref().map(|matrix| matrix.nth(index));
        let [m, n, k] = self.sizes;
        let [alpha, beta] = self.scales;
        let mut result = vec![0.0; m * n];
        if k > 0 && alpha != 0.0 {
            c.span().apart_from(&[&a.span(), &b.span()])?;
            let (mut left, mut right) = (a.load(machine)?, b.load(machine)?);
            if self.tf32 {
                left.iter_mut().chain(&mut right).for_each(|value| *value = tf32(*value));
            }
            // A column-major C is its row-major transpose: the product of the transposed B and A.
            let [ta, tb] = self.transposed;
            let (left_step, right_step) =
                (if ta { [1, k] } else { [m, 1] }, if tb { [1, n] } else { [k, 1] });
            let parts = if self.rounds_parts { 2 } else { 1 };
            for part in (0..k).step_by(k.div_ceil(parts)) {
                let length = k.div_ceil(parts).min(k - part);
                let left = Matrix { data: &left[part * left_step[0]..], step: left_step };
                let right = Matrix { data: &right[part * right_step[1]..], step: right_step };
                let mut sums = vec![0.0; m * n];
                add_product([n, m, length], right, left, &mut sums, DEPTH);
                if self.rounds_parts {
                    for sum in &mut sums {
                        *sum = c.number.round(*sum);
                    }
                }
                result.iter_mut().zip(sums).for_each(|(all, sum)| *all += sum);
            }
        }
        if let Some(workspace) = &self.workspace {
            workspace.apart_from(&[&c.span()])?;
        }
        let old = if beta == 0.0 { None } else { Some(c.load(machine)?) };
        blend(&mut result, alpha, old.as_deref(), beta);
        c.store(&result, machine)
    }
}
