//! The ranks that train together, and the collective operations between them.
//!
//! # The ring
//!
//! Ranks are processes over TCP, or threads over channels. They are connected in a ring, in which each
//! rank sends to the next one only:
//!
//! ```text
//!   rank 0 ---> rank 1 ---> rank 2 ---> rank 3
//!      ^                                   |
//!      +-----------------------------------+
//! ```
//!
//! # Why every world trains the same bits
//!
//! Floating-point addition is not associative, so a sum depends on its order. One process adds the
//! gradients of the microbatches g0, g1, g2, ... of a step in order of their index:
//!
//! ```text
//!   ((((0 + g0) + g1) + g2) + g3) + ...
//! ```
//!
//! In a world of W, rank r computes the microbatches r, W + r, 2W + r, ... So at round k, the ranks hold
//! the gradients of W microbatches with consecutive indices, in the order of the ranks. After each round,
//! [`ProcessGroup::reduce`] runs once around the ring:
//!
//! ```text
//!   world of 2, round 0              round 1
//!   rank 0: sends  s = 0 + g0        rank 0: sends  s = (g0 + g1) + g2
//!   rank 1: sends  s + g1            rank 1: sends  s + g3
//!   rank 0: keeps  g0 + g1           rank 0: keeps  ((g0 + g1) + g2) + g3
//!   rank 1: clears its gradients     rank 1: clears its gradients
//! ```
//!
//! Rank 0 starts with everything summed so far plus its own gradient, each next rank adds its gradient,
//! and the sum arrives back at rank 0. These are the additions of one process, in the same order. All
//! other ranks continue from zero, so nothing is added twice. Before the update, rank 0 broadcasts the
//! sum. Batch-norm statistics and losses are gathered from all ranks and then applied in the order of
//! the microbatches, for the same reason. Ring all-reduce as in NCCL or Horovod would need less
//! bandwidth, but it adds different chunks in different orders.
//!
//! # Speed and deadlock
//!
//! A vector travels as chunks of [`ring::CHUNK_BYTES`]. All links carry chunks at the same time, so a
//! reduction takes about the time of sending the vector twice, whatever the length of the ring. Each link
//! queues [`ring::WINDOW`] chunks. Rank 0 never has more than that many chunks under way in a reduction,
//! so it never blocks on sending while the last rank blocks on sending to it.
//!
//! # Failures
//!
//! Every process also has a connection to rank 0 that carries heartbeats ([`heartbeat`]). When a rank
//! dies, freezes or reports an error, all others get an error that names this rank, wherever they wait.

mod accept;
mod connection;
mod handshake;
mod heartbeat;
mod rendezvous;
mod ring;
mod stop;
#[cfg(test)]
mod tests;
mod timeouts;

use std::ops::AddAssign;

use forebay_types::Rank;

use heartbeat::Heartbeat;
use ring::{Collective, Message, Ring};

pub use rendezvous::Rendezvous;
pub use ring::Element;
pub use stop::StopRequest;
pub use timeouts::Timeouts;

use crate::Error;

/// One rank's connection to the others. All ranks must make the same calls in the same order.
#[derive(Debug)]
pub struct ProcessGroup {
    rank: Rank,
    /// `None` in a world of one.
    ring: Option<Ring>,
    /// Number of collective operations started.
    operations: u64,
    /// Detects lost processes; `None` between threads.
    heartbeat: Option<Heartbeat>,
    stop: StopRequest,
}

impl ProcessGroup {
    /// The group of a process that trains by itself.
    pub fn single() -> Self {
        let stop = StopRequest::default();
        Self { rank: Rank::SINGLE, ring: None, operations: 0, heartbeat: None, stop }
    }

    /// The groups of a world of threads, by rank.
    pub fn threads(world: u32) -> Vec<Self> {
        if world < 2 {
            return vec![Self::single()];
        }
        let rings = Ring::between_threads(world).into_iter().zip(0..);
        rings.map(|(ring, rank)| Self::new(Rank { rank, world }, ring, None)).collect()
    }

    /// Connects to the other processes of a world. Returns when all of them have joined.
    ///
    /// # Errors
    /// [`Error::Rendezvous`] if the ranks do not meet in time or the address cannot be used, and
    /// [`Error::Rank`] with the rank that was started with other settings or cannot be reached.
    pub fn join(rendezvous: &Rendezvous) -> Result<Self, Error> {
        if rendezvous.rank.world < 2 {
            return Ok(Self::single());
        }
        let (ring, heartbeat) = rendezvous::join(rendezvous)?;
        Ok(Self::new(rendezvous.rank, ring, Some(heartbeat)))
    }

    fn new(rank: Rank, ring: Ring, heartbeat: Option<Heartbeat>) -> Self {
        let stop = heartbeat.as_ref().map(Heartbeat::stop_request).unwrap_or_default();
        Self { rank, ring: Some(ring), operations: 0, heartbeat, stop }
    }

    /// The rank of this process and the size of the world.
    pub const fn rank(&self) -> Rank {
        self.rank
    }

    /// Whether this is rank 0, which writes the files.
    pub const fn is_primary(&self) -> bool {
        self.rank.rank == 0
    }

    /// Adds the values of all ranks, in the order of ranks. Rank 0 gets the sum, all others zeros.
    ///
    /// # Errors
    /// [`Error::Rank`] if another rank fails, is lost or stalls.
    pub fn reduce<T: Element + AddAssign>(&mut self, values: &mut [T]) -> Result<(), Error> {
        let Some(mut exchange) = self.start(Collective::Reduce) else { return Ok(()) };
        if exchange.rank.rank > 0 {
            for chunk in values.chunks_mut(T::CHUNK) {
                let mut message = exchange.receive::<T>(chunk.len())?;
                message.add(chunk);
                chunk.fill(T::default());
                exchange.send(message)?;
            }
            return Ok(());
        }
        let len = values.len();
        let chunks = len.div_ceil(T::CHUNK);
        let range = |i: usize| i * T::CHUNK..len.min((i + 1) * T::CHUNK);
        // Rank 0 sends chunk i after it has received chunk i - WINDOW. A link queues WINDOW chunks, so
        // no rank ever waits for rank 0 to receive.
        for i in 0..chunks + ring::WINDOW {
            if let Some(returned) = i.checked_sub(ring::WINDOW).filter(|i| *i < chunks) {
                let range = range(returned);
                exchange.receive::<T>(range.len())?.read(&mut values[range]);
            }
            if i < chunks {
                let message = exchange.message(&values[range(i)]);
                exchange.send(message)?;
            }
        }
        Ok(())
    }

    /// Copies the values of rank 0 to all ranks.
    ///
    /// # Errors
    /// [`Error::Rank`] if another rank fails, is lost or stalls.
    pub fn broadcast<T: Element>(&mut self, values: &mut [T]) -> Result<(), Error> {
        let Some(mut exchange) = self.start(Collective::Broadcast) else { return Ok(()) };
        let Rank { rank, world } = exchange.rank;
        for chunk in values.chunks_mut(T::CHUNK) {
            let message = if rank == 0 {
                exchange.message(chunk)
            } else {
                let message = exchange.receive::<T>(chunk.len())?;
                message.read(chunk);
                message
            };
            if rank + 1 < world {
                exchange.send(message)?;
            }
        }
        Ok(())
    }

    /// Adds the values of all ranks, in the order of ranks. Every rank gets the sum.
    ///
    /// # Errors
    /// [`Error::Rank`] if another rank fails, is lost or stalls.
    pub fn all_reduce<T: Element + AddAssign>(&mut self, values: &mut [T]) -> Result<(), Error> {
        self.reduce(values)?;
        self.broadcast(values)
    }

    /// Collects the values of all ranks, concatenated in the order of ranks. Every rank must contribute
    /// the same number of values, and gets all of them.
    ///
    /// # Errors
    /// [`Error::Rank`] if another rank fails, is lost or stalls.
    ///
    /// # Panics
    /// When `all` does not have room for exactly the values of all ranks.
    pub fn all_gather<T: Element>(&mut self, own: &[T], all: &mut [T]) -> Result<(), Error> {
        let each = own.len();
        assert_eq!(all.len(), each * self.rank.world as usize, "room for the values of all ranks");
        let first = self.rank.rank as usize * each;
        all[first..first + each].copy_from_slice(own);
        let Some(mut exchange) = self.start(Collective::AllGather) else { return Ok(()) };
        let Rank { rank, world } = exchange.rank;
        for begin in (0..each).step_by(T::CHUNK) {
            let length = T::CHUNK.min(each - begin);
            // Every rank forwards what it received last. After world - 1 turns all ranks have all values.
            for turn in 0..world - 1 {
                let offset = |rank: u32| (rank % world) as usize * each + begin;
                let (from, to) = (offset(rank + world - turn), offset(rank + world - turn - 1));
                let message = exchange.message(&all[from..from + length]);
                exchange.send(message)?;
                exchange.receive::<T>(length)?.read(&mut all[to..to + length]);
            }
        }
        Ok(())
    }

    /// The request to stop of this rank, which any thread may make. A request of one rank reaches the others with the
    /// next heartbeats. Threads have a request each, of which the others learn by [`agree_to_stop`](Self::agree_to_stop).
    pub fn stop_request(&self) -> StopRequest {
        self.stop.clone()
    }

    /// Whether any rank was asked to stop. All ranks get the same answer.
    ///
    /// # Errors
    /// [`Error::Rank`] if another rank fails, is lost or stalls.
    pub fn agree_to_stop(&mut self) -> Result<bool, Error> {
        let mut asked = [u64::from(self.stop.is_asked())];
        self.all_reduce(&mut asked)?;
        Ok(asked != [0])
    }

    /// Calls `notify`, on a thread of its own, when another rank is lost or fails.
    pub fn on_failure(&mut self, notify: impl FnOnce(Error) + Send + 'static) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.on_failure(Box::new(notify));
        }
    }

    /// A function that returns the failure of a rank, once it is known. Any thread may call it, also after the group.
    pub fn failure_watch(&self) -> Box<dyn Fn() -> Option<Error> + Send> {
        self.heartbeat.as_ref().map_or_else(|| Box::new(|| None) as _, Heartbeat::watch)
    }

    /// Waits until the failure of a rank is known, at most for the heartbeat timeout. For a rank whose exchanges fail,
    /// perhaps because another one was lost.
    pub fn wait_for_failure(&self) -> Option<Error> {
        self.heartbeat.as_ref()?.wait_for_failure()
    }

    /// Reports to the other ranks the reason why this one cannot continue. They fail with the same reason.
    pub fn fail(&mut self, problem: &str) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.fail(problem);
        }
    }

    /// Waits until all ranks have called this, and closes the connections.
    ///
    /// # Errors
    /// [`Error::Rank`] if another rank fails before it gets here.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.all_gather(&[0_u64], &mut vec![0; self.rank.world as usize])?;
        if let Some(ring) = self.ring.take() {
            ring.close();
        }
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.finish();
        }
        Ok(())
    }

    fn start(&mut self, collective: Collective) -> Option<Exchange<'_>> {
        let ring = self.ring.as_mut()?;
        self.operations += 1;
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.set_operations(self.operations);
        }
        Some(Exchange {
            rank: self.rank,
            ring,
            heartbeat: self.heartbeat.as_ref(),
            collective,
            operation: self.operations,
        })
    }
}

/// One collective operation in progress.
struct Exchange<'a> {
    rank: Rank,
    ring: &'a mut Ring,
    heartbeat: Option<&'a Heartbeat>,
    collective: Collective,
    /// Number of the operation, which must be the same on all ranks.
    operation: u64,
}

impl Exchange<'_> {
    fn message<T: Element>(&self, values: &[T]) -> Message {
        Message::new(self.collective, self.operation, values)
    }

    fn send(&mut self, message: Message) -> Result<(), Error> {
        let next = (self.rank.rank + 1) % self.rank.world;
        let sent = self.ring.send(message);
        sent.map_err(|problem| self.failure(next, problem))
    }

    fn receive<T: Element>(&mut self, len: usize) -> Result<Message, Error> {
        let previous = (self.rank.rank + self.rank.world - 1) % self.rank.world;
        let received = self.ring.receive(self.collective, self.operation, len * T::BYTES);
        received.map_err(|problem| self.failure(previous, problem))
    }

    /// A link breaks when any rank of the ring fails. The heartbeat knows which one, or soon will.
    fn failure(&self, neighbor: u32, problem: String) -> Error {
        let known = self.heartbeat.and_then(Heartbeat::wait_for_failure);
        known.unwrap_or(Error::Rank { rank: neighbor, problem })
    }
}
