//! The servers that there are: found, watched, counted. Shared by all streams of a client.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::breaker::{Admission, Breaker};
use crate::connect::Server;
use crate::error::Cause;
use crate::hedge::Hedging;
use crate::resolve::Target;
use crate::stats::{Counts, ServerStats};
use crate::{Error, Options};

/// After a failure names are resolved again at once, but not more often than this.
const HURRY: Duration = Duration::from_secs(1);

/// Servers that are remembered after their names no longer resolve to them.
const REMEMBERED: usize = 256;

/// A server and what is known of it.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) server: Server,
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(crate) breaker: Breaker,
    pub(crate) counts: Counts,
    /// Why it was excluded from a job, the last time it was.
    pub(crate) excluded: Option<String>,
}

impl Member {
    pub(crate) fn name(&self) -> &str {
        &self.server.name
    }

    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn admit(&self, now: Instant, options: &Options) -> Admission {
        self.standing().breaker.admit(now, options.retry)
    }
}

/// All servers.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) options: Arc<Options>,
    targets: Vec<Target>,
    state: Mutex<State>,
    /// Told when a server can be asked again, or another one is there.
    pub(crate) changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Each by its name, also those that are no longer there.
    known: BTreeMap<String, Arc<Member>>,
    present: Arc<[Arc<Member>]>,
    /// What the targets resolved to last.
    found: Vec<Vec<Server>>,
    /// When names were last resolved, and whether they are being resolved.
    looked: Option<Instant>,
    looking: bool,
    hurry: bool,
    hedging: Hedging,
    random: u64,
}

impl Fleet {
    pub(crate) fn new(options: &Arc<Options>) -> Result<Self, Error> {
        let targets = options.endpoints.iter().map(|name| Target::parse(name, options));
        let targets: Vec<_> = targets.collect::<Result<_, _>>()?;
        let found = targets.iter().map(|target| match target {
            Target::Server(server) => vec![Server::clone(server)],
            Target::Service(_) => Vec::new(),
        });
        let seed = options.network.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        let mut state = State {
            known: BTreeMap::new(),
            present: Arc::new([]),
            found: found.collect(),
            looked: None,
            looking: false,
            hurry: false,
            hedging: Hedging::new(options.hedge),
            random: seed,
        };
        state.settle();
        let (options, state) = (Arc::clone(options), Mutex::new(state));
        Ok(Self { options, targets, state, changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers that are there now.
    pub(crate) fn present(&self) -> Arc<[Arc<Member>]> {
        Arc::clone(&self.state().present)
    }

    /// Whether there may come to be other servers.
    pub(crate) fn has_names(&self) -> bool {
        self.targets.iter().any(|target| matches!(target, Target::Service(_)))
    }

    /// Resolves names again, beside everything else, if it is time to.
    pub(crate) fn look(self: &Arc<Self>) {
        let now = Instant::now();
        let mut state = self.state();
        let after = if state.hurry { HURRY } else { self.options.resolve_every };
        let due = state.looked.is_none_or(|looked| now >= looked + after);
        if self.has_names() && due && !state.looking {
            (state.looking, state.looked) = (true, Some(now));
            let fleet = Arc::clone(self);
            drop(tokio::spawn(async move { fleet.resolve().await }));
        }
    }

    /// Something failed: names may have changed.
    pub(crate) fn hurry(self: &Arc<Self>) {
        self.state().hurry = true;
        self.look();
    }

    /// Resolves all names. One that does not resolve keeps the servers that it had.
    pub(crate) async fn resolve(&self) -> Result<(), Cause> {
        let mut result = Ok(());
        for (at, target) in self.targets.iter().enumerate() {
            let Target::Service(service) = target else { continue };
            match service.servers(&self.options).await {
                Ok(servers) => self.state().found[at] = servers,
                Err(cause) => {
                    tracing::warn!(%cause, "going on with the servers that are known");
                    result = Err(cause);
                }
            }
        }
        let mut state = self.state();
        (state.looking, state.hurry, state.looked) = (false, false, Some(Instant::now()));
        state.settle();
        drop(state);
        self.changed.notify_waiters();
        result
    }

    /// From a half to 1, different each time: it keeps many trainers from asking a restarted server at
    /// once.
    pub(crate) fn jitter(&self) -> f64 {
        let mut state = self.state();
        // SplitMix64.
        state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        0.5 + ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 54) as f64
    }

    /// What is known of waits.
    pub(crate) fn hedging<T>(&self, call: impl FnOnce(&mut Hedging) -> T) -> T {
        call(&mut self.state().hedging)
    }

    /// Something arrived from a server.
    pub(crate) fn well(&self, member: &Member) {
        member.standing().breaker.succeeded();
        self.changed.notify_waiters();
    }

    /// An attempt at a server that was begun at `asked` failed; `rest` is what it asks for.
    pub(crate) fn failed(
        self: &Arc<Self>,
        member: &Member,
        asked: Instant,
        rest: Option<Duration>,
    ) {
        let (jitter, now, policy) = (self.jitter(), Instant::now(), self.options.retry);
        let mut standing = member.standing();
        standing.counts.failures += 1;
        match rest {
            Some(rest) => standing.breaker.rest(now, rest + policy.first.mul_f64(jitter)),
            None => standing.breaker.failed(asked, now, policy, jitter),
        }
        drop(standing);
        self.hurry();
    }

    /// What each server did, in the order of their names.
    pub(crate) fn stats(&self) -> Vec<ServerStats> {
        let (known, present) = {
            let state = self.state();
            (state.known.clone(), Arc::clone(&state.present))
        };
        let now = Instant::now();
        let stats = |(name, member): (String, Arc<Member>)| {
            let standing = member.standing();
            ServerStats {
                present: present.iter().any(|other| Arc::ptr_eq(other, &member)),
                circuit: standing.breaker.circuit(now),
                excluded: standing.excluded.clone(),
                counts: standing.counts,
                name,
            }
        };
        known.into_iter().map(stats).collect()
    }
}

impl State {
    /// Makes those that were found the ones that are present.
    fn settle(&mut self) {
        let mut present = BTreeMap::new();
        for server in self.found.iter().flatten() {
            let member = self.known.entry(server.name.clone()).or_insert_with(|| {
                tracing::debug!(server = server.name, "a server is there");
                Arc::new(Member { server: server.clone(), standing: Mutex::default() })
            });
            present.insert(server.name.clone(), Arc::clone(member));
        }
        if self.known.len() > REMEMBERED {
            self.known.retain(|name, _| present.contains_key(name));
        }
        self.present = present.into_values().collect();
    }
}
