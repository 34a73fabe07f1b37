//! The command line as clap sees it. Flags win over the `PADDOCK_*` environment.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use paddock_client::{Client, Consistency, Error, InvalidSessionToken, RequestId};

use crate::key::{self, Key};

/// Where a router listens for gRPC unless told otherwise; [`Connection`] has the same, as a URL.
pub(crate) const GRPC_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7700);

/// Where a router listens for HTTP unless told otherwise.
const HTTP_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7780);

/// The longest name of a cluster.
const CLUSTER_NAME_CHARACTERS_MAX: usize = 64;

/// What every exit code means, at the end of the help.
const EXIT_CODES: &str = "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 precondition failed, \
     5 unavailable or in use, 6 outcome unknown, 7 damaged files, 130 interrupted";

/// PaddockDB: a partitioned, replicated key-value store.
#[derive(Debug, Parser)]
#[command(name = "paddock", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the cluster.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// The router to speak to
    #[arg(
        long,
        global = true,
        env = "PADDOCK_ENDPOINT",
        value_name = "URL",
        default_value = "http://127.0.0.1:7700"
    )]
    endpoint: String,
    /// How long one request may take, its retries included
    #[arg(
        long,
        global = true,
        env = "PADDOCK_TIMEOUT_SECONDS",
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    timeout_seconds: u64,
}

impl Connection {
    /// Connects with the client's own, safe retries.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        self.builder().connect().await
    }

    /// How long one request may take.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    /// The client's settings as the flags have them.
    pub(crate) fn builder(&self) -> paddock_client::Builder {
        Client::builder(&self.endpoint).request_timeout(Duration::from_secs(self.timeout_seconds))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster in this process, with its data in one directory
    Dev(Dev),
    /// Run a router
    Router(Router),
    /// Run a partition server
    Partition(Partition),
    /// Read one record
    Get(Get),
    /// Write one record and print its version
    Put(Put),
    /// Remove one record; removing a missing one succeeds
    Delete(Delete),
    /// Explain where a key lives: slot, partition, replicas
    Locate(Locate),
    /// Show the cluster, its nodes, and what is wrong with it
    Status(Show),
    /// Show every partition with its replicas
    Partitions(Show),
    /// Hand a partition's leadership over to another replica; no request fails by it
    Transfer(Transfer),
    /// Give a node a replica of a partition
    AddReplica(AddReplica),
    /// Take a partition's replica away from a node, once the others are in sync
    RemoveReplica(RemoveReplica),
    /// Go on with a partition that is offline for good, from what one replica has; what that lacks is LOST
    ///
    /// Only where everybody who held all that was acknowledged is gone for good: while one of them may come back, start it
    /// instead, and nothing is lost. Without --accept-data-loss this shows what there is to go on from, what may be lost, and
    /// asks. Session tokens of before are refused, and versions of before mean nothing any more.
    Recover(Recover),
    /// Have a node lead nothing, for maintenance; a node that stops does that by itself
    Drain(Drain),
    /// Load or dump many records
    #[command(subcommand)]
    Batch(BatchCommand),
    /// Look at the files of a server that is stopped
    ///
    /// DIR is the data directory of a partition server, or of `paddock dev`: then this is about every replica in it. Or the
    /// directory of one store.
    #[command(subcommand)]
    Storage(StorageCommand),
}

/// How to log.
#[derive(Debug, Args)]
pub(crate) struct LogFlags {
    /// What to log: error, warn, info, debug, or TARGET=LEVEL,...
    #[arg(long, env = "PADDOCK_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How to log, on stderr
    #[arg(long, env = "PADDOCK_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// For programs: an object a line
    Json,
}

/// Where the cluster's shared truth is.
#[derive(Debug, Args)]
pub(crate) struct CoordinationFlags {
    /// The ZooKeeper servers; one that is away is waited for
    #[arg(long, env = "PADDOCK_ZOOKEEPER", value_name = "HOST:PORT,...", default_value = "127.0.0.1:2181")]
    pub(crate) zookeeper: String,
    /// The cluster's name: letters, digits, "-" and "_"
    #[arg(long, env = "PADDOCK_CLUSTER", value_name = "NAME", default_value = "default", value_parser = cluster_name)]
    pub(crate) cluster: String,
}

/// The name becomes a part of a path in ZooKeeper.
fn cluster_name(name: &str) -> Result<String, String> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || character == '-' || character == '_';
    if name.is_empty() || name.len() > CLUSTER_NAME_CHARACTERS_MAX || !name.chars().all(allowed) {
        return Err(format!(
            "1 to {CLUSTER_NAME_CHARACTERS_MAX} letters, digits, \"-\" and \"_\" are allowed"
        ));
    }
    Ok(name.to_owned())
}

/// Flags of `dev`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// The directory of all its data; made where it is missing
    #[arg(long, env = "PADDOCK_DATA", value_name = "DIR", default_value = "paddock-data")]
    pub(crate) data: PathBuf,
    /// Where to listen for gRPC; port 0 takes any that is free
    #[arg(long, env = "PADDOCK_GRPC", value_name = "ADDR", default_value_t = GRPC_DEFAULT)]
    pub(crate) grpc: SocketAddr,
    /// Where to listen for HTTP (health and metrics)
    #[arg(long, env = "PADDOCK_HTTP", value_name = "ADDR", default_value_t = HTTP_DEFAULT)]
    pub(crate) http: SocketAddr,
    #[command(flatten)]
    pub(crate) log: LogFlags,
}

/// Flags of `router`.
#[derive(Debug, Args)]
pub(crate) struct Router {
    #[command(flatten)]
    pub(crate) coordination: CoordinationFlags,
    /// Where to listen for gRPC; port 0 takes any that is free
    #[arg(long, env = "PADDOCK_GRPC", value_name = "ADDR", default_value_t = GRPC_DEFAULT)]
    pub(crate) grpc: SocketAddr,
    /// Where to listen for HTTP (health and metrics)
    #[arg(long, env = "PADDOCK_HTTP", value_name = "ADDR", default_value_t = HTTP_DEFAULT)]
    pub(crate) http: SocketAddr,
    /// The gRPC address that others are told; by default the one that it listens on
    #[arg(long, env = "PADDOCK_ADVERTISE", value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    #[command(flatten)]
    pub(crate) log: LogFlags,
}

/// Flags of `partition`. Those of a new cluster count only until its first node has started.
#[derive(Debug, Args)]
pub(crate) struct Partition {
    #[command(flatten)]
    pub(crate) coordination: CoordinationFlags,
    /// The directory of its data; made where it is missing, and then the node is a new one
    #[arg(long, env = "PADDOCK_DATA", value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// With an empty data directory: be this node, whose disk is lost; its replicas are filled by their leaders. Only if no
    /// other process is that node any more
    #[arg(long, env = "PADDOCK_REPLACE_NODE", value_name = "NODE")]
    pub(crate) replace_node: Option<paddock_coordination::NodeId>,
    /// Where to listen for gRPC; port 0 takes any that is free
    #[arg(
        long,
        env = "PADDOCK_GRPC",
        value_name = "ADDR",
        default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7710)
    )]
    pub(crate) grpc: SocketAddr,
    /// The gRPC address that others reach it at; by default the one that it listens on
    #[arg(long, env = "PADDOCK_ADVERTISE", value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Where to listen for HTTP (health and metrics), if at all
    #[arg(long, env = "PADDOCK_HTTP", value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
    /// For a new cluster: how many partitions
    #[arg(long, env = "PADDOCK_PARTITIONS", value_name = "N", default_value_t = 2)]
    pub(crate) partitions: u32,
    /// For a new cluster: how many replicas each partition gets
    #[arg(long, env = "PADDOCK_REPLICATION_FACTOR", value_name = "N", default_value_t = 2)]
    pub(crate) replication_factor: u32,
    /// For a new cluster: how many nodes to wait for before replicas are placed [default: the replication factor]
    #[arg(long, env = "PADDOCK_INITIAL_NODES", value_name = "N")]
    pub(crate) initial_nodes: Option<u32>,
    /// For a new cluster: for how long a follower's promise holds, which bounds how soon a failover begins
    #[arg(long, env = "PADDOCK_LEASE_MS", value_name = "N", default_value_t = 1_000)]
    pub(crate) lease_ms: u64,
    /// How long another node may be away before its replicas are placed on others, should it be this node that sees to it;
    /// 0: for ever
    #[arg(long, env = "PADDOCK_REPLACE_AFTER_SECONDS", value_name = "N", default_value_t = 600)]
    pub(crate) replace_after_seconds: u64,
    /// For how long to keep files of replicas that are on other nodes by now; 0: for ever. Then they go, once the partition has
    /// had another leader and all its replicas are in sync
    #[arg(long, env = "PADDOCK_REMOVE_DEPARTED_AFTER_MINUTES", value_name = "N", default_value_t = 1_440)]
    pub(crate) remove_departed_after_minutes: u64,
    /// How long nothing may have changed before a leader is moved so that leaders are spread evenly, should it be this node that
    /// sees to it; 0: none ever is
    #[arg(long, env = "PADDOCK_SPREAD_LEADERS_AFTER_SECONDS", value_name = "N", default_value_t = 10)]
    pub(crate) spread_leaders_after_seconds: u64,
    /// How many MiB of its log each replica keeps beyond what is not in runs yet; a follower that lacks more is sent a
    /// snapshot of the whole replica
    #[arg(
        long,
        env = "PADDOCK_LOG_RETENTION_MIB",
        value_name = "MIB",
        default_value_t = paddock_partition::snapshot::LOG_RETENTION_BYTES >> 20
    )]
    pub(crate) log_retention_mib: u64,
    /// How many MiB of snapshots to send in a second at most, and how many to receive
    #[arg(
        long,
        env = "PADDOCK_SNAPSHOT_MIB_PER_SECOND",
        value_name = "MIB",
        default_value_t = paddock_partition::snapshot::BYTES_PER_SECOND >> 20,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) snapshot_mib_per_second: u64,
    /// How many MiB to keep free on the disk while a snapshot is received, for the writes of the other replicas; one that does
    /// not fit beside them waits
    #[arg(
        long,
        env = "PADDOCK_SNAPSHOT_RESERVE_MIB",
        value_name = "MIB",
        default_value_t = paddock_partition::snapshot::RESERVE_BYTES >> 20
    )]
    pub(crate) snapshot_reserve_mib: u64,
    /// How many MiB of its own files to read again and verify in a second at most; 0: none
    #[arg(
        long,
        env = "PADDOCK_SCRUB_MIB_PER_SECOND",
        value_name = "MIB",
        default_value_t = paddock_partition::scrub::BYTES_PER_SECOND >> 20
    )]
    pub(crate) scrub_mib_per_second: u64,
    /// How often every file is read again and verified, if that rate allows it
    #[arg(
        long,
        env = "PADDOCK_SCRUB_EVERY_SECONDS",
        value_name = "N",
        default_value_t = paddock_partition::scrub::EVERY.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) scrub_every_seconds: u64,
    /// After a write or an fsync that took longer than this, a leader hands over
    #[arg(
        long,
        env = "PADDOCK_DISK_STALL_MS",
        value_name = "N",
        default_value_t = 500,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) disk_stall_ms: u64,
    /// When a write or an fsync takes longer than this, the process ends
    #[arg(
        long,
        env = "PADDOCK_DISK_ABORT_SECONDS",
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) disk_abort_seconds: u64,
    #[command(flatten)]
    pub(crate) log: LogFlags,
}

/// How to print one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordFormat {
    /// The value's bytes, unchanged (with a newline at the end on a terminal)
    Raw,
    /// A table with key, value and version
    Table,
    /// {"key", "value", "version"}; what is not UTF-8 stands in key_b64 or value_b64, as base64
    Json,
}

/// How to print what has no raw form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Flags of `get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    #[arg(value_name = "KEY", help = key::HELP, value_parser = key::parse)]
    pub(crate) key: Key,
    /// How to print the record
    #[arg(short, long, value_enum, default_value_t = RecordFormat::Raw)]
    pub(crate) output: RecordFormat,
    /// How fresh the record must be: strong (from the leader), barrier (the same, and no clock is trusted), eventual (whatever
    /// any replica has), staleness=MS (what was committed so many milliseconds ago), or session=TOKEN (all that the command
    /// saw which printed the token)
    #[arg(long, value_name = "HOW", default_value = "strong", value_parser = consistency)]
    pub(crate) consistency: Consistency,
    /// The same as --consistency eventual
    #[arg(long, conflicts_with = "consistency")]
    pub(crate) eventual: bool,
    /// Print a session token to stderr, for --consistency of a later get
    #[arg(long)]
    pub(crate) print_session: bool,
}

/// What --consistency says.
fn consistency(text: &str) -> Result<Consistency, String> {
    match text.split_once('=') {
        None if text == "strong" => Ok(Consistency::Strong),
        None if text == "barrier" => Ok(Consistency::Barrier),
        None if text == "eventual" => Ok(Consistency::Eventual),
        Some(("staleness", milliseconds)) => {
            let milliseconds: u32 =
                milliseconds.parse().map_err(|error| format!("staleness in milliseconds: {error}"))?;
            Ok(Consistency::MaxStaleness(Duration::from_millis(milliseconds.into())))
        }
        Some(("session", token)) => {
            let token = token.parse().map_err(|error: InvalidSessionToken| error.to_string())?;
            Ok(Consistency::Session(token))
        }
        _ => Err("strong, barrier, eventual, staleness=MS or session=TOKEN".to_owned()),
    }
}

/// Flags of `put`.
#[derive(Debug, Args)]
pub(crate) struct Put {
    #[arg(value_name = "KEY", help = key::HELP, value_parser = key::parse)]
    pub(crate) key: Key,
    /// The value; "-" reads it from stdin, byte for byte (a value that is "-" itself: printf - | paddock put KEY -)
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    pub(crate) value: OsString,
    /// Fail with exit code 4 if the key has a record
    #[arg(long, conflicts_with_all = ["update", "if_version"])]
    pub(crate) create: bool,
    /// Fail with exit code 3 if the key has no record
    #[arg(long, conflicts_with = "if_version")]
    pub(crate) update: bool,
    /// Fail with exit code 4 unless the record has this version
    #[arg(long, value_name = "N")]
    pub(crate) if_version: Option<u64>,
    /// Names this write (a UUID of version 7): the same command again gets the first result, and writes nothing
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<RequestId>,
    /// Print a session token to stderr, for --consistency of a later get
    #[arg(long)]
    pub(crate) print_session: bool,
}

/// Flags of `delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[arg(value_name = "KEY", help = key::HELP, value_parser = key::parse)]
    pub(crate) key: Key,
    /// Fail with exit code 4 unless the record has this version
    #[arg(long, value_name = "N")]
    pub(crate) if_version: Option<u64>,
    /// Names this write (a UUID of version 7): the same command again gets the first result, and writes nothing
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<RequestId>,
    /// Print a session token to stderr, for --consistency of a later get
    #[arg(long)]
    pub(crate) print_session: bool,
}

/// Flags of `locate`.
#[derive(Debug, Args)]
pub(crate) struct Locate {
    #[arg(value_name = "KEY", help = key::HELP, value_parser = key::parse)]
    pub(crate) key: Key,
    /// How to print the route
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Flags of `status` and `partitions`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Flags of `transfer`.
#[derive(Debug, Args)]
pub(crate) struct Transfer {
    /// The partition's number
    #[arg(value_name = "PARTITION")]
    pub(crate) partition: u32,
    /// The node that is to lead; by default the replica that is best placed
    #[arg(long, value_name = "NODE")]
    pub(crate) to: Option<String>,
    /// How to print the outcome
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Flags of `add-replica`.
#[derive(Debug, Args)]
pub(crate) struct AddReplica {
    /// The partition's number
    #[arg(value_name = "PARTITION")]
    pub(crate) partition: u32,
    /// The node that is to have one
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) change: ReplicaChange,
}

/// Flags of `remove-replica`.
#[derive(Debug, Args)]
pub(crate) struct RemoveReplica {
    /// The partition's number
    #[arg(value_name = "PARTITION")]
    pub(crate) partition: u32,
    /// The node that is to have none
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// The node that is to have one in its place
    #[arg(long, value_name = "NODE")]
    pub(crate) replace_with: Option<String>,
    #[command(flatten)]
    pub(crate) change: ReplicaChange,
}

/// Flags of both.
#[derive(Debug, Args)]
pub(crate) struct ReplicaChange {
    /// Wait until the replicas are there and in sync, at most --timeout-seconds
    #[arg(long)]
    pub(crate) wait: bool,
    /// How to print the outcome
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Flags of `recover`.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// The partition's number
    #[arg(value_name = "PARTITION")]
    pub(crate) partition: u32,
    /// The node to go on from; by default the one whose log is the furthest
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Do it without asking: whatever the chosen replica lacks is lost
    #[arg(long)]
    pub(crate) accept_data_loss: bool,
    /// How to print the outcome
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Flags of `drain`.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The node's id
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// It may lead again
    #[arg(long)]
    pub(crate) off: bool,
    /// How to print the outcome
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// What `batch` does.
#[derive(Debug, Subcommand)]
pub(crate) enum BatchCommand {
    /// Load records from newline-delimited JSON
    ///
    /// A line is {"key": "...", "value": "..."}; bytes that are not UTF-8 stand as base64 in key_b64 or
    /// value_b64. Where a key comes twice, the later line wins. An interrupted load of a file goes on
    /// where it stopped: FILE.paddock-progress remembers how far everything was acknowledged.
    Load(Load),
    /// Dump all records as newline-delimited JSON, partition by partition, in key order
    ///
    /// Each page is linearizable; a dump taken while others write is not one moment's view.
    Dump(Dump),
}

/// Flags of `batch load`.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// The file to load, or "-" for stdin (which cannot be resumed)
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Go on after lines that are not records or break a limit, and count them
    #[arg(long)]
    pub(crate) skip_bad_lines: bool,
    /// Give up when nothing was acknowledged for this long
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) retry_seconds: u64,
    /// How to print the summary, on stderr
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Flags of `batch dump`.
#[derive(Debug, Args)]
pub(crate) struct Dump {
    /// The file to write, or "-" for stdout
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) file: PathBuf,
    /// Go on after the last whole line of an interrupted dump (needs a FILE)
    #[arg(long)]
    pub(crate) resume: bool,
    /// Give up when no page came for this long
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) retry_seconds: u64,
}

/// What `storage` does.
#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Say what is there: log, runs, how the log ends. Changes nothing
    ///
    /// Reads the headers of all files, and all of the log's newest file. A torn tail (what a crash left of a write that
    /// nobody was told of) is no damage: it is told apart by what the log itself proves to have been on the disk.
    Inspect(Inspect),
    /// Read everything, and say what is damaged and where. Changes nothing
    Verify(Inspect),
    /// Print the newest record of each key as newline-delimited JSON, in key order. Changes nothing
    ///
    /// What was written when the server ended, and is not known to be committed, is left out, and counted on stderr.
    Dump(StorageDump),
    /// Write the newest records in the order of their keys, and give the space of all others back
    ///
    /// A running server does as much of this as pays, and keeps a part of its log for followers to catch up from. Here none is
    /// kept if nothing else is said: a follower that lacks some of it gets a copy of the whole replica instead.
    Compact(StorageCompact),
}

/// Flags of `storage compact`.
#[derive(Debug, Args)]
pub(crate) struct StorageCompact {
    /// The data directory, or a store's
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// About how much of each log to keep
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) keep_log_bytes: u64,
}

/// Flags of `storage inspect` and `verify`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The data directory, or a store's
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Flags of `storage dump`.
#[derive(Debug, Args)]
pub(crate) struct StorageDump {
    /// The data directory, or a store's
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// The file to write, which must not be there yet, or "-" for stdout
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) file: PathBuf,
    /// Also what is not known to be committed: it may have been taken back since, by a new leader
    #[arg(long)]
    pub(crate) uncommitted: bool,
    /// Go on behind what is damaged, and name it on stderr
    ///
    /// For the last copy of the data. A key whose newest record is damaged may come with an older one, or come back though it
    /// was deleted. Keeps all keys in memory. Exits with 7 if anything was skipped.
    #[arg(long)]
    pub(crate) skip_damaged: bool,
}
