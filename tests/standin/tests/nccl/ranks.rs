//! Ranks that are threads, and their values.

use std::sync::Arc;
use std::thread;

use cudarc::driver::CudaSlice;
use cudarc::nccl::{Comm, Id};

use super::raw::Raw;
use crate::data::{Real, noise};
use crate::gpu::{Failure, Gpu, Outcome};

pub(super) const COUNT: usize = 1000;

/// Runs two ranks as threads, each with its device. Collectives run on the second stream. All failures are reported.
pub(super) fn ranks(body: impl Fn(usize, &Gpu, &Comm) -> Outcome + Sync) -> Outcome {
    let id = Id::new()?;
    let run = |rank| {
        let gpu = Gpu::new(rank)?;
        gpu.context.bind_to_thread()?;
        body(rank, &gpu, &Comm::from_rank(Arc::clone(&gpu.two), rank, 2, id)?)
    };
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let threads = [0, 1].map(|rank| scope.spawn(move || run(rank)));
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_panic| Failure("a panic".to_owned()))?)
            .collect()
    });
    let failures = outcomes.into_iter().enumerate().filter_map(|(rank, outcome)| {
        outcome.err().map(|failure| format!("rank {rank}: {}\n", failure.0))
    });
    match failures.collect::<String>() {
        failures if failures.is_empty() => Ok(()),
        failures => Err(Failure(failures)),
    }
}

/// Runs rank 0 in a world of two whose rank 1 leaves at once.
pub(super) fn raw_ranks(body: impl Fn(&Gpu, &Raw) -> Outcome + Sync) -> Outcome {
    let id = Id::new()?;
    thread::scope(|scope| {
        let leaves = scope.spawn(move || Raw::new(&Gpu::new(1)?, &id, 1)?.abort());
        let gpu = Gpu::new(0)?;
        let comm = Raw::new(&gpu, &id, 0)?;
        leaves.join().map_err(|_panic| Failure("a panic".to_owned()))??;
        body(&gpu, &comm)
    })
}

pub(super) fn of_rank<T: Real>(rank: usize) -> Vec<T> {
    noise(COUNT, rank + 1)
}

pub(super) fn expect<T: PartialEq>(what: &str, found: &[T], wanted: &[T]) -> Outcome {
    if found == wanted { Ok(()) } else { Err(Failure(format!("{what} is wrong"))) }
}

/// Uploads the values of a rank on the stream of the collectives.
pub(super) fn upload<T: Real>(gpu: &Gpu, rank: usize) -> Result<CudaSlice<T>, Failure> {
    Ok(gpu.two.clone_htod(&of_rank::<T>(rank))?)
}

/// Combines the values of both ranks element by element.
pub(super) fn together<T: Real>(how: impl Fn(f32, f32) -> f32) -> Vec<T> {
    let (zero, one) = (of_rank::<T>(0), of_rank::<T>(1));
    zero.iter()
        .zip(&one)
        .map(|(zero, one)| T::from(how(zero.value() as f32, one.value() as f32)))
        .collect()
}
