//! Ranks: the processes, or threads, of one training. Each streams and computes its own microbatches;
//! what they know together goes around a ring, in which each sends to the next rank only.
//!
//! Additions are made in the order of ranks, which is the order of microbatches: rank 0 sends its
//! numbers, each next rank adds its own, and the sum comes back. So any number of ranks does the
//! additions of one process, in its order: the same bits. A chunk is under way in each link at the
//! same time, so the ring's length costs little.

mod greeting;
mod link;
mod peer;
mod rendezvous;
#[cfg(test)]
mod tests;
mod watch;

use std::ops::AddAssign;

use forebay_client::Rank;

use link::{Kind, Ring};
use watch::Watch;

pub use link::Number;
pub use rendezvous::{Limits, Meeting};

use crate::Error;

/// What a rank calls to exchange numbers with the others. All ranks must make the same calls.
#[derive(Debug)]
pub struct Ranks {
    place: Rank,
    /// None in a world of one.
    ring: Option<Ring>,
    /// Exchanges begun.
    calls: u64,
    /// Learns of lost processes; none for threads.
    watch: Option<Watch>,
}

impl Ranks {
    /// The one process of a training that has no other.
    pub fn alone() -> Self {
        Self { place: Rank::SINGLE, ring: None, calls: 0, watch: None }
    }

    /// The ranks of a world of threads.
    pub fn threads(world: u32) -> Vec<Self> {
        if world < 2 {
            return vec![Self::alone()];
        }
        let rings = Ring::threads(world).into_iter().zip(0..);
        rings.map(|(ring, rank)| Self::new(Rank { rank, world }, ring, None)).collect()
    }

    /// Meets the other processes of a world; comes back when all are there.
    pub fn meet(meeting: &Meeting) -> Result<Self, Error> {
        if meeting.place.world < 2 {
            return Ok(Self::alone());
        }
        let (ring, watch) = rendezvous::meet(meeting)?;
        Ok(Self::new(meeting.place, ring, Some(watch)))
    }

    const fn new(place: Rank, ring: Ring, watch: Option<Watch>) -> Self {
        Self { place, ring: Some(ring), calls: 0, watch }
    }

    /// Which rank this is, of how many.
    pub const fn place(&self) -> Rank {
        self.place
    }

    /// Whether this rank is the one that writes files.
    pub const fn is_first(&self) -> bool {
        self.place.rank == 0
    }

    /// Adds the numbers of all ranks, in the order of ranks: rank 0 has the sum, the others zeros.
    pub fn collect<T: Number + AddAssign>(&mut self, values: &mut [T]) -> Result<(), Error> {
        let Some(mut exchange) = self.exchange(Kind::Collect) else { return Ok(()) };
        if exchange.place.rank > 0 {
            for values in values.chunks_mut(T::CHUNK) {
                let mut message = exchange.receive::<T>(values.len())?;
                message.add(values);
                values.fill(T::default());
                exchange.send(message)?;
            }
            return Ok(());
        }
        let count = values.len();
        let chunks = count.div_ceil(T::CHUNK);
        let chunk = |i: usize| i * T::CHUNK..count.min((i + 1) * T::CHUNK);
        // No more are under way than one link holds, so no rank waits for this one to receive.
        for i in 0..chunks + link::WINDOW {
            if let Some(back) = i.checked_sub(link::WINDOW).filter(|back| *back < chunks) {
                let place = chunk(back);
                exchange.receive::<T>(place.len())?.read(&mut values[place]);
            }
            if i < chunks {
                let message = exchange.message(&values[chunk(i)]);
                exchange.send(message)?;
            }
        }
        Ok(())
    }

    /// Gives all ranks the numbers of rank 0.
    pub fn broadcast<T: Number>(&mut self, values: &mut [T]) -> Result<(), Error> {
        let Some(mut exchange) = self.exchange(Kind::Broadcast) else { return Ok(()) };
        let Rank { rank, world } = exchange.place;
        for values in values.chunks_mut(T::CHUNK) {
            let message = if rank == 0 {
                exchange.message(values)
            } else {
                let message = exchange.receive::<T>(values.len())?;
                message.read(values);
                message
            };
            if rank + 1 < world {
                exchange.send(message)?;
            }
        }
        Ok(())
    }

    /// Gives all ranks the sum, added in the order of ranks.
    pub fn sum<T: Number + AddAssign>(&mut self, values: &mut [T]) -> Result<(), Error> {
        self.collect(values)?;
        self.broadcast(values)
    }

    /// Gives all ranks the numbers of each, as many of each, in the order of ranks.
    pub fn gather<T: Number>(&mut self, own: &[T], all: &mut [T]) -> Result<(), Error> {
        let each = own.len();
        assert_eq!(
            all.len(),
            each * self.place.world as usize,
            "room for the numbers of all ranks"
        );
        let first = self.place.rank as usize * each;
        all[first..first + each].copy_from_slice(own);
        let Some(mut exchange) = self.exchange(Kind::Gather) else { return Ok(()) };
        let Rank { rank, world } = exchange.place;
        for begin in (0..each).step_by(T::CHUNK) {
            let length = T::CHUNK.min(each - begin);
            // Each passes on what it received last: after world - 1 turns all have all.
            for turn in 0..world - 1 {
                let of = |rank: u32| (rank % world) as usize * each + begin;
                let (here, next) = (of(rank + world - turn), of(rank + world - turn - 1));
                let message = exchange.message(&all[here..here + length]);
                exchange.send(message)?;
                exchange.receive::<T>(length)?.read(&mut all[next..next + length]);
            }
        }
        Ok(())
    }

    /// Calls a function, on a thread of its own, when another rank is lost or fails.
    pub fn on_failure(&mut self, tell: impl FnOnce(Error) + Send + 'static) {
        if let Some(watch) = &self.watch {
            watch.on_failure(Box::new(tell));
        }
    }

    /// Tells the other ranks why this one cannot go on; they end with it.
    pub fn fail(&mut self, problem: &str) {
        if let Some(watch) = &self.watch {
            watch.fail(problem);
        }
    }

    /// Waits until all ranks are here, and parts from them: this one is alone from here on.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.gather(&[0_u64], &mut vec![0; self.place.world as usize])?;
        if let Some(ring) = self.ring.take() {
            ring.close();
        }
        if let Some(watch) = self.watch.take() {
            watch.finish();
        }
        Ok(())
    }

    fn exchange(&mut self, kind: Kind) -> Option<Exchange<'_>> {
        let ring = self.ring.as_mut()?;
        self.calls += 1;
        if let Some(watch) = &self.watch {
            watch.begun(self.calls);
        }
        Some(Exchange {
            place: self.place,
            ring,
            watch: self.watch.as_ref(),
            kind,
            call: self.calls,
        })
    }
}

/// One exchange under way.
struct Exchange<'a> {
    place: Rank,
    ring: &'a mut Ring,
    watch: Option<&'a Watch>,
    kind: Kind,
    call: u64,
}

impl Exchange<'_> {
    fn message<T: Number>(&self, values: &[T]) -> link::Message {
        link::Message::new(self.kind, self.call, values)
    }

    fn send(&mut self, message: link::Message) -> Result<(), Error> {
        let next = (self.place.rank + 1) % self.place.world;
        let sent = self.ring.send(message);
        sent.map_err(|problem| self.broken(next, problem))
    }

    fn receive<T: Number>(&mut self, numbers: usize) -> Result<link::Message, Error> {
        let before = (self.place.rank + self.place.world - 1) % self.place.world;
        let received = self.ring.receive(self.kind, self.call, numbers * T::BYTES);
        received.map_err(|problem| self.broken(before, problem))
    }

    /// A link breaks because a rank was lost; which one, the watch knows, or soon will.
    fn broken(&self, neighbour: u32, problem: String) -> Error {
        let known = self.watch.and_then(Watch::verdict);
        known.unwrap_or(Error::Rank { rank: neighbour, problem })
    }
}
