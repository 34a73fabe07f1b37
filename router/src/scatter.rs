//! Batches: many jobs over many partitions, in parallel, one result each in the order of the request.
//!
//! Two writes of one key happen in the request's order. That must hold under retries too: if a first write
//! met a node that no longer leads while a second one, sent right behind it, met the new leader, then the
//! retry of the first would undo the second. So a key's second write is begun only when its first has been
//! decided: done, or refused by what the record was. After any other failure of the first the second is not begun at
//! all. If nothing is known of the first, it may still come after it; and if it certainly was not done, whoever sends it
//! again, as they may, would have it after the second. Writes of different keys wait for nothing.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use paddock_proto::v1::ErrorReason;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::errors::{Failure, WriteFate};
use crate::route::{Answer, Job, Place, Routes};

/// What became of one item.
pub type ItemResult = Result<Answer, Failure>;

/// How many reads of a batch are under way at first; each answer lets two more begin. So small records are soon
/// read all at once, while a batch that is refused for its weight has not asked for all of it.
const READS_AHEAD: usize = 64;

/// Does every read, each on its own. `count` looks at each answer as it comes; when it refuses one, the rest
/// is not waited for, and not begun.
///
/// # Errors
/// What `count` refused with.
pub async fn read_each(
    routes: &Arc<Routes>,
    jobs: Vec<Job>,
    deadline: Instant,
    mut count: impl FnMut(&Answer) -> Result<(), Failure>,
) -> Result<Vec<ItemResult>, Failure> {
    let mut results: Vec<Option<ItemResult>> = Vec::new();
    results.resize_with(jobs.len(), || None);
    let mut jobs = jobs.into_iter().enumerate();
    let mut tasks = JoinSet::new();
    let mut begin = |tasks: &mut JoinSet<_>, count| {
        for (index, job) in jobs.by_ref().take(count) {
            let routes = Arc::clone(routes);
            tasks.spawn(async move { (index, routes.perform(&job, deadline).await) });
        }
    };
    begin(&mut tasks, READS_AHEAD);
    while let Some(finished) = tasks.join_next().await {
        begin(&mut tasks, 2);
        let Ok((index, result)) = finished else { continue };
        if let Ok(answer) = &result {
            count(answer)?;
        }
        if let Some(place) = results.get_mut(index) {
            *place = Some(result);
        }
    }
    Ok(in_order(results))
}

/// Does every job; those of one key in their order.
pub async fn perform_in_key_order(
    routes: &Arc<Routes>,
    jobs: Vec<Job>,
    deadline: Instant,
) -> Vec<ItemResult> {
    let count = jobs.len();
    let mut chain_of: HashMap<Bytes, usize> = HashMap::with_capacity(count);
    let mut chains: Vec<Vec<(usize, Job)>> = Vec::with_capacity(count);
    for (index, job) in jobs.into_iter().enumerate() {
        let known = match &job.place {
            Place::Key(key) => Some(*chain_of.entry(key.clone()).or_insert(chains.len())),
            Place::Partition(_) => None,
        };
        match known.and_then(|chain| chains.get_mut(chain)) {
            Some(chain) => chain.push((index, job)),
            None => chains.push(vec![(index, job)]),
        }
    }
    perform_chains(routes, chains, count, deadline).await
}

/// Each chain is done in its order, all chains in parallel. When the caller goes away the tasks are
/// aborted, and with them whatever was not sent yet.
async fn perform_chains(
    routes: &Arc<Routes>,
    chains: Vec<Vec<(usize, Job)>>,
    count: usize,
    deadline: Instant,
) -> Vec<ItemResult> {
    let mut tasks = JoinSet::new();
    for chain in chains {
        tasks.spawn(perform_chain(Arc::clone(routes), chain, deadline));
    }
    let mut results: Vec<Option<ItemResult>> = Vec::new();
    results.resize_with(count, || None);
    while let Some(finished) = tasks.join_next().await {
        for (index, result) in finished.unwrap_or_default() {
            if let Some(place) = results.get_mut(index) {
                *place = Some(result);
            }
        }
    }
    in_order(results)
}

/// Every item's result; one whose task ended without it has a defect in its place.
fn in_order(results: Vec<Option<ItemResult>>) -> Vec<ItemResult> {
    results.into_iter().map(|result| result.unwrap_or_else(|| Err(defect()))).collect()
}

async fn perform_chain(
    routes: Arc<Routes>,
    chain: Vec<(usize, Job)>,
    deadline: Instant,
) -> Vec<(usize, ItemResult)> {
    let mut results = Vec::with_capacity(chain.len());
    let mut undecided = None;
    for (index, job) in chain {
        let result = match undecided {
            Some((earlier, fate)) => Err(not_begun(earlier, fate)),
            None => routes.perform(&job, deadline).await,
        };
        if let Err(failure) = &result
            && undecided.is_none()
            && !failure.is_of_record()
        {
            undecided = Some((index, failure.write_fate));
        }
        results.push((index, result));
    }
    results
}

fn not_begun(earlier: usize, fate: Option<WriteFate>) -> Failure {
    let why = match fate {
        Some(WriteFate::NotApplied) => "was not done, and is to be sent again before this one",
        _ => "is of unknown outcome, and may still happen",
    };
    let message = format!("not begun: item {earlier}, which writes the same key, {why}");
    Failure::new(ErrorReason::PartitionUnavailable, message).of_write(WriteFate::NotApplied)
}

/// A task that ended without its results: it panicked.
fn defect() -> Failure {
    Failure::new(ErrorReason::Internal, "a defect of the router: an item's task ended without a result")
        .of_write(WriteFate::Unknown)
}
