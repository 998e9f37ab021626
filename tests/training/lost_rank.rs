//! A rank that is lost while the others wait for it.

use forebay_trainer::{
    BUCKET_LEN, Backend as _, Cursor, Error, MicroStep, Precision, ProcessGroup,
};

use crate::gpu::{Test, gpu};
use crate::microbatches::{batches, settings};

/// Tests on two devices, of which the first is given.
pub(crate) const PAIRS: &[(&str, Test)] =
    &[("a_rank_that_drops_out_ends_the_other_with_an_error", drops_out)];

/// One rank ends in the middle of a step. The collectives of the other one never end by themselves, and everything that waits for
/// its GPU waits for them.
fn drops_out(device: u32) {
    let training = settings(2, 2);
    let run = |group: ProcessGroup| {
        let rank = group.rank();
        let mut backend = gpu(device + rank.rank, Precision::Bf16, rank, BUCKET_LEN);
        // The groups of threads have no heartbeat, so only NCCL notices.
        backend.join(group)?;
        let batch = batches(&training, Cursor::default(), rank).next().unwrap()?;
        let micro = MicroStep { drop_path: None, loss: &training.loss, weight: 0.5, last: true };
        backend.forward(&batch, &micro)?;
        if rank.rank == 1 {
            return Ok(());
        }
        backend.backward(&batch, &micro)?;
        backend.update(&training.optimizer, None, 1e-3, None)?;
        while backend.poll_report(true)?.is_some() {}
        Ok::<(), Error>(())
    };
    let ended: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            ProcessGroup::threads(2).into_iter().map(|group| scope.spawn(|| run(group))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ended[1].is_ok(), "{:?}", ended[1]);
    let error = ended[0].as_ref().unwrap_err().to_string();
    // Not an error of the GPU, with which the stand-in ends a wait after a while.
    assert!(error.contains("exchanging with the GPUs of the other ranks"), "{error}");
    assert!(error.contains("remote process exited"), "{error}");
}
