//! Stream capture: the calls on a stream become the nodes of a graph, which is launched as often as wanted.
//!
//! The rules are those of "Stream Management" and "Graph Management" in the driver API, and of "CUDA Graphs" in the
//! programming guide: while a stream is captured, nothing runs; a call that would wait for the stream, or that is not safe
//! in the mode of the capture, is an error and makes the capture invalid; and so is waiting for an event that was recorded
//! outside of it. Only captures of a single stream are supported: another stream that joins by an event is an error here.
//! What a call passes by value is fixed when it is captured, as in CUDA; what it reads from memory is read at each launch.

use std::sync::Arc;

use crate::api::counts::refuses_captures;
use crate::code::{Answer, Code};
use crate::machine::{Capture, Machine, Mode, Node, Nodes};
use crate::report::log;
use crate::table::Handle;

fn thread() -> i32 {
    // SAFETY: gettid has no preconditions.
    unsafe { libc::gettid() }
}

impl Machine {
    /// The status of a stream: `CUstreamCaptureStatus`.
    pub(crate) fn capture_status(&self, stream: Handle) -> u32 {
        self.captures.get(&stream).map_or(0, |capture| if capture.is_valid { 1 } else { 2 })
    }

    pub(crate) fn begin_capture(&mut self, stream: Handle, mode: Mode) -> Answer {
        if refuses_captures() {
            return Err(Code::NOT_SUPPORTED);
        }
        if self.captures.contains_key(&stream) {
            return Err(Code::ILLEGAL_STATE);
        }
        let capture = Capture { mode, thread: thread(), nodes: Vec::new(), is_valid: true };
        self.captures.insert(stream, capture);
        Ok(())
    }

    /// Ends the capture of a stream, also if that is an error.
    pub(crate) fn end_capture(&mut self, stream: Handle) -> Answer<Nodes> {
        let Some(capture) = self.captures.get(&stream) else { return Err(Code::ILLEGAL_STATE) };
        if capture.mode != Mode::Relaxed && capture.thread != thread() {
            return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
        }
        let capture = self.captures.remove(&stream).expect("it was just found");
        for event in self.events.values_mut().filter(|event| event.captured == Some(stream)) {
            event.captured = None;
        }
        if capture.is_valid {
            Ok(Arc::new(capture.nodes))
        } else {
            Err(Code::STREAM_CAPTURE_INVALIDATED)
        }
    }

    /// Adds a call to the capture of its stream. Returns it if the stream is not captured.
    pub(crate) fn record(&mut self, stream: Handle, node: Node) -> Option<Node> {
        let Some(capture) = self.captures.get_mut(&stream) else { return Some(node) };
        capture.nodes.push(node);
        None
    }

    /// Refuses a call that is not allowed on a stream while it is captured, and makes the capture invalid.
    pub(crate) fn not_captured(&mut self, stream: Handle, call: &str, code: Code) -> Answer {
        let Some(capture) = self.captures.get_mut(&stream) else { return Ok(()) };
        log(&format!("{call} on a stream that is captured"));
        capture.is_valid = false;
        Err(code)
    }

    /// Refuses a call that may wait for the GPU, or that cannot be undone, while a capture restricts this thread.
    pub(crate) fn safe_in_capture(&mut self, call: &str) -> Answer {
        let own = thread();
        let restricts = |capture: &Capture| match capture.mode {
            Mode::Global => true,
            Mode::ThreadLocal => capture.thread == own,
            Mode::Relaxed => false,
        };
        let mut allowed = Ok(());
        for capture in self.captures.values_mut().filter(|capture| restricts(capture)) {
            log(&format!("{call} while a stream is captured"));
            capture.is_valid = false;
            allowed = Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        allowed
    }

    /// Enqueues the nodes of a graph on a stream.
    pub(crate) fn launch_graph(&mut self, nodes: &Nodes, stream: Handle) -> Answer {
        self.not_captured(stream, "cuGraphLaunch", Code::STREAM_CAPTURE_UNSUPPORTED)?;
        for Node { what, work, touches } in nodes.iter().cloned() {
            self.enqueue(stream, what, Vec::new(), touches, work);
        }
        Ok(())
    }
}
