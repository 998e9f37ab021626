//! The servers behind the endpoints: discovery, health, counts. Shared by all streams of a client.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Cause, Error};
use crate::fleet::breaker::{Admission, Breaker, Circuit};
use crate::fleet::hedge::HedgeState;
use crate::fleet::resolve::Target;
use crate::fleet::stats::{Counts, ServerStats};
use crate::options::Options;
use crate::wire::connect::Server;

/// Shortest time between two resolutions of a name after failures, which trigger them.
const MIN_RESOLVE_INTERVAL: Duration = Duration::from_secs(1);

/// Number of servers that are remembered after their names no longer resolve to them.
const MAX_REMEMBERED: usize = 256;

/// Longest delay that a server may ask for.
const MAX_DELAY: Duration = Duration::from_mins(5);

/// A server and its health.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) server: Server,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
pub(crate) struct Health {
    pub(crate) breaker: Breaker,
    pub(crate) counts: Counts,
    /// The reason for the server's last exclusion from a job.
    pub(crate) excluded: Option<String>,
}

impl Member {
    pub(crate) fn name(&self) -> &str {
        &self.server.name
    }

    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn admit(&self, now: Instant, options: &Options) -> Admission {
        self.health().breaker.admit(now, options.retry)
    }
}

/// All servers of a client.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) options: Arc<Options>,
    targets: Vec<Target>,
    state: Mutex<State>,
    /// Notified when a server becomes usable, or the set of servers changes.
    pub(crate) changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Every server by its name, including those that are no longer present.
    known: BTreeMap<String, Arc<Member>>,
    present: Arc<[Arc<Member>]>,
    /// For each target, the servers of its last resolution.
    resolved: Vec<Vec<Server>>,
    /// When names were last resolved.
    resolved_at: Option<Instant>,
    is_resolving: bool,
    /// Whether names are resolved early, because an attempt failed.
    resolve_early: bool,
    hedges: HedgeState,
    random: u64,
}

impl Fleet {
    pub(crate) fn new(options: &Arc<Options>) -> Result<Self, Error> {
        let targets = options.endpoints.iter().map(|name| Target::parse(name, options));
        let targets: Vec<_> = targets.collect::<Result<_, _>>()?;
        let encrypted: Vec<bool> = targets.iter().map(Target::is_encrypted).collect();
        options.access.check(&encrypted)?;
        if options.access.token_file.is_some() && targets.iter().any(Target::is_exposed) {
            tracing::warn!("the token is sent in plain text to endpoints without https");
        }
        let resolved = targets.iter().map(|target| match target {
            Target::Server(server) => vec![Server::clone(server)],
            Target::Service(_) => Vec::new(),
        });
        let mut state = State {
            known: BTreeMap::new(),
            present: Arc::new([]),
            resolved: resolved.collect(),
            resolved_at: None,
            is_resolving: false,
            resolve_early: false,
            hedges: HedgeState::new(options.hedge),
            random: options.network.seed.unwrap_or_else(|| RandomState::new().hash_one(0)),
        };
        state.update_present();
        let (options, state) = (Arc::clone(options), Mutex::new(state));
        Ok(Self { options, targets, state, changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers that the endpoints resolve to at present.
    pub(crate) fn present(&self) -> Arc<[Arc<Member>]> {
        Arc::clone(&self.state().present)
    }

    /// Whether the set of servers can change.
    pub(crate) fn is_dynamic(&self) -> bool {
        self.targets.iter().any(|target| matches!(target, Target::Service(_)))
    }

    /// Resolves names again in the background if they are due.
    pub(crate) fn resolve_if_due(self: &Arc<Self>) {
        let now = Instant::now();
        let mut state = self.state();
        let interval =
            if state.resolve_early { MIN_RESOLVE_INTERVAL } else { self.options.resolve_interval };
        let due = state.resolved_at.is_none_or(|at| now >= at + interval);
        if self.is_dynamic() && due && !state.is_resolving {
            (state.is_resolving, state.resolved_at) = (true, Some(now));
            let fleet = Arc::clone(self);
            drop(tokio::spawn(async move { fleet.resolve().await }));
        }
    }

    /// Resolves all names. A name that does not resolve keeps the servers that it had.
    pub(crate) async fn resolve(&self) -> Result<(), Cause> {
        let mut result = Ok(());
        for (at, target) in self.targets.iter().enumerate() {
            let Target::Service(service) = target else { continue };
            match service.servers(&self.options).await {
                Ok(servers) => self.state().resolved[at] = servers,
                Err(cause) => {
                    tracing::warn!(%cause, "cannot resolve an endpoint; its last known servers stay in use");
                    result = Err(cause);
                }
            }
        }
        let mut state = self.state();
        state.is_resolving = false;
        state.resolve_early = false;
        state.resolved_at = Some(Instant::now());
        state.update_present();
        drop(state);
        self.changed.notify_waiters();
        result
    }

    /// A random factor from 0.5 to 1 for backoffs, which keeps many trainers from reconnecting to a
    /// restarted server at the same time.
    pub(crate) fn jitter(&self) -> f64 {
        let mut state = self.state();
        // SplitMix64.
        state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        0.5 + ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 54) as f64
    }

    /// Calls a function with the hedging state.
    pub(crate) fn with_hedges<T>(&self, call: impl FnOnce(&mut HedgeState) -> T) -> T {
        call(&mut self.state().hedges)
    }

    /// Records that something arrived from a server.
    pub(crate) fn succeeded(&self, member: &Member) {
        member.health().breaker.succeeded();
        self.changed.notify_waiters();
    }

    /// Records that an attempt that started at `started` failed. `retry_after` is the delay that the
    /// server asked for.
    pub(crate) fn failed(
        self: &Arc<Self>,
        member: &Member,
        started: Instant,
        retry_after: Option<Duration>,
    ) {
        let (jitter, now, policy) = (self.jitter(), Instant::now(), self.options.retry);
        let mut health = member.health();
        health.counts.failures += 1;
        match retry_after {
            Some(delay) => {
                let delay = delay.min(MAX_DELAY) + policy.initial_backoff.mul_f64(jitter);
                health.breaker.back_off(now, delay);
            }
            None => health.breaker.failed(started, now, policy, jitter),
        }
        drop(health);
        // The failed server may have been replaced by one with another address.
        self.state().resolve_early = true;
        self.resolve_if_due();
    }

    /// Records that a hedge to another server won against an attempt that started at `started`, and
    /// that `wasted` bytes had been received. Returns whether the server is no longer used.
    pub(crate) fn overtaken(&self, member: &Member, started: Instant, wasted: u64) -> bool {
        let (jitter, now, policy) = (self.jitter(), Instant::now(), self.options.retry);
        let mut health = member.health();
        health.counts.overtaken += 1;
        health.counts.wasted_bytes += wasted;
        health.breaker.late(started, now, policy, jitter);
        health.breaker.circuit(now) == Circuit::Open
    }

    /// The statistics of each server, sorted by name.
    pub(crate) fn stats(&self) -> Vec<ServerStats> {
        let (known, present) = {
            let state = self.state();
            (state.known.clone(), Arc::clone(&state.present))
        };
        let now = Instant::now();
        let stats = |(name, member): (String, Arc<Member>)| {
            let health = member.health();
            ServerStats {
                present: present.iter().any(|other| Arc::ptr_eq(other, &member)),
                circuit: health.breaker.circuit(now),
                excluded: health.excluded.clone(),
                counts: health.counts,
                name,
            }
        };
        known.into_iter().map(stats).collect()
    }
}

impl State {
    /// Makes the servers of the last resolution the present ones. A server that returns keeps its
    /// health and counts.
    fn update_present(&mut self) {
        let mut present = BTreeMap::new();
        for server in self.resolved.iter().flatten() {
            let member = self.known.entry(server.name.clone()).or_insert_with(|| {
                tracing::debug!(server = server.name, "new server");
                Arc::new(Member { server: server.clone(), health: Mutex::default() })
            });
            present.insert(server.name.clone(), Arc::clone(member));
        }
        if self.known.len() > MAX_REMEMBERED {
            self.known.retain(|name, _| present.contains_key(name));
        }
        self.present = present.into_values().collect();
    }
}
