//! The scopes of a function: registers, variables and labels in nested braces.

use std::collections::BTreeMap;

use super::super::code::{Slot, Special};

/// The variable of a name that is not a register.
#[derive(Clone, Copy, Debug)]
pub(super) enum Symbol {
    /// An address in the module or in shared memory.
    Address(u64),
    /// An offset in the local memory of the frame.
    Local(u64),
    /// An offset in the parameters of the kernel.
    Param(u64),
    /// An offset in the arguments of the frame.
    Argument(u64),
}

#[derive(Debug, Default)]
struct Scope<'a> {
    parent: usize,
    /// `%r<47>`: prefix, count, width.
    ranges: Vec<(&'a str, u64, u64)>,
    single: BTreeMap<&'a str, u64>,
    slots: BTreeMap<&'a str, (Slot, u64)>,
    symbols: BTreeMap<&'a str, Symbol>,
    labels: BTreeMap<&'a str, usize>,
}

/// All scopes of a function. Closed scopes remain, because of the labels.
#[derive(Debug)]
pub(super) struct Scopes<'a> {
    all: Vec<Scope<'a>>,
    current: usize,
}

impl Default for Scopes<'_> {
    fn default() -> Self {
        Self { all: vec![Scope::default()], current: 0 }
    }
}

impl<'a> Scopes<'a> {
    pub(super) fn open(&mut self) {
        self.all.push(Scope { parent: self.current, ..Scope::default() });
        self.current = self.all.len() - 1;
    }

    pub(super) fn close(&mut self) {
        self.current = self.all[self.current].parent;
    }

    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// The scopes from one outwards, each with its number.
    fn outwards(&self, from: usize) -> impl Iterator<Item = (usize, &Scope<'a>)> {
        let next = |&at: &usize| (at != 0).then(|| self.all[at].parent);
        std::iter::successors(Some(from), next).map(|at| (at, &self.all[at]))
    }

    pub(super) fn define(&mut self, name: &'a str, symbol: Symbol) {
        self.all[self.current].symbols.insert(name, symbol);
    }

    pub(super) fn symbol(&self, name: &str) -> Option<Symbol> {
        self.outwards(self.current).find_map(|(_, scope)| scope.symbols.get(name).copied())
    }

    pub(super) fn label(&mut self, name: &'a str, at: usize) -> Result<(), String> {
        match self.all[self.current].labels.insert(name, at) {
            None => Ok(()),
            Some(_) => Err(format!("label `{name}` stands twice")),
        }
    }

    pub(super) fn find_label(&self, from: usize, name: &str) -> Option<usize> {
        self.outwards(from).find_map(|(_, scope)| scope.labels.get(name).copied())
    }

    pub(super) fn registers(&mut self, name: &'a str, count: Option<u64>, width: u64) {
        let scope = &mut self.all[self.current];
        match count {
            Some(count) => scope.ranges.push((name, count, width)),
            None => drop(scope.single.insert(name, width)),
        }
    }

    /// The slot and the width of a register that was used before, unless an inner scope declares its name again.
    pub(super) fn register(&self, name: &str) -> Option<(Slot, u64)> {
        let (scope, _) = self.declared(name)?;
        self.all[scope].slots.get(name).copied()
    }

    /// The scope that declares a register, and the width.
    pub(super) fn declared(&self, name: &str) -> Option<(usize, u64)> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number: Option<u64> = name[prefix.len()..].parse().ok();
        self.outwards(self.current).find_map(|(at, scope)| {
            let in_range = |range: &&(&str, u64, u64)| {
                range.0 == prefix && number.is_some_and(|n| n < range.1)
            };
            let range = || scope.ranges.iter().find(in_range).map(|range| range.2);
            scope.single.get(name).copied().or_else(range).map(|width| (at, width))
        })
    }

    pub(super) fn place(&mut self, scope: usize, name: &'a str, slot: (Slot, u64)) {
        self.all[scope].slots.insert(name, slot);
    }
}

/// The special register with a name, if its value depends on the thread or the block.
pub(super) fn special(name: &str) -> Option<Special> {
    let (family, axis) = match name.split_once('.') {
        Some((family, "x")) => (family, 0),
        Some((family, "y")) => (family, 1),
        Some((family, "z")) => (family, 2),
        Some(_) => return None,
        None => (name, 3),
    };
    Some(match (family, axis) {
        ("%tid", 0..3) => Special::Tid(axis),
        ("%ntid", 0..3) => Special::Ntid(axis),
        ("%ctaid", 0..3) => Special::Ctaid(axis),
        ("%nctaid", 0..3) => Special::Nctaid(axis),
        ("%laneid", 3) => Special::Lane,
        ("%warpid", 3) => Special::Warp,
        ("%nwarpid", 3) => Special::Warps,
        ("%lanemask_eq", 3) => Special::LanesEqual,
        ("%lanemask_lt", 3) => Special::LanesBelow,
        ("%lanemask_le", 3) => Special::LanesUpTo,
        ("%lanemask_gt", 3) => Special::LanesAbove,
        ("%lanemask_ge", 3) => Special::LanesFrom,
        ("%dynamic_smem_size", 3) => Special::DynamicShared,
        _ => return None,
    })
}
