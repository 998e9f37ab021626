//! Ranks that are processes.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;

use cudarc::driver::CudaSlice;
use cudarc::nccl::sys::ncclResult_t;
use cudarc::nccl::{Comm, Id, ReduceOp};

use super::ranks::{expect, of_rank, together, upload};
use super::raw::Raw;
use crate::gpu::{Failure, Gpu, Outcome};

/// A child process that runs the same case as rank 1. It receives the id and communicates through standard input and output.
struct Other {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Other {
    fn start(id: &Id, variables: &[(&str, &str)]) -> Result<Self, Failure> {
        let case = std::env::args().nth(2).unwrap_or_default();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--case", &case, &hex(id)]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.envs(variables.iter().copied()).spawn()?;
        let says = child.stdout.take().ok_or("no output")?;
        Ok(Self { child, says: BufReader::new(says) })
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn tell(&mut self, line: &str) -> Outcome {
        let stdin = self.child.stdin.as_mut().ok_or("no input")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    fn end(mut self) -> Outcome {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.says, &mut rest)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(Failure(format!("rank 1: {status} {rest}"))) }
    }
}

fn hex(id: &Id) -> String {
    id.internal().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{:02x}", byte.cast_unsigned()).unwrap();
        hex
    })
}

fn from_hex(hex: &str) -> Result<Id, Failure> {
    let mut id = [0; 128];
    for (at, byte) in id.iter_mut().enumerate() {
        let digits = hex.get(at * 2..at * 2 + 2).ok_or("a short id")?;
        *byte = u8::from_str_radix(digits, 16)?.cast_signed();
    }
    Ok(Id::uninit(id))
}

/// The id with which rank 1 was started.
fn given_id() -> Result<Option<Id>, Failure> {
    std::env::args().nth(3).map(|id| from_hex(&id)).transpose()
}

/// Rank 1 calls a collective and then waits for a message of rank 0, which sends it after the result. On a GPU the work continues
/// meanwhile.
pub(crate) fn processes(gpu: &Gpu) -> Outcome {
    gpu.context.bind_to_thread()?;
    let mut values;
    if let Some(id) = given_id()? {
        let gpu = Gpu::new(1)?;
        gpu.context.bind_to_thread()?;
        let comm = Comm::from_rank(Arc::clone(&gpu.two), 1, 2, id)?;
        values = upload::<f32>(&gpu, 1)?;
        comm.all_reduce_in_place(&mut values, &ReduceOp::Avg)?;
        std::io::stdin().read_line(&mut String::new())?;
        expect(
            "the average",
            &gpu.two.clone_dtoh(&values)?,
            &together(|zero, one| zero / 2.0 + one / 2.0),
        )?;
        comm.broadcast_in_place(&mut values, 0)?;
        return expect("the root's", &gpu.two.clone_dtoh(&values)?, &of_rank(0));
    }
    let id = Id::new()?;
    let mut other = Other::start(&id, &[])?;
    let comm = Comm::from_rank(Arc::clone(&gpu.two), 0, 2, id)?;
    values = upload::<f32>(gpu, 0)?;
    comm.all_reduce_in_place(&mut values, &ReduceOp::Avg)?;
    expect(
        "the average",
        &gpu.two.clone_dtoh(&values)?,
        &together(|zero, one| zero / 2.0 + one / 2.0),
    )?;
    other.tell("go on")?;
    values = upload::<f32>(gpu, 0)?;
    comm.broadcast_in_place(&mut values, 0)?;
    gpu.two.synchronize()?;
    other.end()
}

// Mistakes.

/// A rank whose peer is lost: the state of the communicator shows it at once, the stream after the timeout.
fn reduce_with_a_lost_peer(gpu: &Gpu, comm: &Raw, values: &CudaSlice<f32>) -> Outcome {
    for _ in 0..15_000 {
        let error = comm.error()?;
        if error != ncclResult_t::ncclSuccess {
            let sum = gpu.two.clone_dtoh(values).err();
            return Err(Failure(format!("{error:?}, and then {sum:?}")));
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

pub(crate) fn lost_process(gpu: &Gpu) -> Outcome {
    if let Some(id) = given_id()? {
        Raw::new(&Gpu::new(1)?, &id, 1)?;
        std::io::stdin().read_line(&mut String::new())?;
        std::process::abort();
    }
    let id = Id::new()?;
    let mut other = Other::start(&id, &[])?;
    let comm = Raw::new(gpu, &id, 0)?;
    let values = upload::<f32>(gpu, 0)?;
    comm.sum_in_place(gpu, &values)?;
    other.tell("die")?;
    other.end().err().ok_or("it did not die")?;
    reduce_with_a_lost_peer(gpu, &comm, &values)
}

/// As above, if the lost process created the id.
pub(crate) fn lost_creator_of_the_id(gpu: &Gpu) -> Outcome {
    if given_id()?.is_some() {
        let id = Id::new()?;
        println!("{}", hex(&id));
        Raw::new(gpu, &id, 0)?;
        std::io::stdin().read_line(&mut String::new())?;
        std::process::abort();
    }
    let mut other = Other::start(&Id::uninit([0; 128]), &[])?;
    let id = from_hex(&other.line()?)?;
    let gpu = Gpu::new(1)?;
    let comm = Raw::new(&gpu, &id, 1)?;
    let values = upload::<f32>(&gpu, 1)?;
    comm.sum_in_place(&gpu, &values)?;
    other.tell("die")?;
    other.end().err().ok_or("it did not die")?;
    reduce_with_a_lost_peer(&gpu, &comm, &values)
}

/// Ranks of two processes on the same GPU.
pub(crate) fn processes_share_a_gpu(gpu: &Gpu) -> Outcome {
    gpu.context.bind_to_thread()?;
    if let Some(id) = given_id()? {
        Comm::from_rank(Arc::clone(&gpu.two), 1, 2, id)?;
        return Ok(());
    }
    let id = Id::new()?;
    let other = Other::start(&id, &[])?;
    let comm = Comm::from_rank(Arc::clone(&gpu.two), 0, 2, id);
    other.end()?;
    comm?;
    Ok(())
}

/// Processes that see different GPUs of the machine, or are on different machines.
pub(crate) fn processes_see_different_gpus(gpu: &Gpu) -> Outcome {
    gpu.context.bind_to_thread()?;
    if let Some(id) = given_id()? {
        Comm::from_rank(Arc::clone(&gpu.two), 1, 2, id)?;
        return Ok(());
    }
    for variable in [("CUDA_VISIBLE_DEVICES", "1"), ("NCCL_HOSTID", "another")] {
        let id = Id::new()?;
        let other = Other::start(&id, &[variable])?;
        Comm::from_rank(Arc::clone(&gpu.two), 0, 2, id)?;
        other.end()?;
    }
    Ok(())
}
