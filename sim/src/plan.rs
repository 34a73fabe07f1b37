//! The swarm: what a seed's world is like. Each seed has only some of the faults, in its own strength, since a world where
//! everything fails all the time never gets anywhere near most states.

use crate::queue::{MS, Time};
use crate::random::Random;

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process is killed; what it wrote stays.
    Kill,
    /// A machine loses its power: what was not synced is lost, or torn.
    PowerLoss,
    /// All machines lose their power at once.
    PowerLossEverywhere,
    /// A process is killed at one of its next calls to its disk.
    KillAtDiskCall,
    /// An fsync, or another call, fails.
    DiskError,
    /// A process stands still.
    Pause,
    /// A disk takes long for everything.
    DiskStall,
    /// A disk has no room.
    DiskFull,
    /// A machine comes back with an empty disk.
    DiskLost,
    /// Nothing gets from one machine to another one, in one direction.
    LinkCut,
    /// Nothing gets from a machine to others, or from others to it.
    Isolation,
    /// A machine does not reach the coordination service.
    CoordinationLost,
    /// Nobody reaches it.
    CoordinationDown,
    /// A server is stopped in an orderly way.
    Stop,
    /// A machine reaches neither the coordination service nor one of the others: where it leads, a zombie.
    Estrangement,
}

const FAULTS: [Fault; 15] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::PowerLossEverywhere,
    Fault::KillAtDiskCall,
    Fault::DiskError,
    Fault::Pause,
    Fault::DiskStall,
    Fault::DiskFull,
    Fault::DiskLost,
    Fault::LinkCut,
    Fault::Isolation,
    Fault::CoordinationLost,
    Fault::CoordinationDown,
    Fault::Stop,
    Fault::Estrangement,
];

/// How a network treats what is sent.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Everything takes at least so long.
    pub delay_min: Time,
    /// Most things take at most so long.
    pub delay_max: Time,
    /// So many of a thousand take longer.
    pub late_per_mille: u64,
    /// Up to so long.
    pub late_max: Time,
    /// So many of a thousand are lost.
    pub lost_per_mille: u64,
    /// So many of a thousand arrive twice.
    pub doubled_per_mille: u64,
}

impl Weather {
    /// Nothing goes wrong.
    pub const FAIR: Weather = Weather {
        delay_min: 50,
        delay_max: 300,
        late_per_mille: 0,
        late_max: 0,
        lost_per_mille: 0,
        doubled_per_mille: 0,
    };

    /// How long something takes.
    pub fn delay(&self, random: &mut Random) -> Time {
        let usual = random.between(self.delay_min, self.delay_max);
        if random.per_mille(self.late_per_mille) { usual + random.below(self.late_max) } else { usual }
    }
}

/// A seed's world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many machines.
    pub nodes: usize,
    /// How many partitions.
    pub partitions: u32,
    /// How many replicas of each.
    pub replicas: usize,
    /// The fewest in-sync replicas that may commit; `None`: the default.
    pub min_in_sync: Option<u32>,
    /// The lease.
    pub lease_ms: u64,
    /// How many clients.
    pub clients: usize,
    /// How many keys they fight about.
    pub keys: u64,
    /// How long a client thinks, at most.
    pub think_max: Time,
    /// So many of a thousand operations are reads.
    pub reads_per_mille: u64,
    /// So many of a thousand writes carry an id, under which they are sent again.
    pub named_per_mille: u64,
    /// How long faults go on.
    pub safety: Time,
    /// How the network is meanwhile.
    pub weather: Weather,
    /// How long a watch of the coordination service may lag.
    pub watch_lag_max: Time,
    /// So many of a thousand requests to it lose their answer.
    pub answers_lost_per_mille: u64,
    /// What goes wrong beside that.
    pub faults: Vec<Fault>,
    /// The longest time between two faults.
    pub fault_interval_max: Time,
    /// Clocks run wrong by so many thousandths at most.
    pub drift_per_mille: u64,
    /// After how many bytes of log stores flush.
    pub flush_bytes: u64,
    /// How long a round takes that syncs, at most.
    pub sync_max: Time,
}

impl Plan {
    /// The world of a seed.
    #[must_use]
    pub fn new(random: &mut Random) -> Self {
        let nodes = random.one_of(&[1, 2, 3, 3, 3, 3, 4, 5]).unwrap_or(3);
        let replicas = if nodes > 3 && random.per_mille(300) { 3 } else { nodes };
        let any_min = random.between(1, replicas as u64);
        let min_in_sync = random.per_mille(400).then_some(u32::try_from(any_min).unwrap_or(1));
        let lease_ms = random.one_of(&[100, 150, 200, 300]).unwrap_or(200);
        let mut faults = Vec::new();
        // Now and then the network alone is bad, or nothing is.
        if !random.per_mille(100) {
            let share = random.one_of(&[150, 300, 500]).unwrap_or(300);
            faults = FAULTS.into_iter().filter(|_| random.per_mille(share)).collect();
        }
        Plan {
            nodes,
            partitions: random.one_of(&[1, 1, 1, 1, 2, 3]).unwrap_or(1),
            replicas,
            min_in_sync,
            lease_ms,
            clients: random.one_of(&[1, 2, 3, 4, 6]).unwrap_or(3),
            keys: random.one_of(&[1, 2, 3, 6]).unwrap_or(2),
            think_max: random.one_of(&[3, 10, 40, 100]).unwrap_or(10) * MS,
            reads_per_mille: random.one_of(&[100, 300, 500, 700]).unwrap_or(500),
            named_per_mille: random.one_of(&[0, 0, 500, 1_000]).unwrap_or(0),
            safety: random.between(6, 16) * lease_ms * MS,
            weather: weather(random),
            watch_lag_max: random.one_of(&[1, 20, 200, 1_000]).unwrap_or(20) * MS,
            answers_lost_per_mille: random.one_of(&[0, 0, 50, 200]).unwrap_or(0),
            faults,
            fault_interval_max: random.one_of(&[1, 2, 4, 8]).unwrap_or(2) * lease_ms * MS,
            drift_per_mille: random.one_of(&[0, 1, 30]).unwrap_or(0),
            flush_bytes: random.one_of(&[1 << 10, 8 << 10, 1 << 20]).unwrap_or(1 << 20),
            sync_max: random.one_of(&[100, 1_000, 5_000]).unwrap_or(1_000),
        }
    }
}

fn weather(random: &mut Random) -> Weather {
    if random.per_mille(200) {
        return Weather::FAIR;
    }
    Weather {
        delay_min: 50,
        delay_max: random.one_of(&[300, 2_000, 10_000]).unwrap_or(300),
        late_per_mille: random.one_of(&[0, 20, 200]).unwrap_or(0),
        late_max: random.one_of(&[20, 100, 1_000]).unwrap_or(20) * MS,
        lost_per_mille: random.one_of(&[0, 10, 100]).unwrap_or(0),
        doubled_per_mille: random.one_of(&[0, 10, 100]).unwrap_or(0),
    }
}
