//! The functions of NCCL under their C names.

use std::ffi::{c_char, c_int};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::collective::{Collective, Element, Kind, Reduction};
use super::comm::{COMMS, Call, Comm};
use super::group::{call, join, ncclGroupEnd, ncclGroupStart};
use super::id::Id;
use super::{Answer, LAST, Status, code, wrong};
use crate::machine::inside;
use crate::memory::Operand;
use crate::table::{Out, put};

fn get(comm: usize) -> Answer<Arc<Comm>> {
    match COMMS.get(comm) {
        Some(comm) => Ok(comm),
        None => wrong(Status::INVALID_ARGUMENT, "the communicator does not exist or was destroyed"),
    }
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetVersion(version: Out<'_, c_int>) -> u32 {
    code(put(version, 23_003, Status::INVALID_ARGUMENT))
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetErrorString(status: u32) -> *const c_char {
    Status(status).text().as_ptr().cast()
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetLastError(_comm: usize) -> *const c_char {
    let last = LAST.load(Ordering::Acquire);
    if last.is_null() { c"".as_ptr() } else { last }
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetUniqueId(id: Out<'_, Id>) -> u32 {
    code(Id::open().and_then(|made| put(id, made, Status::INVALID_ARGUMENT)))
}

/// Creates a communicator on the device whose context is bound to this thread.
fn init(comm: Out<'_, usize>, ranks: c_int, id: &Id, rank: c_int, device: Option<c_int>) -> Answer {
    let (Ok(ranks), Ok(rank)) = (usize::try_from(ranks), usize::try_from(rank)) else {
        return wrong(Status::INVALID_ARGUMENT, format!("rank {rank} of {ranks}"));
    };
    if rank >= ranks {
        return wrong(Status::INVALID_ARGUMENT, format!("rank {rank} of {ranks}"));
    }
    let (context, gpu, losses) = inside(|machine| {
        let context = match device {
            Some(device) => {
                let found = usize::try_from(device).ok().filter(|it| *it < machine.contexts.len());
                found.ok_or(Status::INVALID_ARGUMENT)?
            }
            None => machine.current()?,
        };
        machine.check_usable(context)?;
        let losses = (machine.config.nccl_timeout, machine.config.nccl_silent);
        Ok::<_, Status>((context, machine.config.gpu(context), losses))
    })?;
    let made = Comm::connect(id.name()?.to_owned(), [rank, ranks], context, gpu, losses)?;
    let handle = COMMS.insert(Arc::clone(&made));
    put(comm, handle, Status::INVALID_ARGUMENT).and_then(|()| join(&made)).inspect_err(|_| {
        COMMS.remove(handle);
        made.close().unwrap_or_default();
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommInitRank(comm: Out<'_, usize>, ranks: c_int, id: Id, rank: c_int) -> u32 {
    code(init(comm, ranks, &id, rank, None))
}

/// The beginning of `ncclConfig_t`.
#[repr(C)]
struct Settings {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommInitRankConfig(
    comm: Out<'_, usize>,
    ranks: c_int,
    id: Id,
    rank: c_int,
    settings: Option<&Settings>,
) -> u32 {
    if settings.is_some_and(|settings| settings.blocking == 0) {
        return code(wrong(Status::INVALID_USAGE, "non-blocking communicators are not supported"));
    }
    code(init(comm, ranks, &id, rank, None))
}

/// Creates one rank for each device, all in this process.
#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommInitAll(
    comms: *mut usize,
    count: c_int,
    devices: *const c_int,
) -> u32 {
    if comms.is_null() {
        return Status::INVALID_ARGUMENT.0;
    }
    ncclGroupStart();
    let all = Id::open().and_then(|id| {
        (0..count).try_for_each(|rank| {
            let at = usize::try_from(rank).unwrap_or(0);
            // SAFETY: the caller passes `count` of both, or NULL for the devices in order.
            let (comm, device) = unsafe {
                (
                    &mut *comms.add(at).cast(),
                    if devices.is_null() { rank } else { *devices.add(at) },
                )
            };
            init(Some(comm), count, &id, rank, Some(device))
        })
    });
    let joined = ncclGroupEnd();
    all.map_or_else(|status| status.0, |()| joined)
}

/// Waits for the collectives in flight.
#[unsafe(no_mangle)]
extern "C" fn ncclCommFinalize(comm: usize) -> u32 {
    code(get(comm).and_then(|comm| comm.finish()))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommDestroy(comm: usize) -> u32 {
    code(get(comm).and_then(|found| {
        let finished = found.finish();
        COMMS.remove(comm);
        finished.and(found.close())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommAbort(comm: usize) -> u32 {
    code(get(comm).and_then(|found| {
        COMMS.remove(comm);
        found.close()
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommCount(comm: usize, count: Out<'_, c_int>) -> u32 {
    number(comm, count, |comm| comm.ranks)
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommCuDevice(comm: usize, device: Out<'_, c_int>) -> u32 {
    number(comm, device, |comm| comm.context)
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommUserRank(comm: usize, rank: Out<'_, c_int>) -> u32 {
    number(comm, rank, |comm| comm.rank)
}

fn number(comm: usize, out: Out<'_, c_int>, which: impl FnOnce(&Comm) -> usize) -> u32 {
    code(get(comm).and_then(|comm| {
        let value = c_int::try_from(which(&comm)).unwrap_or(c_int::MAX);
        put(out, value, Status::INVALID_ARGUMENT)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommGetAsyncError(comm: usize, error: Out<'_, u32>) -> u32 {
    code(get(comm).and_then(|comm| {
        put(error, comm.error().map_or(0, |status| status.0), Status::INVALID_ARGUMENT)
    }))
}

/// Checks a call and enqueues it.
fn collective(
    comm: usize,
    kind: Option<Kind>,
    kind_of_element: u32,
    count: usize,
    [input, output]: [u64; 2],
    stream: usize,
) -> u32 {
    code(get(comm).and_then(|comm| {
        let (Some(kind), Some(element)) = (kind, Element::new(kind_of_element)) else {
            return wrong(Status::INVALID_ARGUMENT, "an unknown type or operator");
        };
        let reduces = matches!(kind, Kind::AllReduce(_) | Kind::ReduceScatter(_));
        if reduces && matches!(element, Element::Other(..)) {
            return wrong(
                Status::INVALID_ARGUMENT,
                "reductions of other types than f32, f16 and bf16 are not supported",
            );
        }
        if let Kind::Broadcast { root } = kind
            && root >= comm.ranks
        {
            return wrong(Status::INVALID_ARGUMENT, format!("root {root} of {} ranks", comm.ranks));
        }
        let collective = Collective { kind, element, count };
        let (given, got) = collective.counts(comm.rank, comm.ranks);
        let operand = |name, address, count: usize| {
            let bytes = count.saturating_mul(element.bytes()) as u64;
            Operand { name, address, bytes }
        };
        let (input, output) = (operand("sendbuff", input, given), operand("recvbuff", output, got));
        let stream = inside(|machine| {
            for operand in [&input, &output] {
                if operand.bytes > 0 && !machine.space.is_on(operand, comm.context) {
                    let place = machine.space.describe(operand.address, operand.bytes);
                    let what = format!(
                        "{collective}: {} is not on device {}: {place}",
                        operand.name, comm.context
                    );
                    return wrong(Status::INVALID_ARGUMENT, what);
                }
            }
            let stream = machine.resolve(stream)?;
            if machine.queues.stream(stream).context != comm.context {
                return wrong(
                    Status::INVALID_ARGUMENT,
                    "the stream belongs to another device than the communicator",
                );
            }
            Ok(stream)
        })?;
        let input = (input.bytes > 0).then_some(input);
        call(&comm, Call { collective, input, output, stream })
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclAllReduce(
    input: u64,
    output: u64,
    count: usize,
    element: u32,
    reduction: u32,
    comm: usize,
    stream: usize,
) -> u32 {
    let kind = Reduction::new(reduction).map(Kind::AllReduce);
    collective(comm, kind, element, count, [input, output], stream)
}

#[unsafe(no_mangle)]
extern "C" fn ncclBroadcast(
    input: u64,
    output: u64,
    count: usize,
    element: u32,
    root: c_int,
    comm: usize,
    stream: usize,
) -> u32 {
    let kind = usize::try_from(root).ok().map(|root| Kind::Broadcast { root });
    collective(comm, kind, element, count, [input, output], stream)
}

#[unsafe(no_mangle)]
extern "C" fn ncclAllGather(
    input: u64,
    output: u64,
    count: usize,
    element: u32,
    comm: usize,
    stream: usize,
) -> u32 {
    collective(comm, Some(Kind::AllGather), element, count, [input, output], stream)
}

#[unsafe(no_mangle)]
extern "C" fn ncclReduceScatter(
    input: u64,
    output: u64,
    count: usize,
    element: u32,
    reduction: u32,
    comm: usize,
    stream: usize,
) -> u32 {
    let kind = Reduction::new(reduction).map(Kind::ReduceScatter);
    collective(comm, kind, element, count, [input, output], stream)
}
