//! `ProcessGroup` in one process: any number of them trains as one does, bit for bit.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fixtures/microbatches.rs"]
mod microbatches;

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use forebay_trainer::{
    Cursor, Error, Flow, ProcessGroup, Rank, Rendezvous, Timeouts, TrainConfig, TrainState,
    broadcast_checkpoint, evaluate, load_checkpoint, save_checkpoint, train,
};
use microbatches::{SAMPLES, STEPS, backend, batch, batches, run_metadata, train_config};

/// The result of training: the next step, the state, and loss and gradient norm of each step.
type Trained = (Cursor, TrainState, Vec<(f64, f64)>);

/// Trains as one rank, for at most `max_steps` steps.
fn train_rank(
    model: &str,
    group: ProcessGroup,
    config: &TrainConfig,
    begin: Option<&(Cursor, TrainState)>,
    max_steps: usize,
) -> Result<Trained, Error> {
    let rank = group.rank();
    let mut cpu = backend(model);
    cpu.join(group)?;
    let from = begin.map_or(Cursor::default(), |(cursor, state)| {
        cpu.load(state).unwrap();
        *cursor
    });
    let mut steps = Vec::new();
    let cursor = train(
        &mut *cpu,
        config,
        from,
        batches(config, from, rank),
        |_| true,
        |_, _, report| {
            assert_eq!(report.samples, SAMPLES * config.microbatches as usize);
            steps.push((report.loss, report.grad_norm));
            Ok::<Flow, Error>(if steps.len() < max_steps {
                Flow::Continue(())
            } else {
                Flow::Break(())
            })
        },
    )?;
    cpu.group().finish()?;
    Ok((cursor, cpu.state().unwrap(), steps))
}

/// Runs each rank of a world on a thread. Returns the results by rank.
fn run_ranks<R: Send>(
    groups: Vec<ProcessGroup>,
    work: impl Fn(ProcessGroup) -> R + Sync,
) -> Vec<R> {
    let work = &work;
    std::thread::scope(|scope| {
        let start = |group| scope.spawn(move || work(group));
        let threads: Vec<_> = groups.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn worlds_of_1_2_and_4_train_the_same_bits() {
    let config = train_config(4);
    let whole = 4 * usize::try_from(STEPS).unwrap();
    for (model, max_steps) in [("resnet20", whole), ("resnet18", 2)] {
        let one = train_rank(model, ProcessGroup::single(), &config, None, max_steps).unwrap();
        assert_eq!(one.2.len(), max_steps);
        for world in [2, 4] {
            let all = run_ranks(ProcessGroup::threads(world), |group| {
                train_rank(model, group, &config, None, max_steps)
            });
            for (rank, trained) in all.into_iter().enumerate() {
                let (cursor, state, steps) = trained.unwrap();
                assert_eq!(steps, one.2, "{model}: losses and norms of rank {rank} of {world}");
                assert!(state == one.1, "{model}: state of rank {rank} of {world}");
                assert_eq!(cursor, one.0);
            }
        }
    }
}

#[test]
fn training_resumes_with_the_same_bits_in_another_world() {
    let config = train_config(4);
    let straight = train_rank("resnet20", ProcessGroup::single(), &config, None, 99).unwrap();
    let mut begin: Option<(Cursor, TrainState)> = None;
    let mut steps = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    for (world, max_steps) in [(2, 4), (4, 3), (1, 99)] {
        let begun = begin.as_ref();
        let all = run_ranks(ProcessGroup::threads(world), |group| {
            train_rank("resnet20", group, &config, begun, max_steps).unwrap()
        });
        let (cursor, state, some) = all.into_iter().next().unwrap();
        let path =
            save_checkpoint(folder.path(), &state, &run_metadata(config, cursor, &state)).unwrap();
        let (state, about) = load_checkpoint(&path).unwrap();
        begin = Some((about.cursor, state));
        steps.extend(some);
    }
    assert_eq!(steps, straight.2);
    assert!(begin.unwrap().1 == straight.1);
}

#[test]
fn a_world_must_divide_the_microbatches() {
    let config = train_config(4);
    let all = run_ranks(ProcessGroup::threads(3), |group| {
        train_rank("resnet20", group, &config, None, 1)
    });
    for result in all {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Setting { setting: "--world", .. }), "{error}");
        assert!(error.to_string().contains("3 does not divide the 4 microbatches"), "{error}");
    }
}

#[test]
fn every_rank_gets_the_accuracy_over_all_ranks() {
    let source = |rank: Rank| {
        (rank.rank..4).step_by(rank.world as usize).map(|i| Ok::<_, Error>(batch(0, 0, i)))
    };
    let accuracy = |group: ProcessGroup| {
        let rank = group.rank();
        let mut cpu = backend("resnet20");
        cpu.join(group).unwrap();
        evaluate(&mut *cpu, source(rank)).unwrap().unwrap()
    };
    let whole = accuracy(ProcessGroup::single());
    assert_eq!(whole.samples, 4 * SAMPLES as u64);
    assert!(
        run_ranks(ProcessGroup::threads(2), accuracy).iter().all(|accuracy| *accuracy == whole)
    );
    // A rank without a microbatch takes part, too.
    assert!(
        run_ranks(ProcessGroup::threads(5), accuracy).iter().all(|accuracy| *accuracy == whole)
    );
}

#[test]
fn rank_0_broadcasts_the_checkpoint() {
    let config = train_config(2);
    let (cursor, state, _) =
        train_rank("resnet20", ProcessGroup::single(), &config, None, 2).unwrap();
    let described = run_metadata(config, cursor, &state);
    let all = run_ranks(ProcessGroup::threads(3), |mut group| {
        let mut given = backend("resnet20").state().unwrap();
        let mut about = run_metadata(config, Cursor::default(), &given);
        if group.is_primary() {
            (given, about) = (state.clone(), described.clone());
        }
        broadcast_checkpoint(&mut group, &mut given, &mut about).unwrap();
        (given, about.cursor)
    });
    assert!(all.iter().all(|(given, at)| *given == state && *at == cursor));
}

// Over TCP.

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn rendezvous(address: &str, rank: u32, world: u32, seconds: u64) -> Rendezvous {
    let timeouts = Timeouts { rendezvous: Duration::from_secs(seconds), ..Timeouts::default() };
    let settings = serde_json::json!({"model": "resnet20", "config": {"seed": 0}});
    Rendezvous { rank: Rank { rank, world }, address: address.to_owned(), settings, timeouts }
}

#[test]
fn foreign_connections_do_not_disturb_a_rendezvous() {
    let address = free_port();
    let (stranger, silent) = (address.clone(), address.clone());
    let sums = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|rank| {
                let rendezvous = rendezvous(&address, rank, 3, 300);
                scope.spawn(move || {
                    // Rank 2 joins after the foreign connections.
                    std::thread::sleep(Duration::from_millis(if rank == 2 { 500 } else { 0 }));
                    let mut group = ProcessGroup::join(&rendezvous).unwrap();
                    let mut values: Vec<f32> =
                        (0..50_000_u16).map(|i| f32::from(i) * 1.1 + 0.3 * rank as f32).collect();
                    group.all_reduce(&mut values).unwrap();
                    group.finish().unwrap();
                    values
                })
            })
            .collect();
        scope.spawn(move || {
            let mut stream = connect(&stranger);
            stream.write_all(b"GET / HTTP/1.1\r\nHost: forebay\r\n\r\n").ok();
            connect(&silent)
        });
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let value = |i: u16, rank: f32| f32::from(i) * 1.1 + 0.3 * rank;
    let expected: Vec<f32> =
        (0..50_000_u16).map(|i| value(i, 0.0) + value(i, 1.0) + value(i, 2.0)).collect();
    assert!(sums.iter().all(|sum| *sum == expected));
}

fn connect(address: &str) -> TcpStream {
    loop {
        if let Ok(stream) = TcpStream::connect(address) {
            return stream;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn silent_connections_do_not_keep_ranks_waiting() {
    let address = free_port();
    // One after another, their timeouts would take longer than the rendezvous may.
    let silent: Vec<TcpStream> = std::thread::scope(|scope| {
        let rank_0 = rendezvous(&address, 0, 2, 300);
        let host = scope.spawn(move || ProcessGroup::join(&rank_0)?.finish());
        let silent = (0..300).map(|_| connect(&address)).collect();
        ProcessGroup::join(&rendezvous(&address, 1, 2, 300)).unwrap().finish().unwrap();
        host.join().unwrap().unwrap();
        silent
    });
    assert_eq!(silent.len(), 300);
}

#[test]
fn processes_of_other_worlds_are_refused_with_the_reason_and_rank_0_goes_on() {
    let address = free_port();
    let ours = rendezvous(&address, 1, 3, 300);
    let refused = |rendezvous: &Rendezvous| match ProcessGroup::join(rendezvous) {
        Err(Error::Rank { problem, .. }) => problem,
        joined => panic!("{joined:?}"),
    };
    std::thread::scope(|scope| {
        let start = |rank| {
            let rendezvous = rendezvous(&address, rank, 3, 300);
            scope.spawn(move || ProcessGroup::join(&rendezvous)?.finish())
        };
        let first = start(0);
        let world = Rendezvous { rank: Rank { rank: 1, world: 2 }, ..ours.clone() };
        assert!(refused(&world).contains("started for a world of 2, but rank 0 for 3"));
        let settings = serde_json::json!({"model": "resnet50", "config": {"seed": 0}});
        assert!(refused(&Rendezvous { settings, ..ours.clone() }).contains("its model is"));
        let beyond = Rendezvous { rank: Rank { rank: 3, world: 3 }, ..ours.clone() };
        assert!(refused(&beyond).contains("rank 3"));
        for rank in [first, start(1), start(2)] {
            rank.join().unwrap().unwrap();
        }
    });
}

#[test]
fn a_rank_that_ends_early_is_named_by_all_others() {
    let address = free_port();
    let rank = |rank: u32| {
        let rendezvous = rendezvous(&address, rank, 4, 300);
        move || {
            // The rank may end before the others have closed the ring.
            let mut group = ProcessGroup::join(&rendezvous)?;
            match rank {
                1 => Ok(()),
                // As a rank whose GPU reports that an exchange failed.
                3 => group.wait_for_failure().map_or(Ok(()), Err),
                _ => group.all_reduce(&mut vec![0.0_f32; 1_000_000]),
            }
        }
    };
    let results: Vec<Result<(), Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|r| scope.spawn(rank(r))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for rank in [0, 2, 3] {
        let error = results[rank].as_ref().unwrap_err();
        assert!(matches!(error, Error::Rank { rank: 1, .. }), "{error}");
        assert!(error.to_string().contains("it ended before training was finished"), "{error}");
    }
}
