//! Tests of the kernels in `tests/standin/ptx`, whose PTX by the real NVRTC is checked in, against Rust.

mod block;
mod convert;
mod device;
mod exact;
mod faults;
mod float;
mod integer;
mod memory;
mod warp;

use self::device::Device;
use super::Loaded;
use crate::engine::{Fault, Launch, Order};

/// A launch in a test.
struct Run<'a> {
    ptx: &'a str,
    kernel: &'a str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    params: Vec<Vec<u8>>,
}

/// A launch of one block of `threads` threads.
fn run<'a>(ptx: &'a str, kernel: &'a str, threads: u32) -> Run<'a> {
    Run { ptx, kernel, grid: [1; 3], block: [threads, 1, 1], shared_bytes: 0, params: Vec::new() }
}

impl Run<'_> {
    fn grid(mut self, x: u32, y: u32, z: u32) -> Self {
        self.grid = [x, y, z];
        self
    }

    fn block(mut self, x: u32, y: u32, z: u32) -> Self {
        self.block = [x, y, z];
        self
    }

    fn shared(mut self, bytes: u32) -> Self {
        self.shared_bytes = bytes;
        self
    }

    fn pointer(mut self, address: u64) -> Self {
        self.params.push(address.to_le_bytes().to_vec());
        self
    }

    fn int(mut self, value: usize) -> Self {
        let value = i32::try_from(value).unwrap();
        self.params.push(value.to_le_bytes().to_vec());
        self
    }

    fn bytes(mut self, bytes: Vec<u8>) -> Self {
        self.params.push(bytes);
        self
    }

    fn on(&self, device: &Device, order: Order) -> Result<u64, Fault> {
        let mut module = Loaded::new(self.ptx).unwrap();
        // No kernel of these tests runs for long.
        module.patience = 4;
        let launch = Launch {
            kernel: self.kernel,
            grid: self.grid,
            block: self.block,
            shared_bytes: self.shared_bytes,
            params: &self.params,
            order,
        };
        module.run(&launch, device)
    }
}

/// The line of a `.cu` file with the comment `// !name`.
fn marked(cu: &str, name: &str) -> Option<u32> {
    let mark = format!("// !{name}");
    let found = cu.lines().position(|line| line.ends_with(&mark));
    u32::try_from(found.unwrap() + 1).ok()
}

/// Runs a test in both orders of blocks and threads.
fn in_both_orders(test: impl Fn(Order)) {
    test(Order::Forward);
    test(Order::Reverse);
}

#[test]
fn text_that_is_no_ptx_is_an_error_with_its_line() {
    for (text, expected) in [
        (".version 8.8\n.entry k(\n.param .u64 p\n", "PTX line 3: the text ends too early"),
        (".target sm_80\nnonsense", "PTX line 2: `nonsense` is not known here"),
        ("/* open", "PTX line 1: a comment without end"),
        (".visible .entry k() { bra $nowhere; }", "`k`: no label `$nowhere`"),
    ] {
        assert_eq!(Loaded::new(text).unwrap_err(), expected);
    }
}
