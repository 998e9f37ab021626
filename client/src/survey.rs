//! The description that most servers agree on.
//!
//! A job without expected digests takes those of the majority of the servers and not of the first to
//! answer, so that one server with outdated data is excluded instead of all others.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::description::Description;
use crate::error::Cause;
use crate::fleet::job_servers::JobServers;
use crate::fleet::members::Member;
use crate::job::Job;
use crate::notice::warn_if_silent;
use crate::unary::Unary;

/// Longest wait for the other servers after the first description.
const WAIT_AFTER_FIRST: Duration = Duration::from_secs(2);

/// Asks all servers if there are several. Returns the description of the majority of those that
/// answer in time, and excludes the others.
pub(crate) async fn survey(calls: &Unary, job: &Job, servers: &JobServers) -> Option<Description> {
    let members = servers.members();
    if members.len() < 2 {
        return None;
    }
    let answers = descriptions(calls, job, members).await;
    let votes = |of: &Description| answers.iter().filter(|(_, by)| agree(of, by)).count();
    // Of equally frequent ones the first by name, so that all ranks choose the same.
    let (_, chosen) = answers.iter().rev().max_by_key(|(_, description)| votes(description))?;
    for (member, found) in answers.iter().filter(|(_, found)| !agree(chosen, found)) {
        let (what, expected, found) = if found.dataset_digest == chosen.dataset_digest {
            ("recipe", chosen.recipe_digest, found.recipe_digest)
        } else {
            ("dataset", chosen.dataset_digest, found.dataset_digest)
        };
        let cause = Cause::Mismatch { what, expected, found };
        servers.exclude(member, &cause);
        servers.log_exclusion(member, &cause);
    }
    Some(chosen.clone())
}

fn agree(one: &Description, other: &Description) -> bool {
    one.dataset_digest == other.dataset_digest && one.recipe_digest == other.recipe_digest
}

/// The descriptions of the servers that answer in time, sorted by name.
async fn descriptions(
    calls: &Unary,
    job: &Job,
    members: Vec<Arc<Member>>,
) -> Vec<(Arc<Member>, Description)> {
    let mut tasks = JoinSet::new();
    for member in members {
        let (calls, job) = (calls.clone(), job.clone());
        tasks.spawn(async move {
            let request = format!("description of {}", job.title());
            let description = calls.describe(&job, Arc::clone(&member));
            let answer = warn_if_silent((member.name(), &request), ready(()), description).await;
            answer.ok().map(|description| (member, description))
        });
    }
    let mut answers: Vec<(Arc<Member>, Description)> = Vec::new();
    let mut end = None;
    loop {
        let next = async {
            match end {
                Some(end) => timeout_at(end, tasks.join_next()).await.ok().flatten(),
                None => tasks.join_next().await,
            }
        };
        let Some(answer) = next.await else { break };
        answers.extend(answer.ok().flatten());
        if !answers.is_empty() {
            end = end.or_else(|| Some(Instant::now() + WAIT_AFTER_FIRST));
        }
    }
    answers.sort_by(|(one, _), (other, _)| one.name().cmp(other.name()));
    answers
}
