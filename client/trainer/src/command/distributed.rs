//! The rank and the world of this process, from flags or from the variables that torchrun and
//! Kubernetes set, and how the process joins the others.

use anyhow::{Context as _, bail};
use forebay_types::Rank;
use forebay_types::settings::Number;
use serde_json::Value;

use super::cli::{Distributed, ModelArgs, TrainArgs};
use super::replay::SourceInfo;
use crate::backend::device::TrainDevice;
use crate::checkpoint::RunMetadata;
use crate::process_group::{ProcessGroup, Rendezvous, Timeouts};

/// The rank of this process, and where the ranks meet.
pub(crate) fn rank_and_address(args: &Distributed) -> anyhow::Result<(Rank, String)> {
    let env = &args.launcher;
    let Some(world) = flag_or_variable(args.world, "WORLD_SIZE", env.world_size.as_ref())? else {
        if let Some(rank) = args.rank {
            bail!("--rank {rank} needs a number of ranks: set --world");
        }
        return Ok((Rank::SINGLE, String::new()));
    };
    let mut rank = flag_or_variable(args.rank, "RANK", env.global_rank.as_ref())?;
    if rank.is_none() && world > 1 {
        let index = env.job_completion_index.as_ref();
        rank = flag_or_variable(args.rank, "JOB_COMPLETION_INDEX", index)?;
    }
    let rank = match rank {
        Some(rank) => rank,
        None if world == 1 => 0,
        None => bail!("no rank for a world of {world}: set --rank, RANK or JOB_COMPLETION_INDEX"),
    };
    if rank >= world {
        bail!("invalid rank {rank} for a world of {world}: expected 0 to {}", world - 1);
    }
    let address = args.rendezvous.clone().or_else(|| {
        let host = non_empty(env.master_addr.as_ref())?;
        let port = non_empty(env.master_port.as_ref()).unwrap_or("29500");
        let bare_ipv6 = host.contains(':') && !host.starts_with('[');
        Some(if bare_ipv6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    });
    match address {
        Some(address) => Ok((Rank { rank, world }, address)),
        None if world == 1 => Ok((Rank { rank, world }, String::new())),
        None => bail!(
            "no rendezvous for a world of {world}: set --rendezvous HOST:PORT, or MASTER_ADDR and MASTER_PORT"
        ),
    }
}

fn non_empty(variable: Option<&String>) -> Option<&str> {
    variable.map(String::as_str).filter(|text| !text.is_empty())
}

/// The flag if it is given, or else the environment variable.
fn flag_or_variable<const MIN: u64, const MAX: u64>(
    flag: Option<Number<MIN, MAX>>,
    name: &str,
    variable: Option<&String>,
) -> anyhow::Result<Option<u32>> {
    let parse = |text: &str| text.parse().with_context(|| format!("invalid {name}={text}"));
    let number = flag.map_or_else(|| non_empty(variable).map(parse).transpose(), |n| Ok(Some(n)));
    Ok(number?.map(Number::as_u32))
}

/// Everything that must be the same on all ranks.
pub(crate) fn common_settings(
    args: &TrainArgs,
    run: &RunMetadata,
    evaluation: Option<&SourceInfo>,
) -> anyhow::Result<Value> {
    let mut settings = serde_json::to_value(run)?;
    settings["version"] = env!("CARGO_PKG_VERSION").into();
    settings["evaluation"] = serde_json::to_value(evaluation)?;
    settings["eval_epochs"] = args.eval_epochs.get().into();
    settings["stop_after"] = args.stop_after.map(Number::get).into();
    // A rank in f16 multiplies its gradients by a loss scale, and those of the others are not.
    settings["precision"] = precision(&args.network).into();
    Ok(settings)
}

/// The precision in which a rank trains, and on what.
fn precision(args: &ModelArgs) -> String {
    match args.device {
        TrainDevice::Cpu => "f32 on a CPU".to_owned(),
        TrainDevice::Cuda(_) => format!("{} on a GPU", args.gpu_config().precision.name()),
    }
}

/// Joins the other ranks. When one of them is lost later, this process ends, whatever it is doing.
pub(crate) fn join(
    args: &Distributed,
    rank: Rank,
    address: String,
    settings: Value,
) -> anyhow::Result<ProcessGroup> {
    let timeouts = Timeouts {
        rendezvous: args.rendezvous_timeout.get(),
        heartbeat: args.heartbeat_timeout,
        stall: args.stall_timeout,
    };
    let mut group = ProcessGroup::join(&Rendezvous { rank, address, settings, timeouts })?;
    let Rank { rank, world } = rank;
    if world > 1 {
        super::output::print_progress(&format!("rank {rank} of {world}: all ranks have joined"));
    }
    group.on_failure(|error| super::output::exit_after_failure(&error));
    Ok(group)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::super::cli::distributed::LauncherEnv;
    use super::super::cli::{Cli, Command};
    use super::*;

    fn resolve(
        world: Option<u64>,
        rank: Option<u64>,
        address: Option<&str>,
        variables: &[(&str, &str)],
    ) -> String {
        let variable = |name: &str| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        };
        let launcher = LauncherEnv {
            world_size: variable("WORLD_SIZE"),
            global_rank: variable("RANK"),
            job_completion_index: variable("JOB_COMPLETION_INDEX"),
            master_addr: variable("MASTER_ADDR"),
            master_port: variable("MASTER_PORT"),
        };
        let rendezvous = address.map(str::to_owned);
        let (world, rank) = (world.map(Number::new), rank.map(Number::new));
        let args = Distributed {
            world,
            rank,
            rendezvous,
            rendezvous_timeout: "1s".parse().unwrap(),
            heartbeat_timeout: Duration::ZERO,
            stall_timeout: Duration::ZERO,
            launcher,
        };
        match rank_and_address(&args) {
            Ok((Rank { rank, world }, address)) => format!("{rank} of {world} at {address}"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn flags_override_environment_variables() {
        let torchrun = [
            ("WORLD_SIZE", "4"),
            ("RANK", "3"),
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "29400"),
        ];
        assert_eq!(resolve(None, None, None, &torchrun), "3 of 4 at node0:29400");
        assert_eq!(resolve(Some(8), Some(5), Some("a:1"), &torchrun), "5 of 8 at a:1");
        let job = [("WORLD_SIZE", "2"), ("JOB_COMPLETION_INDEX", "1"), ("MASTER_ADDR", "fd00::1")];
        assert_eq!(resolve(None, None, None, &job), "1 of 2 at [fd00::1]:29500");
        assert_eq!(resolve(None, None, None, &[("JOB_COMPLETION_INDEX", "3")]), "0 of 1 at ");
        let one = [("WORLD_SIZE", "1"), ("JOB_COMPLETION_INDEX", "3")];
        assert_eq!(resolve(None, None, None, &one), "0 of 1 at ");
        assert_eq!(resolve(None, None, None, &[("WORLD_SIZE", "")]), "0 of 1 at ");
    }

    #[test]
    fn missing_and_invalid_values_are_refused_with_advice() {
        assert!(resolve(None, Some(1), None, &[]).contains("set --world"));
        let no_rank = resolve(Some(2), None, Some("a:1"), &[]);
        assert!(no_rank.contains("--rank, RANK or JOB_COMPLETION_INDEX"));
        assert!(resolve(Some(2), Some(2), Some("a:1"), &[]).contains("expected 0 to 1"));
        assert!(resolve(Some(2), Some(0), None, &[]).contains("--rendezvous HOST:PORT"));
        assert!(resolve(None, None, None, &[("WORLD_SIZE", "0")]).contains("from 1 to 1024"));
        assert!(resolve(None, None, None, &[("WORLD_SIZE", "two")]).contains("WORLD_SIZE=two"));
    }

    #[test]
    fn ranks_of_other_precisions_or_devices_are_other_settings() {
        let of = |flags: &[&str]| {
            let words = ["forebay-trainer", "train", "--replay", "dump"].iter().chain(flags);
            let Command::Train(args) = Cli::try_parse_from(words).unwrap().command else {
                panic!("{flags:?}")
            };
            precision(&args.network)
        };
        let bf16 = of(&["--device", "cuda:0"]);
        assert_eq!(bf16, of(&["--device", "cuda:1", "--precision", "bf16"]));
        assert_eq!(bf16, "bf16 on a GPU");
        let f32 = of(&["--device", "cuda", "--precision", "f32"]);
        let others =
            [of(&["--device", "cuda", "--precision", "f16"]), f32, of(&["--device", "cpu"])];
        for (at, other) in others.iter().enumerate() {
            assert!(*other != bf16 && !others[..at].contains(other), "{other}");
        }
    }
}
