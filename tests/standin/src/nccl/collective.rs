//! The collectives and their results.

use std::fmt;

use crate::number::Number;

/// Elements of a number type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Number(Number),
    /// Elements that are only copied: their size in bytes, and their `ncclDataType_t`.
    Other(usize, u32),
}

impl Element {
    pub(super) fn new(kind: u32) -> Option<Self> {
        Some(match kind {
            6 => Self::Number(Number::F16),
            7 => Self::Number(Number::F32),
            9 => Self::Number(Number::Bf16),
            0 | 1 | 10 | 11 => Self::Other(1, kind),
            2 | 3 => Self::Other(4, kind),
            4 | 5 | 8 => Self::Other(8, kind),
            _ => return None,
        })
    }

    pub(super) fn kind(self) -> u32 {
        match self {
            Self::Number(Number::F16) => 6,
            Self::Number(Number::F32) => 7,
            Self::Number(Number::Bf16) => 9,
            Self::Other(_, kind) => kind,
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Number(number) => number.bytes(),
            Self::Other(bytes, _) => bytes,
        }
    }
}

/// `ncclRedOp_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduction {
    Sum,
    Product,
    Max,
    Min,
    Average,
}

impl Reduction {
    pub(super) fn new(number: u32) -> Option<Self> {
        [Self::Sum, Self::Product, Self::Max, Self::Min, Self::Average]
            .get(number as usize)
            .copied()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    AllReduce(Reduction),
    Broadcast { root: usize },
    AllGather,
    ReduceScatter(Reduction),
}

/// A call without its buffers. It must be the same for all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Collective {
    pub(super) kind: Kind,
    pub(super) element: Element,
    pub(super) count: usize,
}

impl Collective {
    /// The numbers of elements that a rank sends and receives.
    pub(super) fn counts(&self, rank: usize, ranks: usize) -> (usize, usize) {
        match self.kind {
            Kind::AllReduce(_) => (self.count, self.count),
            Kind::Broadcast { root } => (if rank == root { self.count } else { 0 }, self.count),
            Kind::AllGather => (self.count, self.count * ranks),
            Kind::ReduceScatter(_) => (self.count * ranks, self.count),
        }
    }

    /// The output of each rank, from the inputs of all.
    pub(super) fn combine(&self, parts: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let ranks = parts.len();
        match self.kind {
            Kind::AllReduce(reduction) => vec![self.reduce(reduction, parts); ranks],
            Kind::Broadcast { root } => vec![parts[root].clone(); ranks],
            Kind::AllGather => vec![parts.concat(); ranks],
            Kind::ReduceScatter(reduction) => {
                let whole = self.reduce(reduction, parts);
                let share = self.count * self.element.bytes();
                (0..ranks).map(|rank| whole[rank * share..][..share].to_vec()).collect()
            }
        }
    }

    fn reduce(&self, reduction: Reduction, parts: &[Vec<u8>]) -> Vec<u8> {
        let Element::Number(number) = self.element else { return parts[0].clone() };
        let scale = number.round(1.0 / parts.len() as f32);
        let mut whole: Option<Vec<f32>> = None;
        for part in parts {
            let mut part = number.load(part);
            if reduction == Reduction::Average {
                for value in &mut part {
                    *value = number.round(*value * scale);
                }
            }
            whole = Some(match whole {
                None => part,
                Some(mut whole) => {
                    for (whole, part) in whole.iter_mut().zip(&part) {
                        *whole = number.round(match reduction {
                            Reduction::Sum | Reduction::Average => *whole + part,
                            Reduction::Product => *whole * part,
                            Reduction::Max => whole.max(*part),
                            Reduction::Min => whole.min(*part),
                        });
                    }
                    whole
                }
            });
        }
        let whole = whole.unwrap_or_default();
        let mut bytes = vec![0; whole.len() * number.bytes()];
        number.store(&whole, &mut bytes);
        bytes
    }
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::AllReduce(reduction) => write!(f, "AllReduce({reduction:?})")?,
            Kind::Broadcast { root } => write!(f, "Broadcast(root {root})")?,
            Kind::AllGather => write!(f, "AllGather")?,
            Kind::ReduceScatter(reduction) => write!(f, "ReduceScatter({reduction:?})")?,
        }
        match self.element {
            Element::Number(number) => write!(f, " of {} {number:?}", self.count),
            Element::Other(bytes, _) => write!(f, " of {} x {bytes} bytes", self.count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn call(kind: Kind, count: usize) -> Collective {
        Collective { kind, element: Element::Number(Number::F32), count }
    }

    #[test]
    fn each_collective_gives_each_rank_its_part() {
        let parts = [f32s(&[1.0, 2.0]), f32s(&[10.0, 20.0])];
        let sums = call(Kind::AllReduce(Reduction::Sum), 2).combine(&parts);
        assert_eq!(sums, [f32s(&[11.0, 22.0]), f32s(&[11.0, 22.0])]);
        let means = call(Kind::AllReduce(Reduction::Average), 2).combine(&parts);
        assert_eq!(means[1], f32s(&[5.5, 11.0]));
        let shares = call(Kind::ReduceScatter(Reduction::Max), 1).combine(&parts);
        assert_eq!(shares, [f32s(&[10.0]), f32s(&[20.0])]);
        assert_eq!(call(Kind::AllGather, 2).combine(&parts)[0], parts.concat());
        assert_eq!(call(Kind::Broadcast { root: 1 }, 2).combine(&parts)[0], parts[1]);
    }

    #[test]
    fn sums_run_in_the_order_of_ranks() {
        let parts = [f32s(&[1e8]), f32s(&[1.0]), f32s(&[-1e8])];
        let sums = call(Kind::AllReduce(Reduction::Sum), 1).combine(&parts);
        assert_eq!(sums[2], f32s(&[0.0]));
    }
}
