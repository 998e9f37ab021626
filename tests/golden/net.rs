//! Networks under test, on the CPU in f32 and f64, and on a GPU or its stand-in.
#![expect(clippy::unwrap_used, reason = "a test")]

use forebay_trainer::testing::{Stepwise, stepwise_f32, stepwise_f64};
use forebay_trainer::{BackendConfig, Batch, DropPath, Graph, Optimizer, StateDict, TrainState};

/// A backend with access to its intermediate results.
pub(crate) trait Net {
    fn graph(&self) -> &Graph;
    /// The forward pass; returns the logits.
    fn forward(&mut self, batch: &Batch, train: bool, drop_path: Option<&DropPath>) -> Vec<f64>;
    /// The backward pass, from the gradient of the logits.
    fn backward(&mut self, batch: &Batch, gradient: &[f64], drop_path: Option<&DropPath>);
    fn update(&mut self, optimizer: &Optimizer, rate: f64);
    fn parameter(&self, index: usize) -> Vec<f64>;
    fn gradient(&self, index: usize) -> Vec<f64>;
    /// Running means and then variances of a batch norm.
    fn running(&self, norm: usize) -> Vec<f64>;
}

/// The device that runs a network, and its number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Double,
    Single,
    /// The CPU in f64, with each stored result rounded to bf16: the reference for the error of bf16.
    Rounded,
    #[cfg(feature = "cuda")]
    Gpu(u32, forebay_trainer::Precision),
}

impl On {
    /// The CPU, and the GPU of the tests if there is one.
    pub(crate) fn all() -> Vec<Self> {
        #[cfg_attr(not(feature = "cuda"), expect(unused_mut, reason = "a GPU is added"))]
        let mut all = vec![Self::Double, Self::Single];
        #[cfg(feature = "cuda")]
        if let Some(forebay::mix::Device::Cuda(device)) = forebay_tests::gpu() {
            use forebay_trainer::Precision::{Bf16, F32};
            all.extend([Self::Gpu(device, F32), Self::Gpu(device, Bf16)]);
        }
        all
    }

    /// The name of a test; it begins with the GPU if it needs one.
    pub(crate) fn name(self, test: &str) -> String {
        match self {
            Self::Double => test.replace("NUMBER", "f64"),
            Self::Single => test.replace("NUMBER", "f32"),
            Self::Rounded => test.replace("NUMBER", "rounded"),
            #[cfg(feature = "cuda")]
            Self::Gpu(device, number) => {
                let number = format!("{number:?}").to_lowercase();
                format!("cuda:{device}/{}", test.replace("NUMBER", &number))
            }
        }
    }

    /// The golden numbers that results are compared with.
    pub(crate) const fn dtype(self) -> &'static str {
        match self {
            Self::Single => "f32",
            _ => "f64",
        }
    }

    /// Whether stored results are rounded to bf16.
    pub(crate) fn rounds(self) -> bool {
        match self {
            Self::Double | Self::Single => false,
            Self::Rounded => true,
            #[cfg(feature = "cuda")]
            Self::Gpu(_, number) => number == forebay_trainer::Precision::Bf16,
        }
    }

    /// Opens a network and loads a model.
    pub(crate) fn open(self, graph: Graph, samples: usize, model: StateDict) -> Box<dyn Net> {
        let state = TrainState { model, ..TrainState::default() };
        match self {
            Self::Double => Box::new(Cpu::new(stepwise_f64, graph, samples, &state)),
            Self::Single => Box::new(Cpu::new(stepwise_f32, graph, samples, &state)),
            Self::Rounded => Box::new(Rounded(Cpu::new(stepwise_f64, graph, samples, &state).0)),
            #[cfg(feature = "cuda")]
            Self::Gpu(device, number) => {
                let mut net = gpu::open(device, number, graph, samples);
                forebay_trainer::Backend::load(&mut net, &state).unwrap();
                Box::new(net)
            }
        }
    }
}

/// Pixels are given as floats, so the normalization does not matter.
fn backend_config(graph: Graph, samples: usize) -> BackendConfig {
    BackendConfig {
        train_graph: graph.clone(),
        batch: samples,
        eval_graph: graph,
        eval_batch: samples,
        mean: [0.0; 3],
        std: [1.0; 3],
    }
}

/// A network on the CPU.
struct Cpu(Box<dyn Stepwise>);

impl Cpu {
    fn new(
        backend: fn(BackendConfig) -> Box<dyn Stepwise>,
        graph: Graph,
        samples: usize,
        state: &TrainState,
    ) -> Self {
        let mut cpu = backend(backend_config(graph, samples));
        cpu.load(state).unwrap();
        Self(cpu)
    }
}

impl Net for Cpu {
    fn graph(&self) -> &Graph {
        self.0.graph()
    }

    fn forward(&mut self, batch: &Batch, train: bool, drop_path: Option<&DropPath>) -> Vec<f64> {
        let samples = batch.samples();
        self.0.load_images(batch, train);
        for op in 0..self.0.graph().ops.len() {
            self.0.forward_op(op, samples, train, drop_path);
        }
        if train {
            self.0.update_running_statistics();
        }
        self.0.last_logits(samples, train)
    }

    fn backward(&mut self, batch: &Batch, gradient: &[f64], drop_path: Option<&DropPath>) {
        let samples = batch.samples();
        self.0.set_logits_gradient(samples, gradient);
        for op in (0..self.0.graph().ops.len()).rev() {
            self.0.backward_op(op, samples, drop_path);
        }
    }

    fn update(&mut self, optimizer: &Optimizer, rate: f64) {
        self.0.update(optimizer, None, rate, None).unwrap();
    }

    fn parameter(&self, index: usize) -> Vec<f64> {
        self.0.parameter(index)
    }

    fn gradient(&self, index: usize) -> Vec<f64> {
        self.0.gradient(index)
    }

    fn running(&self, norm: usize) -> Vec<f64> {
        self.0.running(norm)
    }
}

#[cfg(feature = "cuda")]
pub(crate) mod gpu {
    use forebay::gpu::Gpu;
    use forebay_trainer::testing::PassConfig;
    use forebay_trainer::{
        Backend, Batch, CudaBackend, CudaConfig, DropPath, Graph, Optimizer, Precision,
    };

    use super::{Net, backend_config};

    /// A network without parameters.
    pub(crate) fn open(
        device: u32,
        precision: Precision,
        graph: Graph,
        samples: usize,
    ) -> CudaBackend {
        let device = Gpu::open(device).unwrap();
        let config = CudaConfig::new(device, precision);
        CudaBackend::new(config, backend_config(graph, samples)).unwrap()
    }

    fn wide(numbers: &[f32]) -> Vec<f64> {
        numbers.iter().map(|&x| f64::from(x)).collect()
    }

    fn pass(batch: &Batch, train: bool, drop_path: Option<&DropPath>) -> PassConfig {
        PassConfig { samples: batch.samples(), train, drop_path: drop_path.is_some() }
    }

    impl Net for CudaBackend {
        fn graph(&self) -> &Graph {
            Backend::graph(self)
        }

        fn forward(
            &mut self,
            batch: &Batch,
            train: bool,
            drop_path: Option<&DropPath>,
        ) -> Vec<f64> {
            self.load_batch(batch, train, drop_path).unwrap();
            self.forward_pass(pass(batch, train, drop_path)).unwrap();
            wide(self.last_logits(batch.samples()).unwrap())
        }

        #[expect(clippy::cast_possible_truncation, reason = "as the backend takes it")]
        fn backward(&mut self, batch: &Batch, gradient: &[f64], drop_path: Option<&DropPath>) {
            let gradient: Vec<f32> = gradient.iter().map(|&s| s as f32).collect();
            self.set_logits_gradient(&gradient).unwrap();
            self.backward_pass(pass(batch, true, drop_path)).unwrap();
        }

        fn update(&mut self, optimizer: &Optimizer, rate: f64) {
            Backend::update(self, optimizer, None, rate, None).unwrap();
            self.poll_report(true).unwrap();
        }

        fn parameter(&self, index: usize) -> Vec<f64> {
            wide(&Self::parameter(self, index).unwrap())
        }

        fn gradient(&self, index: usize) -> Vec<f64> {
            wide(&Self::gradient(self, index).unwrap())
        }

        fn running(&self, norm: usize) -> Vec<f64> {
            wide(&Self::running(self, norm).unwrap())
        }
    }
}

/// The CPU in f64, which rounds to bf16 what a GPU stores in bf16.
struct Rounded(Box<dyn Stepwise>);

fn to_bf16(value: f64) -> f64 {
    half::bf16::from_f64(value).to_f64()
}

impl Rounded {
    /// Runs with rounded weights, as matrix products use them, and then restores the weights.
    fn with_rounded_weights<R>(&mut self, run: impl FnOnce(&mut dyn Stepwise) -> R) -> R {
        let kept = self.0.parameters();
        for index in 0..self.0.graph().parameters.len() {
            if self.0.graph().parameters[index].kind.decays() {
                self.0.map_parameter(index, to_bf16);
            }
        }
        let result = run(&mut *self.0);
        self.0.set_parameters(&kept);
        result
    }
}

impl Net for Rounded {
    fn graph(&self) -> &Graph {
        self.0.graph()
    }

    fn forward(&mut self, batch: &Batch, train: bool, drop_path: Option<&DropPath>) -> Vec<f64> {
        let samples = batch.samples();
        self.with_rounded_weights(|cpu| {
            cpu.load_images(batch, train);
            cpu.map_values(0, samples, train, to_bf16);
            let logits = cpu.graph().logits();
            for op in 0..cpu.graph().ops.len() {
                cpu.forward_op(op, samples, train, drop_path);
                let y = cpu.graph().ops[op].tensors().1;
                if y != logits {
                    cpu.map_values(y, samples, train, to_bf16);
                }
            }
            if train {
                cpu.update_running_statistics();
            }
            cpu.last_logits(samples, train)
        })
    }

    fn backward(&mut self, batch: &Batch, gradient: &[f64], drop_path: Option<&DropPath>) {
        let samples = batch.samples();
        self.with_rounded_weights(|cpu| {
            cpu.set_logits_gradient(samples, gradient);
            cpu.map_gradient(cpu.graph().logits(), samples, to_bf16);
            for op in (0..cpu.graph().ops.len()).rev() {
                cpu.backward_op(op, samples, drop_path);
                let x = cpu.graph().ops[op].tensors().0;
                if x > 0 {
                    cpu.map_gradient(x, samples, to_bf16);
                }
            }
        });
    }

    fn update(&mut self, optimizer: &Optimizer, rate: f64) {
        self.0.update(optimizer, None, rate, None).unwrap();
    }

    fn parameter(&self, index: usize) -> Vec<f64> {
        self.0.parameter(index)
    }

    fn gradient(&self, index: usize) -> Vec<f64> {
        self.0.gradient(index)
    }

    fn running(&self, norm: usize) -> Vec<f64> {
        self.0.running(norm)
    }
}
