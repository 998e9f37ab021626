//! Gate 1: places of connections. Those that have authenticated have places of their own, which nobody
//! else can take:
//!
//! | connection | places | when they are taken |
//! |------------|--------|---------------------|
//! | has not authenticated | few, half of them for one address | the oldest one is closed |
//! | has authenticated | `--max-connections` | the one that has been idle for longest is closed; if all have calls in progress, one of the owner that has most, if that is more than the new one's; otherwise the call is refused |
//!
//! Someone who only connects therefore delays nobody but others who have only connected, and those just
//! until they have made a call. And whoever takes all places loses them to others, up to an equal share.
//!
//! The owner of a connection is its identity or, where calls need no authentication, its address; that of a Unix
//! socket has its peer's user in place of an address.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use super::origin::Origin;
use crate::shutdown::{Signal, Trigger, signal};
use crate::status::Refusal;

/// Numbers of places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// Connections that have not authenticated.
    pub(crate) unauthenticated: usize,
    /// Those of one address.
    pub(crate) of_address: usize,
    /// Time that each of them has before it can be closed for another one. Until then others wait, so
    /// that many clients who connect at once are served one after the other.
    pub(crate) min_age: Duration,
    /// Connections that have authenticated.
    pub(crate) authenticated: usize,
}

/// The open connections of a server.
#[derive(Debug)]
pub(crate) struct Connections {
    places: Places,
    state: Mutex<State>,
    /// Notified when a place becomes free.
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By number, and therefore by age.
    unauthenticated: BTreeMap<u64, Open>,
    authenticated: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    origin: Origin,
    /// The identity that it authenticated as; `None` where calls need no authentication.
    identity: Option<Arc<str>>,
    /// Calls in progress.
    calls: usize,
    /// When it was accepted, or its last call ended.
    since: Instant,
    /// Tells the connection to close.
    evict: Trigger,
}

/// The place of a connection, released when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    number: u64,
    evicted: Signal,
    pub(crate) accepted: Instant,
}

impl Connections {
    pub(crate) fn new(places: Places) -> Arc<Self> {
        Arc::new(Self { places, state: Mutex::default(), released: Notify::new() })
    }

    /// A place for a new connection. If none is free, the oldest connection that has not authenticated
    /// is closed, or the oldest one of the same address if that has its share.
    pub(crate) async fn place(self: &Arc<Self>, origin: Origin) -> Place {
        loop {
            let wait = match self.try_place(origin) {
                Ok(place) => return place,
                Err(wait) => wait,
            };
            // Whether a place was released or the oldest has become old enough, the next try decides.
            drop(timeout(wait, self.released.notified()).await);
        }
    }

    /// # Errors
    /// The time after which a connection can be closed for this one.
    fn try_place(self: &Arc<Self>, origin: Origin) -> Result<Place, Duration> {
        let mut state = self.lock();
        let open = &state.unauthenticated;
        let mut of_origin = open.iter().filter(|(_, open)| open.origin == origin).peekable();
        let oldest = of_origin.peek().copied();
        let oldest = if of_origin.count() >= self.places.of_address.max(1) {
            oldest
        } else if open.len() >= self.places.unauthenticated.max(1) {
            open.first_key_value()
        } else {
            None
        };
        if let Some((&number, Open { since, .. })) = oldest {
            let left = self.places.min_age.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Err(left);
            }
            state.unauthenticated.remove(&number).inspect(|open| open.evict.set());
        }
        let number = state.next;
        state.next += 1;
        let ((evict, evicted), accepted) = (signal(), Instant::now());
        let open = Open { origin, identity: None, calls: 0, since: accepted, evict };
        state.unauthenticated.insert(number, open);
        Ok(Place { connections: Arc::clone(self), number, evicted, accepted })
    }

    /// A panic cannot leave the places half-changed, so a poisoned lock is used as it is.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn owner(&self) -> Owner {
        self.identity.clone().map_or(Owner::Origin(self.origin), Owner::Identity)
    }
}

/// Who has connections.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Identity(Arc<str>),
    Origin(Origin),
}

impl State {
    /// The authenticated connection that has been idle for longest.
    fn idle(&self) -> Option<u64> {
        let idle = self.authenticated.iter().filter(|(_, open)| open.calls == 0);
        idle.min_by_key(|(_, open)| open.since).map(|(number, _)| *number)
    }

    /// The newest connection of the owner that has most, if it has more than the owner of `new` will have.
    fn of_largest_owner(&self, new: &Open) -> Option<u64> {
        let mut owners = BTreeMap::<Owner, (usize, u64)>::new();
        for (&number, open) in &self.authenticated {
            let (count, newest) = owners.entry(open.owner()).or_default();
            (*count, *newest) = (*count + 1, number);
        }
        let own = owners.get(&new.owner()).map_or(0, |(count, _)| *count);
        let (most, newest) = owners.into_values().max()?;
        (most > own + 1).then_some(newest)
    }

    fn open(&mut self, number: u64) -> Option<&mut Open> {
        self.authenticated.get_mut(&number).or_else(|| self.unauthenticated.get_mut(&number))
    }
}

impl Place {
    /// Waits until the place has been given to another connection.
    pub(crate) async fn evicted(&self) {
        self.evicted.wait_until_set().await;
    }

    /// Moves the connection to those that have authenticated: as an identity, if calls need one.
    ///
    /// # Errors
    /// [`Refusal::TooManyConnections`] if they are too many, none of them is idle, and no owner has more
    /// than an equal share.
    pub(crate) fn authenticate(&self, identity: Option<&Arc<str>>) -> Result<(), Refusal> {
        let limit = self.connections.places.authenticated.max(1);
        let mut state = self.connections.lock();
        if state.authenticated.contains_key(&self.number) {
            return Ok(());
        }
        let Some(mut open) = state.unauthenticated.remove(&self.number) else {
            // Its place has been given away, and the connection ends.
            return Err(Refusal::TooManyConnections { limit });
        };
        open.identity = identity.cloned();
        if state.authenticated.len() >= limit {
            let Some(makes_room) = state.idle().or_else(|| state.of_largest_owner(&open)) else {
                state.unauthenticated.insert(self.number, open);
                return Err(Refusal::TooManyConnections { limit });
            };
            state.authenticated.remove(&makes_room).inspect(|open| open.evict.set());
        }
        state.authenticated.insert(self.number, open);
        drop(state);
        self.connections.released.notify_one();
        Ok(())
    }

    /// Counts a call as in progress.
    pub(crate) fn begin_call(&self) {
        if let Some(open) = self.connections.lock().open(self.number) {
            open.calls += 1;
        }
    }

    /// Counts a call that was in progress as ended.
    pub(crate) fn end_call(&self) {
        if let Some(open) = self.connections.lock().open(self.number) {
            open.calls -= 1;
            open.since = Instant::now();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.connections.lock();
        state.unauthenticated.remove(&self.number);
        state.authenticated.remove(&self.number);
        drop(state);
        self.connections.released.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const PLACES: Places =
        Places { unauthenticated: 3, of_address: 2, min_age: Duration::ZERO, authenticated: 2 };

    fn address(last: u8) -> Origin {
        IpAddr::from([10, 0, 0, last]).into()
    }

    fn is_open(place: &Place) -> bool {
        !place.evicted.is_set()
    }

    #[tokio::test]
    async fn the_oldest_that_has_not_authenticated_makes_room_first_of_its_own_address() {
        let connections = Connections::new(PLACES);
        let first = connections.place(address(1)).await;
        let second = connections.place(address(2)).await;
        let third = connections.place(address(2)).await;
        let fourth = connections.place(address(2)).await;
        assert_eq!([&first, &second, &third, &fourth].map(is_open), [true, false, true, true]);
        let fifth = connections.place(address(3)).await;
        assert_eq!([&first, &third, &fourth, &fifth].map(is_open), [false, true, true, true]);
    }

    #[tokio::test]
    async fn connections_cannot_take_the_places_of_those_that_have_authenticated() {
        let connections = Connections::new(PLACES);
        let member = connections.place(address(1)).await;
        member.authenticate(None).unwrap();
        for _ in 0..100 {
            std::mem::forget(connections.place(address(1)).await);
        }
        assert!(is_open(&member));
        assert_eq!(connections.lock().unauthenticated.len(), 2);
        connections.place(address(1)).await.authenticate(None).unwrap();
    }

    #[tokio::test]
    async fn the_longest_idle_makes_room_for_one_that_authenticates_and_busy_ones_never() {
        let connections = Connections::new(PLACES);
        let mut members = Vec::new();
        for last in 0..2 {
            let member = connections.place(address(last)).await;
            member.begin_call();
            member.authenticate(None).unwrap();
            members.push(member);
        }
        let third = connections.place(address(3)).await;
        // Two owners have one each.
        assert!(matches!(third.authenticate(None), Err(Refusal::TooManyConnections { limit: 2 })));
        assert!(is_open(&third));
        members[1].end_call();
        third.authenticate(None).unwrap();
        third.authenticate(None).unwrap();
        assert_eq!([&members[0], &members[1], &third].map(is_open), [true, false, true]);
        drop((members, third));
        let state = connections.lock();
        assert!(state.authenticated.is_empty() && state.unauthenticated.is_empty());
    }

    #[tokio::test]
    async fn an_owner_of_all_places_loses_its_newest_to_others_up_to_an_equal_share() {
        let connections = Connections::new(Places { authenticated: 4, ..PLACES });
        for identities in [[None, None], [Some("a"), Some("b")]] {
            let [first, second] = identities.map(|name| name.map(Arc::<str>::from));
            let busy = async |last: u8, identity: &Option<Arc<str>>| {
                // Identities are owners whatever their address.
                let last = if identity.is_some() { 1 } else { last };
                let place = connections.place(address(last)).await;
                place.begin_call();
                let admitted = place.authenticate(identity.as_ref()).is_ok();
                (place, admitted)
            };
            let mut hog = Vec::new();
            for _ in 0..4 {
                hog.push(busy(1, &first).await);
            }
            assert!(hog.iter().all(|(_, admitted)| *admitted));
            assert!(!busy(1, &first).await.1, "an owner cannot take its own places");
            let others = [busy(2, &second).await, busy(2, &second).await];
            assert!(others.iter().all(|(_, admitted)| *admitted));
            let open: Vec<bool> = hog.iter().map(|(place, _)| is_open(place)).collect();
            assert_eq!(open, [true, true, false, false]);
            assert!(!busy(2, &second).await.1, "each has half");
            assert!(others.iter().all(|(place, _)| is_open(place)));
        }
    }

    #[tokio::test]
    async fn one_that_has_just_connected_is_not_closed_and_the_next_one_waits() {
        let min_age = Duration::from_hours(1);
        let connections = Connections::new(Places { min_age, unauthenticated: 1, ..PLACES });
        let first = connections.place(address(1)).await;
        let next = tokio::spawn({
            let connections = Arc::clone(&connections);
            async move { connections.place(address(2)).await }
        });
        tokio::task::yield_now().await;
        assert!(is_open(&first) && !next.is_finished());
        first.authenticate(None).unwrap();
        next.await.unwrap();
    }
}
