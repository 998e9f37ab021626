//! Engine B: an interpreter of the PTX that NVRTC emits.
//!
//! It tests the code that NVRTC generates for a kernel, not only that of a C++ compiler.
//!
//! ```text
//! text -> tokens -> statements -> instructions on slots -> threads, in turn, to their next barrier
//! ```
//!
//! Arithmetic is exact to the bit wherever PTX defines it; `.approx` functions are more accurate than those of a GPU. Besides
//! wrong results, it detects misaligned accesses and accesses outside an allocation, a variable or the thread's local memory; reads
//! of unwritten memory; races in shared memory; divergent barriers and warp-level operations; and hangs.
//!
//! It does not model timing, bank conflicts, races in global memory, tensor cores, asynchronous copies, textures or clusters. A
//! `mul` and an `add` without `.rn`, which ptxas may fuse, are not fused; loading such a kernel prints a message.

mod access;
mod barrier;
mod block;
mod code;
mod converge;
mod decode;
mod diagnose;
mod lex;
mod ops;
mod parse;
mod position;
mod shared;
mod spaces;
mod syntax;
mod thread;
mod thread_fault;
mod warp;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Mutex;

use self::block::Blocks;
use self::decode::{Globals, Program};
use self::position::Position;
use self::shared::Shared;
use self::spaces::{Spaces, Variables};
use crate::engine::{Fault, FaultKind, Kernel, Launch, Memory, Module, Order};
use crate::report::log;

/// The time slices, of a million instructions each, that a thread may use without a barrier.
const PATIENCE: u32 = 256;

/// Loads a module from PTX text.
pub(crate) fn load(text: &str) -> Result<Box<dyn Module>, String> {
    let module = Loaded::new(text)?;
    if let Some((kernel, line)) = module.fusible() {
        log(&format!(
            "kernel {kernel}: line {line}: ptxas may fuse this addition with the multiplication before it, \
             and a GPU then rounds once where this rounds twice; --fmad=false forbids it"
        ));
    }
    Ok(Box::new(module))
}

/// A module: its decoded kernels and its variables.
#[derive(Debug)]
struct Loaded {
    programs: BTreeMap<String, Program>,
    variables: Mutex<Variables>,
    patience: u32,
}

impl Loaded {
    fn new(text: &str) -> Result<Self, String> {
        let source = parse::parse(text)?;
        let globals = Globals::new(&source.variables);
        let entries = source.functions.iter().filter(|function| function.entry);
        let programs: Result<BTreeMap<_, _>, String> = entries
            .map(|entry| Ok((entry.name.to_owned(), decode::program(&source, &globals, entry)?)))
            .collect();
        let variables = Variables { global: globals.global, constant: globals.constant };
        Ok(Self { programs: programs?, variables: Mutex::new(variables), patience: PATIENCE })
    }

    /// The first kernel whose result PTX does not determine, and its line.
    fn fusible(&self) -> Option<(&str, u32)> {
        self.programs.iter().find_map(|(name, program)| {
            let line = program.codes.iter().find_map(|code| code.fusible.first())?;
            Some((name.as_str(), *line))
        })
    }

    /// Runs a launch. Returns the number of executed instructions.
    fn run(&self, launch: &Launch<'_>, memory: &dyn Memory) -> Result<u64, Fault> {
        let unknown =
            || Fault::new(FaultKind::LaunchFailed, format!("no kernel `{}`", launch.kernel));
        let program = self.programs.get(launch.kernel).ok_or_else(unknown)?;
        let params = parameters(program, launch)?;
        let mut variables = self.variables.lock().map_err(|_poisoned| {
            Fault::new(FaultKind::LaunchFailed, "an earlier launch of this module panicked")
        })?;
        let spaces =
            Spaces { device: memory, variables: &mut variables, params, shared: Shared::default() };
        let mut blocks = Blocks::new(program, spaces, launch.order, self.patience);
        let [x, y, z] = launch.grid.map(u64::from);
        let count = x * y * z;
        for turn in 0..count {
            let index = match launch.order {
                Order::Forward => turn,
                Order::Reverse => count - 1 - turn,
            };
            let axis = |index: u64| u32::try_from(index).unwrap_or(0);
            blocks.run(Position {
                ntid: launch.block,
                ctaid: [axis(index % x), axis(index / x % y), axis(index / x / y)],
                nctaid: launch.grid,
                dynamic_shared: launch.shared_bytes,
                ..Position::default()
            })?;
        }
        Ok(blocks.steps)
    }
}

/// The memory of the parameters.
fn parameters(program: &Program, launch: &Launch<'_>) -> Result<Vec<u8>, Fault> {
    let wanted: Vec<usize> = program.params.iter().map(|param| param.1).collect();
    let given: Vec<usize> = launch.params.iter().map(Vec::len).collect();
    if wanted != given {
        let what = format!("parameters of {given:?} bytes: the kernel expects {wanted:?}");
        return Err(Fault::new(FaultKind::LaunchFailed, what));
    }
    let mut all = Vec::new();
    for (&(offset, _), value) in program.params.iter().zip(launch.params) {
        all.resize(offset, 0);
        all.extend_from_slice(value);
    }
    Ok(all)
}

impl Module for Loaded {
    fn kernel(&self, name: &str) -> Option<Kernel> {
        self.programs.get(name).map(|program| program.kernel.clone())
    }

    fn launch(&self, launch: &Launch<'_>, memory: &dyn Memory) -> Result<(), Fault> {
        self.run(launch, memory).map(|_| ())
    }
}
