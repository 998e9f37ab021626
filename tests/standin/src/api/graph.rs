//! Stream capture and graphs.

use std::sync::Arc;

use super::counts::{Count, count};
use super::{Out, put};
use crate::code::Code;
use crate::machine::{Graph, Mode, call};

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: usize, mode: u32) -> u32 {
    call(|machine| {
        let mode = Mode::new(mode)?;
        // The NULL stream cannot be captured.
        if stream <= 1 {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        let stream = machine.resolve(stream)?;
        machine.begin_capture(stream, mode)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamEndCapture(stream: usize, out: Out<'_, usize>) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        let context = machine.queues.stream(stream).context;
        let nodes = machine.end_capture(stream)?;
        let handle = machine.new_handle();
        machine.graphs.insert(handle, Graph { context, nodes, is_executable: false });
        put(out, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: usize, status: Out<'_, u32>) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        put(status, machine.capture_status(stream))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithFlags(out: Out<'_, usize>, graph: usize, _flags: u64) -> u32 {
    call(|machine| {
        machine.safe_in_capture("cuGraphInstantiate")?;
        let found = machine.graphs.get(&graph).filter(|found| !found.is_executable);
        let Graph { context, nodes, .. } = found.ok_or(Code::INVALID_VALUE)?;
        let copy = Graph { context: *context, nodes: Arc::clone(nodes), is_executable: true };
        let handle = machine.new_handle();
        machine.graphs.insert(handle, copy);
        put(out, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(graph: usize, stream: usize) -> u32 {
    call(|machine| {
        machine.resolve(stream)?;
        let found = machine.graphs.get(&graph).filter(|found| found.is_executable);
        found.map(|_| ()).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(graph: usize, stream: usize) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        let found = machine.graphs.get(&graph).filter(|found| found.is_executable);
        let Graph { context, nodes, .. } = found.ok_or(Code::INVALID_VALUE)?;
        if *context != machine.queues.stream(stream).context {
            return Err(Code::INVALID_VALUE);
        }
        let nodes = Arc::clone(nodes);
        count(Count::GraphLaunches);
        machine.launch_graph(&nodes, stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: usize) -> u32 {
    destroy(graph, false)
}

/// A launch that is queued still runs.
#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(graph: usize) -> u32 {
    destroy(graph, true)
}

fn destroy(graph: usize, is_executable: bool) -> u32 {
    call(|machine| {
        let found = machine.graphs.get(&graph);
        if found.is_none_or(|found| found.is_executable != is_executable) {
            return Err(Code::INVALID_VALUE);
        }
        machine.graphs.remove(&graph);
        Ok(())
    })
}
