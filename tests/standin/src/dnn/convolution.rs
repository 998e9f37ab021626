//! The three convolutions, which are checked at the call and enqueued on the stream of the handle.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::algorithm::{Algorithm, Pass};
use super::arithmetic::{backward_data, backward_filter, forward};
use super::descriptor::{Layout, filter, tensor};
use super::geometry::convolution;
use super::handle::stream_of;
use super::problem::{Problem, Shape};
use super::{Answer, Status, code, wrong};
use crate::engine::Fault;
use crate::gemm::DEPTH;
use crate::machine::{Machine, inside};
use crate::memory::Operand;
use crate::number::blend;

/// The handles of the descriptors of a pass.
#[derive(Clone, Copy)]
pub(super) struct Descriptors {
    pub(super) x: usize,
    pub(super) filter: usize,
    pub(super) convolution: usize,
    pub(super) y: usize,
}

/// The device addresses of a pass.
pub(super) struct Operands {
    pub(super) inputs: [Operand; 2],
    pub(super) output: Operand,
    pub(super) workspace: Operand,
}

impl Descriptors {
    /// The names of the two inputs and the output in the manual of a pass.
    pub(super) fn new(pass: Pass, [one, other, output]: [usize; 3], convolution: usize) -> Self {
        match pass {
            Pass::Forward => Self { x: one, filter: other, convolution, y: output },
            Pass::BackwardData => Self { x: output, filter: one, convolution, y: other },
            Pass::BackwardFilter => Self { x: one, filter: output, convolution, y: other },
        }
    }

    pub(super) fn problem(self, machine: &Machine) -> Answer<Problem> {
        let (x, y, filter) = (tensor(self.x)?, tensor(self.y)?, filter(self.filter)?);
        Problem::new(&x, &filter, &convolution(self.convolution)?, &y, machine.config.capability)
    }

    /// The operands, with the names of the pass and the sizes of the descriptors.
    pub(super) fn operands(
        self,
        pass: Pass,
        inputs: [u64; 2],
        output: u64,
        (workspace, bytes): (u64, usize),
    ) -> Answer<Operands> {
        let (x, y, filter) = (tensor(self.x)?, tensor(self.y)?, filter(self.filter)?);
        let filter = (filter.dims.iter().product::<usize>() * filter.number.bytes()) as u64;
        let (x, y) = (x.bytes(), y.bytes());
        let parts = match pass {
            Pass::Forward => [("x", x), ("w", filter), ("y", y)],
            Pass::BackwardData => [("w", filter), ("dy", y), ("dx", x)],
            Pass::BackwardFilter => [("x", x), ("dy", y), ("dw", filter)],
        };
        let operand =
            |part: usize, address| Operand { name: parts[part].0, address, bytes: parts[part].1 };
        let operands = Operands {
            inputs: [operand(0, inputs[0]), operand(1, inputs[1])],
            output: operand(2, output),
            workspace: Operand { name: "workspace", address: workspace, bytes: bytes as u64 },
        };
        for operand in operands.inputs.iter().chain([&operands.output]) {
            if operand.address == 0 {
                return wrong(Status::NULL_POINTER, format!("{} is NULL", operand.name));
            }
            if !operand.address.is_multiple_of(16) {
                return wrong(
                    Status::MISALIGNED,
                    format!("{} is not aligned to 16 bytes", operand.name),
                );
            }
        }
        if !workspace.is_multiple_of(16) {
            return wrong(Status::MISALIGNED, "the workspace is not aligned to 16 bytes");
        }
        Ok(operands)
    }
}

impl Operands {
    /// Discards the contents of the workspace, and of an output whose old values are not used.
    pub(super) fn spoil_workspace(&self, machine: &mut Machine) -> Result<(), Fault> {
        if self.workspace.bytes == 0 { Ok(()) } else { machine.space.spoil(&self.workspace) }
    }

    fn are_apart(&self) -> Result<(), Fault> {
        let [one, other] = &self.inputs;
        self.output.apart_from(&[one, other])?;
        self.workspace.apart_from(&[one, other, &self.output])
    }
}

struct Call {
    pass: Pass,
    handle: usize,
    descriptors: Descriptors,
    algorithm: u32,
    scales: [Option<f32>; 2],
}

impl Call {
    fn queue(self, inputs: [u64; 2], output: u64, workspace: (u64, usize)) -> u32 {
        let Self { pass, handle, descriptors, algorithm, scales } = self;
        code(inside(|machine| {
            let stream = machine.resolve(stream_of(handle)?)?;
            let problem = descriptors.problem(machine)?;
            let algorithm = pass.algorithm(algorithm)?;
            let needed = algorithm.workspace(&problem);
            if workspace.1 < needed || (needed > 0 && workspace.0 == 0) {
                let what = format!(
                    "a workspace of {} bytes, where {needed} are needed by algorithm {} with math type {}",
                    workspace.1, algorithm.number, problem.math
                );
                return wrong(Status::BAD_PARAM, what);
            }
            let [Some(alpha), Some(beta)] = scales else { return Err(Status::NULL_POINTER) };
            let operands = descriptors.operands(pass, inputs, output, (workspace.0, needed))?;
            let run = move |machine: &mut Machine| {
                run(machine, pass, &problem, algorithm, &operands, [alpha, beta])
            };
            machine.queue(stream, format!("cuDNN {pass:?}"), run);
            Ok(())
        }))
    }
}

fn run(
    machine: &mut Machine,
    pass: Pass,
    problem: &Problem,
    algorithm: Algorithm,
    operands: &Operands,
    [alpha, beta]: [f32; 2],
) -> Result<(), Fault> {
    let Problem { number, layout, ref shape, .. } = *problem;
    operands.are_apart()?;
    operands.spoil_workspace(machine)?;
    let load = |machine: &Machine, index: usize| -> Result<Vec<f32>, Fault> {
        let values = number.load(machine.space.input(&operands.inputs[index])?);
        Ok(channels_last(problem.rounded(values), layout, parts(pass, shape)[index]))
    };
    let (one, other) = (load(machine, 0)?, load(machine, 1)?);
    let depth = if algorithm.deterministic { DEPTH } else { another_depth() };
    let result = match pass {
        Pass::Forward => forward(shape, &one, &other, depth),
        Pass::BackwardData => backward_data(shape, &one, &other, depth),
        Pass::BackwardFilter => backward_filter(shape, &one, &other, depth),
    };
    let mut result = channels_back(result, layout, parts(pass, shape)[2]);
    let old =
        if beta == 0.0 { None } else { Some(number.load(machine.space.input(&operands.output)?)) };
    blend(&mut result, alpha, old.as_deref(), beta);
    number.store(&result, machine.space.output(&operands.output)?);
    operands.spoil_workspace(machine)
}

/// The depth in which a nondeterministic algorithm splits its sums: a different one for each call.
fn another_depth() -> usize {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    32 + 16 * (CALLS.fetch_add(1, Ordering::Relaxed) % 5)
}

/// The sizes of both inputs and the output: images (or filters), channels, pixels.
fn parts(pass: Pass, shape: &Shape) -> [[usize; 3]; 3] {
    let x = [shape.n, shape.c, shape.input[0] * shape.input[1]];
    let filter = [shape.k, shape.c, shape.filter[0] * shape.filter[1]];
    let y = [shape.n, shape.k, shape.output[0] * shape.output[1]];
    match pass {
        Pass::Forward => [x, filter, y],
        Pass::BackwardData => [filter, y, x],
        Pass::BackwardFilter => [x, y, filter],
    }
}

fn channels_last(values: Vec<f32>, layout: Layout, [_, c, pixels]: [usize; 3]) -> Vec<f32> {
    if layout == Layout::Nhwc { values } else { transposed(&values, c, pixels) }
}

fn channels_back(values: Vec<f32>, layout: Layout, [_, c, pixels]: [usize; 3]) -> Vec<f32> {
    if layout == Layout::Nhwc { values } else { transposed(&values, pixels, c) }
}

/// Transposes each image, a matrix with the given number of lines.
fn transposed(values: &[f32], lines: usize, columns: usize) -> Vec<f32> {
    let images = values.chunks_exact(lines * columns);
    images
        .flat_map(|image| {
            (0..columns).flat_map(move |j| (0..lines).map(move |i| image[i * columns + j]))
        })
        .collect()
}

/// Defines a function for each pass. All take the same arguments: two inputs and the output.
macro_rules! passes {
    ($($pass:ident: $name:ident;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name(
            handle: usize,
            alpha: Option<&f32>,
            one: usize,
            one_data: u64,
            other: usize,
            other_data: u64,
            convolution: usize,
            algorithm: u32,
            workspace: u64,
            workspace_bytes: usize,
            beta: Option<&f32>,
            output: usize,
            output_data: u64,
        ) -> u32 {
            let pass = Pass::$pass;
            let descriptors = Descriptors::new(pass, [one, other, output], convolution);
            let scales = [alpha.copied(), beta.copied()];
            Call { pass, handle, descriptors, algorithm, scales }
                .queue([one_data, other_data], output_data, (workspace, workspace_bytes))
        }
    )*};
}

passes! {
    Forward: cudnnConvolutionForward;
    BackwardData: cudnnConvolutionBackwardData;
    BackwardFilter: cudnnConvolutionBackwardFilter;
}
