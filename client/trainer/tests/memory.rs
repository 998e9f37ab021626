//! Memory is planned before the first step: later ones allocate nothing that grows with images.

use std::alloc::System;

use bytes::Bytes;
use forebay_trainer::backend::cpu::Cpu;
use forebay_trainer::backend::{Backend as _, Batch, Part, Pixels};
use forebay_trainer::droppath::Drops;
use forebay_trainer::model::{Architecture, Graph};
use forebay_trainer::{init, preset};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_steady_step_allocates_next_to_nothing() {
    for model in ["resnet20", "resnet18", "resnet50"] {
        let graph = Graph::new(&Architecture::named(model, 10).unwrap(), 64, 64);
        let mut cpu: Cpu<f32> = Cpu::new(graph.clone(), 8, graph, 8, [0.5; 3], [0.25; 3]);
        let state = init::state(cpu.graph(), 0);
        cpu.load(&state).unwrap();
        let mut drops = Drops::new(0.1, cpu.graph().blocks, 8);
        let training = preset::training("a2", 0.0, 1, 1).unwrap();
        let batch = Batch {
            epoch: 0,
            step: 0,
            index: 0,
            size: (64, 64),
            pixels: Pixels::Bytes(Bytes::from(vec![7; 8 * 64 * 64 * 3])),
            label_a: vec![1; 8],
            label_b: vec![2; 8],
            lambda: vec![0.5; 8],
        };
        let mut step = |update| {
            drops.draw(0, update, 0);
            let (drops, loss) = (Some(&drops), &training.loss);
            cpu.accumulate(&batch, &Part { drops, loss, share: 1.0, last: true }).unwrap();
            cpu.update(&training.lamb, 1e-3, Some(0.99)).unwrap();
            cpu.logits(&batch).unwrap();
        };
        (0..2).for_each(&mut step);
        let region = Region::new(ALLOCATOR);
        (2..5).for_each(&mut step);
        let allocated = region.change().bytes_allocated;
        // The queues of the thread pool take some kilobytes now and then; a single activation is more.
        assert!(allocated < 100_000, "{model}: {allocated} bytes in three steps");
    }
}
