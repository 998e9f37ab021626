//! Memory plan of a training step or an inference: the range of each activation and gradient in one
//! arena. Tensors whose lifetimes do not overlap share memory.
//!
//! Time is counted in operations. With `n` operations, forward of operation `i` runs at time `i`, the
//! loss at time `n`, and backward of operation `i` at time `2n - i`.

use std::ops::Range;

use crate::model::{Graph, Op, TensorId};

/// Ranges start at multiples of this many values, so that rows start at cache lines.
const ALIGN: usize = 16;

/// The range of each tensor, in values from the start of the arena.
#[derive(Debug)]
pub(crate) struct MemoryPlan {
    /// The network whose tensors are planned.
    pub graph: Graph,
    /// Maximum number of images per pass.
    pub batch: usize,
    /// Range of each tensor's values.
    pub values: Vec<Range<usize>>,
    /// Range of each tensor's gradient; `None` in inference, and for the images.
    pub gradients: Vec<Option<Range<usize>>>,
    /// For each operation, whether its backward adds to the gradient of `x` instead of overwriting it.
    pub adds: Vec<bool>,
    /// Size of the arena in values.
    pub arena: usize,
}

/// When a piece of memory is used: its size, and the first and last time of use.
struct Lifetime {
    len: usize,
    first: usize,
    last: usize,
}

impl MemoryPlan {
    /// A plan for forward passes only.
    pub(crate) fn inference(graph: Graph, batch: usize) -> Self {
        let lifetimes = value_lifetimes(&graph, batch, false);
        let (ranges, arena) = allocate(&lifetimes);
        let none = vec![None; graph.tensors.len()];
        let adds = vec![false; graph.ops.len()];
        Self { values: ranges, gradients: none, adds, arena, graph, batch }
    }

    /// A plan for forward and backward passes.
    pub(crate) fn training(graph: Graph, batch: usize) -> Self {
        let mut lifetimes = value_lifetimes(&graph, batch, true);
        let values = lifetimes.len();
        let (slots, adds) = gradient_lifetimes(&graph, batch, &mut lifetimes);
        let (mut ranges, arena) = allocate(&lifetimes);
        let slots = slots.into_iter().map(|slot| slot.map(|slot| ranges[slot].clone())).collect();
        ranges.truncate(values);
        Self { values: ranges, gradients: slots, adds, arena, graph, batch }
    }
}

/// The lifetime of each tensor's values.
fn value_lifetimes(graph: &Graph, batch: usize, train: bool) -> Vec<Lifetime> {
    let n = graph.ops.len();
    let mut lifetimes: Vec<Lifetime> = graph
        .tensors
        .iter()
        .map(|t| Lifetime { len: t.elements() * batch, first: 0, last: 0 })
        .collect();
    for (i, op) in graph.ops.iter().enumerate() {
        let (x, y) = op.tensors();
        lifetimes[y].first = i;
        let backward = if train { 2 * n - i } else { i };
        // Whether the backward of this operation reads x and y.
        let (reads_x, reads_y) = match op {
            Op::Conv { .. } => (true, false),
            Op::BatchNorm { residual, .. } => (true, residual.is_some()),
            Op::MaxPool { .. } | Op::MeanPool { .. } | Op::Shortcut { .. } => (false, false),
        };
        let mut use_until =
            |t: TensorId, time: usize| lifetimes[t].last = lifetimes[t].last.max(time);
        use_until(x, if reads_x { backward } else { i });
        use_until(y, if reads_y { backward } else { i });
        if let Op::BatchNorm { residual: Some(residual), .. } = op {
            use_until(*residual, i);
        }
    }
    lifetimes[graph.logits()].last = n;
    lifetimes
}

/// Appends the lifetimes of the gradients. Returns the index of each tensor's gradient in `lifetimes`,
/// and which operations add to the gradient of their input.
fn gradient_lifetimes(
    graph: &Graph,
    batch: usize,
    lifetimes: &mut Vec<Lifetime>,
) -> (Vec<Option<usize>>, Vec<bool>) {
    let n = graph.ops.len();
    let mut slots: Vec<Option<usize>> = vec![None; graph.tensors.len()];
    let mut adds = vec![false; n];
    let new = |lifetimes: &mut Vec<Lifetime>, t: TensorId, time: usize| {
        lifetimes.push(Lifetime {
            len: graph.tensors[t].elements() * batch,
            first: time,
            last: time,
        });
        Some(lifetimes.len() - 1)
    };
    slots[graph.logits()] = new(lifetimes, graph.logits(), n);
    for (i, op) in graph.ops.iter().enumerate().rev() {
        let time = 2 * n - i;
        let (x, y) = op.tensors();
        let from = slots[y].expect("the output of every operation is used, so it has a gradient");
        lifetimes[from].last = time;
        match op {
            Op::Conv { .. } if x == 0 => continue,
            // The backward of a norm works in place: the gradient of a norm's output becomes that of its residual, or else of its
            // input.
            Op::BatchNorm { residual: None, .. } => slots[x] = Some(from),
            Op::BatchNorm { residual: Some(residual), .. } => {
                assert!(
                    slots[*residual].is_none(),
                    "the residual sum is the last use of the residual"
                );
                slots[*residual] = Some(from);
                slots[x] = new(lifetimes, x, time);
            }
            _ if slots[x].is_some() => adds[i] = true,
            _ => slots[x] = new(lifetimes, x, time),
        }
        if let Some(to) = slots[x] {
            lifetimes[to].last = time;
        }
    }
    (slots, adds)
}

/// Allocates the largest piece first, each at the lowest offset that is free during its whole lifetime.
/// Returns the ranges and the size of the arena.
fn allocate(lifetimes: &[Lifetime]) -> (Vec<Range<usize>>, usize) {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lifetimes[i].len), lifetimes[i].first, i));
    let mut ranges: Vec<Range<usize>> = vec![0..0; lifetimes.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut arena = 0;
    for i in order {
        let lifetime = &lifetimes[i];
        let overlaps = |&&j: &&usize| {
            lifetimes[j].first <= lifetime.last && lifetime.first <= lifetimes[j].last
        };
        let mut taken: Vec<Range<usize>> =
            placed.iter().filter(overlaps).map(|&j| ranges[j].clone()).collect();
        taken.sort_by_key(|range| range.start);
        let mut start = 0;
        for range in taken {
            if start + lifetime.len <= range.start {
                break;
            }
            start = start.max(range.end.next_multiple_of(ALIGN));
        }
        ranges[i] = start..start + lifetime.len;
        arena = arena.max(ranges[i].end);
        placed.push(i);
    }
    (ranges, arena)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    #[test]
    fn overlapping_lifetimes_do_not_share_memory() {
        for name in ["resnet20", "resnet18", "resnet50"] {
            let graph = Graph::new(&Architecture::named(name, 10).unwrap(), 64, 64);
            let mut lifetimes = value_lifetimes(&graph, 3, true);
            gradient_lifetimes(&graph, 3, &mut lifetimes);
            let (ranges, arena) = allocate(&lifetimes);
            for (i, a) in lifetimes.iter().enumerate() {
                assert!(ranges[i].end <= arena);
                for (j, b) in lifetimes.iter().enumerate().skip(i + 1) {
                    let overlap_in_time = a.first <= b.last && b.first <= a.last;
                    let overlap_in_memory =
                        ranges[i].start < ranges[j].end && ranges[j].start < ranges[i].end;
                    assert!(!(overlap_in_time && overlap_in_memory), "{name}: {i} and {j}");
                }
            }
        }
    }

    #[test]
    fn inference_needs_a_fraction_of_training() {
        let graph = Graph::new(&Architecture::named("resnet50", 1000).unwrap(), 224, 224);
        let training = MemoryPlan::training(graph.clone(), 1).arena;
        assert!(MemoryPlan::inference(graph, 1).arena * 8 < training);
    }
}
