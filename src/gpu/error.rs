//! Errors of GPUs.

/// An error of a GPU. The operator of the machine can act on it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// This build does not have the feature `cuda`.
    #[error(
        "cuda:{device}: this forebay was built without CUDA; build it with `--features cuda`, or use --device cpu"
    )]
    NotBuilt {
        /// The number of the requested GPU.
        device: u32,
    },
    /// Libraries of CUDA are not installed, or cannot be used.
    #[error("cuda:{device}: {report}; or use --device cpu")]
    NoLibrary {
        /// The number of the requested GPU.
        device: u32,
        /// Which libraries, where they were looked for, and what to do.
        report: String,
    },
    /// The machine has no GPU with the requested number.
    #[error("cuda:{device}: {}, or use --device cpu", present(*count))]
    NoDevice {
        /// The number of the requested GPU.
        device: u32,
        /// The number of GPUs.
        count: u32,
    },
    /// A kernel does not compile for the GPU.
    #[error("cuda:{device}: {file} does not compile for this GPU: {log}")]
    Compile {
        /// The number of the GPU.
        device: u32,
        /// The source file.
        file: &'static str,
        /// The log of the compiler.
        log: String,
    },
    /// A call to the driver failed.
    #[error("cuda:{device}: {call} failed: {status}{}", remedy(status))]
    Driver {
        /// The number of the GPU.
        device: u32,
        /// The operation, such as `copying to the GPU`.
        call: &'static str,
        /// The driver's status, such as `CUDA_ERROR_OUT_OF_MEMORY`.
        status: String,
    },
    /// A sample and its mixing partner do not fit into the memory of a lane.
    #[error(
        "two samples need {need} bytes on the GPU, input and output, and a share of --device-bytes has {limit}; \
         raise --device-bytes to at least {}, or use a smaller image size or dtype", .need * 2
    )]
    Memory {
        /// The bytes of two samples, input and output.
        need: u64,
        /// The bytes of a lane.
        limit: u64,
    },
}

/// The GPUs of the machine, and what to do if the requested one is none of them.
fn present(count: u32) -> String {
    match count {
        0 => "the driver shows this process no GPU: run `nvidia-smi`, check CUDA_VISIBLE_DEVICES, and give a container \
              the GPU (--gpus all)"
            .to_owned(),
        1 => "the machine has one GPU: use cuda:0".to_owned(),
        count => format!("the machine has {count} GPUs: use cuda:0 to cuda:{}", count - 1),
    }
}

/// What to do about a status of the driver, where the status does not suggest it.
fn remedy(status: &str) -> &'static str {
    if status.starts_with("CUDA_ERROR_OUT_OF_MEMORY") {
        "; `nvidia-smi` shows what other processes use: end them, use another GPU, or request less by a smaller \
         microbatch (--batch, or more --microbatches), image size or model, or, when mixing, --device-bytes"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_there_is_answered_with_those_that_are() {
        let message = |count| DeviceError::NoDevice { device: 7, count }.to_string();
        assert!(message(0).contains("no GPU: run `nvidia-smi`"), "{}", message(0));
        assert_eq!(message(1), "cuda:7: the machine has one GPU: use cuda:0, or use --device cpu");
        assert!(message(4).contains("4 GPUs: use cuda:0 to cuda:3"), "{}", message(4));
    }

    #[test]
    fn memory_that_is_full_is_answered_with_what_needs_less() {
        let message = |status: &str| {
            let call = "allocating device memory";
            DeviceError::Driver { device: 0, call, status: status.to_owned() }.to_string()
        };
        for full in ["", ": 9 bytes are needed, and 5 are free"] {
            let full = message(&format!("CUDA_ERROR_OUT_OF_MEMORY{full}"));
            assert!(full.contains("nvidia-smi") && full.contains("--microbatches"), "{full}");
        }
        assert!(message("CUDA_ERROR_ILLEGAL_ADDRESS").ends_with("CUDA_ERROR_ILLEGAL_ADDRESS"));
    }
}
