//! A kernel with the functions that it calls, and the allocation of its variables.

use std::collections::BTreeMap;

use super::super::code::{Code, window};
use super::super::syntax::{Function, Operand, Source, Statement, Variable};
use crate::engine::Kernel;

/// The bytes between two shared variables, so that an access past the end of one is detected.
const GAP: u64 = 64;

/// Each parameter of a call starts at a multiple of this.
pub(super) const ARGUMENT_ALIGN: usize = 16;

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

/// The variables of a module: the bytes of both spaces, and the generic addresses.
#[derive(Debug, Default)]
pub(in super::super) struct Globals<'a> {
    pub(in super::super) global: Vec<u8>,
    pub(in super::super) constant: Vec<u8>,
    addresses: BTreeMap<&'a str, u64>,
}

impl<'a> Globals<'a> {
    pub(in super::super) fn new(variables: &[Variable<'a>]) -> Self {
        let mut globals = Self::default();
        for variable in variables {
            let (space, window) = match variable.space {
                ".global" => (&mut globals.global, window::GLOBAL),
                ".const" => (&mut globals.constant, window::CONST),
                _ => continue,
            };
            let start = (space.len() as u64).next_multiple_of(variable.align);
            space.resize(to_usize(start), 0);
            space.extend_from_slice(&variable.initial);
            space.resize(to_usize(start + variable.bytes), 0);
            globals.addresses.insert(variable.name, window | start);
        }
        globals
    }
}

/// The addresses of the variables of a kernel.
pub(super) struct Layout<'a> {
    pub(super) params: Vec<(usize, usize)>,
    addresses: BTreeMap<&'a str, u64>,
    functions: BTreeMap<&'a str, usize>,
    /// The location and the size of the results and of the parameters of each function.
    pub(super) signatures: Vec<(Places, Places)>,
}

/// The offsets and the sizes of variables.
pub(super) type Places = Vec<(usize, usize)>;

impl Layout<'_> {
    pub(super) fn address(&self, name: &str) -> Option<u64> {
        self.addresses.get(name).copied()
    }

    pub(super) fn function(&self, name: &str) -> Option<usize> {
        self.functions.get(name).copied()
    }
}

/// Decodes the kernel `entry` and all functions that it may call.
pub(in super::super) fn program<'a>(
    source: &Source<'a>,
    globals: &Globals<'a>,
    entry: &Function<'a>,
) -> Result<Program, String> {
    let functions = reached(source, entry);
    let params = parameters(&entry.params);
    let names = functions.iter().enumerate().map(|(index, function)| (function.name, index));
    let mut layout = Layout {
        params,
        addresses: globals.addresses.clone(),
        functions: names.collect(),
        signatures: functions.iter().map(|function| signature(function)).collect(),
    };
    let (shared, dynamic) = place_shared(source, &functions, &mut layout.addresses);
    let codes: Result<Vec<Code>, String> = functions
        .iter()
        .map(|function| {
            super::function(&layout, function)
                .map_err(|what| format!("`{}`: {what}", function.name))
        })
        .collect();
    let codes = codes?;
    let bytes: u64 = shared.iter().map(|variable| variable.1.next_multiple_of(4)).sum();
    let kernel = Kernel {
        params: layout.params.iter().map(|param| param.1).collect(),
        shared_bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        max_threads: entry.max_threads,
        registers: 0,
        local_bytes: u32::try_from(codes[0].local_bytes).unwrap_or(u32::MAX),
    };
    Ok(Program { kernel, codes, params: layout.params, shared, dynamic })
}

/// Offsets as in a C struct.
fn parameters(params: &[Variable<'_>]) -> Vec<(usize, usize)> {
    let mut end = 0;
    params
        .iter()
        .map(|param| {
            let offset = to_usize(u64::next_multiple_of(end, param.align));
            end = offset as u64 + param.bytes;
            (offset, to_usize(param.bytes))
        })
        .collect()
}

/// The results and then the parameters are at the start of a function's arguments.
fn signature(function: &Function<'_>) -> (Places, Places) {
    let mut end = 0_usize;
    let mut place = |variable: &Variable<'_>| {
        let start = end.next_multiple_of(ARGUMENT_ALIGN);
        end = start + to_usize(variable.bytes);
        (start, to_usize(variable.bytes))
    };
    let returns = function.returns.iter().map(&mut place).collect();
    (returns, function.params.iter().map(&mut place).collect())
}

/// `entry`, and every function that it may call.
fn reached<'s, 'a>(source: &'s Source<'a>, entry: &'s Function<'a>) -> Vec<&'s Function<'a>> {
    let mut found = vec![entry];
    let mut at = 0;
    while let Some(function) = found.get(at).copied() {
        at += 1;
        for name in names(function) {
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

/// All names among the operands of a function.
fn names<'f, 'a>(function: &'f Function<'a>) -> impl Iterator<Item = &'a str> + 'f {
    function
        .body
        .iter()
        .flatten()
        .flat_map(|statement| match statement {
            Statement::Op { operands, .. } => operands.as_slice(),
            _ => &[],
        })
        .filter_map(|operand| match operand {
            Operand::Name(name) | Operand::Address(Some(name), _) => Some(*name),
            _ => None,
        })
}

/// Allocates the shared variables that `functions` use. Returns them and the start of dynamic memory.
fn place_shared<'a>(
    source: &Source<'a>,
    functions: &[&Function<'a>],
    addresses: &mut BTreeMap<&'a str, u64>,
) -> (Vec<(u64, u64)>, u64) {
    let used: Vec<&str> = functions.iter().flat_map(|function| names(function)).collect();
    let of_module =
        source.variables.iter().filter(|v| v.space == ".shared" && used.contains(&v.name));
    let of_functions = functions
        .iter()
        .flat_map(|function| function.body.iter().flatten())
        .filter_map(|statement| match statement {
            Statement::Variable(variable) if variable.space == ".shared" => Some(variable),
            _ => None,
        });
    let all: Vec<&Variable<'a>> = of_module.chain(of_functions).collect();
    let mut placed = Vec::new();
    let mut end = 0;
    for variable in all.iter().filter(|variable| variable.bytes > 0) {
        let start = u64::next_multiple_of(end, variable.align);
        addresses.insert(variable.name, start);
        placed.push((start, variable.bytes));
        end = start + variable.bytes + GAP;
    }
    let dynamic = end.next_multiple_of(128);
    for variable in all.iter().filter(|variable| variable.bytes == 0) {
        addresses.insert(variable.name, dynamic);
    }
    (placed, dynamic)
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
