//! How a node gives up what it leads: for one partition when it is told to, or when its replicas are to be on other
//! nodes; for all of them while it is drained or before it stops.
//!
//! A node that stops leaves in three steps, so that nobody who uses the cluster notices. It hands over what it
//! leads. Then it has the leaders of its other partitions take it out of their in-sync sets, so that no write waits for it
//! when it is gone: it says that it leaves with every grant. Then it leaves the list of live nodes, and waits until the
//! routers, who see that, have closed their streams: whatever they had sent was answered by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use paddock_coordination::cluster_map::ClusterMap;
use paddock_coordination::{NodeId, PartitionId, placement};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Host, Hosted};
use crate::clock;
use crate::replica::{Event, RoleName};
use crate::transfer::{TransferError, TransferRequest, Transferred};

/// Within this time a leader releases its target, or goes on.
const TRANSFER_WITHIN: Duration = Duration::from_millis(1_000);
/// How long beyond that the end of a hand-over is waited for.
const TRANSFER_GRACE: Duration = Duration::from_millis(2_000);
/// How long a node that stops tries to hand over what it leads.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before a hand-over that failed is tried again by a node that stops.
const HAND_OVER_RETRY: Duration = Duration::from_millis(100);
/// How long a node that stops waits until other leaders go on without it.
const RELIEF_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it looks.
const RELIEF_POLL: Duration = Duration::from_millis(5);
/// How long a node that stops waits until the routers have closed their streams.
const ROUTERS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a node that has something to hand over looks whether it still leads that.
const DRAINED_INTERVAL: Duration = Duration::from_millis(500);
/// The same where nobody is there to hand over to.
const DRAINED_ALONE_INTERVAL: Duration = Duration::from_secs(5);

/// What a node is not to lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Duties {
    /// Anything.
    drained: bool,
    /// These partitions, whose replicas are to be on other nodes; and who is to lead them.
    elsewhere: BTreeMap<PartitionId, NodeId>,
}

/// An open stream of operations; dropped when it ends.
pub struct OpenExchange {
    count: watch::Sender<usize>,
}

impl Drop for OpenExchange {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Host {
    /// Hands a partition that this node leads over, to a node or to the best one.
    ///
    /// # Errors
    /// Why it did not come about.
    pub async fn transfer(
        &self,
        partition: PartitionId,
        to: Option<NodeId>,
    ) -> Result<Transferred, TransferError> {
        let hosted = self.replicas.load().get(&partition).cloned().ok_or(TransferError::Stopped)?;
        let within_ms = u64::try_from(TRANSFER_WITHIN.as_millis()).unwrap_or(u64::MAX);
        let deadline = clock::now().plus_ms(within_ms);
        let (request, answer) = TransferRequest::new(to, deadline);
        hosted.inbox.transfer(request);
        match timeout(TRANSFER_WITHIN + TRANSFER_GRACE, answer).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => Err(TransferError::Stopped),
            Err(_) => Err(TransferError::TimedOut),
        }
    }

    /// True from when the node begins to leave.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Counts a stream of operations for as long as the guard lives.
    #[must_use]
    pub fn exchange_opened(&self) -> OpenExchange {
        self.exchanges.send_modify(|count| *count += 1);
        OpenExchange { count: self.exchanges.clone() }
    }

    /// Hands over what this node leads, and has other leaders go on without it; as far as that works out in time.
    pub async fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        for hosted in self.replicas.load().values() {
            hosted.inbox.control(Event::Leave);
        }
        let deadline = Instant::now() + HAND_OVER_TIMEOUT;
        let mut hopeless = BTreeSet::new();
        loop {
            let leading: Vec<_> = self.leading().filter(|partition| !hopeless.contains(partition)).collect();
            if leading.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                warn!(?leading, "stopping without having handed these over");
                break;
            }
            hopeless.extend(self.hand_over(leading).await);
            if self.leading().any(|partition| !hopeless.contains(&partition)) {
                sleep(HAND_OVER_RETRY).await;
            }
        }
        let relieved = async {
            while self.replicas.load().values().any(|hosted| self.is_waited_for(hosted)) {
                sleep(RELIEF_POLL).await;
            }
        };
        if timeout(RELIEF_TIMEOUT, relieved).await.is_err() {
            warn!("stopping while other leaders still count on this node: writes will wait for a lease");
        }
    }

    /// Waits (bounded) until no router has a stream to this node any more.
    pub async fn routers_have_left(&self) {
        let mut exchanges = self.exchanges.subscribe();
        let left = exchanges.wait_for(|count| *count == 0);
        if timeout(ROUTERS_TIMEOUT, left).await.is_err() {
            info!("a router still has its stream to this node");
        }
    }

    /// Hands over what this node is not to lead, whenever there is something; ends when the node stops.
    pub async fn do_duties(self: Arc<Self>) {
        let mut duties = self.duties.subscribe();
        let stopping = self.stopping();
        loop {
            let due = tokio::select! {
                () = stopping.cancelled() => return,
                due = duties.wait_for(|duties| *duties != Duties::default()) => match due {
                    Ok(due) => due.clone(),
                    Err(_) => return,
                },
            };
            // A node that stops does it by itself.
            let mut interval = DRAINED_INTERVAL;
            if !self.is_leaving() && !self.hand_over_due(&due).await.is_empty() {
                interval = DRAINED_ALONE_INTERVAL;
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = sleep(interval) => {}
            }
        }
    }

    /// Takes from the map which nodes are drained, and tells the replicas. Those that are being started hear of it then.
    pub(super) fn note_drained(&self, map: &ClusterMap) {
        let nodes: BTreeSet<NodeId> =
            map.nodes.iter().filter(|(_, record)| record.drained).map(|(node, _)| *node).collect();
        let nodes = Arc::new(nodes);
        self.drained.store(Arc::clone(&nodes));
        for hosted in self.replicas.load().values() {
            hosted.tell_drained(&nodes);
        }
    }

    /// Takes from the map what this node is to hand over.
    pub(super) fn note_duties(&self, map: &ClusterMap) {
        let me = self.node();
        let led = map.partitions.iter();
        let led = led.filter(|(_, known)| known.state.leader.is_some_and(|leader| leader.node == me));
        let elsewhere = led.filter_map(|(id, _)| Some((*id, placement::next_leader(map, *id)?)));
        let duties = Duties {
            drained: map.nodes.get(&me).is_some_and(|record| record.drained),
            elsewhere: elsewhere.collect(),
        };
        self.duties.send_if_modified(|known| {
            let is_news = *known != duties;
            *known = duties;
            is_news
        });
    }

    /// Tries to hand over what is due; returns those that nobody else is there for.
    async fn hand_over_due(&self, due: &Duties) -> Vec<PartitionId> {
        let wished =
            self.leading().filter_map(|partition| Some((partition, *due.elsewhere.get(&partition)?)));
        join_all(wished.map(|(partition, to)| self.transfer(partition, Some(to)))).await;
        match due.drained {
            true => self.hand_over(self.leading().collect()).await,
            false => Vec::new(),
        }
    }

    /// Tries to hand these over, all at once; returns those that nobody else is there for.
    async fn hand_over(&self, partitions: Vec<PartitionId>) -> Vec<PartitionId> {
        let transfers = partitions.into_iter().map(|partition| async move {
            let ended = self.transfer(partition, None).await;
            let is_hopeless = matches!(ended, Err(TransferError::Refused { nobody_stays: true, .. }));
            is_hopeless.then_some(partition)
        });
        join_all(transfers).await.into_iter().flatten().collect()
    }

    fn leading(&self) -> impl Iterator<Item = PartitionId> + use<> {
        self.statuses().into_iter().filter(|status| status.role == RoleName::Leader).map(|one| one.partition)
    }

    /// Whether another leader's writes wait for this node's replica, and need not.
    fn is_waited_for(&self, hosted: &Hosted) -> bool {
        let (me, state) = (self.node(), hosted.state.load());
        let min_in_sync = usize::try_from(state.min_in_sync).unwrap_or(usize::MAX).max(1);
        state.leader.is_some_and(|leader| leader.node != me)
            && state.in_sync.iter().any(|member| member.node == me)
            && state.in_sync.len() > min_in_sync
    }
}
