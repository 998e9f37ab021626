//! SIGINT and SIGTERM. The first one ends every command at once, except a training whose ranks have joined: that one
//! ends with a checkpoint after the step in progress. The second one always ends it at once.

use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use forebay_types::command::{StopSignal, on_stop_after};
use forebay_types::settings::TimeSpan;

use super::output::print_error;
use crate::process_group::StopRequest;

/// Exit code of a training that ended with a checkpoint because it was asked to stop. It is that of the jobs of `HTCondor`
/// which write checkpoints themselves, and Linux' ERESTART.
pub(crate) const STOPPED: u8 = 85;

/// Time to say why the process ends: standard error may be a pipe that nobody reads.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Time in which signals count as one, because a launcher passes on a signal that was sent to all processes.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// The training that a signal asks to stop, and the time that it has.
static TRAINING: Mutex<Option<(StopRequest, Duration)>> = Mutex::new(None);

const RESUME: &str = "--resume continues from the last checkpoint, if there is one";

/// Handles signals from now on.
pub(crate) fn handle_signals(trains: bool) -> std::io::Result<()> {
    let same = if trains { SAME_SIGNAL } else { Duration::ZERO };
    on_stop_after(same, None, move |signal| {
        let training = TRAINING.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((request, grace)) = training else {
            let advice = if trains { format!(": {RESUME}") } else { String::new() };
            exit(signal, format!("stopped by {signal}{advice}"))
        };
        request.ask();
        say(format!(
            "{signal}: a checkpoint follows the step in progress; a second signal ends it at once"
        ));
        std::thread::sleep(grace.saturating_sub(2 * LAST_WORDS));
        let grace = TimeSpan(grace);
        exit(signal, format!("stopped by {signal}: not done within --stop-grace {grace}; {RESUME}"))
    })
}

/// From now on, the first signal asks the ranks to stop. The process ends after `grace`, if it still runs then.
pub(crate) fn ask_at_signals(request: StopRequest, grace: Duration) {
    *TRAINING.lock().unwrap_or_else(PoisonError::into_inner) = Some((request, grace));
}

fn exit(signal: StopSignal, why: String) -> ! {
    say(why);
    signal.exit()
}

/// Says something on standard error, and waits for it only so long.
fn say(text: String) {
    let (done, said) = sync_channel(1);
    let print = move || {
        print_error(&anyhow!(text));
        done.send(()).ok();
    };
    if std::thread::Builder::new().name("last words".to_owned()).spawn(print).is_ok() {
        said.recv_timeout(LAST_WORDS).ok();
    }
}
