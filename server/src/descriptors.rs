//! File descriptors: records are read before connections are accepted.
//!
//! A process that has no descriptor left cannot open the file of a record, which would end streams of
//! clients that are being served. So the limit is raised as far as the system allows, and connections get
//! what data does not need.

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::admin;
use crate::admission::Limits;

/// Descriptors for what is open for a moment: connections that are being closed, certificate and token
/// files, standard streams of the runtime.
const SPARE: usize = 64;

/// Fewest connections that a server starts with.
const FEWEST: usize = 16;

/// Raises the limit of open files to what the system allows this process.
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // The limit is checked where it matters, by `fit`.
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
    }
}

/// Lowers the limits of connections to what the limit of open files leaves, once datasets are open and
/// `readers` may each read one more file.
///
/// # Errors
/// When it leaves too few.
pub(crate) fn fit(limits: &mut Limits, readers: usize, has_admin: bool) -> anyhow::Result<()> {
    let Some(max) = getrlimit(Resource::Nofile).current else { return Ok(()) };
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let admin = if has_admin { admin::PLACES.unauthenticated } else { 0 };
    let reserved = open + readers + admin + SPARE;
    let left = max.saturating_sub(reserved);
    ensure!(
        left >= FEWEST,
        "the limit of {max} open files is too low: {reserved} are needed for data, and at least {FEWEST} for \
         connections; raise it (ulimit -n)"
    );
    let (wanted, unauthenticated) = share(left, limits);
    if wanted > left {
        warn!(
            open_files = max,
            reserved,
            connections = limits.max_connections,
            unauthenticated,
            "the limit of open files is too low for --max-connections, which was lowered: raise it (ulimit -n)"
        );
    }
    Ok(())
}

/// Divides `left` descriptors: at most a quarter for connections that have not authenticated. Returns what
/// both limits needed, and the new limit of the latter.
fn share(left: usize, limits: &mut Limits) -> (usize, usize) {
    let wanted = limits.max_connections.saturating_add(limits.max_unauthenticated);
    if wanted > left {
        limits.max_unauthenticated = limits.max_unauthenticated.min(left / 4);
        limits.max_connections = limits.max_connections.min(left - limits.max_unauthenticated);
    }
    (wanted, limits.max_unauthenticated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_share_what_data_leaves_and_keep_what_fits() {
        for (left, max, unauthenticated, shares) in [
            (5000, 1024, 128, (1024, 128)),
            (1152, 1024, 128, (1024, 128)),
            (1000, 1024, 128, (872, 128)),
            (100, 1024, 128, (75, 25)),
            (100, 10, 1000, (10, 25)),
            (16, usize::MAX, usize::MAX, (12, 4)),
        ] {
            let mut limits = Limits {
                max_connections: max,
                max_unauthenticated: unauthenticated,
                ..Limits::default()
            };
            share(left, &mut limits);
            assert_eq!((limits.max_connections, limits.max_unauthenticated), shares, "{left}");
        }
    }
}
