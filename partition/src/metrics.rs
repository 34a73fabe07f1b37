//! Counters of a partition server, in Prometheus' text format at `/metrics`. Never a key as a label.

use std::sync::Arc;
use std::time::{Duration, Instant};

use paddock_storage::LogEntries;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::replica::RoleName;
use crate::scrub::ScrubMetrics;
use crate::snapshot::Foreground;
use crate::status::ReplicaStatus;

/// Which partition a figure is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabel {
    partition: u32,
}

/// Why something failed, in a word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// From 16 µs, doubling, to half a second.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_016, 2.0, 16))
}

/// What is counted of snapshots.
#[derive(Clone, Debug, Default)]
pub struct SnapshotMetrics {
    /// Bytes that were sent.
    pub sent_bytes: Counter,
    /// Bytes that were received.
    pub received_bytes: Counter,
    /// How often one took a store's place.
    pub installed: Counter,
    /// How often one was not fetched, or not sent, to its end.
    failures: Family<ReasonLabel, Counter>,
}

impl SnapshotMetrics {
    /// One was not fetched, or not sent, to its end.
    pub fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&ReasonLabel { reason }).inc();
    }
}

/// All figures of one server.
pub struct Metrics {
    registry: Mutex<Registry>,
    entries: Family<PartitionLabel, Counter>,
    bytes: Family<PartitionLabel, Counter>,
    elections: Family<PartitionLabel, Counter>,
    transfers: Family<PartitionLabel, Histogram>,
    transfers_failed: Family<PartitionLabel, Counter>,
    syncs: Family<PartitionLabel, Histogram>,
    leading: Family<PartitionLabel, Gauge>,
    committed: Family<PartitionLabel, Gauge>,
    applied: Family<PartitionLabel, Gauge>,
    records: Family<PartitionLabel, Gauge>,
    disk_bytes: Family<PartitionLabel, Gauge>,
    waiting_tails: Family<PartitionLabel, Gauge>,
    request_ids: Family<PartitionLabel, Gauge>,
    replayed: Family<PartitionLabel, Counter>,
    refused_ids: Family<PartitionLabel, Counter>,
    log_first: Family<PartitionLabel, Gauge>,
    staleness: Family<PartitionLabel, Gauge>,
    reads_anywhere: Family<PartitionLabel, Counter>,
    reads_behind: Family<PartitionLabel, Counter>,
    answers_waiting: Gauge,
    departed: Gauge,
    snapshots: SnapshotMetrics,
    fetch_failures: Family<PartitionLabel, Gauge>,
    scrub: ScrubMetrics,
    damaged: Family<PartitionLabel, Counter>,
    set_aside: Family<PartitionLabel, Counter>,
    stalled: Family<PartitionLabel, Counter>,
    foreground: Arc<Foreground>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Metrics {
            registry: Mutex::default(),
            entries: Family::default(),
            bytes: Family::default(),
            elections: Family::default(),
            transfers: Family::new_with_constructor(seconds),
            transfers_failed: Family::default(),
            syncs: Family::new_with_constructor(seconds),
            leading: Family::default(),
            committed: Family::default(),
            applied: Family::default(),
            records: Family::default(),
            disk_bytes: Family::default(),
            waiting_tails: Family::default(),
            request_ids: Family::default(),
            replayed: Family::default(),
            refused_ids: Family::default(),
            log_first: Family::default(),
            staleness: Family::default(),
            reads_anywhere: Family::default(),
            reads_behind: Family::default(),
            answers_waiting: Gauge::default(),
            departed: Gauge::default(),
            snapshots: SnapshotMetrics::default(),
            fetch_failures: Family::default(),
            scrub: ScrubMetrics::default(),
            damaged: Family::default(),
            set_aside: Family::default(),
            stalled: Family::default(),
            foreground: Arc::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock();
        let registry = registry.sub_registry_with_prefix("paddock_partition");
        registry.register("log_entries", "Entries appended to the log", self.entries.clone());
        registry.register_with_unit(
            "log_appended",
            "Bytes of rows appended",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register("elections", "Times that this replica became leader", self.elections.clone());
        registry.register_with_unit(
            "transfer",
            "Time of one hand-over of leadership, in which writes wait",
            Unit::Seconds,
            self.transfers.clone(),
        );
        let failed = "Hand-overs that did not come about";
        registry.register("transfers_failed", failed, self.transfers_failed.clone());
        registry.register_with_unit("log_sync", "Time of one fsync", Unit::Seconds, self.syncs.clone());
        registry.register("leading", "1 if this replica leads", self.leading.clone());
        registry.register("committed_sequence", "Last committed entry", self.committed.clone());
        registry.register("applied_sequence", "Last applied entry", self.applied.clone());
        registry.register("records", "Live records", self.records.clone());
        registry.register_with_unit(
            "answers_waiting",
            "Answers that routers have not taken yet",
            Unit::Bytes,
            self.answers_waiting.clone(),
        );
        let departed = "Replicas that this node has files of, and does not serve any more";
        registry.register("departed_replicas", departed, self.departed.clone());
        registry.register("request_ids", "Request ids that are remembered", self.request_ids.clone());
        let replayed = "Writes that were sent again and answered with their first result";
        registry.register("requests_replayed", replayed, self.replayed.clone());
        let refused = "Writes refused since their request id was too old, or made in the future";
        registry.register("request_ids_refused", refused, self.refused_ids.clone());
        let first = "First entry that the log still has; a follower that lacks earlier ones gets a snapshot";
        registry.register("log_first_sequence", first, self.log_first.clone());
        let SnapshotMetrics { sent_bytes, received_bytes, installed, failures } = &self.snapshots;
        let (sent, received) = ("Bytes of snapshots sent to followers", "Bytes of snapshots received");
        registry.register_with_unit("snapshot_sent", sent, Unit::Bytes, sent_bytes.clone());
        registry.register_with_unit("snapshot_received", received, Unit::Bytes, received_bytes.clone());
        let places = "Times that a snapshot took a replica's store's place";
        registry.register("snapshots_installed", places, installed.clone());
        let broken = "Transfers of snapshots that failed, by why: no_room, stalled, damaged, interrupted, receiver_stalled";
        registry.register("snapshot_transfers_failed", broken, failures.clone());
        let in_vain = "How often in a row this replica could not fetch the snapshot that it needs";
        registry.register("snapshot_fetch_failures", in_vain, self.fetch_failures.clone());
        let ScrubMetrics { bytes, rounds } = &self.scrub;
        let verified = "Bytes of files that were read again and verified";
        registry.register_with_unit("scrub_verified", verified, Unit::Bytes, bytes.clone());
        let complete = "Times that all files of a replica were verified";
        registry.register("scrub_rounds", complete, rounds.clone());
        let damaged = "Times that this replica's store was found to be damaged";
        registry.register("stores_damaged", damaged, self.damaged.clone());
        let stalled = "Writes and fsyncs that took longer than a disk may";
        registry.register("disk_stalls", stalled, self.stalled.clone());
        let aside = "Times that this replica's store was set aside, and it began anew";
        registry.register("stores_set_aside", aside, self.set_aside.clone());
        let staleness = "How old what reads at this replica see may be; absent where it does not know";
        registry.register("staleness_milliseconds", staleness, self.staleness.clone());
        let anywhere = "Reads of other than strong consistency that this replica answered at once";
        registry.register("reads_anywhere", anywhere, self.reads_anywhere.clone());
        let behind = "Of those, refused since this replica was not fresh enough";
        registry.register("reads_behind", behind, self.reads_behind.clone());
        let waiting = "Parts of the index that wait for compaction; with more than 4 writes wait, too";
        registry.register("waiting_tails", waiting, self.waiting_tails.clone());
        registry.register_with_unit("disk", "Size of the files", Unit::Bytes, self.disk_bytes.clone());
    }

    /// Bytes of answers that wait for the streams of this node to take them.
    #[must_use]
    pub fn answers_waiting(&self) -> &Gauge {
        &self.answers_waiting
    }

    /// Replicas that left this node, and whose files are still here.
    #[must_use]
    pub fn departed(&self) -> &Gauge {
        &self.departed
    }

    /// What is counted of snapshots.
    #[must_use]
    pub fn snapshots(&self) -> SnapshotMetrics {
        self.snapshots.clone()
    }

    /// What is counted of verifying files.
    #[must_use]
    pub fn scrub(&self) -> ScrubMetrics {
        self.scrub.clone()
    }

    /// A replica's store was set aside.
    pub fn set_aside(&self, partition: u32) {
        self.set_aside.get_or_create(&PartitionLabel { partition }).inc();
    }

    /// How long fsyncs take here.
    #[must_use]
    pub fn foreground(&self) -> Arc<Foreground> {
        Arc::clone(&self.foreground)
    }

    /// The figures of one replica's owner loop.
    #[must_use]
    pub fn replica(&self, partition: u32) -> Arc<ReplicaMetrics> {
        let label = PartitionLabel { partition };
        Arc::new(ReplicaMetrics {
            entries: self.entries.get_or_create(&label).clone(),
            bytes: self.bytes.get_or_create(&label).clone(),
            elections: self.elections.get_or_create(&label).clone(),
            transfers: self.transfers.get_or_create(&label).clone(),
            transfers_failed: self.transfers_failed.get_or_create(&label).clone(),
            syncs: self.syncs.get_or_create(&label).clone(),
            damaged: self.damaged.get_or_create(&label).clone(),
            stalled: self.stalled.get_or_create(&label).clone(),
            replayed: self.replayed.get_or_create(&label).clone(),
            refused_ids: self.refused_ids.get_or_create(&label).clone(),
            foreground: self.foreground(),
            reads_anywhere: self.reads_anywhere.get_or_create(&label).clone(),
            reads_behind: self.reads_behind.get_or_create(&label).clone(),
        })
    }

    /// Everything, as text; the gauges are set from the replicas' snapshots.
    ///
    /// # Errors
    /// Never in practice: writing to a string.
    pub fn encode(&self, statuses: &[Arc<ReplicaStatus>]) -> Result<String, std::fmt::Error> {
        // Under one lock, so that nobody sees half of it.
        let registry = self.registry.lock();
        // A replica that has left must not go on leading in the graphs.
        let gauges = [&self.leading, &self.committed, &self.applied, &self.records, &self.disk_bytes];
        let more = [&self.waiting_tails, &self.request_ids, &self.log_first, &self.staleness];
        let more = more.into_iter().chain([&self.fetch_failures]);
        for family in gauges.into_iter().chain(more) {
            family.clear();
        }
        for status in statuses {
            let label = PartitionLabel { partition: status.partition.0 };
            let set = |family: &Family<PartitionLabel, Gauge>, value: u64| {
                family.get_or_create(&label).set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            set(&self.leading, u64::from(status.role == RoleName::Leader));
            set(&self.committed, status.commit.0);
            set(&self.applied, status.applied.0);
            set(&self.records, status.records);
            set(&self.request_ids, status.request_ids);
            if let Some(staleness_ms) = status.staleness_ms {
                set(&self.staleness, staleness_ms);
            }
            set(&self.disk_bytes, status.store.disk_bytes);
            set(&self.waiting_tails, status.store.compaction.waiting_tails);
            set(&self.log_first, status.log_first.0);
            set(&self.fetch_failures, u64::from(status.fetch_failures));
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// What one owner loop counts.
pub struct ReplicaMetrics {
    entries: Counter,
    bytes: Counter,
    elections: Counter,
    transfers: Histogram,
    transfers_failed: Counter,
    syncs: Histogram,
    damaged: Counter,
    stalled: Counter,
    replayed: Counter,
    refused_ids: Counter,
    foreground: Arc<Foreground>,
    reads_anywhere: Counter,
    reads_behind: Counter,
}

impl ReplicaMetrics {
    /// Entries were appended.
    pub fn appended(&self, entries: &LogEntries) {
        self.entries.inc_by(u64::from(entries.rows.count()));
        self.bytes.inc_by(entries.rows.encoded().len() as u64);
    }

    /// The replica became leader.
    pub fn elected(&self) {
        self.elections.inc();
    }

    /// The store was found to be damaged.
    pub fn damaged(&self) {
        self.damaged.inc();
    }

    /// A write or an fsync took longer than it may.
    pub fn stalled(&self) {
        self.stalled.inc();
    }

    /// A write was answered with its first result.
    pub fn replayed(&self) {
        self.replayed.inc();
    }

    /// A write was refused for its request id.
    pub fn refused_id(&self) {
        self.refused_ids.inc();
    }

    /// The replica handed its leadership over, in this time.
    pub fn transferred(&self, took: Duration) {
        self.transfers.observe(took.as_secs_f64());
    }

    /// A hand-over did not come about.
    pub fn transfer_failed(&self) {
        self.transfers_failed.inc();
    }

    /// A read of other than strong consistency was answered, or refused since this replica is behind.
    pub fn read_anywhere(&self, is_behind: bool) {
        self.reads_anywhere.inc();
        if is_behind {
            self.reads_behind.inc();
        }
    }

    /// Times one fsync.
    pub fn time_sync<T>(&self, sync: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = sync();
        let elapsed = begun.elapsed();
        self.syncs.observe(elapsed.as_secs_f64());
        self.foreground.synced(elapsed);
        result
    }
}

#[cfg(test)]
mod tests {
    use paddock_coordination::{Epoch, Generation, PartitionId};
    use paddock_storage::{Position, Sequence, Stats};

    use super::*;

    #[test]
    fn a_replica_that_has_left_does_not_go_on_leading() {
        let metrics = Metrics::default();
        let status = ReplicaStatus {
            partition: PartitionId(3),
            role: RoleName::Leader,
            epoch: Epoch(1),
            leader: None,
            generation: Generation(1),
            lineage: None,
            data_lineage: 0,
            staleness_ms: None,
            last: Position { epoch: 1, sequence: Sequence(1) },
            commit: Sequence(1),
            applied: Sequence(1),
            records: 1,
            request_ids: 0,
            log_first: Sequence(1),
            transfers: Vec::new(),
            fetch_failures: 0,
            store: Stats::default(),
            problem: None,
        };
        let leading = "paddock_partition_leading{partition=\"3\"}";
        assert!(metrics.encode(&[Arc::new(status)]).expect("encodes").contains(leading));
        assert!(!metrics.encode(&[]).expect("encodes").contains(leading));
    }
}
