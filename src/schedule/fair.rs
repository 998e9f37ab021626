//! Fair queueing: deficit round robin over clients, by CPU time.
//!
//! Deficit round robin (Shreedhar and Varghese, "Efficient fair queueing using deficit round robin",
//! SIGCOMM 1995) gives each client a queue of its own and a deficit counter. In each round, a client's
//! counter grows by a quantum, and the client is served while its counter covers the cost of what is
//! at the head of its queue. Over time all busy clients get equal shares, whatever they queue.
//!
//! Four things differ here from a network link:
//!
//! - **The cost is CPU time, and known only afterward.** Clients compete for makers, and equal bytes
//!   take three times as long with RandAugment as without it. So a ticket is charged the cost of its
//!   client's previous one when it is popped, and the difference is settled when it is done. A counter
//!   can therefore be negative: the client owes that much, and waits until rounds have paid it off.
//! - **One ticket a visit.** The client after the one served last comes next, so that two makers that
//!   pop at the same time serve two clients. The quantum is smaller than the cost of any microbatch,
//!   so that shares are exact.
//! - **A client has a bounded number of tickets in progress.** What it requested last may take long or wait
//!   for memory. There is one maker more than that, so that other clients never wait for all of one
//!   client's. While a client is at its bound, it is passed over, and its counter is bounded as if it
//!   were idle.
//! - **Idle clients keep a bounded counter.** A client that requests its next microbatch only when it
//!   has received the last is idle for a moment each time. It keeps a counter of at most one
//!   microbatch: enough not to lose its turn, and too little to save up a burst. A debt survives
//!   idleness, so that a client cannot escape it by requesting one microbatch at a time.
//!
//! ```text
//! pop():     loop
//!              for client in clients, starting after the one served last:
//!                if client has tickets and client.deficit > 0:
//!                  client.deficit -= client.last_cost
//!                  return its first ticket
//!              if no client has tickets and is below its bound: return none
//!              for client in clients: client.deficit += QUANTUM * rounds until a client can pay
//! settle():  client.deficit += charged - actual cost
//! ```
//!
//! Fairness: between two busy clients, deficits start a round equal, differ within it by at most
//! one microbatch of each, and every nanosecond of CPU time is subtracted from exactly one of them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// The quantum that each client's counter grows by in a round, in nanoseconds of CPU time.
const QUANTUM: i64 = 1_000_000;

/// Queues of tickets, one for each client.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    clients: BTreeMap<Arc<str>, ClientQueue<T>>,
    last_served: Arc<str>,
    /// Most tickets of a client that are in progress.
    max_in_progress: usize,
}

#[derive(Debug)]
struct ClientQueue<T> {
    tickets: VecDeque<T>,
    /// Nanoseconds of CPU time that the client may still use. Negative: it has used that much more
    /// than its share.
    deficit: i64,
    /// Cost of the client's previous microbatch, in nanoseconds.
    last_cost: i64,
    /// Tickets that were popped and neither settled nor refunded.
    in_progress: usize,
}

/// The charge for a ticket.
#[derive(Debug)]
pub(super) struct Charge {
    client: Arc<str>,
    nanos: i64,
}

impl<T> ClientQueue<T> {
    const fn new() -> Self {
        Self { tickets: VecDeque::new(), deficit: 0, last_cost: QUANTUM, in_progress: 0 }
    }

    fn is_idle(&self) -> bool {
        self.tickets.is_empty() && self.in_progress == 0
    }

    /// Whether it has a ticket that may be popped.
    fn is_ready(&self, max_in_progress: usize) -> bool {
        !self.tickets.is_empty() && self.in_progress < max_in_progress
    }
}

impl<T> FairQueue<T> {
    pub(super) fn new(max_in_progress: usize) -> Self {
        Self { clients: BTreeMap::new(), last_served: "".into(), max_in_progress }
    }

    /// Puts a ticket at the end of a client's queue.
    pub(super) fn push(&mut self, client: &Arc<str>, ticket: T) {
        let queue = self.clients.entry(Arc::clone(client)).or_insert_with(ClientQueue::new);
        queue.tickets.push_back(ticket);
    }

    /// Takes the next ticket and charges its client.
    pub(super) fn pop(&mut self) -> Option<(T, Charge)> {
        if self.next_client().is_none() {
            self.add_quanta()?;
        }
        let client = self.next_client()?;
        let queue = self.clients.get_mut(&client)?;
        let ticket = queue.tickets.pop_front()?;
        queue.deficit -= queue.last_cost;
        queue.in_progress += 1;
        let nanos = queue.last_cost;
        self.last_served = Arc::clone(&client);
        Some((ticket, Charge { client, nanos }))
    }

    /// Replaces a charge, which was an estimate, by the actual cost; `None` keeps it.
    pub(super) fn settle(&mut self, charge: &Charge, cost: Option<Duration>) {
        let Some(queue) = self.clients.get_mut(&charge.client) else { return };
        queue.in_progress -= 1;
        if let Some(cost) = cost {
            let cost = i64::try_from(cost.as_nanos()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
            queue.deficit += charge.nanos - cost;
            queue.last_cost = cost.max(1);
        }
        self.trim_idle();
    }

    /// Takes a charge back, because nothing was made for it.
    pub(super) fn refund(&mut self, charge: &Charge) {
        let Some(queue) = self.clients.get_mut(&charge.client) else { return };
        queue.in_progress -= 1;
        queue.deficit += charge.nanos;
        self.trim_idle();
    }

    /// Removes the tickets of a client that match.
    pub(super) fn remove(&mut self, client: &Arc<str>, matches: impl Fn(&T) -> bool) {
        if let Some(queue) = self.clients.get_mut(client) {
            queue.tickets.retain(|ticket| !matches(ticket));
            self.trim_idle();
        }
    }

    /// The next client in turn that has a ticket and a positive counter.
    fn next_client(&self) -> Option<Arc<str>> {
        let after = (Bound::Excluded(&*self.last_served), Bound::Unbounded);
        let before = (Bound::Unbounded, Bound::Included(&*self.last_served));
        let mut in_turn =
            self.clients.range::<str, _>(after).chain(self.clients.range::<str, _>(before));
        let max = self.max_in_progress;
        let (client, _) = in_turn.find(|(_, queue)| queue.is_ready(max) && queue.deficit > 0)?;
        Some(Arc::clone(client))
    }

    /// Adds as many quanta to all counters as it takes until a client can pay; `None` if no client
    /// has a ticket that may be popped.
    fn add_quanta(&mut self) -> Option<()> {
        let max = self.max_in_progress;
        let ready = self.clients.values().filter(|queue| queue.is_ready(max));
        let highest = ready.map(|queue| queue.deficit).max()?;
        let quanta = (1 - highest.min(0) / QUANTUM) * QUANTUM;
        for queue in self.clients.values_mut() {
            queue.deficit += quanta;
        }
        self.trim_idle();
        Some(())
    }

    /// Bounds the counters of clients that have no tickets, or as many in progress as they may have, to
    /// one microbatch, and forgets idle clients that owe nothing. If all are idle, debts have no creditor and are forgotten too.
    fn trim_idle(&mut self) {
        let all_idle = self.clients.values().all(ClientQueue::is_idle);
        self.clients.retain(|_, queue| {
            let is_paid = queue.deficit >= queue.last_cost;
            !(queue.is_idle() && (is_paid || all_idle))
        });
        let max = self.max_in_progress;
        for queue in self.clients.values_mut().filter(|queue| !queue.is_ready(max)) {
            queue.deficit = queue.deficit.min(queue.last_cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves tickets one at a time, of clients that never run out of them. `costs` are those of each
    /// client's microbatches, in milliseconds. Returns how often each client was served.
    fn serve_busy_clients<const N: usize>(costs: [u64; N], tickets: usize) -> [usize; N] {
        let mut fair = FairQueue::new(usize::MAX);
        let clients: [Arc<str>; N] = std::array::from_fn(|client| client.to_string().into());
        let mut counts = [0; N];
        for (number, client) in clients.iter().enumerate() {
            fair.push(client, number);
        }
        for _ in 0..tickets {
            let (client, charge): (usize, _) = fair.pop().unwrap();
            counts[client] += 1;
            fair.push(&clients[client], client);
            fair.settle(&charge, Some(Duration::from_millis(costs[client])));
        }
        counts
    }

    /// Serves one ticket of 100 ms, whose client then pushes the next.
    fn serve(fair: &mut FairQueue<char>) -> char {
        let (ticket, charge) = fair.pop().unwrap();
        fair.push(&name(ticket), ticket);
        fair.settle(&charge, Some(Duration::from_millis(100)));
        ticket
    }

    fn name(ticket: char) -> Arc<str> {
        ticket.to_string().into()
    }

    #[test]
    fn clients_with_equal_costs_take_turns() {
        assert_eq!(serve_busy_clients([150; 3], 30), [10; 3]);
    }

    #[test]
    fn clients_get_equal_cpu_time_whatever_a_microbatch_costs() {
        // In 1200 ms each: 8 of 150, 24 of 50, 4 of 300.
        let counts = serve_busy_clients([150, 50, 300], 360);
        for (count, exact) in counts.into_iter().zip([80_usize, 240, 40]) {
            assert!(count.abs_diff(exact) <= 3, "{counts:?}");
        }
    }

    #[test]
    fn a_long_queue_gets_no_larger_share_than_a_short_one() {
        let mut fair = FairQueue::new(usize::MAX);
        for _ in 0..320 {
            fair.push(&name('g'), 'g');
        }
        let mut served = String::new();
        for _ in 0..8 {
            // This client requests one at a time.
            fair.push(&name('q'), 'q');
            for _ in 0..2 {
                let (ticket, charge) = fair.pop().unwrap();
                served.push(ticket);
                fair.settle(&charge, Some(Duration::from_millis(100)));
            }
        }
        let quick = served.chars().filter(|ticket| *ticket == 'q').count();
        assert!((7..=8).contains(&quick), "{served}");
    }

    #[test]
    fn two_makers_serve_two_clients() {
        let mut fair = FairQueue::new(usize::MAX);
        (0..3).for_each(|_| fair.push(&name('a'), 'a'));
        fair.push(&name('b'), 'b');
        let first = [fair.pop().unwrap(), fair.pop().unwrap()].map(|(ticket, _)| ticket);
        assert_eq!(first, ['a', 'b']);
    }

    #[test]
    fn a_debt_survives_idleness_and_is_paid_off_by_rounds() {
        let mut fair = FairQueue::new(usize::MAX);
        fair.push(&name('b'), 'b');
        fair.push(&name('a'), 'a');
        let (_, expensive) = fair.pop().unwrap();
        fair.settle(&expensive, Some(Duration::from_millis(500)));
        // Without competitors, `b` is served at once, however much it uses.
        assert_eq!([(); 3].map(|()| serve(&mut fair)), ['b'; 3]);
        // `a` owes 200 ms more than `b`.
        fair.push(&name('a'), 'a');
        let served: String = (0..4).map(|_| serve(&mut fair)).collect();
        assert_eq!(served, "bbab");
    }

    #[test]
    fn a_client_that_returns_is_served_at_once_and_then_in_turn() {
        let mut fair = FairQueue::new(usize::MAX);
        fair.push(&name('a'), 'a');
        fair.push(&name('b'), 'b');
        assert_eq!((serve(&mut fair), serve(&mut fair)), ('a', 'b'));
        fair.remove(&name('a'), |_| true);
        // `a` is away for three turns.
        assert_eq!([(); 3].map(|()| serve(&mut fair)), ['b'; 3]);
        (0..4).for_each(|_| fair.push(&name('a'), 'a'));
        let served: String = (0..6).map(|_| serve(&mut fair)).collect();
        assert_eq!(served, "ababab");
    }

    #[test]
    fn a_refund_undoes_a_charge() {
        let mut fair = FairQueue::new(usize::MAX);
        (0..2).for_each(|_| fair.push(&name('a'), 'a'));
        fair.push(&name('b'), 'b');
        serve(&mut fair);
        let deficit = |fair: &FairQueue<char>| fair.clients[&name('b')].deficit;
        let before = deficit(&fair);
        let (ticket, charge) = fair.pop().unwrap();
        assert!(ticket == 'b' && deficit(&fair) < before);
        fair.push(&name('b'), 'b');
        fair.refund(&charge);
        assert_eq!((deficit(&fair), fair.clients[&name('b')].in_progress), (before, 0));
    }

    #[test]
    fn idle_clients_are_forgotten() {
        let mut fair = FairQueue::new(usize::MAX);
        for number in 0..1000 {
            let client: Arc<str> = number.to_string().into();
            fair.push(&client, number);
            let (_, charge) = fair.pop().unwrap();
            fair.settle(&charge, Some(Duration::from_secs(1)));
        }
        assert!(fair.clients.is_empty());
        fair.push(&name('a'), 1);
        fair.remove(&name('a'), |ticket| *ticket == 1);
        assert!(fair.pop().is_none() && fair.clients.is_empty());
    }
}
