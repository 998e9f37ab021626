//! The list of test cases.

use crate::gpu::{Gpu, Outcome};
use crate::{blas, capture, correct, dnn, mistakes, modules, nccl};

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) body: fn(&Gpu) -> Outcome,
    /// `None` for a correct program. Otherwise the output of the case must contain all of these texts; `a|b` matches either.
    pub(crate) expected: Option<&'static [&'static str]>,
    /// The combinations of schedule and order, or empty for all ten.
    pub(crate) only: &'static [&'static str],
}

macro_rules! correct {
    ($($name:ident),* $(,)?) => {
        [$(Case { name: stringify!($name), body: correct::$name, expected: None, only: &[] }),*]
    };
    ($($module:ident::$name:ident),* $(,)?) => {
        [$(Case { name: stringify!($name), body: $module::$name, expected: None, only: FORWARD }),*]
    };
}

macro_rules! mistakes {
    ($($name:ident $(in $only:expr)? => $($expected:literal),+;)*) => {
        [$(Case { name: stringify!($name), body: mistakes::$name, expected: Some(&[$($expected),+]), only: only!($($only)?) }),*]
    };
    ($($module:ident::$name:ident $(in $only:expr)? => $($expected:literal),+;)*) => {
        [$(Case { name: stringify!($name), body: $module::$name, expected: Some(&[$($expected),+]), only: only!($($only)?) }),*]
    };
}

macro_rules! only {
    () => {
        &["lazy forward", "eager forward", "1 reverse"]
    };
    ($only:expr) => {
        $only
    };
}

/// Behavior that C++ leaves undefined and PTX defines: an error only of engine A.
const ENGINE_A_ONLY: [&str; 2] = ["division_by_zero", "float_too_large_for_its_integer"];

const LAZY: &[&str] = &["lazy forward"];

/// Library functions have no threads and blocks that could start in reverse.
const FORWARD: &[&str] = &["lazy forward", "eager forward", "1 forward", "2 forward", "3 forward"];

/// The cases of an engine. Those of the libraries run on engine A alone, because no kernel of a module is in them.
pub(crate) fn cases(engine_b: bool) -> Vec<Case> {
    let (kernels, libraries) =
        (kernels(), correct_uses_of_libraries().chain(mistakes_with_libraries()));
    if engine_b {
        kernels.filter(|case| !ENGINE_A_ONLY.contains(&case.name)).collect()
    } else {
        kernels.chain(libraries).collect()
    }
}

fn kernels() -> impl Iterator<Item = Case> {
    let correct = correct![
        overlap,
        shuffles_and_barriers,
        dynamic_shared_memory,
        votes,
        atomics,
        vectors_of_16_bytes,
        arithmetic_is_ieee,
        functions,
        inline_ptx,
        pageable_copies_are_staged_at_the_call,
        fills_and_copies_on_the_device,
        null_stream,
        blocking_streams,
        halves_of_pinned_memory,
        events_can_be_polled,
        threads_of_the_host,
        freed_memory_makes_room,
        two_devices,
        device_properties,
    ];
    let mistakes = mistakes! {
        past_the_end => "256 bytes from the start of a 256-byte allocation", "line 80", "ILLEGAL_ADDRESS";
        before_the_start => "8 bytes before the start of a 256-byte allocation|just before or after a 256-byte allocation", "ILLEGAL_ADDRESS";
        far_away => "illegal address", "ILLEGAL_ADDRESS";
        into_the_slack => "after a 65-byte allocation|65 bytes from the start of a 65-byte", "ILLEGAL_ADDRESS";
        half_is_unwritten => "32 of 64 words copied to the host were never written", "CUDA_ERROR_UNKNOWN";
        divergent_barrier => "divergent barrier", "line 91", "LAUNCH_FAILED";
        two_barriers => "divergent barriers", "LAUNCH_FAILED";
        absent_lanes => "which do not arrive|divergent", "LAUNCH_FAILED";
        shuffle_with_a_lane_that_ended => "reads lane", "LAUNCH_FAILED";
        missing_barrier in &["lazy forward", "lazy reverse"] => "32 values are wrong|never written";
        past_a_shared_array => "index 64 is outside of its array|shared", "CUDA_ERROR_UNKNOWN|ILLEGAL_ADDRESS|LAUNCH_FAILED";
        past_dynamic_shared => "shared", "ILLEGAL_ADDRESS|LAUNCH_FAILED";
        misaligned => "misaligned", "MISALIGNED_ADDRESS";
        division_by_zero => "division by zero", "CUDA_ERROR_UNKNOWN";
        trap => "trap", "thread (3,0,0)", "CUDA_ERROR_ASSERT|ILLEGAL_INSTRUCTION";
        failed_assertion => "assert(threadIdx.x != 5)|line 153: the kernel trapped", "thread (5,0,0)", "CUDA_ERROR_ASSERT";
        float_too_large_for_its_integer => "line 156", "cannot hold it", "CUDA_ERROR_UNKNOWN";
        stack_overflow => "the stack", "LAUNCH_FAILED";
        no_event_between_streams in LAZY => "found 1 instead of 42";
        no_event_after_an_allocation in LAZY => "no event orders the two", "ILLEGAL_ADDRESS";
        empty_grid => "a dimension is 0", "INVALID_VALUE";
        threads_1056 => "1056 threads", "INVALID_VALUE";
        more_threads_than_launch_bounds => "512 threads, where 256", "INVALID_VALUE";
        too_much_shared_memory => "50000 bytes of dynamic shared memory", "INVALID_VALUE";
        pinned_read_before_its_event in LAZY => "the host reads pinned memory (byte 0 of 256) that a queued copy writes";
        pinned_written_too_early in LAZY => "the host writes pinned memory (byte 0 of 256) that a queued copy reads";
        pinned_freed_too_early in LAZY => "freed while 1 queued", "CUDA_ERROR_UNKNOWN";
        pinned_used_after_free => "0 bytes from the start of a 256-byte allocation, which was freed";
        kernel_uses_freed_memory => "12 bytes from the start of a 256-byte allocation, which was freed", "ILLEGAL_ADDRESS";
        copy_from_freed_memory => "which was freed", "INVALID_VALUE";
        freed_twice => "which was freed", "ILLEGAL_ADDRESS|INVALID_VALUE";
        copy_longer_than_the_allocation => "260 bytes at 0 bytes from the start of a 256-byte", "INVALID_VALUE";
        default_stream_without_context => "INVALID_CONTEXT", "never freed";
        errors_are_sticky => "[Some(CUDA_ERROR_ILLEGAL_ADDRESS), Some(CUDA_ERROR_ILLEGAL_ADDRESS), Some(CUDA_ERROR_ILLEGAL_ADDRESS)]";
        out_of_memory => "OUT_OF_MEMORY";
        event_of_another_device => "INVALID_HANDLE";
        host_function_calls_cuda => "a host function of a stream called CUDA", "NOT_PERMITTED";
        source_with_an_error => "missing", "kernels.cu", "NVRTC_ERROR_COMPILATION";
        name_is_mangled => "extern \"C\"|NOT_FOUND";
        unknown_kernel => "NOT_FOUND";
    };
    let captures = correct![
        capture::a_graph_repeats_its_launches,
        capture::other_streams_run_during_a_capture,
    ];
    correct.into_iter().chain(mistakes).chain(captures).chain(mistakes_with_the_driver())
}

fn correct_uses_of_libraries() -> impl Iterator<Item = Case> {
    correct![
        dnn::passes_are_adjoint,
        dnn::passes_match_the_definition,
        dnn::alpha_and_beta,
        dnn::f32_needs_fma_math,
        dnn::determinism_is_as_reported,
        dnn::two_streams,
        dnn::find_lists_usable_algorithms,
        dnn::all_plans_match_the_definition,
        dnn::notes_are_true,
        dnn::proposals_differ,
        dnn::graph_alpha_and_beta,
        dnn::plans_own_their_graph,
        dnn::statistics_of_a_convolution,
        dnn::scaled_input_of_a_convolution,
        dnn::gradient_of_a_norm,
        blas::products,
        blas::batches,
        blas::bf16_into_f32,
        blas::tf32_is_opt_in,
        nccl::reductions,
        nccl::copies,
        nccl::collectives_overlap_with_kernels,
        nccl::one_thread_for_all,
        nccl::polling,
        nccl::an_abort_ends_the_wait,
        nccl::ranks_know_their_devices,
        nccl::processes,
        nccl::processes_see_different_gpus,
    ]
    .into_iter()
}

fn mistakes_with_the_driver() -> impl Iterator<Item = Case> {
    mistakes![
        capture::waiting_for_a_captured_stream => "cuStreamSynchronize on a stream that is captured", "STREAM_CAPTURE_UNSUPPORTED";
        capture::allocating_during_a_capture => "cuMemHostAlloc while a stream is captured", "STREAM_CAPTURE_UNSUPPORTED";
        capture::waiting_for_a_captured_event => "waiting for an event on a stream that is captured", "CAPTURED_EVENT";
        capture::depending_on_uncaptured_work => "waiting for an event of uncaptured work", "STREAM_CAPTURE_ISOLATION";
        capture::reading_results_during_a_capture => "a copy to pageable memory on a stream that is captured", "STREAM_CAPTURE_UNSUPPORTED";
        capture::ending_a_capture_that_did_not_begin => "ILLEGAL_STATE";
        modules::ptx_of_a_newer_compiler in LAZY => "PTX of CUDA 1|PTX of CUDA 9", "UNSUPPORTED_PTX_VERSION";
        modules::machine_code_of_another_gpu in LAZY => "machine code for sm_80 does not run on 9.0", "NO_BINARY_FOR_GPU";
        modules::unknown_architecture in LAZY => "gpu-architecture", "NVRTC_ERROR_INVALID_OPTION";
    ]
    .into_iter()
}

fn mistakes_with_libraries() -> impl Iterator<Item = Case> {
    mistakes![
        dnn::output_is_short => "y: illegal address: 1024 bytes at 0 bytes from the start of a 1022-byte", "ILLEGAL_ADDRESS";
        dnn::input_is_short => "x: illegal address", "ILLEGAL_ADDRESS";
        dnn::input_is_not_written => "x: 512 of 512 words that it reads were never written", "CUDA_ERROR_UNKNOWN";
        dnn::kept_output_is_not_written => "y: 256 of 256 words that it reads were never written", "CUDA_ERROR_UNKNOWN";
        dnn::no_event_before_cudnn in LAZY => "x: 512 of 512 words that it reads were never written", "CUDA_ERROR_UNKNOWN";
        dnn::output_is_of_another_shape => "y is [2, 16, 4, 5]: expected [2, 16, 4, 4]", "BAD_PARAM";
        dnn::channels_differ => "x has 8 channels, the filter 4", "BAD_PARAM";
        dnn::layouts_differ => "not packed in the layout of the filter", "NOT_SUPPORTED";
        dnn::types_differ => "different types", "NOT_SUPPORTED";
        dnn::workspace_is_small => "a workspace of 511 bytes, where 512 are needed", "BAD_PARAM";
        dnn::workspace_is_read => "were never written", "CUDA_ERROR_UNKNOWN";
        dnn::groups => "groups", "NOT_SUPPORTED";
        dnn::math_type_is_dropped => "by algorithm 1 with math type 1", "BAD_PARAM";
        dnn::find_discards_the_output => "were never written", "CUDA_ERROR_UNKNOWN";
        dnn::graph_workspace_is_short => "workspace: illegal address", "ILLEGAL_ADDRESS";
        dnn::graph_workspace_is_null => "the workspace is NULL", "BAD_PARAM_NULL_POINTER";
        dnn::graph_workspace_is_read => "were never written", "CUDA_ERROR_UNKNOWN";
        dnn::graph_workspace_is_the_output => "workspace and y overlap", "CUDA_ERROR_UNKNOWN";
        dnn::graph_output_is_short => "y: illegal address", "ILLEGAL_ADDRESS";
        dnn::graph_input_is_not_written => "x: 512 of 512 words that it reads were never written", "CUDA_ERROR_UNKNOWN";
        dnn::graph_kept_output_is_not_written => "y: 256 of 256 words that it reads were never written", "CUDA_ERROR_UNKNOWN";
        dnn::no_event_before_a_graph in LAZY => "x: 512 of 512 words that it reads were never written", "CUDA_ERROR_UNKNOWN";
        dnn::pack_lacks_a_tensor => "no tensor 3, which is y", "BAD_PARAM";
        dnn::pack_has_another_tensor => "a tensor 4", "BAD_PARAM";
        dnn::pack_has_a_tensor_twice => "an identifier twice", "BAD_PARAM";
        dnn::pointer_is_misaligned => "y is not aligned to 16 bytes", "MISALIGNED_POINTER";
        dnn::identifier_of_two_tensors => "two different tensors have the identifier 1", "BAD_PARAM";
        dnn::tensor_is_set_before_it_is_finalized => "FORWARD_X was not finalized before it was set", "BAD_PARAM_NOT_FINALIZED";
        dnn::operation_is_not_finalized => "an operation is not finalized", "BAD_PARAM_NOT_FINALIZED";
        dnn::set_after_finalize => "TENSOR_UNIQUE_ID is set after the descriptor was finalized", "BAD_PARAM";
        dnn::read_before_finalize => "TENSOR_UNIQUE_ID is read before", "NOT_INITIALIZED";
        dnn::attribute_of_another_type => "TENSOR_DATA_TYPE has type 1, not 3", "BAD_PARAM_ATTRIBUTE_TYPE";
        dnn::attribute_is_missing => "TENSOR_DATA_TYPE was not set", "BAD_PARAM";
        dnn::results_need_their_kind => "needs a new descriptor of kind 2", "0 results";
        dnn::y_is_of_another_size => "axis 1 of y should be Some(4)", "BAD_PARAM";
        dnn::channels_are_not_last => "not packed with the channels last", "NOT_SUPPORTED";
        dnn::graph_types_differ => "not all f32, all f16 or all bf16", "NOT_SUPPORTED";
        dnn::sums_are_bf16 => "sums in a type other than f32", "NOT_SUPPORTED";
        dnn::memory_is_hardly_aligned => "not aligned to 16 bytes", "NOT_SUPPORTED";
        dnn::output_is_virtual => "the virtual tensor 3", "BAD_PARAM";
        dnn::engine_does_not_exist => "no engine 9", "NOT_SUPPORTED";
        dnn::engine_of_another_pass => "does not support these sizes", "NOT_SUPPORTED";
        dnn::knob_of_no_engine => "no knob 2 with the value 1", "NOT_SUPPORTED";
        dnn::plan_of_another_device => "made for another device", "BAD_PARAM";
        dnn::scaled_input_of_bf16 => "a fused norm of a type other than f16", "NOT_SUPPORTED";
        dnn::statistics_in_half => "statistics in a type other than f32", "NOT_SUPPORTED";
        dnn::statistics_of_f32 => "a fused convolution of f32", "NOT_SUPPORTED";
        dnn::statistics_of_other_channels => "statistics of [2, 32, 4, 3] in [1, 31, 1, 1]", "BAD_PARAM";
        dnn::statistics_of_a_virtual_output => "no engine 1 for this graph", "NOT_SUPPORTED";
        dnn::statistics_are_short => "sum: illegal address", "ILLEGAL_ADDRESS";
        dnn::mean_is_added => "no engine 1 for this graph", "NOT_SUPPORTED";
        dnn::gradient_of_a_norm_in_bf16 => "a fused norm of a type other than f16", "NOT_SUPPORTED";
        blas::leading_dimension_is_small => "the leading dimension of A is 4, of 5 rows", "INVALID_VALUE";
        blas::product_is_short => "C: illegal address", "ILLEGAL_ADDRESS";
        blas::factor_is_short => "B: illegal address", "ILLEGAL_ADDRESS";
        blas::no_event_before_cublas in LAZY => "A: 165 of 165 words that it reads were never written", "CUDA_ERROR_UNKNOWN";
        blas::product_is_a_factor => "C and A overlap", "CUDA_ERROR_UNKNOWN";
        nccl::skipped_collective => "ranks [1] did not call collective 1 within 5 s: AllReduce(Sum) of 1000 F32", "rank 0: DriverError(CUDA_ERROR_UNKNOWN", "rank 1: DriverError(CUDA_ERROR_UNKNOWN";
        nccl::counts_differ => "calls AllReduce(Sum) of 1000 F32", "calls AllReduce(Sum) of 999 F32", "rank 0: DriverError(CUDA_ERROR_UNKNOWN", "rank 1: DriverError(CUDA_ERROR_UNKNOWN";
        nccl::collectives_differ => "AllReduce(Sum) of 1000 F32", "Broadcast(root 0) of 1000 F32", "rank 0: DriverError(CUDA_ERROR_UNKNOWN", "rank 1: DriverError(CUDA_ERROR_UNKNOWN";
        nccl::left_too_early => "rank 1 left before collective 0", "would wait for it forever", "rank 0: DriverError(CUDA_ERROR_UNKNOWN";
        nccl::waits_before_the_abort => "rank 1 left before collective 0", "would wait for it forever", "DriverError(CUDA_ERROR_UNKNOWN";
        nccl::dropped_in_flight in LAZY => "aborted with 1 collectives in flight", "1000 of 1000 words copied to the host were never written";
        nccl::no_event_before_nccl in LAZY => "sendbuff: 1000 of 1000 words that it reads were never written", "CUDA_ERROR_UNKNOWN";
        nccl::buffer_is_short => "recvbuff is not on device", "7996-byte", "NcclError";
        nccl::stream_of_another_device => "the stream belongs to another device", "NcclError";
        nccl::one_gpu_for_two_ranks => "duplicate GPU: ranks 0 and 1 both use GPU 0", "NcclError";
        nccl::one_thread_without_a_group => "one thread calls for ranks 0 and 1 without a group", "NcclError";
        nccl::not_an_id => "the id was not created by", "NcclError";
        nccl::missing_rank in LAZY => "rank 0: not all of 2 ranks connected within 50 s", "NcclError";
        nccl::lost_process => "rank 0: rank 1 was lost", "ncclRemoteError, and then Some(DriverError(CUDA_ERROR_UNKNOWN", "ranks [1] did not call collective";
        nccl::lost_creator_of_the_id => "rank 1: the process that created the id was lost", "ncclRemoteError, and then Some(DriverError(CUDA_ERROR_UNKNOWN";
        nccl::processes_share_a_gpu => "duplicate GPU", "NcclError";
    ]
    .into_iter()
}
