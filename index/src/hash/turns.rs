//! For tests: threads that run one at a time and may change at every access to a shared [`super::word::Word`], in
//! an order that a seed determines. What chance finds once in a million runs on real cores is found in a few
//! hundred seeds here, and found again with the same seed. (Accesses are interleaved as they stand in the program:
//! this checks the order of the steps, not the memory orderings of a weak machine.)

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Debug)]
struct State {
    /// The threads that have not ended.
    running: Vec<usize>,
    current: usize,
    random: u64,
    /// One access in so many is a place where another thread may go on.
    calm: usize,
}

/// A thread's part in it. Dropped with the thread, which passes the turn on even as it panics.
struct Turn {
    turns: Arc<Turns>,
    thread: usize,
}

impl State {
    fn random(&mut self, below: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % below
    }

    fn pass(&mut self) {
        if !self.running.is_empty() {
            let next = self.random(self.running.len());
            self.current = self.running[next];
        }
    }
}

impl Turn {
    fn wait(&self) {
        let state = self.turns.state.lock().unwrap_or_else(PoisonError::into_inner);
        let others = |state: &mut State| state.current != self.thread;
        drop(self.turns.changed.wait_while(state, others).unwrap_or_else(PoisonError::into_inner));
    }

    fn step(&self) {
        let mut state = self.turns.state.lock().unwrap_or_else(PoisonError::into_inner);
        let calm = state.calm;
        if state.random(calm) == 0 {
            state.pass();
        }
        let mine = state.current == self.thread;
        drop(state);
        if !mine {
            self.turns.changed.notify_all();
            self.wait();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running.retain(|thread| *thread != self.thread);
        state.pass();
        drop(state);
        self.turns.changed.notify_all();
    }
}

/// Lets another thread of the test go on, perhaps. Does nothing in threads that take no turns.
pub(super) fn step() {
    TURN.with_borrow(|turn| turn.iter().for_each(Turn::step));
}

/// Runs threads to their ends, in turns.
pub(super) fn run<const THREADS: usize>(seed: u64, bodies: [&(dyn Fn() + Sync); THREADS]) {
    // Changes at every access find other mistakes than long runs of one thread do.
    let mut state = State { running: (0..THREADS).collect(), current: 0, random: seed, calm: 1 };
    state.calm = 1 << state.random(7);
    state.pass();
    let turns = Arc::new(Turns { state: Mutex::new(state), changed: Condvar::new() });
    thread::scope(|scope| {
        for (thread, body) in bodies.into_iter().enumerate() {
            let turn = Turn { turns: Arc::clone(&turns), thread };
            scope.spawn(move || {
                turn.wait();
                TURN.set(Some(turn));
                body();
                TURN.set(None);
            });
        }
    });
}

mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::SeqCst;

    use super::super::key_hash::KeyHash;
    use super::super::state::BUCKETS_MIN;
    use super::super::table::Table;
    use super::super::walk::Walk;
    use super::super::writer::Writer;
    use super::*;
    use crate::locator::PackedLocator;

    /// Keys 0 to here are always there, in the chain of bucket 0, which is parted first.
    const STABLE: usize = 7;

    /// Keys from there to here come and go, in the chains of buckets 0 and 1.
    const KEYS: usize = 45;

    const WRITES: u32 = 100;
    const LOOKS: u32 = 30;

    fn hash(number: usize) -> KeyHash {
        let home = u64::from(number >= STABLE && number % 2 == 1);
        // Some tags are alike, and growth goes by their lowest bit.
        KeyHash::new(home | (number as u64 % 5) << 8)
    }

    fn locator(number: usize, version: u32) -> PackedLocator {
        PackedLocator::new(version, u32::try_from(number).unwrap(), 1).unwrap()
    }

    struct Scene {
        table: Table,
        versions: [AtomicU32; STABLE],
        /// The writer, and the versions of the other keys that are there.
        writer: Mutex<(Writer, [u32; KEYS])>,
    }

    /// A table with so many keys that are in no one's way but bring growth near, then `before`, then the stable.
    fn scene(fillers: u32, before: &[usize]) -> Scene {
        let table = Table::new(0, |_, _| 0, BUCKETS_MIN);
        let mut writer = Writer::new();
        for number in 0..fillers {
            let filler = PackedLocator::new(0, 1000 + number, 1).unwrap();
            writer.add(&table, KeyHash::new(2 + u64::from(number) % 254), filler).unwrap();
        }
        for number in before.iter().copied().chain(0..STABLE) {
            writer.add(&table, hash(number), locator(number, 0)).unwrap();
        }
        let versions = [const { AtomicU32::new(0) }; STABLE];
        Scene { table, versions, writer: Mutex::new((writer, [0; KEYS])) }
    }

    impl Scene {
        /// Points a stable key elsewhere; adds another key, or removes it.
        fn write(&self, number: usize, version: u32) {
            let (writer, there) = &mut *self.writer.lock().unwrap();
            let is_key = |found: PackedLocator| Ok::<_, Infallible>(found.offset() as usize == number);
            match self.table.find(self.table.state.load(), hash(number), is_key).unwrap() {
                Some(found) if number < STABLE => {
                    found.bucket.replace(found.slot, locator(number, version));
                    self.versions[number].store(version, SeqCst);
                }
                Some(found) => {
                    assert_eq!(found.locator, locator(number, there[number]));
                    writer.erase(&self.table, hash(number), found);
                }
                None => {
                    assert!(number >= STABLE);
                    there[number] = version;
                    writer.add(&self.table, hash(number), locator(number, version)).unwrap();
                }
            }
        }
    }

    fn write(scene: &Scene, mut random: State) {
        let mut number = 0;
        for version in 1..=WRITES {
            // Often the same key again: one that goes and comes back at once may be in two places of a walk.
            number = if random.random(3) == 0 { number } else { random.random(KEYS) };
            scene.write(number, version);
        }
    }

    fn look(scene: &Scene, mut random: State) {
        let mut walk = Walk::new(&scene.table);
        for _ in 0..LOOKS {
            let number = random.random(STABLE);
            let least = scene.versions[number].load(SeqCst);
            let is_key = |found: PackedLocator| Ok::<_, Infallible>(found.offset() as usize == number);
            let found = scene.table.get(hash(number), is_key).unwrap().expect("a key that is there");
            assert!(found.file() >= least, "an old locator");
            if random.random(3) == 0 {
                look_at_groups(scene, &mut walk);
            }
        }
    }

    /// Each stable key once, the others once at most, each entry with the hash that belongs to it.
    fn look_at_groups(scene: &Scene, walk: &mut Walk<'_>) {
        let least = scene.versions.each_ref().map(|version| version.load(SeqCst));
        let mut seen = BTreeMap::new();
        // Those of the buckets 0 and 1, and those that they were parted into before the walk began.
        for group in [0, 1].into_iter().chain(BUCKETS_MIN..walk.buckets()) {
            for (kept, found) in walk.group(group) {
                let number = found.offset() as usize;
                assert_eq!(kept, hash(number), "a tag and a locator that do not belong together");
                assert_eq!(seen.insert(number, found.file()), None, "a key came twice");
            }
        }
        for (number, least) in least.iter().enumerate() {
            assert!(seen.get(&number).expect("a key that is there") >= least, "an old locator");
        }
    }

    /// A seed for the threads' turns, and what two threads do of their own by it.
    fn seeds(seed: u64) -> (u64, [State; 2]) {
        let random = |salt| State { running: Vec::new(), current: 0, random: seed << 8 | salt, calm: 1 };
        (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), [random(1), random(2)])
    }

    #[test]
    fn readers_miss_nothing_whatever_the_interleaving() {
        for seed in 0..1000 {
            println!("seed {seed}");
            let (turns, randoms) = seeds(seed);
            let [writes, looks] = randoms.map(|random| move || random.clone());
            let scene = scene(1003, &[]);
            run(turns, [&|| write(&scene, writes()), &|| look(&scene, looks())]);
        }
    }

    /// A single walk beside a few writes that were chosen for what they do.
    fn walk_beside(fillers: u32, before: &[usize], writes: &[usize]) {
        for seed in 0..4000 {
            println!("seed {seed}");
            let scene = scene(fillers, before);
            let look = || look_at_groups(&scene, &mut Walk::new(&scene.table));
            run(seeds(seed).0, [&|| writes.iter().for_each(|number| scene.write(*number, 2)), &look]);
        }
    }

    /// The chain of bucket 0 moves the entry of its last bucket forward and gives the bucket back, and that of
    /// bucket 1 takes it.
    #[test]
    fn a_walk_is_not_led_into_another_chain() {
        walk_beside(0, &[8, 10, 12, 14, 7, 9, 11, 13, 15], &[14, 17]);
    }

    /// Bucket 0 is parted, and slots of those that leave are taken by those that stay.
    #[test]
    fn a_walk_takes_no_tag_for_another_entrys() {
        walk_beside(1011, &[8, 10, 12, 14, 16, 18], &[9]);
    }
}
