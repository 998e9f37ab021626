//! Programs with one mistake each, which must be detected. `main` compares the result of a case and the messages of the stand-in.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DevicePtr as _, LaunchConfig, result};

use crate::gpu::{Failure, Gpu, Outcome, compile, grid, launch};

pub(crate) fn past_the_end(gpu: &Gpu) -> Outcome {
    store(gpu, 64)
}

pub(crate) fn before_the_start(gpu: &Gpu) -> Outcome {
    store(gpu, -2)
}

pub(crate) fn far_away(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<f32>(64)?;
    // An address in the first pages, where Linux maps nothing. Other addresses may be memory of the process.
    let index = (0x4000 - to.device_ptr(&gpu.one).0.cast_signed()) / 4;
    launch!(gpu.one, gpu.kernel("store_at")?, grid(1, 1), &mut to, &index)?;
    Ok(gpu.one.synchronize()?)
}

fn store(gpu: &Gpu, index: i64) -> Outcome {
    let mut to = gpu.blank::<f32>(64)?;
    launch!(gpu.one, gpu.kernel("store_at")?, grid(1, 1), &mut to, &index)?;
    Ok(gpu.one.synchronize()?)
}

/// A byte after an allocation of 65 bytes, on its last page.
pub(crate) fn into_the_slack(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<u8>(65)?;
    launch!(gpu.one, gpu.kernel("store_byte")?, grid(1, 1), &mut to, &65i32)?;
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn half_is_unwritten(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<f32>(64)?;
    launch!(gpu.one, gpu.kernel("half_of")?, grid(1, 64), &mut to)?;
    gpu.one.clone_dtoh(&to)?;
    Ok(())
}

fn with_64(gpu: &Gpu, kernel: &str) -> Outcome {
    let mut to = gpu.blank::<f32>(64)?;
    launch!(gpu.one, gpu.kernel(kernel)?, grid(1, 64), &mut to)?;
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn divergent_barrier(gpu: &Gpu) -> Outcome {
    with_64(gpu, "some_skip_the_barrier")
}

pub(crate) fn two_barriers(gpu: &Gpu) -> Outcome {
    with_64(gpu, "two_barriers")
}

pub(crate) fn absent_lanes(gpu: &Gpu) -> Outcome {
    with_64(gpu, "absent_lanes")
}

pub(crate) fn shuffle_with_a_lane_that_ended(gpu: &Gpu) -> Outcome {
    with_64(gpu, "reads_a_lane_that_ended")
}

/// Each half of the threads reads what the other half writes.
pub(crate) fn missing_barrier(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<f32>(64)?;
    launch!(gpu.one, gpu.kernel("no_barrier")?, grid(1, 64), &mut to)?;
    let found = gpu.one.clone_dtoh(&to)?;
    let wrong = (0..64u16)
        .filter(|i| found[usize::from(*i)].to_bits() != f32::from(*i ^ 63).to_bits())
        .count();
    if wrong == 0 { Ok(()) } else { Err(Failure(format!("{wrong} values are wrong"))) }
}

pub(crate) fn past_a_shared_array(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<f32>(64)?;
    launch!(gpu.one, gpu.kernel("past_a_shared_array")?, grid(1, 64), &mut to, &1i32)?;
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn past_dynamic_shared(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<f32>(64)?;
    let shape = LaunchConfig { shared_mem_bytes: 256, ..grid(1, 64) };
    launch!(gpu.one, gpu.kernel("past_dynamic_shared")?, shape, &mut to, &1i32)?;
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn misaligned(gpu: &Gpu) -> Outcome {
    let from = gpu.one.alloc_zeros::<u8>(64)?;
    let mut to = gpu.blank::<u32>(4)?;
    launch!(gpu.one, gpu.kernel("misaligned")?, grid(1, 1), &from, &mut to)?;
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn division_by_zero(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<i32>(1)?;
    launch!(gpu.one, gpu.kernel("divides")?, grid(1, 1), &mut to, &0i32)?;
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn trap(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<i32>(1)?;
    launch!(gpu.one, gpu.kernel("traps")?, grid(1, 32), &mut to)?;
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn failed_assertion(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<i32>(1)?;
    launch!(gpu.one, gpu.kernel("fails_an_assertion")?, grid(1, 32), &mut to)?;
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn float_too_large_for_its_integer(gpu: &Gpu) -> Outcome {
    let from = gpu.one.clone_htod(&[300.0f32])?;
    let mut to = gpu.blank::<u8>(1)?;
    launch!(gpu.one, gpu.kernel("to_byte")?, grid(1, 1), &from, &mut to)?;
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn stack_overflow(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<i32>(1)?;
    launch!(gpu.one, gpu.kernel("overflows")?, grid(1, 1), &mut to, &1_000_000i32)?;
    Ok(gpu.one.synchronize()?)
}

/// The second stream does not wait for the copy of the first one.
pub(crate) fn no_event_between_streams(gpu: &Gpu) -> Outcome {
    let mut values = gpu.one.alloc_zeros::<f32>(64)?;
    gpu.one.synchronize()?;
    let mut up = gpu.pinned::<f32>(64)?;
    up.as_mut_slice()?.fill(41.0);
    gpu.one.memcpy_htod(&up, &mut values)?;
    launch!(gpu.two, gpu.kernel("add_one")?, grid(1, 64), &mut values, &64i32)?;
    let found = gpu.two.clone_dtoh(&values)?;
    gpu.one.synchronize()?;
    if found == [42.0; 64] {
        Ok(())
    } else {
        Err(Failure(format!("found {} instead of 42", found[0])))
    }
}

/// Memory is allocated in the order of one stream and used in that of another.
pub(crate) fn no_event_after_an_allocation(gpu: &Gpu) -> Outcome {
    let mut values = gpu.blank::<f32>(64)?;
    gpu.two.memset_zeros(&mut values)?;
    Ok(gpu.two.synchronize()?)
}

pub(crate) fn empty_grid(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<f32>(64)?;
    launch!(gpu.one, gpu.kernel("half_of")?, grid(0, 64), &mut to)?;
    Ok(())
}

pub(crate) fn threads_1056(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<f32>(64)?;
    launch!(gpu.one, gpu.kernel("half_of")?, grid(1, 1056), &mut to)?;
    Ok(())
}

pub(crate) fn more_threads_than_launch_bounds(gpu: &Gpu) -> Outcome {
    let from = gpu.one.alloc_zeros::<f32>(64)?;
    let mut to = gpu.blank::<f32>(1)?;
    launch!(gpu.one, gpu.kernel("sum_of_squares")?, grid(1, 512), &from, &mut to, &64i32)?;
    Ok(())
}

pub(crate) fn too_much_shared_memory(gpu: &Gpu) -> Outcome {
    let mut to = gpu.blank::<f32>(64)?;
    let shape = LaunchConfig { shared_mem_bytes: 50_000, ..grid(1, 64) };
    launch!(gpu.one, gpu.kernel("past_dynamic_shared")?, shape, &mut to, &0i32)?;
    Ok(())
}

pub(crate) fn pinned_read_before_its_event(gpu: &Gpu) -> Outcome {
    let values = gpu.one.alloc_zeros::<f32>(64)?;
    let mut down = gpu.pinned::<f32>(64)?;
    gpu.one.memcpy_dtoh(&values, &mut down)?;
    // cudarc's own event was never recorded, so this does not wait.
    let first = down.as_slice()?[0];
    Err(Failure(format!("read {first}")))
}

pub(crate) fn pinned_written_too_early(gpu: &Gpu) -> Outcome {
    let mut values = gpu.one.alloc_zeros::<f32>(64)?;
    let mut up = gpu.pinned::<f32>(64)?;
    up.as_mut_slice()?.fill(1.0);
    gpu.one.memcpy_htod(&up, &mut values)?;
    up.as_mut_slice()?.fill(2.0);
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn pinned_freed_too_early(gpu: &Gpu) -> Outcome {
    let values = gpu.one.alloc_zeros::<f32>(64)?;
    let mut down = gpu.pinned::<f32>(64)?;
    gpu.one.memcpy_dtoh(&values, &mut down)?;
    drop(down);
    Ok(gpu.context.check_err()?)
}

pub(crate) fn pinned_used_after_free(gpu: &Gpu) -> Outcome {
    let mut up = gpu.pinned::<f32>(64)?;
    up.as_mut_slice()?.fill(1.0);
    let pointer = up.as_ptr()?;
    drop(up);
    // SAFETY: none, which is the case.
    let value = unsafe { pointer.read_volatile() };
    Err(Failure(format!("read {value}")))
}

/// A kernel accesses freed memory.
pub(crate) fn kernel_uses_freed_memory(gpu: &Gpu) -> Outcome {
    let values = gpu.one.alloc_zeros::<f32>(64)?;
    let address = values.device_ptr(&gpu.one).0;
    drop(values);
    gpu.one.synchronize()?;
    launch!(gpu.one, gpu.kernel("store_at")?, grid(1, 1), &address, &3i64)?;
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn copy_from_freed_memory(gpu: &Gpu) -> Outcome {
    let values = gpu.one.alloc_zeros::<f32>(64)?;
    let address = values.device_ptr(&gpu.one).0;
    drop(values);
    gpu.one.synchronize()?;
    let mut to = [0f32; 64];
    // SAFETY: the host code is correct; the device code is the case.
    Ok(unsafe { result::memcpy_dtoh_async(&mut to, address, gpu.one.cu_stream()) }?)
}

pub(crate) fn freed_twice(gpu: &Gpu) -> Outcome {
    let values = gpu.one.alloc_zeros::<f32>(64)?;
    let address = values.leak();
    // SAFETY: freeing once is correct; twice is the case.
    unsafe {
        result::free_async(address, gpu.one.cu_stream())?;
        result::free_async(address, gpu.one.cu_stream())?;
    }
    Ok(gpu.one.synchronize()?)
}

pub(crate) fn copy_longer_than_the_allocation(gpu: &Gpu) -> Outcome {
    let values = gpu.one.alloc_zeros::<f32>(64)?;
    // SAFETY: the host code is correct; the device code is the case.
    Ok(unsafe {
        result::memcpy_htod_async(values.device_ptr(&gpu.one).0, &[0f32; 65], gpu.one.cu_stream())
    }?)
}

/// A slice of the default stream is dropped on a thread without a context.
pub(crate) fn default_stream_without_context(gpu: &Gpu) -> Outcome {
    let values = gpu.context.default_stream().alloc_zeros::<f32>(64)?;
    let thread = std::thread::Builder::new().spawn(move || drop(values))?;
    thread.join().map_err(|_panic| Failure("the thread panicked".to_owned()))?;
    // cudarc stores the error and returns it from the next call.
    gpu.context.name()?;
    Ok(())
}

pub(crate) fn errors_are_sticky(gpu: &Gpu) -> Outcome {
    store(gpu, 64).expect_err("a store past the end");
    let again = [
        gpu.one.synchronize().err(),
        gpu.one.alloc_zeros::<f32>(1).err(),
        gpu.context.synchronize().err(),
    ];
    let codes: Vec<_> = again.iter().map(|error| error.as_ref().map(|error| error.0)).collect();
    Err(Failure(format!("{codes:?}")))
}

pub(crate) fn out_of_memory(gpu: &Gpu) -> Outcome {
    let (free, _) = gpu.context.mem_get_info()?;
    gpu.blank::<u8>(free + 1)?;
    Ok(())
}

pub(crate) fn event_of_another_device(gpu: &Gpu) -> Outcome {
    let other = CudaContext::new(1)?;
    let event = other.new_event(None)?;
    gpu.context.bind_to_thread()?;
    // SAFETY: both handles are valid.
    Ok(unsafe { result::event::record(event.cu_event(), gpu.one.cu_stream()) }?)
}

pub(crate) fn host_function_calls_cuda(gpu: &Gpu) -> Outcome {
    unsafe extern "C" fn calls(answer: *mut std::ffi::c_void) {
        // SAFETY: the pointer is that of the variable below, which outlives the work.
        unsafe { *answer.cast::<CUresult>() = sys::cuCtxSynchronize() };
    }
    let mut answer = CUresult::CUDA_SUCCESS;
    // SAFETY: the stream is synchronized before `answer` is dropped.
    let queued = unsafe {
        sys::cuLaunchHostFunc(gpu.one.cu_stream(), Some(calls), (&raw mut answer).cast())
    };
    queued.result()?;
    gpu.one.synchronize()?;
    Ok(answer.result()?)
}

pub(crate) fn source_with_an_error(_gpu: &Gpu) -> Outcome {
    compile("extern \"C\" __global__ void k(int* to) {\n  to[0] = missing;\n}").map(drop)
}

pub(crate) fn name_is_mangled(gpu: &Gpu) -> Outcome {
    let module = gpu.context.load_module(compile("__global__ void k(int* to) { to[0] = 1; }")?)?;
    module.load_function("k")?;
    Ok(())
}

pub(crate) fn unknown_kernel(gpu: &Gpu) -> Outcome {
    gpu.kernel("nobody")?;
    Ok(())
}
