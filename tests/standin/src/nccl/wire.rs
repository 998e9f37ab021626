//! The messages between ranks and hub: a tag, eight numbers, and bytes whose length is the last number.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use super::collective::{Collective, Element, Kind, Reduction};

/// A message from a rank.
#[derive(Debug)]
pub(super) enum ToHub {
    /// The rank, the number of ranks, and the name of the rank's GPU.
    Hello { rank: usize, ranks: usize, gpu: String },
    /// The input of the collective of a round.
    Part { round: u64, call: Collective, data: Vec<u8> },
    /// The rank has destroyed or aborted its communicator.
    Bye,
}

/// A message from the hub.
#[derive(Debug)]
pub(super) enum ToRank {
    /// All ranks have connected.
    Ready,
    /// The communicator cannot be created.
    Refused(String),
    /// Other ranks have sent their inputs of this round.
    Want {
        round: u64,
    },
    Result {
        round: u64,
        data: Vec<u8>,
    },
    /// The communicator has failed.
    Failed(String),
    /// A rank was lost: it has disconnected without a goodbye.
    Lost(String),
    /// A rank has left with a goodbye.
    Left,
}

type Numbers = [u64; 8];

pub(super) fn to_hub(hub: &mut UnixStream, message: &ToHub) -> io::Result<()> {
    match message {
        ToHub::Hello { rank, ranks, gpu } => {
            send(hub, 0, [*rank as u64, *ranks as u64, 0, 0, 0, 0, 0, 0], gpu.as_bytes())
        }
        ToHub::Part { round, call, data } => {
            let (kind, detail) = match call.kind {
                Kind::AllReduce(reduction) => (0, reduction as u64),
                Kind::Broadcast { root } => (1, root as u64),
                Kind::AllGather => (2, 0),
                Kind::ReduceScatter(reduction) => (3, reduction as u64),
            };
            let element = u64::from(call.element.kind());
            send(hub, 1, [*round, kind, detail, element, call.count as u64, 0, 0, 0], data)
        }
        ToHub::Bye => send(hub, 2, Numbers::default(), &[]),
    }
}

pub(super) fn from_rank(rank: &mut UnixStream) -> io::Result<ToHub> {
    let (tag, numbers, data) = receive(rank)?;
    let [one, two, three, four, five, ..] =
        numbers.map(|number| usize::try_from(number).unwrap_or(0));
    match tag {
        0 => Ok(ToHub::Hello { rank: one, ranks: two, gpu: text(data) }),
        1 => {
            let reduction = Reduction::new(u32::try_from(three).unwrap_or(u32::MAX));
            let kind = match (two, reduction) {
                (0, Some(reduction)) => Kind::AllReduce(reduction),
                (1, _) => Kind::Broadcast { root: three },
                (2, _) => Kind::AllGather,
                (3, Some(reduction)) => Kind::ReduceScatter(reduction),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
            let element = Element::new(u32::try_from(four).unwrap_or(u32::MAX));
            let element = element.ok_or(io::ErrorKind::InvalidData)?;
            Ok(ToHub::Part {
                round: numbers[0],
                call: Collective { kind, element, count: five },
                data,
            })
        }
        2 => Ok(ToHub::Bye),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

pub(super) fn to_rank(rank: &mut UnixStream, message: &ToRank) -> io::Result<()> {
    let none: &[u8] = &[];
    let (tag, round, data) = match message {
        ToRank::Ready => (0, 0, none),
        ToRank::Refused(text) => (1, 0, text.as_bytes()),
        ToRank::Want { round } => (2, *round, none),
        ToRank::Result { round, data } => (3, *round, data.as_slice()),
        ToRank::Failed(text) => (4, 0, text.as_bytes()),
        ToRank::Lost(text) => (5, 0, text.as_bytes()),
        ToRank::Left => (6, 0, none),
    };
    send(rank, tag, [round, 0, 0, 0, 0, 0, 0, 0], data)
}

pub(super) fn from_hub(hub: &mut UnixStream) -> io::Result<ToRank> {
    let (tag, [round, ..], data) = receive(hub)?;
    match tag {
        0 => Ok(ToRank::Ready),
        1 => Ok(ToRank::Refused(text(data))),
        2 => Ok(ToRank::Want { round }),
        3 => Ok(ToRank::Result { round, data }),
        4 => Ok(ToRank::Failed(text(data))),
        5 => Ok(ToRank::Lost(text(data))),
        6 => Ok(ToRank::Left),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn text(data: Vec<u8>) -> String {
    String::from_utf8(data).unwrap_or_default()
}

fn send(to: &mut UnixStream, tag: u8, mut numbers: Numbers, data: &[u8]) -> io::Result<()> {
    numbers[7] = data.len() as u64;
    let mut head = vec![tag];
    head.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    to.write_all(&head)?;
    to.write_all(data)
}

fn receive(from: &mut UnixStream) -> io::Result<(u8, Numbers, Vec<u8>)> {
    let mut head = [0; 65];
    from.read_exact(&mut head)?;
    let mut numbers = Numbers::default();
    for (number, bytes) in numbers.iter_mut().zip(head[1..].as_chunks().0) {
        *number = u64::from_le_bytes(*bytes);
    }
    let mut data =
        vec![0; usize::try_from(numbers[7]).map_err(|_large| io::ErrorKind::InvalidData)?];
    from.read_exact(&mut data)?;
    Ok((head[0], numbers, data))
}
