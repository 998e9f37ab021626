//! A kernel with the functions that it calls.

use super::super::code::Code;
use super::super::syntax::{Function, Source};
use super::layout::{Globals, Layout};
use crate::engine::Kernel;

/// A kernel, ready to launch.
#[derive(Debug)]
pub(in super::super) struct Program {
    pub(in super::super) kernel: Kernel,
    /// The code of the kernel, then that of its functions.
    pub(in super::super) codes: Vec<Code>,
    /// The offset and the size of each parameter of the kernel.
    pub(in super::super) params: Vec<(usize, usize)>,
    /// The start and the size of each static shared variable.
    pub(in super::super) shared: Vec<(u64, u64)>,
    /// The start of dynamic shared memory.
    pub(in super::super) dynamic: u64,
}

/// Decodes the kernel `entry` and all functions that it may call.
pub(in super::super) fn program<'a>(
    source: &Source<'a>,
    globals: &Globals<'a>,
    entry: &Function<'a>,
) -> Result<Program, String> {
    let functions = reached(source, entry);
    let layout = Layout::new(source, globals, &functions);
    let codes: Result<Vec<Code>, String> = functions
        .iter()
        .map(|function| {
            super::function(&layout, function)
                .map_err(|what| format!("`{}`: {what}", function.name))
        })
        .collect();
    let codes = codes?;
    let bytes: u64 = layout.shared.iter().map(|variable| variable.1.next_multiple_of(4)).sum();
    let kernel = Kernel {
        params: layout.params.iter().map(|param| param.1).collect(),
        shared_bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        max_threads: entry.max_threads,
        registers: 0,
        local_bytes: u32::try_from(codes[0].local_bytes).unwrap_or(u32::MAX),
    };
    let Layout { params, shared, dynamic, .. } = layout;
    Ok(Program { kernel, codes, params, shared, dynamic })
}

/// `entry`, and every function that it may call.
fn reached<'s, 'a>(source: &'s Source<'a>, entry: &'s Function<'a>) -> Vec<&'s Function<'a>> {
    let mut found = vec![entry];
    let mut at = 0;
    while let Some(function) = found.get(at).copied() {
        at += 1;
        for name in function.names() {
            let callee =
                source.functions.iter().find(|f| !f.entry && f.name == name && f.body.is_some());
            if let Some(callee) = callee
                && !found.iter().any(|known| std::ptr::eq(*known, callee))
            {
                found.push(callee);
            }
        }
    }
    found
}
