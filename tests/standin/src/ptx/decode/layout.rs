//! Where variables are: those of a module, of a kernel, and the parameters of functions.

use std::collections::BTreeMap;

use super::super::code::window;
use super::super::syntax::{Function, Source, Statement, Variable};

/// The bytes between two shared variables, so that an access past the end of one is detected.
const GAP: u64 = 64;

/// Each parameter of a call starts at a multiple of this.
pub(super) const ARGUMENT_ALIGN: usize = 16;

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
    /// The offset and the size of each parameter of the kernel.
    pub(super) params: Vec<(usize, usize)>,
    /// The start and the size of each static shared variable.
    pub(super) shared: Vec<(u64, u64)>,
    /// The start of dynamic shared memory.
    pub(super) dynamic: u64,
    addresses: BTreeMap<&'a str, u64>,
    functions: BTreeMap<&'a str, usize>,
    /// The location and the size of the results and of the parameters of each function.
    pub(super) signatures: Vec<(Places, Places)>,
}

/// The offsets and the sizes of variables.
pub(super) type Places = Vec<(usize, usize)>;

impl<'a> Layout<'a> {
    /// Allocates the variables of a kernel, which consists of these functions, the entry first.
    pub(super) fn new(
        source: &Source<'a>,
        globals: &Globals<'a>,
        functions: &[&Function<'a>],
    ) -> Self {
        let mut addresses = globals.addresses.clone();
        let (shared, dynamic) = place_shared(source, functions, &mut addresses);
        let names = functions.iter().enumerate().map(|(index, function)| (function.name, index));
        Self {
            params: parameters(&functions[0].params),
            shared,
            dynamic,
            addresses,
            functions: names.collect(),
            signatures: functions.iter().map(|function| signature(function)).collect(),
        }
    }

    pub(super) fn address(&self, name: &str) -> Option<u64> {
        self.addresses.get(name).copied()
    }

    pub(super) fn function(&self, name: &str) -> Option<usize> {
        self.functions.get(name).copied()
    }
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

/// Allocates the shared variables that `functions` use. Returns them and the start of dynamic memory.
fn place_shared<'a>(
    source: &Source<'a>,
    functions: &[&Function<'a>],
    addresses: &mut BTreeMap<&'a str, u64>,
) -> (Vec<(u64, u64)>, u64) {
    let used: Vec<&str> = functions.iter().flat_map(|function| function.names()).collect();
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
