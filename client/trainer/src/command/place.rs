//! Which rank of which world this process is, by flags or what torchrun and Kubernetes set, and how it
//! meets the others.

use std::time::Duration;

use crate::checkpoint::Run;
use crate::ranks::{Limits, Meeting, Ranks};
use anyhow::{Context as _, bail};
use forebay_client::Rank;
use serde_json::Value;

use super::cli::{Place, Train};
use super::files::Description;

/// Which rank, and where the ranks meet.
pub(crate) fn place(args: &Place) -> anyhow::Result<(Rank, String)> {
    let set = &args.launcher;
    let Some(world) = number(args.world, "WORLD_SIZE", set.world_size.as_ref())? else {
        if let Some(rank) = args.rank {
            bail!("--rank {rank} without --world: of how many ranks?");
        }
        return Ok((Rank::SINGLE, String::new()));
    };
    let mut rank = number(args.rank, "RANK", set.global_rank.as_ref())?;
    if rank.is_none() && world > 1 {
        rank = number(None, "JOB_COMPLETION_INDEX", set.job_completion_index.as_ref())?;
    }
    let rank = match rank {
        Some(rank) => rank,
        None if world == 1 => 0,
        None => bail!(
            "a world of {world} ranks, but which one is this? Set --rank, RANK or JOB_COMPLETION_INDEX"
        ),
    };
    if rank >= world {
        bail!("rank {rank} of a world of {world}: ranks are numbered from 0 to world - 1");
    }
    let rendezvous = args.rendezvous.clone().or_else(|| {
        let host = given(set.master_addr.as_ref())?;
        let port = given(set.master_port.as_ref()).unwrap_or("29500");
        let bare = host.contains(':') && !host.starts_with('[');
        Some(if bare { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    });
    match rendezvous {
        Some(rendezvous) => Ok((Rank { rank, world }, rendezvous)),
        None if world == 1 => Ok((Rank { rank, world }, String::new())),
        None => bail!(
            "a world of {world} ranks, but where do they meet? Set --rendezvous HOST:PORT, or MASTER_ADDR and MASTER_PORT"
        ),
    }
}

/// A variable that is set to something.
fn given(variable: Option<&String>) -> Option<&str> {
    variable.map(String::as_str).filter(|text| !text.is_empty())
}

/// A flag, or else a variable.
fn number(flag: Option<u32>, name: &str, variable: Option<&String>) -> anyhow::Result<Option<u32>> {
    let parse = |text: &str| text.parse().with_context(|| format!("{name}={text}"));
    if flag.is_some() { Ok(flag) } else { given(variable).map(parse).transpose() }
}

/// What must be the same on all ranks.
pub(crate) fn settings(
    args: &Train,
    run: &Run,
    evaluation: Option<&Description>,
) -> anyhow::Result<Value> {
    let mut settings = serde_json::to_value(run)?;
    settings["version"] = env!("CARGO_PKG_VERSION").into();
    settings["evaluation"] = serde_json::to_value(evaluation)?;
    settings["eval_epochs"] = args.eval_epochs.into();
    settings["stop_after"] = args.stop_after.into();
    Ok(settings)
}

/// Meets the other ranks; when one of them is lost, this process ends too, whatever it is doing.
pub(crate) fn meet(
    args: &Train,
    place: Rank,
    address: String,
    settings: Value,
) -> anyhow::Result<Ranks> {
    let seconds = Duration::from_secs;
    let limits = Limits {
        rendezvous: seconds(args.place.rendezvous_timeout),
        silence: seconds(args.place.lost_after),
        stall: seconds(args.place.stall_timeout),
    };
    let mut ranks = Ranks::meet(&Meeting { place, address, settings, limits })?;
    let Rank { rank, world } = place;
    if world > 1 {
        super::print(&format!("rank {rank} of {world}: all are there"));
    }
    ranks.on_failure(|error| super::abandon(&error));
    Ok(ranks)
}

#[cfg(test)]
mod tests {
    use super::super::cli::Launcher;
    use super::*;

    fn of(world: Option<u32>, rank: Option<u32>, at: Option<&str>, set: &[(&str, &str)]) -> String {
        let variable =
            |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let launcher = Launcher {
            world_size: variable("WORLD_SIZE"),
            global_rank: variable("RANK"),
            job_completion_index: variable("JOB_COMPLETION_INDEX"),
            master_addr: variable("MASTER_ADDR"),
            master_port: variable("MASTER_PORT"),
        };
        let rendezvous = at.map(str::to_owned);
        match place(&Place { world, rank, rendezvous, launcher, ..Place::default() }) {
            Ok((Rank { rank, world }, at)) => format!("{rank} of {world} at {at}"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn flags_come_before_variables() {
        let torch = [
            ("WORLD_SIZE", "4"),
            ("RANK", "3"),
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "29400"),
        ];
        assert_eq!(of(None, None, None, &torch), "3 of 4 at node0:29400");
        assert_eq!(of(Some(8), Some(5), Some("a:1"), &torch), "5 of 8 at a:1");
        let job = [("WORLD_SIZE", "2"), ("JOB_COMPLETION_INDEX", "1"), ("MASTER_ADDR", "fd00::1")];
        assert_eq!(of(None, None, None, &job), "1 of 2 at [fd00::1]:29500");
        assert_eq!(of(None, None, None, &[("JOB_COMPLETION_INDEX", "3")]), "0 of 1 at ");
        let one = [("WORLD_SIZE", "1"), ("JOB_COMPLETION_INDEX", "3")];
        assert_eq!(of(None, None, None, &one), "0 of 1 at ");
        assert_eq!(of(None, None, None, &[("WORLD_SIZE", "")]), "0 of 1 at ");
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        assert!(of(None, Some(1), None, &[]).contains("without --world"));
        assert!(
            of(Some(2), None, Some("a:1"), &[]).contains("--rank, RANK or JOB_COMPLETION_INDEX")
        );
        assert!(of(Some(2), Some(2), Some("a:1"), &[]).contains("from 0 to world - 1"));
        assert!(of(Some(0), None, None, &[]).contains("which one"));
        assert!(of(Some(2), Some(0), None, &[]).contains("--rendezvous HOST:PORT"));
        assert!(of(None, None, None, &[("WORLD_SIZE", "two")]).contains("WORLD_SIZE=two"));
    }
}
