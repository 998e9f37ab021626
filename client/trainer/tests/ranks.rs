//! Ranks in one process: any number of them trains as one does, bit for bit.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "made/microbatches.rs"]
mod microbatches;

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use forebay_client::Rank;
use forebay_trainer::backend::{Backend as _, State};
use forebay_trainer::eval::evaluate;
use forebay_trainer::ranks::{Limits, Meeting, Ranks};
use forebay_trainer::train::{Cursor, Flow, Training, train};
use forebay_trainer::{Error, checkpoint};
use microbatches::{SAMPLES, STEPS, backend, batch, batches, run, settings};

/// What a training leaves: where it stands, its state, and loss and norm of each step.
type Trained = (Cursor, State, Vec<(f64, f64)>);

/// Trains as one rank, at most so many steps.
fn go(
    model: &str,
    ranks: Ranks,
    training: &Training,
    begin: Option<&(Cursor, State)>,
    most: usize,
) -> Result<Trained, Error> {
    let rank = ranks.place();
    let mut cpu = backend(model);
    cpu.join(ranks)?;
    let from = begin.map_or(Cursor::default(), |(cursor, state)| {
        cpu.load(state).unwrap();
        *cursor
    });
    let mut steps = Vec::new();
    let cursor = train(
        &mut cpu,
        training,
        from,
        batches(training, from, rank),
        |_| true,
        |_, _, report| {
            assert_eq!(report.samples, SAMPLES * training.microbatches as usize);
            steps.push((report.loss, report.norm));
            Ok::<Flow, Error>(if steps.len() < most { Flow::Continue(()) } else { Flow::Break(()) })
        },
    )?;
    cpu.ranks().finish()?;
    Ok((cursor, cpu.state().unwrap(), steps))
}

/// Runs each rank of a world on a thread; gives what they give, by rank.
fn each<R: Send>(ranks: Vec<Ranks>, does: impl Fn(Ranks) -> R + Sync) -> Vec<R> {
    let does = &does;
    std::thread::scope(|scope| {
        let start = |ranks| scope.spawn(move || does(ranks));
        let threads: Vec<_> = ranks.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn worlds_of_1_2_and_4_train_the_same_bits() {
    let training = settings(4);
    let whole = 4 * usize::try_from(STEPS).unwrap();
    for (model, most) in [("resnet20", whole), ("resnet18", 2)] {
        let one = go(model, Ranks::alone(), &training, None, most).unwrap();
        assert_eq!(one.2.len(), most);
        for world in [2, 4] {
            let all = each(Ranks::threads(world), |ranks| go(model, ranks, &training, None, most));
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
fn a_training_goes_on_with_the_same_bits_in_another_world() {
    let training = settings(4);
    let straight = go("resnet20", Ranks::alone(), &training, None, 99).unwrap();
    let mut begin: Option<(Cursor, State)> = None;
    let mut steps = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    for (world, most) in [(2, 4), (4, 3), (1, 99)] {
        let begun = begin.as_ref();
        let all = each(Ranks::threads(world), |ranks| {
            go("resnet20", ranks, &training, begun, most).unwrap()
        });
        let (cursor, state, some) = all.into_iter().next().unwrap();
        let path = checkpoint::save(folder.path(), &state, &run(training, cursor, &state)).unwrap();
        let (state, about) = checkpoint::load(&path).unwrap();
        begin = Some((about.cursor, state));
        steps.extend(some);
    }
    assert_eq!(steps, straight.2);
    assert!(begin.unwrap().1 == straight.1);
}

#[test]
fn a_world_must_divide_the_microbatches() {
    let training = settings(4);
    let all = each(Ranks::threads(3), |ranks| go("resnet20", ranks, &training, None, 1));
    for result in all {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Setting { setting: "--world", .. }), "{error}");
        assert!(error.to_string().contains("3 does not divide the 4 microbatches"), "{error}");
    }
}

#[test]
fn ranks_evaluate_their_shares_and_know_the_whole() {
    let source = |rank: Rank| {
        (rank.rank..4).step_by(rank.world as usize).map(|i| Ok::<_, Error>(batch(0, 0, i)))
    };
    let accuracy = |ranks: Ranks| {
        let rank = ranks.place();
        let mut cpu = backend("resnet20");
        cpu.join(ranks).unwrap();
        evaluate(&mut cpu, source(rank)).unwrap()
    };
    let whole = accuracy(Ranks::alone());
    assert_eq!(whole.samples, 4 * SAMPLES as u64);
    assert!(each(Ranks::threads(2), accuracy).iter().all(|accuracy| *accuracy == whole));
    // One that has no microbatch left takes part all the same.
    assert!(each(Ranks::threads(5), accuracy).iter().all(|accuracy| *accuracy == whole));
}

#[test]
fn rank_0_gives_the_others_what_it_resumes_from() {
    let training = settings(2);
    let (cursor, state, _) = go("resnet20", Ranks::alone(), &training, None, 2).unwrap();
    let described = run(training, cursor, &state);
    let all = each(Ranks::threads(3), |mut ranks| {
        let mut given = backend("resnet20").state().unwrap();
        let mut about = run(training, Cursor::default(), &given);
        if ranks.is_first() {
            (given, about) = (state.clone(), described.clone());
        }
        checkpoint::share(&mut ranks, &mut given, &mut about).unwrap();
        (given, about.cursor)
    });
    assert!(all.iter().all(|(given, at)| *given == state && *at == cursor));
}

// Over TCP.

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn meeting(address: &str, rank: u32, world: u32, seconds: u64) -> Meeting {
    let limits = Limits { rendezvous: Duration::from_secs(seconds), ..Limits::default() };
    let settings = serde_json::json!({"model": "resnet20", "training": {"seed": 0}});
    Meeting { place: Rank { rank, world }, address: address.to_owned(), settings, limits }
}

#[test]
fn processes_sum_as_threads_do_and_strangers_do_not_disturb_them() {
    let address = free_port();
    let (stranger, silent) = (address.clone(), address.clone());
    let sums = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|rank| {
                let meeting = meeting(&address, rank, 3, 60);
                scope.spawn(move || {
                    // Rank 2 waits for the strangers to have called.
                    std::thread::sleep(Duration::from_millis(if rank == 2 { 500 } else { 0 }));
                    let mut ranks = Ranks::meet(&meeting).unwrap();
                    let mut values: Vec<f32> =
                        (0..50_000_u16).map(|i| f32::from(i) * 1.1 + 0.3 * rank as f32).collect();
                    ranks.sum(&mut values).unwrap();
                    ranks.finish().unwrap();
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
fn a_rank_that_leaves_before_the_end_is_named_by_all() {
    let address = free_port();
    let rank = |rank: u32| {
        let meeting = meeting(&address, rank, 3, 60);
        move || {
            // The others may not have closed the ring when it leaves.
            let mut ranks = Ranks::meet(&meeting)?;
            if rank == 1 { Ok(()) } else { ranks.sum(&mut vec![0.0_f32; 1_000_000]) }
        }
    };
    let results: Vec<Result<(), Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|r| scope.spawn(rank(r))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for rank in [0, 2] {
        let error = results[rank].as_ref().unwrap_err();
        assert!(matches!(error, Error::Rank { rank: 1, .. }), "{error}");
        assert!(error.to_string().contains("it ended before the training"), "{error}");
    }
}
