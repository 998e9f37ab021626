//! The selection of an algorithm: heuristics (`..._v7`), measurements (`Find...Ex`) and workspace sizes.

use std::ffi::c_int;

use super::algorithm::Pass;
use super::convolution::Descriptors;
use super::geometry::DEFAULT_MATH;
use super::handle::stream_of;
use super::problem::Problem;
use super::{Answer, Status, code, wrong};
use crate::machine::{Machine, inside};
use crate::table::{Out, put};

/// `cudnnConvolution*AlgoPerf_t`, the same for all passes.
#[repr(C)]
struct Performance {
    algorithm: u32,
    status: u32,
    milliseconds: f32,
    workspace: usize,
    deterministic: u32,
    math: u32,
    reserved: [c_int; 3],
}

/// The caller's array for results.
struct List<'a> {
    start: *mut Performance,
    room: c_int,
    count: Out<'a, c_int>,
}

impl List<'_> {
    /// # Safety
    /// The array has room for `room` results.
    unsafe fn fill(self, pass: Pass, problem: &Problem, workspace: usize) -> Answer {
        let room = usize::try_from(self.room).ok().filter(|room| *room > 0);
        let (Some(room), false) = (room, self.start.is_null()) else {
            return Err(Status::BAD_PARAM);
        };
        let results: Vec<Performance> =
            performances(pass, problem, workspace).into_iter().take(room).collect();
        put(
            self.count,
            c_int::try_from(results.len()).unwrap_or(c_int::MAX),
            Status::NULL_POINTER,
        )?;
        for (at, result) in results.into_iter().enumerate() {
            // SAFETY: the index is below the room of the array.
            unsafe { self.start.add(at).write(result) };
        }
        Ok(())
    }
}

/// The usable pairs of an algorithm and a math type from the fastest on, then the others. The workspace belongs to the pair.
fn performances(pass: Pass, problem: &Problem, given: usize) -> Vec<Performance> {
    let entry = |algorithm: u32, status, workspace, deterministic: bool, math| Performance {
        algorithm,
        status,
        milliseconds: -1.0,
        workspace,
        deterministic: u32::from(deterministic),
        math,
        reserved: [0; 3],
    };
    let mut results: Vec<Performance> = Vec::new();
    for algorithm in pass.algorithms() {
        for math in algorithm.math_types(problem) {
            let workspace = algorithm.workspace(&Problem { math: *math, ..*problem });
            let status = if workspace <= given { 0 } else { Status::ALLOCATION.0 };
            results.push(entry(
                algorithm.number,
                status,
                workspace,
                algorithm.deterministic,
                *math,
            ));
        }
    }
    results.sort_by_key(|result| result.status != 0);
    for (at, result) in results.iter_mut().filter(|result| result.status == 0).enumerate() {
        result.milliseconds = 0.1 * (at + 1) as f32;
    }
    let known = |number: u32| pass.algorithms().iter().any(|known| known.number == number);
    let others = (0..pass.count()).filter(|number| !known(*number));
    results.extend(
        others.map(|number| entry(number, Status::NOT_SUPPORTED.0, 0, false, DEFAULT_MATH)),
    );
    results
}

fn get(pass: Pass, handle: usize, descriptors: Descriptors, list: List<'_>) -> u32 {
    code(inside(|machine| {
        stream_of(handle)?;
        let problem = descriptors.problem(machine)?;
        // SAFETY: the caller guarantees the array.
        unsafe { list.fill(pass, &problem, usize::MAX) }
    }))
}

fn workspace_size(
    pass: Pass,
    handle: usize,
    descriptors: Descriptors,
    algorithm: u32,
    bytes: Out<'_, usize>,
) -> u32 {
    code(inside(|machine| {
        stream_of(handle)?;
        let problem = descriptors.problem(machine)?;
        put(bytes, pass.algorithm(algorithm)?.workspace(&problem), Status::NULL_POINTER)
    }))
}

fn find(
    pass: Pass,
    handle: usize,
    descriptors: Descriptors,
    (inputs, output, workspace): ([u64; 2], u64, (u64, usize)),
    list: List<'_>,
) -> u32 {
    code(inside(|machine| {
        let stream = machine.resolve(stream_of(handle)?)?;
        let problem = descriptors.problem(machine)?;
        if workspace.0 == 0 && workspace.1 > 0 {
            return wrong(Status::BAD_PARAM, "the workspace is NULL but its size is not 0");
        }
        let operands = descriptors.operands(pass, inputs, output, workspace)?;
        let run = move |machine: &mut Machine| {
            machine.space.spoil(&operands.output)?;
            operands.spoil_workspace(machine)
        };
        machine.queue(stream, format!("cuDNN Find {pass:?}"), run);
        machine.finish(stream)?;
        // SAFETY: the caller guarantees the array.
        unsafe { list.fill(pass, &problem, workspace.1) }
    }))
}

/// Defines the functions of a pass. All take the same arguments: the descriptors of two inputs, the convolution and the output.
macro_rules! passes {
    ($($pass:ident: $get:ident, $size:ident, $find:ident;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $get(
            handle: usize,
            one: usize,
            other: usize,
            convolution: usize,
            output: usize,
            room: c_int,
            count: Out<'_, c_int>,
            results: *mut Performance,
        ) -> u32 {
            let descriptors = Descriptors::new(Pass::$pass, [one, other, output], convolution);
            get(Pass::$pass, handle, descriptors, List { start: results, room, count })
        }

        #[unsafe(no_mangle)]
        extern "C" fn $size(
            handle: usize,
            one: usize,
            other: usize,
            convolution: usize,
            output: usize,
            algorithm: u32,
            bytes: Out<'_, usize>,
        ) -> u32 {
            let descriptors = Descriptors::new(Pass::$pass, [one, other, output], convolution);
            workspace_size(Pass::$pass, handle, descriptors, algorithm, bytes)
        }

        #[unsafe(no_mangle)]
        extern "C" fn $find(
            handle: usize,
            one: usize,
            one_data: u64,
            other: usize,
            other_data: u64,
            convolution: usize,
            output: usize,
            output_data: u64,
            room: c_int,
            count: Out<'_, c_int>,
            results: *mut Performance,
            workspace: u64,
            workspace_bytes: usize,
        ) -> u32 {
            let descriptors = Descriptors::new(Pass::$pass, [one, other, output], convolution);
            let data = ([one_data, other_data], output_data, (workspace, workspace_bytes));
            find(Pass::$pass, handle, descriptors, data, List { start: results, room, count })
        }
    )*};
}

passes! {
    Forward: cudnnGetConvolutionForwardAlgorithm_v7,
        cudnnGetConvolutionForwardWorkspaceSize, cudnnFindConvolutionForwardAlgorithmEx;
    BackwardData: cudnnGetConvolutionBackwardDataAlgorithm_v7,
        cudnnGetConvolutionBackwardDataWorkspaceSize, cudnnFindConvolutionBackwardDataAlgorithmEx;
    BackwardFilter: cudnnGetConvolutionBackwardFilterAlgorithm_v7,
        cudnnGetConvolutionBackwardFilterWorkspaceSize, cudnnFindConvolutionBackwardFilterAlgorithmEx;
}
