//! Programs with one mistake each.

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind, cudnnBackendHeurMode_t as Mode,
    cudnnDataType_t as Number, cudnnHandle_t,
};
use cudarc::driver::CudaSlice;
use half::bf16;

use super::descriptor::Descriptor;
use super::plan::{Conv, Pass, Plan, Tensor, at, configs, engine, graph, handle};
use crate::data::{blank, noise};
use crate::dnn::layer::{SIZES, Sizes};
use crate::gpu::{Failure, Gpu, Outcome};

const BF16: Number = Number::CUDNN_DATA_BFLOAT16;

fn forward() -> Conv {
    Conv::new(Pass::Forward, &SIZES[1], BF16)
}

/// The first plan with a workspace.
fn plan(handle: cudnnHandle_t) -> Result<Plan, Failure> {
    let plans = forward().plans(handle)?.into_iter();
    plans.into_iter().find(|plan| plan.workspace > 0).ok_or_else(|| Failure("no plan".to_owned()))
}

/// x and w, and memory for y.
struct Memory {
    x: CudaSlice<bf16>,
    w: CudaSlice<bf16>,
    y: CudaSlice<bf16>,
}

impl Memory {
    fn new(gpu: &Gpu) -> Result<Self, Failure> {
        let [x, w, y] = SIZES[1].counts();
        Ok(Self {
            x: gpu.two.clone_htod(&noise(x, 1))?,
            w: gpu.two.clone_htod(&noise(w, 2))?,
            y: blank(gpu, y)?,
        })
    }

    fn list(&self, gpu: &Gpu) -> Vec<(i64, *mut c_void)> {
        vec![(1, at(gpu, &self.x)), (2, at(gpu, &self.w)), (3, at(gpu, &self.y))]
    }
}

pub(crate) fn graph_workspace_is_short(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let (plan, memory) = (plan(handle)?, Memory::new(gpu)?);
    let workspace: CudaSlice<u8> = blank(gpu, plan.workspace - 1)?;
    plan.execute(handle, &memory.list(gpu), at(gpu, &workspace))?;
    Ok(gpu.two.synchronize()?)
}

pub(crate) fn graph_workspace_is_null(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let memory = Memory::new(gpu)?;
    plan(handle)?.execute(handle, &memory.list(gpu), null_mut())
}

/// A program that keeps data in the workspace.
pub(crate) fn graph_workspace_is_read(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let (plan, memory) = (plan(handle)?, Memory::new(gpu)?);
    let workspace = gpu.two.alloc_zeros::<u8>(plan.workspace)?;
    plan.execute(handle, &memory.list(gpu), at(gpu, &workspace))?;
    gpu.two.clone_dtoh(&workspace)?;
    Ok(())
}

pub(crate) fn graph_workspace_is_the_output(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let (plan, memory) = (plan(handle)?, Memory::new(gpu)?);
    plan.execute(handle, &memory.list(gpu), at(gpu, &memory.y))?;
    Ok(gpu.two.synchronize()?)
}

pub(crate) fn graph_output_is_short(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let short: CudaSlice<bf16> = blank(gpu, SIZES[1].counts()[2] - 1)?;
    let memory = Memory { y: short, ..Memory::new(gpu)? };
    plan(handle)?.run(gpu, handle, &memory.list(gpu))?;
    Ok(gpu.two.synchronize()?)
}

pub(crate) fn graph_input_is_not_written(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let unwritten: CudaSlice<bf16> = blank(gpu, SIZES[1].counts()[0])?;
    let memory = Memory { x: unwritten, ..Memory::new(gpu)? };
    plan(handle)?.run(gpu, handle, &memory.list(gpu))?;
    Ok(gpu.two.synchronize()?)
}

/// With a nonzero beta, the old output is an input.
pub(crate) fn graph_kept_output_is_not_written(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let conv = Conv { scales: [1.0, 1.0], ..forward() };
    let memory = Memory::new(gpu)?;
    conv.plans(handle)?[0].run(gpu, handle, &memory.list(gpu))?;
    Ok(gpu.two.synchronize()?)
}

pub(crate) fn no_event_before_a_graph(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let count = SIZES[1].counts()[0];
    let mut x = gpu.blank(count)?;
    gpu.one.synchronize()?;
    gpu.one.memcpy_htod(&noise::<bf16>(count, 1), &mut x)?;
    let memory = Memory { x, ..Memory::new(gpu)? };
    plan(handle)?.run(gpu, handle, &memory.list(gpu))?;
    Ok(gpu.two.synchronize()?)
}

pub(crate) fn pack_lacks_a_tensor(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let memory = Memory::new(gpu)?;
    plan(handle)?.run(gpu, handle, &memory.list(gpu)[..2])
}

pub(crate) fn pack_has_another_tensor(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let memory = Memory::new(gpu)?;
    let mut list = memory.list(gpu);
    list.push((4, at(gpu, &memory.y)));
    plan(handle)?.run(gpu, handle, &list)
}

pub(crate) fn pack_has_a_tensor_twice(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let memory = Memory::new(gpu)?;
    let mut list = memory.list(gpu);
    list[2].0 = 1;
    plan(handle)?.run(gpu, handle, &list)
}

pub(crate) fn pointer_is_misaligned(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let memory = Memory::new(gpu)?;
    let mut list = memory.list(gpu);
    list[2].1 = list[2].1.wrapping_byte_add(8);
    plan(handle)?.run(gpu, handle, &list)
}

/// The identifiers of x and dy are the same.
pub(crate) fn identifier_of_two_tensors(gpu: &Gpu) -> Outcome {
    let mut conv = forward();
    conv.tensors[1].uid = 1;
    conv.graph(handle(gpu)?)?;
    Ok(())
}

pub(crate) fn tensor_is_set_before_it_is_finalized(_gpu: &Gpu) -> Outcome {
    let x = Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
    let name = Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X;
    forward().operation()?.children(name, &[&x])?.finalize()?;
    Ok(())
}

pub(crate) fn operation_is_not_finalized(gpu: &Gpu) -> Outcome {
    graph(handle(gpu)?, &[&forward().operation()?])?;
    Ok(())
}

pub(crate) fn set_after_finalize(_gpu: &Gpu) -> Outcome {
    forward().tensors[0].describe()?.ints(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[7])?;
    Ok(())
}

pub(crate) fn read_before_finalize(_gpu: &Gpu) -> Outcome {
    let name = Name::CUDNN_ATTR_TENSOR_UNIQUE_ID;
    let tensor = Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?.ints(name, &[7])?;
    tensor.get::<i64>(name, Type::CUDNN_TYPE_INT64, 1)?;
    Ok(())
}

/// A data type is no integer of 8 bytes.
pub(crate) fn attribute_of_another_type(_gpu: &Gpu) -> Outcome {
    Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .ints(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, &[9])?;
    Ok(())
}

pub(crate) fn attribute_is_missing(_gpu: &Gpu) -> Outcome {
    Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .ints(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[1; 4])?
        .ints(Name::CUDNN_ATTR_TENSOR_STRIDES, &[1; 4])?
        .ints(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[1])?
        .ints(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[16])?
        .finalize()?;
    Ok(())
}

pub(crate) fn results_need_their_kind(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let config = forward().configs(handle, Mode::CUDNN_HEUR_MODE_A)?.remove(0);
    let name = Name::CUDNN_ATTR_ENGINECFG_ENGINE;
    let found = config.fill(name, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, 1)?;
    Err(Failure(format!("{} results", found.len())))
}

pub(crate) fn y_is_of_another_size(_gpu: &Gpu) -> Outcome {
    let mut conv = forward();
    conv.tensors[2].dims[3] += 1;
    conv.operation()?.finalize()?;
    Ok(())
}

/// Asks for the first configuration of a graph for which there is none.
fn first_config(gpu: &Gpu, conv: &Conv) -> Outcome {
    let handle = handle(gpu)?;
    let found = conv.configs(handle, Mode::CUDNN_HEUR_MODE_A)?.len();
    if found > 0 {
        return Err(Failure(format!("{found} configurations")));
    }
    let graph = conv.graph(handle)?;
    let engine = Descriptor::new(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?
        .children(Name::CUDNN_ATTR_ENGINE_OPERATION_GRAPH, &[&graph])?
        .ints(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX, &[0])?
        .finalize()?;
    Descriptor::new(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)?
        .children(Name::CUDNN_ATTR_ENGINECFG_ENGINE, &[&engine])?
        .finalize()?;
    Ok(())
}

pub(crate) fn channels_are_not_last(gpu: &Gpu) -> Outcome {
    let mut conv = forward();
    conv.tensors[0].strides = [512, 64, 8, 1];
    first_config(gpu, &conv)
}

pub(crate) fn graph_types_differ(gpu: &Gpu) -> Outcome {
    let mut conv = forward();
    conv.tensors[0].number = Number::CUDNN_DATA_HALF;
    first_config(gpu, &conv)
}

pub(crate) fn sums_are_bf16(gpu: &Gpu) -> Outcome {
    first_config(gpu, &Conv { sums: BF16, ..forward() })
}

pub(crate) fn memory_is_hardly_aligned(gpu: &Gpu) -> Outcome {
    let mut conv = forward();
    conv.tensors[0].alignment = 2;
    first_config(gpu, &conv)
}

/// A virtual tensor that nothing uses.
pub(crate) fn output_is_virtual(gpu: &Gpu) -> Outcome {
    let mut conv = forward();
    conv.tensors[2] = Tensor { is_virtual: true, ..conv.tensors[2].clone() };
    conv.graph(handle(gpu)?)?;
    Ok(())
}

pub(crate) fn engine_does_not_exist(gpu: &Gpu) -> Outcome {
    let graph = forward().graph(handle(gpu)?)?;
    let name = Name::CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT;
    let count = graph.get::<i64>(name, Type::CUDNN_TYPE_INT64, 1)?;
    Descriptor::new(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?
        .children(Name::CUDNN_ATTR_ENGINE_OPERATION_GRAPH, &[&graph])?
        .ints(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX, &count)?
        .finalize()?;
    Ok(())
}

/// The engine of a convolution has another number for its gradient.
pub(crate) fn engine_of_another_pass(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let sizes = Sizes { c: 3, ..SIZES[1] };
    let config = Conv::new(Pass::Forward, &sizes, BF16)
        .configs(handle, Mode::CUDNN_HEUR_MODE_FALLBACK)?
        .remove(0);
    let name = Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX;
    let index = engine(&config)?.get::<i64>(name, Type::CUDNN_TYPE_INT64, 1)?;
    let other = Conv::new(Pass::BackwardFilter, &sizes, BF16).graph(handle)?;
    let engine = Descriptor::new(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?
        .children(Name::CUDNN_ATTR_ENGINE_OPERATION_GRAPH, &[&other])?
        .ints(name, &index)?
        .finalize()?;
    config.another()?.children(Name::CUDNN_ATTR_ENGINECFG_ENGINE, &[&engine])?.finalize()?;
    Ok(())
}

pub(crate) fn knob_of_no_engine(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let found = configs(&forward().graph(handle)?, Mode::CUDNN_HEUR_MODE_FALLBACK)?.remove(0);
    let knob = Descriptor::new(Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, Type::CUDNN_TYPE_KNOB_TYPE, &[2u32])?
        .ints(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, &[1])?
        .finalize()?;
    found
        .another()?
        .children(Name::CUDNN_ATTR_ENGINECFG_ENGINE, &[&engine(&found)?])?
        .children(Name::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, &[&knob])?
        .finalize()?;
    Ok(())
}

/// A plan of one GPU runs with the handle of another one.
pub(crate) fn plan_of_another_device(gpu: &Gpu) -> Outcome {
    let plan = plan(handle(gpu)?)?;
    let other = Gpu::new(1)?;
    let memory = Memory::new(&other)?;
    plan.run(&other, handle(&other)?, &memory.list(&other))
}
