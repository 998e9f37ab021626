//! Starts a program with each of its flags at the ends of its range. It refuses the value with a sentence, or
//! works and ends when it is told to; it never panics.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread::{Builder, scope, sleep};
use std::time::{Duration, Instant};

/// Time that a program which accepted a value may run.
const RUN: Duration = Duration::from_secs(2);

/// Bound that only a hang exceeds.
const HANG: Duration = Duration::from_mins(5);

/// Programs that run at the same time.
const THREADS: usize = 3;

/// Tries every flag that the help of a program lists.
///
/// # Panics
/// If the program panics, ends by a signal or hangs.
pub(crate) fn every_flag(program: impl Fn(&[String]) -> Command + Sync) {
    let help = program(&["--help".to_owned()]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let flags: BTreeSet<(&str, &str)> = help
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let flag = words.next().filter(|word| word.starts_with("--"))?;
            Some((flag, words.next()?.strip_prefix('<')?.strip_suffix('>')?))
        })
        .collect();
    assert!(flags.len() > 10, "{help}");
    let left = Mutex::new(flags.into_iter());
    scope(|scope| {
        for _ in 0..THREADS {
            let work = || {
                loop {
                    let next = left.lock().unwrap().next();
                    let Some((flag, kind)) = next else { return };
                    try_flag(&program, flag, kind);
                }
            };
            Builder::new().spawn_scoped(scope, work).unwrap();
        }
    });
}

fn try_flag(program: &impl Fn(&[String]) -> Command, flag: &str, kind: &str) {
    let values: &[&str] = match kind {
        "TIME" => &["0", "1ns", "36600d"],
        "SIZE" => &["0", "1", "16777215TiB"],
        _ => &["0", "1", "18446744073709551615"],
    };
    for value in values {
        let said = run(program, flag, value);
        // The largest number is the one that the refusal of a larger one names.
        let range = said
            .split_once("expected a number from ")
            .and_then(|(_, range)| range.split_once(" to "));
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        if let Some((_, max)) = range {
            run(program, flag, &digits(max));
        }
    }
}

/// Runs the program. Returns its standard error.
fn run(program: &impl Fn(&[String]) -> Command, flag: &str, value: &str) -> String {
    let mut command = program(&[format!("{flag}={value}")]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let read = move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    };
    let reader = Builder::new().spawn(read).unwrap();
    let (begin, mut is_told) = (Instant::now(), false);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > RUN && !is_told {
            let id = child.id().to_string();
            is_told = Command::new("kill").args(["-TERM", &id]).status().unwrap().success();
        }
        if begin.elapsed() > HANG {
            child.kill().unwrap();
            panic!("{flag}={value}: it does not end");
        }
        sleep(Duration::from_millis(20));
    };
    let said = reader.join().unwrap();
    // On a busy machine the signal may come before the program handles it.
    let before_it_began = is_told && status.signal() == Some(15);
    let ended =
        before_it_began || status.code().is_some_and(|code| code <= 4 || [85, 143].contains(&code));
    assert!(ended && !said.contains("panicked"), "{flag}={value}: {status}: {said}");
    said
}
