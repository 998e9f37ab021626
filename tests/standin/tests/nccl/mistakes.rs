//! Programs with one mistake each.

use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use cudarc::driver::CudaContext;
use cudarc::nccl::{Comm, Id, ReduceOp};

use super::ranks::{COUNT, of_rank, ranks, raw_ranks, upload};
use crate::data::blank;
use crate::gpu::{Failure, Gpu, Outcome};

/// Waits for an error of the context, as a rank that continues with other work.
fn until_it_breaks(gpu: &Gpu) -> Outcome {
    for _ in 0..15_000 {
        gpu.two.synchronize()?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub(crate) fn skipped_collective(_gpu: &Gpu) -> Outcome {
    ranks(|rank, gpu, comm| {
        let mut values = upload::<f32>(gpu, rank)?;
        comm.all_reduce_in_place(&mut values, &ReduceOp::Sum)?;
        if rank == 0 {
            comm.all_reduce_in_place(&mut values, &ReduceOp::Sum)?;
        }
        until_it_breaks(gpu)
    })
}

pub(crate) fn counts_differ(_gpu: &Gpu) -> Outcome {
    ranks(|rank, gpu, comm| {
        let mut values = upload::<f32>(gpu, rank)?;
        comm.all_reduce_in_place(&mut values.slice_mut(..COUNT - rank), &ReduceOp::Sum)?;
        until_it_breaks(gpu)
    })
}

pub(crate) fn collectives_differ(_gpu: &Gpu) -> Outcome {
    ranks(|rank, gpu, comm| {
        let mut values = upload::<f32>(gpu, rank)?;
        if rank == 0 {
            comm.all_reduce_in_place(&mut values, &ReduceOp::Sum)?;
        } else {
            comm.broadcast_in_place(&mut values, 0)?;
        }
        until_it_breaks(gpu)
    })
}

pub(crate) fn left_too_early(_gpu: &Gpu) -> Outcome {
    ranks(|rank, gpu, comm| {
        if rank == 1 {
            return Ok(());
        }
        let mut values = upload::<f32>(gpu, rank)?;
        comm.all_reduce_in_place(&mut values, &ReduceOp::Sum)?;
        until_it_breaks(gpu)
    })
}

/// The order of an error path that hangs: it waits for the stream of a lost rank's collective, and aborts afterward.
pub(crate) fn waits_before_the_abort(_gpu: &Gpu) -> Outcome {
    raw_ranks(|gpu, comm| {
        let values = upload::<f32>(gpu, 0)?;
        comm.sum_in_place(gpu, &values)?;
        let waited = gpu.two.synchronize();
        comm.abort()?;
        Ok(waited?)
    })
}

pub(crate) fn dropped_in_flight(_gpu: &Gpu) -> Outcome {
    let values = Mutex::new(Vec::new());
    ranks(|rank, gpu, comm| {
        let mut mine = upload::<f32>(gpu, rank)?;
        comm.all_reduce_in_place(&mut mine, &ReduceOp::Sum)?;
        values.lock().map_err(|_poison| "poisoned")?.push((gpu.clone(), mine));
        Ok(())
    })?;
    for (gpu, values) in values.into_inner()? {
        gpu.two.clone_dtoh(&values)?;
    }
    Ok(())
}

pub(crate) fn no_event_before_nccl(_gpu: &Gpu) -> Outcome {
    ranks(|rank, gpu, comm| {
        let mut values = gpu.blank::<f32>(COUNT)?;
        gpu.one.synchronize()?;
        gpu.one.memcpy_htod(&of_rank::<f32>(rank), &mut values)?;
        comm.all_reduce_in_place(&mut values, &ReduceOp::Sum)?;
        Ok(gpu.two.synchronize()?)
    })
}

pub(crate) fn buffer_is_short(_gpu: &Gpu) -> Outcome {
    ranks(|rank, gpu, comm| {
        let values = upload::<f32>(gpu, rank)?;
        let mut all = blank(gpu, 2 * COUNT - 1)?;
        comm.all_gather(&values, &mut all)?;
        Ok(())
    })
}

pub(crate) fn stream_of_another_device(_gpu: &Gpu) -> Outcome {
    ranks(|rank, gpu, _comm| {
        let other = CudaContext::new(1 - rank)?.new_stream()?;
        gpu.context.bind_to_thread()?;
        let comm = Comm::from_rank(other, rank, 2, shared_id()?)?;
        let mut values = upload::<f32>(gpu, rank)?;
        gpu.two.synchronize()?;
        comm.all_reduce_in_place(&mut values, &ReduceOp::Sum)?;
        Ok(())
    })
}

/// Both threads use one id.
fn shared_id() -> Result<Id, Failure> {
    static ID: OnceLock<Id> = OnceLock::new();
    let made = Id::new()?;
    Ok(*ID.get_or_init(|| made))
}

pub(crate) fn one_gpu_for_two_ranks(gpu: &Gpu) -> Outcome {
    Comm::from_devices(vec![Arc::clone(&gpu.one), Arc::clone(&gpu.two)])?;
    Ok(())
}

pub(crate) fn one_thread_without_a_group(_gpu: &Gpu) -> Outcome {
    let gpus = [Gpu::new(0)?, Gpu::new(1)?];
    let comms = Comm::from_devices(gpus.iter().map(|gpu| Arc::clone(&gpu.two)).collect())?;
    for (rank, comm) in comms.iter().enumerate() {
        let mut values = upload::<f32>(&gpus[rank], rank)?;
        comm.all_reduce_in_place(&mut values, &ReduceOp::Sum)?;
    }
    Ok(())
}

pub(crate) fn not_an_id(gpu: &Gpu) -> Outcome {
    gpu.context.bind_to_thread()?;
    Comm::from_rank(Arc::clone(&gpu.two), 0, 1, Id::uninit([7; 128]))?;
    Ok(())
}

pub(crate) fn missing_rank(gpu: &Gpu) -> Outcome {
    gpu.context.bind_to_thread()?;
    Comm::from_rank(Arc::clone(&gpu.two), 0, 2, Id::new()?)?;
    Ok(())
}
