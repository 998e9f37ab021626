//! The digests of an undisturbed run: of one calm server, or kept in a file.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_client::{Client, Cursor, Description, End, Job, MicrobatchName, Rank};
use indicatif::ProgressBar;

use crate::Error;
use crate::check::{Digests, mark};

/// Reads so many steps alone.
pub(crate) async fn read_calmly(
    client: &Client,
    job: &Job,
    from: Cursor,
    steps: u64,
    (bar, interrupt): (&ProgressBar, &AtomicBool),
) -> Result<Digests, forebay_client::Error> {
    let mut digests = Digests::new();
    let mut stream = client.stream(job, from, End::Steps(steps), Rank::SINGLE).await?;
    while let Some(microbatch) = stream.next().await {
        let microbatch = microbatch?;
        digests.insert(microbatch.name, mark(&microbatch));
        bar.inc(microbatch.records.len() as u64);
        if interrupt.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(digests)
}

/// What a file's digests belong to: its first line.
fn heading(job: &Job, description: &Description) -> String {
    let Description { dataset_digest, recipe_digest, .. } = description;
    format!("# dataset {dataset_digest}, recipe {recipe_digest}, seed {}", job.seed)
}

/// The digests in a file; none: there is no file.
pub(crate) fn load(
    file: &Path,
    job: &Job,
    description: &Description,
) -> Result<Option<Digests>, Error> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file(file, &error)),
    };
    let mut lines = text.lines();
    let heading = heading(job, description);
    let found = lines.next().unwrap_or_default();
    if found != heading {
        return Err(Error::file(file, &format!("is of another job: {found}, not {heading}")));
    }
    let digests = lines.map(|line| parse(line, job.seed)).collect::<Option<Digests>>();
    digests.map(Some).ok_or_else(|| Error::file(file, &"holds a line that is no digest"))
}

fn parse(line: &str, seed: u64) -> Option<(MicrobatchName, u64)> {
    let mut words = line.split_whitespace();
    let mut number = || words.next()?.parse().ok();
    let (epoch, step, index) = (number()?, number()?, number()?);
    let mark = u64::from_str_radix(words.next()?, 16).ok()?;
    let index = u32::try_from(index).ok()?;
    Some((MicrobatchName { seed, epoch, step, index }, mark))
}

/// Writes them, a line a microbatch: epoch, step, microbatch, digest.
pub(crate) fn keep(
    file: &Path,
    job: &Job,
    description: &Description,
    digests: &Digests,
) -> Result<(), Error> {
    let mut text = heading(job, description) + "\n";
    for (MicrobatchName { epoch, step, index, .. }, mark) in digests {
        // Writing to a string cannot fail.
        writeln!(text, "{epoch} {step} {index} {mark:016x}").ok();
    }
    std::fs::write(file, text).map_err(|error| Error::file(file, &error))
}
