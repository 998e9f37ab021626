//! The digests of an undisturbed run, from a server without faults or from a file.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

use forebay_client::{Client, Cursor, Description, End, Job, MicrobatchName, Rank};
use forebay_types::file;
use indicatif::ProgressBar;

use crate::check::{Digests, digest};
use crate::error::Error;
use crate::sync::Interrupt;

/// Reads a number of steps by a single trainer. Ends early if interrupted.
pub(crate) async fn read(
    client: &Client,
    job: &Job,
    from: Cursor,
    steps: u64,
    (bar, interrupt): (&ProgressBar, &Interrupt),
) -> Result<Digests, forebay_client::Error> {
    let mut digests = Digests::new();
    let mut stream = tokio::select! {
        stream = client.stream(job, from, End::Steps(steps), Rank::SINGLE) => stream?,
        () = interrupt.wait() => return Ok(digests),
    };
    loop {
        let microbatch = tokio::select! {
            microbatch = stream.next() => microbatch,
            () = interrupt.wait() => None,
        };
        let Some(microbatch) = microbatch.transpose()? else { return Ok(digests) };
        digests.insert(microbatch.name, digest(&microbatch));
        bar.inc(microbatch.records.len() as u64);
    }
}

/// The first line of a file, which says what its digests belong to.
fn heading(job: &Job, description: &Description) -> String {
    let Description { dataset_digest, recipe_digest, .. } = description;
    format!("# dataset {dataset_digest}, recipe {recipe_digest}, seed {}", job.seed)
}

/// Largest file of digests: ten million of them.
const MAX_FILE: u64 = 1 << 30;

/// Reads the digests of a file; `None` if it does not exist.
pub(crate) fn load(
    file: &Path,
    job: &Job,
    description: &Description,
) -> Result<Option<Digests>, Error> {
    let text = match file::read_to_string(file, MAX_FILE) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && has_folder(file) => return Ok(None),
        Err(error) => return Err(Error::file(file, &error)),
    };
    let mut lines = text.lines();
    let heading = heading(job, description);
    let found = lines.next().unwrap_or_default();
    if found != heading {
        return Err(Error::file(
            file,
            &format!(
                "belongs to another job: {found}, expected {heading}; remove it, or set --digests to another file"
            ),
        ));
    }
    let digests = lines.map(|line| parse(line, job.seed)).collect::<Option<Digests>>();
    digests.map(Some).ok_or_else(|| {
        Error::file(file, &"contains an invalid line: expected epoch, step, microbatch and digest; remove the file")
    })
}

/// Whether a file can be created as far as its folder is concerned: better known before a run than after it.
fn has_folder(file: &Path) -> bool {
    file.parent().is_none_or(|folder| folder.as_os_str().is_empty() || folder.is_dir())
}

fn parse(line: &str, seed: u64) -> Option<(MicrobatchName, u64)> {
    let mut words = line.split_whitespace();
    let mut number = || words.next()?.parse().ok();
    let (epoch, step, index) = (number()?, number()?, number()?);
    let digest = u64::from_str_radix(words.next()?, 16).ok()?;
    let index = u32::try_from(index).ok()?;
    Some((MicrobatchName { seed, epoch, step, index }, digest))
}

/// Writes digests to a file, one microbatch per line: epoch, step, microbatch, digest.
pub(crate) fn save(
    file: &Path,
    job: &Job,
    description: &Description,
    digests: &Digests,
) -> Result<(), Error> {
    let mut text = heading(job, description) + "\n";
    for (MicrobatchName { epoch, step, index, .. }, digest) in digests {
        writeln!(text, "{epoch} {step} {index} {digest:016x}").ok();
    }
    std::fs::write(file, text).map_err(|error| Error::file(file, &error))
}
