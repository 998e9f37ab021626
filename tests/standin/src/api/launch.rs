//! Kernel launches. The limits are those of the CUDA programming guide, "Technical specifications per compute capability".

use std::cell::RefCell;
use std::ffi::c_void;

use crate::code::{Answer, Code};
use crate::engine::Launch;
use crate::machine::{Function, Machine, State, call};
use crate::memory::View;
use crate::report::log;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared_bytes: u32,
    stream: usize,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        let found = machine.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        let module = found.module;
        if machine.modules[&module].context != machine.queues.stream(stream).context {
            return Err(Code::INVALID_HANDLE);
        }
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        check(found, grid, block, shared_bytes)?;
        if !extra.is_null() {
            return Err(Code::NOT_SUPPORTED);
        }
        // SAFETY: the caller passes a pointer to each parameter of the kernel.
        let params = unsafe { values(&found.kernel.params, params)? };
        let name = found.name.clone();
        let what = format!("kernel {name}");
        let work = move |machine: &mut Machine| {
            let order = machine.config.order;
            let launch =
                Launch { kernel: &name, grid, block, shared_bytes, params: &params, order };
            let machine: &mut State = machine;
            let module = machine.modules[&module].module.as_ref();
            if !module.native() {
                return module.launch(&launch, &View(RefCell::new(&mut machine.space)));
            }
            machine.space.native = true;
            module.launch(&launch, &View(RefCell::new(&mut machine.space)))?;
            machine.space.check_slack()
        };
        machine.queue(stream, what, work);
        Ok(())
    })
}

fn check(function: &Function, grid: [u32; 3], block: [u32; 3], shared_bytes: u32) -> Answer {
    let threads: u64 = block.iter().map(|size| u64::from(*size)).product();
    let limit = function.kernel.max_threads.unwrap_or(1024).min(1024);
    let wrong = if grid.contains(&0) || block.contains(&0) {
        "a dimension is 0".to_owned()
    } else if grid[0] > i32::MAX.unsigned_abs() || grid[1] > 65_535 || grid[2] > 65_535 {
        "the grid is too large".to_owned()
    } else if block[0] > 1024 || block[1] > 1024 || block[2] > 64 || threads > u64::from(limit) {
        format!("a block of {threads} threads, where {limit} are allowed")
    } else if shared_bytes > function.max_dynamic {
        let limit = function.max_dynamic;
        format!("{shared_bytes} bytes of dynamic shared memory, where {limit} are allowed")
    } else {
        return Ok(());
    };
    log(&format!("kernel {}: grid {grid:?}, block {block:?}: {wrong}", function.name));
    Err(Code::INVALID_VALUE)
}

/// Copies the value of each parameter, as cuLaunchKernel does before it returns.
unsafe fn values(sizes: &[usize], params: *const *const c_void) -> Answer<Vec<Vec<u8>>> {
    let value = |(index, size): (usize, &usize)| {
        // SAFETY: the caller passes as many pointers as the kernel has parameters, each to a value of the right size.
        unsafe {
            let value = *params.add(index);
            if value.is_null() {
                return Err(Code::INVALID_VALUE);
            }
            Ok(std::slice::from_raw_parts(value.cast::<u8>(), *size).to_vec())
        }
    };
    if params.is_null() && !sizes.is_empty() {
        return Err(Code::INVALID_VALUE);
    }
    sizes.iter().enumerate().map(value).collect()
}
