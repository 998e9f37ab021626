//! Memory is allocated before the first step: later steps allocate nothing that grows with the images.

use std::alloc::System;

use bytes::Bytes;
use forebay_trainer::{
    Architecture, BackendConfig, Batch, DropPath, Graph, MicroStep, MicrobatchName, Pixels, Rank,
    TrainConfig, TrainDevice, initial_state,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_steady_step_allocates_no_tensors() {
    for model in ["resnet20", "resnet18", "resnet50"] {
        let graph = Graph::new(&Architecture::named(model, 10).unwrap(), 64, 64);
        let config = BackendConfig {
            train_graph: graph.clone(),
            batch: 8,
            eval_graph: graph,
            eval_batch: 8,
            mean: [0.5; 3],
            std: [0.25; 3],
        };
        let mut cpu = TrainDevice::Cpu.open(config, Rank::SINGLE).unwrap();
        let state = initial_state(cpu.graph(), 0);
        cpu.load(&state).unwrap();
        let mut mask = DropPath::new(0.1, cpu.graph().blocks, 8);
        let config = TrainConfig::preset("a2", 0.0, 1, 1).unwrap();
        let batch = Batch {
            name: MicrobatchName { seed: 0, epoch: 0, step: 0, index: 0 },
            size: (64, 64),
            pixels: Pixels::Bytes(Bytes::from(vec![7; 8 * 64 * 64 * 3])),
            label_a: vec![1; 8],
            label_b: vec![2; 8],
            lambda: vec![0.5; 8],
        };
        let mut step = |update| {
            let drop_path = Some(mask.draw(0, update, 0));
            let micro = MicroStep { drop_path, loss: &config.loss, weight: 1.0, last: true };
            cpu.forward(&batch, &micro).unwrap();
            cpu.backward(&batch, &micro).unwrap();
            cpu.update(&config.optimizer, None, 1e-3, Some(0.99)).unwrap();
            cpu.logits(&batch).unwrap();
        };
        (0..2).for_each(&mut step);
        let region = Region::new(ALLOCATOR);
        (2..5).for_each(&mut step);
        let allocated = region.change().bytes_allocated;
        // The queues of the thread pool occasionally grow by some kilobytes. The smallest activation is larger.
        assert!(allocated < 100_000, "{model}: {allocated} bytes in three steps");
    }
}
