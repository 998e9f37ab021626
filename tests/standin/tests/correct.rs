//! Correct programs, whose result does not depend on the order of work and threads.

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use cudarc::driver::{
    CudaContext, DevicePtr as _, DevicePtrMut as _, DeviceRepr, LaunchConfig, result, sys,
};

use crate::gpu::{Failure, Gpu, Outcome, grid, launch};

/// The parameter of the kernels with the same name.
#[repr(C)]
struct Mix {
    from: u64,
    to: u64,
    count: i32,
    lambda: f32,
}

// SAFETY: the layout is that of kernels.cu.
unsafe impl DeviceRepr for Mix {}

fn expect<T: PartialEq + std::fmt::Debug>(found: &T, wanted: &T) -> Outcome {
    if found == wanted { Ok(()) } else { Err(Failure(format!("{found:?}, wanted {wanted:?}"))) }
}

fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i % 37) as f32 * 0.37 - 5.0).collect()
}

/// Copies pinned memory to the device on one stream, runs a kernel on another, and copies back on the first. The buffers are
/// used twice.
pub(crate) fn overlap(gpu: &Gpu) -> Outcome {
    let count = 10_007;
    let (mut up, mut down) = (gpu.pinned::<u8>(count)?, gpu.pinned::<f32>(count)?);
    let (mut from, mut to) = (gpu.blank::<u8>(count)?, gpu.blank::<f32>(count)?);
    let (uploaded, mixed, downloaded) = (gpu.event()?, gpu.event()?, gpu.event()?);
    uploaded.record(&gpu.one)?;
    for round in 0..2u8 {
        let bytes: Vec<u8> = (0..count).map(|i| (i % 251) as u8 ^ round).collect();
        uploaded.synchronize()?;
        up.as_mut_slice()?.copy_from_slice(&bytes);
        gpu.one.memcpy_htod(&up, &mut from)?;
        uploaded.record(&gpu.one)?;
        gpu.two.wait(&uploaded)?;
        let mix = Mix {
            from: from.device_ptr(&gpu.two).0,
            to: to.device_ptr_mut(&gpu.two).0,
            count: 10_007,
            lambda: 0.3,
        };
        launch!(gpu.two, gpu.kernel("mix")?, grid(3, 128), &mix)?;
        mixed.record(&gpu.two)?;
        gpu.one.wait(&mixed)?;
        gpu.one.memcpy_dtoh(&to, &mut down)?;
        downloaded.record(&gpu.one)?;
        downloaded.synchronize()?;
        let wanted: Vec<f32> = (0..count)
            .map(|i| f32::from(bytes[i]) * 0.3 + f32::from(bytes[count - 1 - i]) * (1.0 - 0.3))
            .collect();
        if down.as_slice()? != wanted {
            return Err(Failure(format!("round {round} differs")));
        }
    }
    Ok(())
}

pub(crate) fn shuffles_and_barriers(gpu: &Gpu) -> Outcome {
    let values: Vec<f32> = (0..1000).map(|i| (i % 11) as f32).collect();
    let from = gpu.one.clone_htod(&values)?;
    let mut to = gpu.blank::<f32>(3)?;
    launch!(gpu.one, gpu.kernel("sum_of_squares")?, grid(3, 256), &from, &mut to, &1000i32)?;
    let wanted: f32 = values.iter().map(|x| x * x).sum();
    expect(&gpu.one.clone_dtoh(&to)?, &vec![wanted; 3])
}

pub(crate) fn dynamic_shared_memory(gpu: &Gpu) -> Outcome {
    let from = gpu.one.clone_htod(&ramp(1024))?;
    let mut to = gpu.blank::<f32>(1024)?;
    let kernel = gpu.kernel("transpose")?;
    // More than 48 KiB must be requested.
    kernel.set_attribute(
        CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
        100_000,
    )?;
    let shape =
        LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 32, 1), shared_mem_bytes: 100_000 };
    launch!(gpu.one, kernel, shape, &from, &mut to)?;
    let found = gpu.one.clone_dtoh(&to)?;
    let wanted: Vec<f32> = (0..1024).map(|i| ramp(1024)[i % 32 * 32 + i / 32]).collect();
    expect(&found, &wanted)
}

pub(crate) fn votes(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<u32>(256)?;
    launch!(gpu.one, gpu.kernel("votes")?, grid(1, 64), &mut to)?;
    let found = gpu.one.clone_dtoh(&to)?;
    let ballot = |warp: u32| {
        (0..32)
            .filter(|lane| (warp * 32 + lane).is_multiple_of(3))
            .fold(0u32, |mask, lane| mask | 1 << lane)
    };
    let wanted: Vec<u32> = (0..64u32)
        .flat_map(|t| {
            let (warp, lane) = (t / 32, t % 32);
            let moved = match (t % 2, lane) {
                (0, 0) | (1, 31) => t,
                (0, _) => t - 2,
                _ => t + 2,
            };
            [ballot(warp), if warp == 0 { 1 } else { 2 }, t / 8 * 8 + 5, moved]
        })
        .collect();
    expect(&found, &wanted)
}

pub(crate) fn atomics(gpu: &Gpu) -> Outcome {
    let bytes: Vec<u8> = (0..5000usize).map(|i| (i * i % 256) as u8).collect();
    let from = gpu.one.clone_htod(&bytes)?;
    let mut to = gpu.one.alloc_zeros::<u32>(256)?;
    launch!(gpu.one, gpu.kernel("histogram")?, grid(20, 256), &from, &mut to, &5000i32)?;
    let wanted: Vec<u32> = (0..256)
        .map(|value| bytes.iter().filter(|byte| usize::from(**byte) == value).count() as u32)
        .collect();
    expect(&gpu.one.clone_dtoh(&to)?, &wanted)
}

pub(crate) fn vectors_of_16_bytes(gpu: &Gpu) -> Outcome {
    let words: Vec<u32> = (0..4000).collect();
    let from = gpu.one.clone_htod(&words)?;
    let mut to = gpu.blank::<u32>(4000)?;
    launch!(gpu.one, gpu.kernel("copy16")?, grid(4, 256), &from, &mut to, &1000i32)?;
    expect(&gpu.one.clone_dtoh(&to)?, &words)
}

pub(crate) fn arithmetic_is_ieee(gpu: &Gpu) -> Outcome {
    let values: Vec<f32> = (1..=999).map(|i| 1.0 / i as f32 - 0.01).collect();
    let from = gpu.one.clone_htod(&values)?;
    let mut to = gpu.blank::<f32>(999 * 4)?;
    launch!(gpu.one, gpu.kernel("arithmetic")?, grid(4, 256), &from, &mut to, &999i32)?;
    let wanted: Vec<f32> = (0..999)
        .flat_map(|i| {
            let (a, b) = (values[i], values[(i + 1) % 999]);
            [a.mul_add(b, 0.1), (a * 100.0).round_ties_even(), a / b, -a]
        })
        .collect();
    expect(&gpu.one.clone_dtoh(&to)?, &wanted)
}

/// Functions of the math library, apart from the last bits, in which a GPU differs from the host.
pub(crate) fn functions(gpu: &Gpu) -> Outcome {
    let values = ramp(300);
    let from = gpu.one.clone_htod(&values)?;
    let mut to = gpu.blank::<f32>(300)?;
    launch!(gpu.one, gpu.kernel("functions")?, grid(2, 256), &from, &mut to, &300i32)?;
    let found = gpu.one.clone_dtoh(&to)?;
    for (i, (x, found)) in values.iter().zip(&found).enumerate() {
        let wanted = (-x.abs()).exp() + x.min(1.0) + i.min(7) as f32 + (i as f32).sqrt();
        if (found - wanted).abs() > 1e-5 {
            return Err(Failure(format!("{found}, wanted {wanted}")));
        }
    }
    Ok(())
}

pub(crate) fn inline_ptx(gpu: &Gpu) -> Outcome {
    let values: Vec<f32> = ramp(500);
    let from = gpu.one.clone_htod(&values)?;
    let mut to = gpu.blank::<u16>(500)?;
    launch!(gpu.one, gpu.kernel("to_bf16")?, grid(2, 256), &from, &mut to, &500i32)?;
    let rounded = |x: &f32| (x.to_bits() + 0x7fff + (x.to_bits() >> 16 & 1)) >> 16;
    let wanted: Vec<u16> = values.iter().map(|x| rounded(x) as u16).collect();
    expect(&gpu.one.clone_dtoh(&to)?, &wanted)
}

/// Pageable memory may change as soon as the call returns.
pub(crate) fn pageable_copies_are_staged_at_the_call(gpu: &Gpu) -> Outcome {
    let mut values = ramp(100);
    let on_device = gpu.one.clone_htod(&values)?;
    values.fill(f32::NAN);
    expect(&gpu.one.clone_dtoh(&on_device)?, &ramp(100))
}

pub(crate) fn fills_and_copies_on_the_device(gpu: &Gpu) -> Outcome {
    let from = gpu.one.clone_htod(&ramp(100))?;
    let mut to = gpu.one.alloc_zeros::<f32>(200)?;
    gpu.one.memcpy_dtod(&from, &mut to.slice_mut(50..150))?;
    let found = gpu.one.clone_dtoh(&to)?;
    let wanted: Vec<f32> = [vec![0.0; 50], ramp(100), vec![0.0; 50]].concat();
    expect(&found, &wanted)
}

/// The legacy NULL stream is ordered with blocking streams, but not with a non-blocking one.
pub(crate) fn null_stream(gpu: &Gpu) -> Outcome {
    let stream = gpu.context.default_stream();
    let mut values = stream.clone_htod(&ramp(100))?;
    launch!(stream, gpu.kernel("add_one")?, grid(1, 128), &mut values, &100i32)?;
    let wanted: Vec<f32> = ramp(100).iter().map(|x| x + 1.0).collect();
    expect(&stream.clone_dtoh(&values)?, &wanted)
}

/// A blocking stream and the NULL stream wait for each other without an event.
pub(crate) fn blocking_streams(gpu: &Gpu) -> Outcome {
    let mut raw = std::ptr::null_mut();
    // SAFETY: the context is bound, and the stream is destroyed after its last use.
    let (blocking, null) = unsafe {
        sys::cuStreamCreate(&raw mut raw, 0).result()?;
        (gpu.context.wrap_borrowed_stream(raw), gpu.context.default_stream())
    };
    let mut up = gpu.pinned::<f32>(100)?;
    up.as_mut_slice()?.copy_from_slice(&ramp(100));
    let mut values = blocking.clone_htod(&up)?;
    launch!(null, gpu.kernel("add_one")?, grid(1, 128), &mut values, &100i32)?;
    launch!(blocking, gpu.kernel("add_one")?, grid(1, 128), &mut values, &100i32)?;
    let wanted: Vec<f32> = ramp(100).iter().map(|x| x + 1.0 + 1.0).collect();
    expect(&blocking.clone_dtoh(&values)?, &wanted)?;
    // SAFETY: the stream was created above.
    Ok(unsafe { sys::cuStreamDestroy_v2(raw) }.result()?)
}

/// The host may use pinned memory next to the part that a copy uses, on the same page.
pub(crate) fn halves_of_pinned_memory(gpu: &Gpu) -> Outcome {
    let mut pinned = gpu.pinned::<f32>(200)?;
    pinned.as_mut_slice()?[..100].copy_from_slice(&ramp(100));
    let on_device = gpu.blank::<f32>(100)?;
    let first = &pinned.as_slice()?[..100];
    let to = on_device.device_ptr(&gpu.one).0;
    // SAFETY: the memory has 100 values on either side.
    let queued = unsafe { result::memcpy_htod_async(to, first, gpu.one.cu_stream()) };
    queued?;
    pinned.as_mut_slice()?[100..].fill(7.0);
    gpu.one.synchronize()?;
    expect(&gpu.one.clone_dtoh(&on_device)?, &ramp(100))?;
    expect(&pinned.as_slice()?[100..].to_vec(), &vec![7.0; 100])
}

/// Polling an event ends, and the times of events are in order.
pub(crate) fn events_can_be_polled(gpu: &Gpu) -> Outcome {
    let (before, after) = (gpu.event()?, gpu.event()?);
    before.record(&gpu.one)?;
    let mut values = gpu.one.clone_htod(&ramp(1000))?;
    for _ in 0..5 {
        launch!(gpu.one, gpu.kernel("add_one")?, grid(4, 256), &mut values, &1000i32)?;
    }
    after.record(&gpu.one)?;
    let mut polls = 0;
    while !after.try_is_complete()? {
        polls += 1;
        if polls > 100 {
            return Err(Failure("polling does not end".to_owned()));
        }
    }
    let elapsed = before.elapsed_ms(&after)?;
    if elapsed < 0.0 { Err(Failure(format!("{elapsed} ms"))) } else { Ok(()) }
}

/// Memory that is freed in stream order can be allocated again, even if nothing waited for it.
pub(crate) fn freed_memory_makes_room(gpu: &Gpu) -> Outcome {
    let (free, _) = gpu.context.mem_get_info()?;
    for _ in 0..5 {
        drop(gpu.one.alloc_zeros::<u8>(free / 2)?);
    }
    gpu.one.synchronize()?;
    expect(&gpu.context.mem_get_info()?.0, &free)
}

/// Threads of the host have their own streams, and share the device and the lock.
pub(crate) fn threads_of_the_host(gpu: &Gpu) -> Outcome {
    let work = |start: f32| {
        let stream = gpu.context.new_stream()?;
        let mut values = stream.clone_htod(&[start; 500])?;
        for _ in 0..20 {
            launch!(stream, gpu.kernel("add_one")?, grid(2, 256), &mut values, &500i32)?;
        }
        expect(&stream.clone_dtoh(&values)?, &vec![start + 20.0; 500])
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u8).map(|i| scope.spawn(move || work(f32::from(i)))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
}

pub(crate) fn two_devices(gpu: &Gpu) -> Outcome {
    expect(&CudaContext::device_count()?, &2)?;
    let other = Gpu::new(1)?;
    let here = gpu.one.clone_htod(&ramp(100))?;
    let mut there = other.one.clone_dtod(&here)?;
    launch!(other.one, other.kernel("add_one")?, grid(1, 128), &mut there, &100i32)?;
    let wanted: Vec<f32> = ramp(100).iter().map(|x| x + 1.0).collect();
    expect(&other.one.clone_dtoh(&there)?, &wanted)
}

pub(crate) fn device_properties(gpu: &Gpu) -> Outcome {
    expect(&gpu.context.compute_capability()?, &(9, 0))?;
    expect(&gpu.context.name()?, &"forebay stand-in (sm_90)".to_owned())?;
    let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    expect(&gpu.context.attribute(attribute)?, &132)?;
    let kernel = gpu.kernel("sum_of_squares")?;
    let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
    expect(&kernel.get_attribute(limit)?, &256)?;
    expect(&kernel.get_attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?, &128)
}
