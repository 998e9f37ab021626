//! Each collective, with ranks that are threads and with all ranks in one thread.

use std::sync::Arc;
use std::thread;

use cudarc::nccl::sys::ncclResult_t;
use cudarc::nccl::{Comm, Id, ReduceOp, group_end, group_start, result};
use half::bf16;

use super::ranks::{COUNT, expect, of_rank, ranks, raw_ranks, together, upload};
use super::raw::Raw;
use crate::data::blank;
use crate::gpu::{Failure, Gpu, Outcome, grid, launch};

pub(crate) fn reductions(_gpu: &Gpu) -> Outcome {
    ranks(|rank, gpu, comm| {
        for _round in 0..3 {
            let (x, mut y) = (upload::<f32>(gpu, rank)?, blank(gpu, COUNT)?);
            comm.all_reduce(&x, &mut y, &ReduceOp::Sum)?;
            let sums = together::<f32>(|zero, one| zero + one);
            expect("the sum", &gpu.two.clone_dtoh(&y)?, &sums)?;
            let mut y = upload::<bf16>(gpu, rank)?;
            comm.all_reduce_in_place(&mut y, &ReduceOp::Avg)?;
            let means = together::<bf16>(|zero, one| zero / 2.0 + one / 2.0);
            expect("the average", &gpu.two.clone_dtoh(&y)?, &means)?;
            let mut share = blank(gpu, COUNT / 2)?;
            comm.reduce_scatter(&x, &mut share, &ReduceOp::Sum)?;
            let wanted = &sums[rank * COUNT / 2..][..COUNT / 2];
            expect("the share", &gpu.two.clone_dtoh(&share)?, wanted)?;
        }
        Ok(())
    })
}

pub(crate) fn copies(_gpu: &Gpu) -> Outcome {
    ranks(|rank, gpu, comm| {
        let x = upload::<bf16>(gpu, rank)?;
        let mut all = blank(gpu, 2 * COUNT)?;
        comm.all_gather(&x, &mut all)?;
        let wanted = [of_rank::<bf16>(0), of_rank(1)].concat();
        expect("all", &gpu.two.clone_dtoh(&all)?, &wanted)?;
        let mut y = blank(gpu, COUNT)?;
        comm.broadcast((rank == 1).then_some(&x), &mut y, 1)?;
        expect("the root's", &gpu.two.clone_dtoh(&y)?, &of_rank(1))
    })
}

/// Gradients are written on one stream and reduced on another, in two buckets, and then used on the first.
pub(crate) fn collectives_overlap_with_kernels(_gpu: &Gpu) -> Outcome {
    ranks(|rank, gpu, comm| {
        let mut buckets = [gpu.blank::<f32>(64)?, gpu.blank::<f32>(64)?];
        let (written, reduced) = (gpu.event()?, gpu.event()?);
        for step in 0..3i32 {
            for bucket in &mut buckets {
                gpu.one.memcpy_htod(&[(rank as f32 + 1.0) * (step as f32 + 1.0); 64], bucket)?;
                written.record(&gpu.one)?;
                gpu.two.wait(&written)?;
                comm.all_reduce_in_place(bucket, &ReduceOp::Sum)?;
            }
            reduced.record(&gpu.two)?;
            gpu.one.wait(&reduced)?;
            for bucket in &mut buckets {
                launch!(gpu.one, gpu.kernel("add_one")?, grid(1, 64), &mut *bucket, &64i32)?;
                let wanted = [3.0 * (step as f32 + 1.0) + 1.0; 64];
                expect("a bucket", &gpu.one.clone_dtoh(&*bucket)?, &wanted)?;
            }
        }
        Ok(())
    })
}

pub(crate) fn one_thread_for_all(_gpu: &Gpu) -> Outcome {
    let gpus = [Gpu::new(0)?, Gpu::new(1)?];
    let comms = Comm::from_devices(gpus.iter().map(|gpu| Arc::clone(&gpu.two)).collect())?;
    let mut values = [upload::<f32>(&gpus[0], 0)?, upload(&gpus[1], 1)?];
    group_start()?;
    for (comm, values) in comms.iter().zip(&mut values) {
        comm.all_reduce_in_place(values, &ReduceOp::Max)?;
    }
    group_end()?;
    for (gpu, values) in gpus.iter().zip(&values) {
        expect("the maximum", &gpu.two.clone_dtoh(values)?, &together(f32::max))?;
    }
    Ok(())
}

/// A host that polls an event instead of waiting for it.
pub(crate) fn polling(_gpu: &Gpu) -> Outcome {
    ranks(|rank, gpu, comm| {
        let mut values = upload::<f32>(gpu, rank)?;
        comm.all_reduce_in_place(&mut values, &ReduceOp::Sum)?;
        let done = gpu.event()?;
        done.record(&gpu.two)?;
        while !done.try_is_complete()? {
            thread::sleep(std::time::Duration::from_millis(1));
        }
        expect("the sum", &gpu.two.clone_dtoh(&values)?, &together(|zero, one| zero + one))
    })
}

pub(crate) fn ranks_know_their_devices(_gpu: &Gpu) -> Outcome {
    let id = Id::new()?;
    let who = |rank: usize| {
        let gpu = Gpu::new(rank)?;
        let raw = Raw::new(&gpu, &id, rank)?;
        // SAFETY: the communicator is valid.
        let reported = unsafe {
            [
                result::comm_count(raw.0)?,
                result::comm_user_rank(raw.0)?,
                result::comm_cu_device(raw.0)?,
            ]
        };
        let error = raw.error()?;
        // SAFETY: the communicator is valid and not used afterward.
        unsafe { result::comm_finalize(raw.0).and(result::comm_destroy(raw.0))? };
        let rank = rank as i32;
        if reported == [2, rank, rank] && error == ncclResult_t::ncclSuccess {
            Ok(())
        } else {
            Err(Failure(format!("{reported:?} {error:?}")))
        }
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| who(1));
        who(0).and(other.join().map_err(|_panic| Failure("a panic".to_owned()))?)
    })
}

/// A collective that a lost rank never joins ends when another thread aborts it, and the GPU can be used afterward.
pub(crate) fn an_abort_ends_the_wait(_gpu: &Gpu) -> Outcome {
    raw_ranks(|gpu, comm| {
        let values = upload::<f32>(gpu, 0)?;
        comm.sum_in_place(gpu, &values)?;
        thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while comm.error()? == ncclResult_t::ncclSuccess {
                    thread::sleep(std::time::Duration::from_millis(1));
                }
                comm.abort()
            });
            gpu.two.synchronize()?;
            watch.join().map_err(|_panic| Failure("a panic".to_owned()))?
        })?;
        expect("an upload", &gpu.two.clone_dtoh(&upload::<f32>(gpu, 1)?)?, &of_rank(1))
    })
}
