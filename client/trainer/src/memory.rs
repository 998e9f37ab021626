//! Memory of a training step or an inference, planned once: where in one arena each activation and
//! each gradient lies. Tensors whose lives do not meet share their place.
//!
//! Time is counted in operations: forward `i` runs at `i`, the loss at `n`, backward `i` at `2n - i`.

use std::ops::Range;

use crate::model::{Graph, Op, Tensor};

/// Places are multiples of this many numbers, so that rows begin at cache lines.
const ALIGN: usize = 16;

/// Where each tensor lies, in numbers from the arena's begin.
#[derive(Debug)]
pub struct Plan {
    /// The network.
    pub graph: Graph,
    /// The most images at once.
    pub batch: usize,
    /// Place of each tensor's values.
    pub values: Vec<Range<usize>>,
    /// Place of each tensor's gradient; empty without training, and for the images.
    pub gradients: Vec<Option<Range<usize>>>,
    /// Operations whose backward adds to the gradient of `x` instead of writing it.
    pub adds: Vec<bool>,
    /// Numbers of the arena.
    pub arena: usize,
}

/// One thing to place: numbers, first and last time of use.
struct Life {
    numbers: usize,
    first: usize,
    last: usize,
}

impl Plan {
    /// Forward only.
    pub fn inference(graph: Graph, batch: usize) -> Self {
        let lives = value_lives(&graph, batch, false);
        let (places, arena) = place(&lives);
        let none = vec![None; graph.tensors.len()];
        let adds = vec![false; graph.ops.len()];
        Self { values: places, gradients: none, adds, arena, graph, batch }
    }

    /// Forward and backward.
    pub fn training(graph: Graph, batch: usize) -> Self {
        let mut lives = value_lives(&graph, batch, true);
        let values = lives.len();
        let (slots, adds) = gradient_lives(&graph, batch, &mut lives);
        let (mut places, arena) = place(&lives);
        let slots = slots.into_iter().map(|slot| slot.map(|slot| places[slot].clone())).collect();
        places.truncate(values);
        Self { values: places, gradients: slots, adds, arena, graph, batch }
    }
}

/// How long each tensor's values are needed.
fn value_lives(graph: &Graph, batch: usize, train: bool) -> Vec<Life> {
    let n = graph.ops.len();
    let mut lives: Vec<Life> = graph
        .tensors
        .iter()
        .map(|t| Life { numbers: t.numbers() * batch, first: 0, last: 0 })
        .collect();
    for (i, op) in graph.ops.iter().enumerate() {
        let (x, y) = op.tensors();
        lives[y].first = i;
        let backward = if train { 2 * n - i } else { i };
        // What the backward of this operation reads again.
        let (x_again, y_again) = match op {
            Op::Conv { .. } => (true, false),
            Op::Norm { residual, .. } => (true, residual.is_some()),
            Op::MaxPool { .. } | Op::MeanPool { .. } | Op::Shortcut { .. } => (false, false),
        };
        let mut use_until = |t: Tensor, time: usize| lives[t].last = lives[t].last.max(time);
        use_until(x, if x_again { backward } else { i });
        use_until(y, if y_again { backward } else { i });
        if let Op::Norm { residual: Some(residual), .. } = op {
            use_until(*residual, i);
        }
    }
    lives[graph.logits()].last = n;
    lives
}

/// Adds the gradients' lives; gives which life each tensor's gradient is, and which operations add.
fn gradient_lives(
    graph: &Graph,
    batch: usize,
    lives: &mut Vec<Life>,
) -> (Vec<Option<usize>>, Vec<bool>) {
    let n = graph.ops.len();
    let mut slots: Vec<Option<usize>> = vec![None; graph.tensors.len()];
    let mut adds = vec![false; n];
    let new = |lives: &mut Vec<Life>, t: Tensor, time: usize| {
        lives.push(Life { numbers: graph.tensors[t].numbers() * batch, first: time, last: time });
        Some(lives.len() - 1)
    };
    slots[graph.logits()] = new(lives, graph.logits(), n);
    for (i, op) in graph.ops.iter().enumerate().rev() {
        let time = 2 * n - i;
        let (x, y) = op.tensors();
        let from = slots[y].expect("an operation's result has a gradient: something uses it");
        lives[from].last = time;
        match op {
            Op::Conv { .. } if x == 0 => continue,
            // In place: the gradient of a norm's result becomes that of its residual or its source.
            Op::Norm { residual: None, .. } => slots[x] = Some(from),
            Op::Norm { residual: Some(residual), .. } => {
                assert!(slots[*residual].is_none(), "a residual's gradient begins at the sum");
                slots[*residual] = Some(from);
                slots[x] = new(lives, x, time);
            }
            _ if slots[x].is_some() => adds[i] = true,
            _ => slots[x] = new(lives, x, time),
        }
        if let Some(to) = slots[x] {
            lives[to].last = time;
        }
    }
    (slots, adds)
}

/// Places the largest first, each at the lowest place free during its life. Gives the arena's size.
fn place(lives: &[Life]) -> (Vec<Range<usize>>, usize) {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lives[i].numbers), lives[i].first, i));
    let mut places: Vec<Range<usize>> = vec![0..0; lives.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut arena = 0;
    for i in order {
        let life = &lives[i];
        let meets = |&&j: &&usize| lives[j].first <= life.last && life.first <= lives[j].last;
        let mut taken: Vec<Range<usize>> =
            placed.iter().filter(meets).map(|&j| places[j].clone()).collect();
        taken.sort_by_key(|range| range.start);
        let mut start = 0;
        for range in taken {
            if start + life.numbers <= range.start {
                break;
            }
            start = start.max(range.end.next_multiple_of(ALIGN));
        }
        places[i] = start..start + life.numbers;
        arena = arena.max(places[i].end);
        placed.push(i);
    }
    (places, arena)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    #[test]
    fn lives_that_meet_do_not_share_a_place() {
        for name in ["resnet20", "resnet18", "resnet50"] {
            let graph = Graph::new(&Architecture::named(name, 10).unwrap(), 64, 64);
            let mut lives = value_lives(&graph, 3, true);
            gradient_lives(&graph, 3, &mut lives);
            let (places, arena) = place(&lives);
            for (i, a) in lives.iter().enumerate() {
                assert!(places[i].end <= arena);
                for (j, b) in lives.iter().enumerate().skip(i + 1) {
                    let meet = a.first <= b.last && b.first <= a.last;
                    let overlap =
                        places[i].start < places[j].end && places[j].start < places[i].end;
                    assert!(!(meet && overlap), "{name}: {i} and {j}");
                }
            }
        }
    }

    #[test]
    fn inference_needs_a_fraction_of_training() {
        let graph = Graph::new(&Architecture::named("resnet50", 1000).unwrap(), 224, 224);
        let training = Plan::training(graph.clone(), 1).arena;
        assert!(Plan::inference(graph, 1).arena * 8 < training);
    }
}
