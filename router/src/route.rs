//! [`Routes`]: gets one operation done, wherever the cluster says that it belongs.
//!
//! key → slot → partition → leader, by the view in force. Strong reads, writes and range reads go to the
//! leader; other reads are spread over the in-sync replicas that can be reached, to whichever has the least to do of
//! what this router sent. One that is not fresh enough for a read sends it on: to the leader, and then around again. What certainly was not done is tried again until the deadline: at the leader that a NOT_LEADER
//! names (if the view knows that node as live), else after the next change of the view or a short pause.
//!
//! A write whose outcome is unknown is tried again only if it carries a request id: the partition then answers with
//! the first result if there is one. Without an id it would be done twice; its failure says that nothing is known. So
//! does the failure of a write with an id, if an earlier attempt may have done it and no later one could tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use paddock_coordination::slots::Slot;
use paddock_coordination::{Member, NodeId, PartitionId};
use paddock_proto::v1::{self, ErrorReason, Outcome, SessionPosition, operation, outcome};
use tokio::time::{Instant, sleep_until};

use crate::errors::{Failure, WriteFate};
use crate::link::LinkError;
use crate::map::{View, Views};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::recovery;
use crate::session::Session;

/// The pause before the first retry that has nothing better to wait for; it doubles from there.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// So many NOT_LEADER hints are followed in a row without a pause: two nodes that name each other must not
/// make us spin.
const HINTS_IN_A_ROW_MAX: u32 = 3;

/// Where an operation belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// With the partition that holds the key's slot.
    Key(Bytes),
    /// With this partition.
    Partition(PartitionId),
}

/// Who may do an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The leader only.
    Leader,
    /// Any in-sync replica that can be reached.
    AnyReplica,
}

/// One operation to get done.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where it belongs.
    pub place: Place,
    /// Who may do it.
    pub server: Server,
    /// For a session's read: what the session has seen.
    pub session: Option<Arc<Session>>,
    /// What is to be done, in the exchange's words: the router passes it on as it is.
    pub kind: operation::Kind,
}

impl Job {
    /// True if doing it twice would not be the same as doing it once.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self.kind, operation::Kind::Write(_))
    }

    /// True if it may be sent again although it may have been done: a read, or a write with a request id.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        match &self.kind {
            operation::Kind::Write(mutation) => !mutation.request_id.is_empty(),
            _ => true,
        }
    }
}

/// An operation that was done, or at least answered without failure.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What came of it.
    pub outcome: outcome::Kind,
    /// The partition.
    pub partition: PartitionId,
    /// The epoch of the leader that the answering replica followed, or led in.
    pub leader_epoch: u64,
    /// Who answered.
    pub served_by: NodeId,
    /// What was applied there.
    pub position: Option<SessionPosition>,
}

/// How an attempt failed.
enum Setback {
    /// For good.
    Final(Failure),
    /// It may be tried again, perhaps at the leader that was named. Unless `may_be_done`, it certainly changed nothing.
    /// `behind`: a replica was asked that is not fresh enough.
    Again { why: String, leader: Option<NodeId>, may_be_done: bool, behind: bool },
}

impl Setback {
    /// It certainly changed nothing.
    fn nothing_done(why: String) -> Self {
        Setback::Again { why, leader: None, may_be_done: false, behind: false }
    }

    /// A failure that tells something of a record also tells how far the partition was, and one that tells a time whose it
    /// is.
    fn seen_at(self, partition: PartitionId, position: Option<SessionPosition>) -> Self {
        match (self, position) {
            (Setback::Final(failure), _) if failure.is_of_time() => {
                Setback::Final(failure.with("partition_id", &partition.0))
            }
            (Setback::Final(failure), Some(position)) if failure.is_of_record() => {
                Setback::Final(failure.seen_at(&Session::at(partition, position)))
            }
            (setback, _) => setback,
        }
    }

    /// It may have been done, and may be sent again all the same.
    fn perhaps_done(why: String) -> Self {
        Setback::Again { why, leader: None, may_be_done: true, behind: false }
    }
}

/// The way to the partitions.
pub struct Routes {
    views: Arc<Views>,
    metrics: Arc<Metrics>,
    /// Spreads reads that any replica may answer.
    turn: AtomicUsize,
}

impl Routes {
    /// By these views.
    #[must_use]
    pub fn new(views: Arc<Views>, metrics: Arc<Metrics>) -> Self {
        Routes { views, metrics, turn: AtomicUsize::new(0) }
    }

    /// The views.
    #[must_use]
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// Gets an operation done before the deadline.
    ///
    /// # Errors
    /// Why it was not done, or (for a write) that nothing is known of it.
    pub async fn perform(&self, job: &Job, deadline: Instant) -> Result<Answer, Failure> {
        let mut named_leader = None;
        let mut hints_in_a_row = 0;
        let mut attempts = 0_u32;
        let mut pause = PAUSE_MIN;
        let mut perhaps_done = false;
        // Why the last replica that was asked was not fresh enough.
        let mut behind_why: Option<String> = None;
        loop {
            // Before the view is loaded, so that no change is missed.
            let seen = self.views.bell().seen();
            let view = self.views.load();
            let (why, leader) = match self.attempt(&view, job, named_leader.take(), attempts, deadline).await
            {
                Ok(answer) => return Ok(answer),
                Err(Setback::Final(failure)) => {
                    let expired = failure.reason == ErrorReason::DeadlineExceeded;
                    return Err(match behind_why {
                        Some(why) if expired => not_fresh(&why),
                        _ => after_attempts(failure, perhaps_done),
                    });
                }
                Err(Setback::Again { why, leader, may_be_done, behind }) => {
                    perhaps_done |= may_be_done && job.is_write();
                    if behind {
                        behind_why = Some(why.clone());
                    }
                    (why, leader)
                }
            };
            attempts = attempts.saturating_add(1);
            if Instant::now() >= deadline {
                return Err(expired_between_attempts(job, &why, perhaps_done, behind_why.as_deref()));
            }
            self.metrics.forward_retries.inc();
            if leader.is_some() && hints_in_a_row < HINTS_IN_A_ROW_MAX {
                hints_in_a_row += 1;
                named_leader = leader;
                continue;
            }
            hints_in_a_row = 0;
            tokio::select! {
                () = self.views.bell().rung_since(seen) => {}
                () = sleep_until(deadline.min(Instant::now() + pause)) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
            if Instant::now() >= deadline {
                return Err(expired_between_attempts(job, &why, perhaps_done, behind_why.as_deref()));
            }
        }
    }

    async fn attempt(
        &self,
        view: &View,
        job: &Job,
        named_leader: Option<NodeId>,
        attempts: u32,
        deadline: Instant,
    ) -> Result<Answer, Setback> {
        let partition = partition_of(view, &job.place)?;
        let node = self.choose(view, job.server, partition, named_leader, attempts)?;
        let performing = node.link(partition).perform(partition, kind_for(view, job, partition)?, deadline);
        let performed = if !job.is_repeatable() {
            performing.await
        } else {
            tokio::select! {
                biased;
                performed = performing => performed,
                () = self.leader_changes(view.leader(partition), partition, node.id()) => {
                    let why = format!("partition {partition}: node {} no longer leads", node.id());
                    return Err(Setback::perhaps_done(why));
                }
            }
        };
        let Outcome { leader_epoch, kind, position, .. } =
            performed.map_err(|error| after_link_error(job, &error))?;
        match kind {
            Some(outcome::Kind::Failure(failure)) => {
                let setback = after_failure(&self.views.load(), job, node.id(), failure, leader_epoch);
                Err(setback.seen_at(partition, position))
            }
            Some(outcome) => Ok(Answer { outcome, partition, leader_epoch, served_by: node.id(), position }),
            None => Err(Setback::Final(nonsense(job, node.id()))),
        }
    }

    /// Resolves when the map names another leader than it did, and not the node that is being asked: a read
    /// need not wait for a node that stalled after all others went on, nor need a write with a request id. (Another write
    /// must: it may have happened.)
    async fn leader_changes(&self, before: Option<Member>, partition: PartitionId, asked: NodeId) {
        loop {
            let seen = self.views.bell().seen();
            let leader = self.views.load().leader(partition);
            if leader != before && leader.is_some_and(|leader| leader.node != asked) {
                return;
            }
            self.views.bell().rung_since(seen).await;
        }
    }

    /// Whom to ask: only who is in the view.
    fn choose<'view>(
        &self,
        view: &'view View,
        server: Server,
        partition: PartitionId,
        named_leader: Option<NodeId>,
        attempts: u32,
    ) -> Result<&'view Arc<Node>, Setback> {
        // Whoever let us down is not asked again at once: the leader is, and then around again.
        if server == Server::AnyReplica {
            let leader = view.leader(partition).and_then(|leader| view.nodes.get(&leader.node));
            let leader = leader.filter(|node| node.link(partition).is_up());
            let any = || self.choose_any(view, partition);
            let chosen = if attempts.is_multiple_of(2) { any().or(leader) } else { leader.or_else(any) };
            if let Some(node) = chosen {
                return Ok(node);
            }
        }
        let again = Setback::nothing_done;
        if let Some(node) = named_leader.and_then(|named| view.nodes.get(&named)) {
            return Ok(node);
        }
        let nobody = |what: String| again(recovery::offline_by_map(view, partition).unwrap_or(what));
        let leader =
            view.leader(partition).ok_or_else(|| nobody(format!("partition {partition} has no leader")))?;
        view.nodes.get(&leader.node).ok_or_else(|| {
            nobody(format!(
                "partition {partition}: its leader, node {}, is not registered as live",
                leader.node
            ))
        })
    }

    /// The in-sync replica that can be reached and has the least to do; of several, each in its turn.
    fn choose_any<'view>(&self, view: &'view View, partition: PartitionId) -> Option<&'view Arc<Node>> {
        let state = &view.map.partitions.get(&partition)?.state;
        let replicas: Vec<&Arc<Node>> = state
            .in_sync
            .iter()
            .filter_map(|member| view.nodes.get(&member.node))
            .filter(|node| node.link(partition).is_up())
            .collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(replicas.len())?;
        let (before, from_turn) = replicas.split_at_checked(turn)?;
        let in_turn = from_turn.iter().chain(before);
        in_turn.min_by_key(|node| node.link(partition).under_way()).copied()
    }
}

/// What a partition server is asked: of a session's token it needs what concerns it.
fn kind_for(view: &View, job: &Job, partition: PartitionId) -> Result<operation::Kind, Setback> {
    let mut kind = job.kind.clone();
    if let (operation::Kind::Read(read), Some(session)) = (&mut kind, &job.session) {
        if let Some(unknown) = session.partitions().find(|seen| !view.map.partitions.contains_key(seen)) {
            let message =
                format!("the session token names partition {unknown}, which the cluster does not have");
            return Err(Setback::Final(Failure::new(ErrorReason::SessionTokenInvalid, message)));
        }
        read.at_least = session.position(partition).cloned();
    }
    Ok(kind)
}

/// The partition of a place, by the view.
fn partition_of(view: &View, place: &Place) -> Result<PartitionId, Setback> {
    match place {
        Place::Partition(partition) => Ok(*partition),
        Place::Key(key) => {
            view.map.slots.as_ref().and_then(|slots| slots.lookup(Slot::of(key))).ok_or_else(|| {
                let why = view.refusal.clone();
                Setback::nothing_done(
                    why.unwrap_or_else(|| "the cluster's partitions are not placed yet".to_owned()),
                )
            })
        }
    }
}

/// What a link's error means for a job.
fn after_link_error(job: &Job, error: &LinkError) -> Setback {
    let is_write = job.is_write();
    let of_job = |failure: Failure, fate| if is_write { failure.of_write(fate) } else { failure };
    match error {
        LinkError::NotSent(why) => Setback::nothing_done(why.to_string()),
        LinkError::Lost(why) if job.is_repeatable() => Setback::perhaps_done(why.to_string()),
        LinkError::Lost(why) => Setback::Final(
            Failure::new(
                ErrorReason::ConnectionLostUnknownOutcome,
                format!("the write may have happened, or may still: {why}"),
            )
            .of_write(WriteFate::Unknown),
        ),
        LinkError::Overloaded { .. } => Setback::Final(of_job(
            Failure::new(ErrorReason::Overloaded, error.to_string()),
            WriteFate::NotApplied,
        )),
        LinkError::Expired { handed: true } if is_write => Setback::Final(
            Failure::new(
                ErrorReason::DeadlineExceeded,
                "the deadline passed while the write was under way: it may have happened, or may still",
            )
            .of_write(WriteFate::Unknown),
        ),
        LinkError::Expired { handed } => {
            let message = if *handed {
                "the deadline passed while the partition server was at it"
            } else {
                "the deadline passed before the operation could be sent"
            };
            Setback::Final(of_job(
                Failure::new(ErrorReason::DeadlineExceeded, message),
                WriteFate::NotApplied,
            ))
        }
    }
}

/// What a partition server's failure means for a job. `view` is the present one.
fn after_failure(
    view: &View,
    job: &Job,
    answered_by: NodeId,
    failure: v1::Failure,
    leader_epoch: u64,
) -> Setback {
    let reason = failure.reason();
    let may_have_happened = job.is_write() && failure.outcome_unknown;
    let elsewhere_or_later = match reason {
        ErrorReason::NotLeader
        | ErrorReason::PartitionUnavailable
        | ErrorReason::ReplicaBehind
        | ErrorReason::WrongNode => true,
        ErrorReason::LeaderChangedUnknownOutcome | ErrorReason::ConnectionLostUnknownOutcome => {
            job.is_repeatable()
        }
        _ => false,
    };
    if (may_have_happened && !job.is_repeatable()) || !elsewhere_or_later {
        return Setback::Final(Failure::from_partition(failure, leader_epoch, job.is_write()));
    }
    let leader = failure
        .leader_node_id
        .parse::<NodeId>()
        .ok()
        .filter(|leader| *leader != answered_by && view.nodes.contains_key(leader));
    let why = format!("node {answered_by} answered: {}", failure.message);
    let behind = reason == ErrorReason::ReplicaBehind;
    // Asked at once, and not after a pause: it has what a follower lacks.
    let leader = match partition_of(view, &job.place) {
        Ok(partition) if behind => view.leader(partition).map(|leader| leader.node),
        _ => leader,
    };
    let leader = leader.filter(|leader| *leader != answered_by);
    Setback::Again { why, leader, may_be_done: may_have_happened, behind }
}

/// For an outcome that says nothing.
fn nonsense(job: &Job, node: NodeId) -> Failure {
    let failure = Failure::new(
        ErrorReason::Internal,
        format!("node {node} sent an outcome that this router cannot read"),
    );
    if job.is_write() { failure.of_write(WriteFate::Unknown) } else { failure }
}

/// The failure of a job, when an earlier attempt may have done it: what the last one says of itself does not hold for
/// the job then, unless it tells what the request id's first result was.
fn after_attempts(failure: Failure, perhaps_done: bool) -> Failure {
    if perhaps_done { failure.perhaps_done_before() } else { failure }
}

/// No replica that was asked before the deadline was fresh enough.
fn not_fresh(why: &str) -> Failure {
    let message = format!("no replica was fresh enough before the deadline: {why}");
    Failure::new(ErrorReason::ReplicaBehind, message)
}

/// The deadline passed before another attempt.
fn expired_between_attempts(job: &Job, why: &str, perhaps_done: bool, behind_why: Option<&str>) -> Failure {
    if let Some(why) = behind_why {
        return not_fresh(why);
    }
    let what = if perhaps_done { "the write may have happened, or may still" } else { "nothing was done" };
    let failure = Failure::new(ErrorReason::DeadlineExceeded, format!("the deadline passed, {what}: {why}"));
    match (job.is_write(), perhaps_done) {
        (false, _) => failure,
        (true, false) => failure.of_write(WriteFate::NotApplied),
        (true, true) => failure.of_write(WriteFate::Unknown),
    }
}
