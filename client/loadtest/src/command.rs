//! The `forebay-loadtest` command line.

use std::ffi::OsString;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use forebay_types::command::{StopSignal, log_to_stderr, on_stop, print_error};
use tokio::runtime::Runtime;

use crate::arguments::Arguments;
use crate::error::Error;
use crate::options::Options;
use crate::slo::Slo;

/// Exit codes, documented in `--help`.
const SUCCESS: u8 = 0;
const VIOLATIONS: u8 = 1;
const INVALID_ARGUMENTS: u8 = 2;
const OBJECTIVE_MISSED: u8 = 3;
const NOT_RUN: u8 = 4;

/// Time after the first signal in which the run ends and the report is printed.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The options of the output.
struct Output {
    json: bool,
    folder: Option<std::path::PathBuf>,
    slo: Slo,
    allowed_violations: u64,
}

/// Runs the command line and returns its exit code. Errors go to standard error.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    log_to_stderr("warn", false);
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Printing fails only when the output is closed, and then nobody reads the error.
            error.print().ok();
            return u8::try_from(error.exit_code()).unwrap_or(INVALID_ARGUMENTS);
        }
    };
    let output = Output {
        json: arguments.json,
        folder: arguments.report.clone(),
        slo: arguments.slo(),
        allowed_violations: arguments.slo_violations.get(),
    };
    let options = match arguments.options() {
        Ok(options) => options,
        Err(error) => {
            print_error("forebay-loadtest", &*error);
            return INVALID_ARGUMENTS;
        }
    };
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error("forebay-loadtest", &error);
            return NOT_RUN;
        }
    };
    let stopped = Arc::new(OnceLock::new());
    match runtime.block_on(run(options, output, &stopped)) {
        Ok(code) => code,
        Err(error) => {
            print_error("forebay-loadtest", &*error);
            let signal =
                stopped.get().filter(|_| matches!(error.downcast_ref(), Some(Error::Interrupted)));
            signal.map_or(NOT_RUN, |signal| signal.exit_code())
        }
    }
}

/// Runs the load test. The first signal ends it early; it is stored in `stopped`.
async fn run(
    options: Options,
    output: Output,
    stopped: &Arc<OnceLock<StopSignal>>,
) -> anyhow::Result<u8> {
    // Before the first request, so that a signal is honored from then on.
    let (interrupt, stopped) = (options.interrupt.clone(), Arc::clone(stopped));
    on_stop(Some(STOP_GRACE), move |signal| {
        stopped.get_or_init(|| signal);
        interrupt.set();
    })?;
    if let Some(folder) = &output.folder {
        let cannot = || format!("cannot create the folder of --report, {}", folder.display());
        std::fs::create_dir_all(folder).with_context(cannot)?;
    }
    let mut report = crate::run::run(options).await?;
    report.judge(&output.slo);
    let text =
        if output.json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
    // Each is written whether or not the other one can be: a test may have taken hours.
    let printed = std::io::stdout().write_all(text.as_bytes());
    output.folder.map_or(Ok(()), |folder| report.write(&folder))?;
    printed.context("cannot write to standard output")?;
    Ok(if report.violation_count > output.allowed_violations {
        VIOLATIONS
    } else if report.slo_missed.is_empty() {
        SUCCESS
    } else {
        OBJECTIVE_MISSED
    })
}
