//! Whose turn it is: deficit round robin over clients, by CPU time.
//!
//! What a microbatch costs is known once it is made, so clients pay afterwards: who is served is
//! charged what his last one cost, and settled when this one is done. A client with something to be
//! made is served while its balance is above zero, one ticket a turn; when no such client is left, a
//! round begins and each gets a quantum. CPU time rather than bytes: clients compete for workers, and
//! equal bytes of a recipe with RandAugment take three times as long as those of an evaluation.
//!
//! A client that asks for nothing pays off what it owes while rounds pass, so that asking for one at a
//! time is no way around, and saves up one microbatch at most: who asks for the next one when it has
//! got the last is a moment late each time, and shall not lose a turn by that.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// What a round gives, in nanoseconds: less than any microbatch costs, so shares are exact.
const QUANTUM: i64 = 1_000_000;

/// Tickets of clients.
#[derive(Debug)]
pub(super) struct Fair<T> {
    lines: BTreeMap<Arc<str>, Line<T>>,
    /// Who was served last.
    last: Arc<str>,
}

#[derive(Debug)]
struct Line<T> {
    tickets: VecDeque<T>,
    /// Nanoseconds of CPU time that it may use; below zero, owes.
    balance: i64,
    /// What its last microbatch cost.
    cost: i64,
    /// Its microbatches in work.
    running: usize,
}

/// What was charged to whom.
#[derive(Debug)]
pub(super) struct Charge {
    client: Arc<str>,
    nanos: i64,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self { lines: BTreeMap::new(), last: "".into() }
    }
}

impl<T> Fair<T> {
    /// Puts a ticket at the end of a client's line.
    pub(super) fn push(&mut self, client: &Arc<str>, ticket: T) {
        let new = || Line { tickets: VecDeque::new(), balance: 0, cost: QUANTUM, running: 0 };
        self.lines.entry(Arc::clone(client)).or_insert_with(new).tickets.push_back(ticket);
    }

    /// The next ticket, charged to its client.
    pub(super) fn pop(&mut self) -> Option<(T, Charge)> {
        if self.payer().is_none() {
            self.rounds()?;
        }
        let client = self.payer()?;
        let line = self.lines.get_mut(&client)?;
        let ticket = line.tickets.pop_front()?;
        line.balance -= line.cost;
        line.running += 1;
        let nanos = line.cost;
        self.last = Arc::clone(&client);
        Some((ticket, Charge { client, nanos }))
    }

    /// A microbatch that was charged did cost so much; `None` if what was charged shall stand.
    pub(super) fn settle(&mut self, charge: &Charge, cost: Option<Duration>) {
        let Some(line) = self.lines.get_mut(&charge.client) else { return };
        line.running -= 1;
        if let Some(cost) = cost {
            let cost = i64::try_from(cost.as_nanos()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
            line.balance += charge.nanos - cost;
            line.cost = cost.max(1);
        }
        self.forget();
    }

    /// What was charged was not made.
    pub(super) fn refund(&mut self, charge: &Charge) {
        let Some(line) = self.lines.get_mut(&charge.client) else { return };
        line.running -= 1;
        line.balance += charge.nanos;
        self.forget();
    }

    /// Takes the tickets of a client that fit out of its line.
    pub(super) fn remove(&mut self, client: &Arc<str>, fits: impl Fn(&T) -> bool) {
        if let Some(line) = self.lines.get_mut(client) {
            line.tickets.retain(|ticket| !fits(ticket));
            self.forget();
        }
    }

    /// The next client in turn that has a ticket and may have it made.
    fn payer(&self) -> Option<Arc<str>> {
        let after = (Bound::Excluded(&*self.last), Bound::Unbounded);
        let before = (Bound::Unbounded, Bound::Included(&*self.last));
        let mut lines = self.lines.range::<str, _>(after).chain(self.lines.range::<str, _>(before));
        let (client, _) = lines.find(|(_, line)| !line.tickets.is_empty() && line.balance > 0)?;
        Some(Arc::clone(client))
    }

    /// As many rounds as it takes until somebody can pay; `None` if nobody wants anything.
    fn rounds(&mut self) -> Option<()> {
        let waiting = self.lines.values().filter(|line| !line.tickets.is_empty());
        let least = waiting.map(|line| line.balance).max()?;
        let gift = (1 - least.min(0) / QUANTUM) * QUANTUM;
        for line in self.lines.values_mut() {
            line.balance += gift;
        }
        self.forget();
        Some(())
    }

    /// Those who want nothing save up one microbatch at most, and are forgotten when they have.
    fn forget(&mut self) {
        let idle = |line: &Line<T>| line.tickets.is_empty() && line.running == 0;
        let all_idle = self.lines.values().all(idle);
        self.lines.retain(|_, line| !(idle(line) && (line.balance >= line.cost || all_idle)));
        for line in self.lines.values_mut().filter(|line| line.tickets.is_empty()) {
            line.balance = line.balance.min(line.cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves so many tickets, one at a time, of clients that never run out of them; what each of
    /// the clients' microbatches costs in milliseconds, and how often each was served.
    fn served<const N: usize>(costs: [u64; N], tickets: usize) -> [usize; N] {
        let mut fair = Fair::default();
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

    #[test]
    fn equal_costs_are_served_in_turn() {
        assert_eq!(served([150; 3], 30), [10; 3]);
    }

    #[test]
    fn clients_get_equal_cpu_time_whatever_a_microbatch_costs() {
        // In 1200 ms each: 8 of 150, 24 of 50, 4 of 300.
        let counts = served([150, 50, 300], 360);
        for (count, exact) in counts.into_iter().zip([80_usize, 240, 40]) {
            assert!(count.abs_diff(exact) <= 3, "{counts:?}");
        }
    }

    #[test]
    fn a_long_line_is_worth_no_more_than_a_short_one() {
        let (greedy, quick): (Arc<str>, Arc<str>) = ("greedy".into(), "quick".into());
        let mut fair = Fair::default();
        for _ in 0..320 {
            fair.push(&greedy, "greedy");
        }
        let mut order = Vec::new();
        for _ in 0..8 {
            // Comes one after the other.
            fair.push(&quick, "quick");
            for _ in 0..2 {
                let (ticket, charge) = fair.pop().unwrap();
                order.push(ticket);
                fair.settle(&charge, Some(Duration::from_millis(100)));
            }
        }
        let quick = order.iter().filter(|ticket| **ticket == "quick").count();
        assert!((7..=8).contains(&quick), "{order:?}");
    }

    #[test]
    fn two_makers_at_once_are_not_both_given_to_one_client() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut fair = Fair::default();
        for _ in 0..3 {
            fair.push(&a, 'a');
        }
        fair.push(&b, 'b');
        let first = [fair.pop().unwrap(), fair.pop().unwrap()].map(|(ticket, _)| ticket);
        assert_eq!(first, ['a', 'b']);
    }

    #[test]
    fn debts_are_paid_off_by_time() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut fair = Fair::default();
        fair.push(&b, 'b');
        fair.push(&a, 'a');
        let (_, dear) = fair.pop().unwrap();
        fair.settle(&dear, Some(Duration::from_millis(500)));
        // `a` is alone: it is served at once, however long that goes on.
        for _ in 0..3 {
            let (ticket, charge) = fair.pop().unwrap();
            assert_eq!(ticket, 'b');
            fair.push(&b, 'b');
            fair.settle(&charge, Some(Duration::from_millis(100)));
        }
        // It owes 200 ms more than `b`.
        let mut order = String::new();
        fair.push(&a, 'a');
        for _ in 0..4 {
            let (ticket, charge) = fair.pop().unwrap();
            order.push(ticket);
            fair.push(if ticket == 'a' { &a } else { &b }, ticket);
            fair.settle(&charge, Some(Duration::from_millis(100)));
        }
        assert_eq!(order, "bbab");
    }

    #[test]
    fn who_was_away_is_served_at_once_and_then_in_turn() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut fair = Fair::default();
        let serve = |fair: &mut Fair<char>| {
            let (ticket, charge) = fair.pop().unwrap();
            fair.push(if ticket == 'a' { &a } else { &b }, ticket);
            fair.settle(&charge, Some(Duration::from_millis(100)));
            ticket
        };
        fair.push(&a, 'a');
        fair.push(&b, 'b');
        assert_eq!((serve(&mut fair), serve(&mut fair)), ('a', 'b'));
        fair.remove(&a, |_| true);
        // `a` is away for three turns of `b`'s.
        assert_eq!([(); 3].map(|()| serve(&mut fair)), ['b'; 3]);
        (0..4).for_each(|_| fair.push(&a, 'a'));
        let order: String = (0..6).map(|_| serve(&mut fair)).collect();
        assert_eq!(order, "ababab");
    }

    #[test]
    fn who_asks_for_nothing_is_forgotten() {
        let mut fair = Fair::default();
        for number in 0..1000 {
            let client: Arc<str> = number.to_string().into();
            fair.push(&client, number);
            let (_, charge) = fair.pop().unwrap();
            fair.settle(&charge, Some(Duration::from_secs(1)));
        }
        assert!(fair.lines.is_empty());
        let client: Arc<str> = "a".into();
        fair.push(&client, 1);
        fair.remove(&client, |ticket| *ticket == 1);
        assert!(fair.pop().is_none() && fair.lines.is_empty());
    }
}
