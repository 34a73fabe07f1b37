//! The ordered tail against a model: whatever was pushed and whenever somebody looked, it answers as a sorted map.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;

use paddock_index::{OrderedTail, PackedLocator, TailCursor, TailEntry, TailKeys, TailLayers};
use proptest::collection::vec;
use proptest::prelude::*;

/// In the tail's order.
type Model = BTreeMap<(Vec<u8>, Reverse<u64>), (PackedLocator, bool)>;

type Entry = (Vec<u8>, u64, PackedLocator, bool);

#[derive(Clone, Debug)]
enum Operation {
    /// So many keys, that a merge is due now and then.
    Push(Vec<(Vec<u8>, bool)>),
    Look(Vec<Step>, u64),
    Newest(Vec<u8>, u64),
}

#[derive(Clone, Debug)]
enum Step {
    Next,
    Back,
    Seek(Bound<Vec<u8>>),
    SeekBack(Bound<Vec<u8>>),
}

/// Keys that share prefixes, nest, and differ before, in and behind the eight bytes that a head has.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop_oneof![6 => Just("customer/"), 1 => Just("customer/0000000"), 1 => Just("")];
    let letters = vec(prop_oneof![Just(0_u8), Just(b'a'), Just(b'b'), Just(0xff)], 0..4);
    let middle = prop_oneof![2 => Just(""), 1 => Just("\0\0\0\0"), 1 => Just("0000000000")];
    (prefix, middle, letters)
        .prop_map(|(prefix, middle, end)| [prefix.as_bytes(), middle.as_bytes(), &end].concat())
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![1 => Just(Bound::Unbounded), 3 => key().prop_map(Bound::Included), 3 => key().prop_map(Bound::Excluded)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Next),
        4 => Just(Step::Back),
        1 => bound().prop_map(Step::Seek),
        1 => bound().prop_map(Step::SeekBack),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => vec((key(), any::<bool>()), 1..12).prop_map(Operation::Push),
        2 => (vec(step(), 1..40), 0..200_u64).prop_map(|(steps, at)| Operation::Look(steps, at)),
        2 => (key(), 0..200_u64).prop_map(|(key, at)| Operation::Newest(key, at)),
    ]
}

fn borrowed(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn entries(model: &Model) -> Vec<Entry> {
    let entry = |((key, Reverse(sequence)), (locator, tombstone)): (&(Vec<u8>, _), &(_, _))| {
        (key.clone(), *sequence, *locator, *tombstone)
    };
    model.iter().map(entry).collect()
}

/// A cursor over versions, or over keys.
trait Walk {
    fn entry(&self) -> Option<Entry>;
    fn go(&mut self, step: &Step);
}

macro_rules! walk {
    ($cursor:ty) => {
        impl Walk for $cursor {
            fn entry(&self) -> Option<Entry> {
                self.entry().map(|entry| (entry.key.to_vec(), entry.sequence, entry.locator, entry.tombstone))
            }

            fn go(&mut self, step: &Step) {
                match step {
                    Step::Next => self.next(),
                    Step::Back => self.prev(),
                    Step::Seek(lower) => self.seek(borrowed(lower)),
                    Step::SeekBack(upper) => self.seek_back(borrowed(upper)),
                }
            }
        }
    };
}

walk!(TailCursor);
walk!(TailKeys);

/// Each key with its newest version up to a sequence.
fn keys(model: &Model, at: u64) -> Vec<Entry> {
    let mut keys = entries(model);
    keys.retain(|(_, sequence, ..)| *sequence <= at);
    keys.dedup_by(|later, first| later.0 == first.0);
    keys
}

/// A cursor by what it should give: 0 stands before the first entry, n on the n-th, n + 1 behind the last of n.
fn walk(cursor: &mut impl Walk, expected: &[Entry], steps: &[Step]) -> Result<(), TestCaseError> {
    let mut at = 0;
    for step in steps {
        cursor.go(step);
        at = match step {
            Step::Next => (at + 1).min(expected.len() + 1),
            Step::Back => at.saturating_sub(1),
            Step::Seek(lower) => {
                let left_out = |entry: &Entry| match lower {
                    Bound::Included(key) => entry.0 < *key,
                    Bound::Excluded(key) => entry.0 <= *key,
                    Bound::Unbounded => false,
                };
                expected.iter().take_while(|entry| left_out(entry)).count() + 1
            }
            Step::SeekBack(upper) => {
                let let_in = |entry: &Entry| match upper {
                    Bound::Included(key) => entry.0 <= *key,
                    Bound::Excluded(key) => entry.0 < *key,
                    Bound::Unbounded => true,
                };
                expected.iter().take_while(|entry| let_in(entry)).count()
            }
        };
        let expected = at.checked_sub(1).and_then(|number| expected.get(number)).cloned();
        prop_assert_eq!(cursor.entry(), expected, "after {:?}", step);
    }
    Ok(())
}

fn assert_same(layers: &TailLayers, model: &Model) -> Result<(), TestCaseError> {
    let expected = entries(model);
    let mut cursor = layers.cursor();
    let forward: Vec<Entry> = std::iter::from_fn(|| {
        cursor.next();
        Walk::entry(&cursor)
    })
    .collect();
    prop_assert_eq!(&forward, &expected);
    let mut back: Vec<Entry> = std::iter::from_fn(|| {
        cursor.prev();
        Walk::entry(&cursor)
    })
    .collect();
    back.reverse();
    prop_assert_eq!(&back, &expected);
    prop_assert_eq!((layers.len(), layers.is_empty()), (expected.len(), expected.is_empty()));
    Ok(())
}

fn check(operations: &[Operation], ascending: bool) -> Result<(), TestCaseError> {
    let mut tail = OrderedTail::new();
    let mut model = Model::new();
    let mut kept: Vec<(TailLayers, Model)> = Vec::new();
    let mut pushed = 0;
    for operation in operations {
        match operation {
            Operation::Push(keys) => {
                for (key, tombstone) in keys {
                    pushed += 1;
                    // 101 has an inverse modulo 2^20: other orders of sequences, and still no two alike.
                    let sequence = if ascending { pushed } else { pushed * 101 % (1 << 20) };
                    let locator = PackedLocator::new(pushed as u32 % 3, pushed as u32, 40).unwrap();
                    tail.push(key, sequence, locator, *tombstone);
                    model.insert((key.clone(), Reverse(sequence)), (locator, *tombstone));
                }
            }
            Operation::Look(steps, at) => {
                let at = if ascending { *at } else { at * 5000 };
                let layers = tail.layers();
                walk(&mut layers.cursor(), &entries(&model), steps)?;
                walk(&mut layers.keys(at), &keys(&model, at), steps)?;
                walk(&mut layers.keys(u64::MAX), &keys(&model, u64::MAX), steps)?;
                kept.push((layers, model.clone()));
            }
            Operation::Newest(key, at) => {
                let at = if ascending { *at } else { at * 5000 };
                let versions = (key.clone(), Reverse(at))..=(key.clone(), Reverse(0));
                let expected = model.range(versions).next();
                let expected = expected.map(|((_, Reverse(sequence)), (locator, tombstone))| TailEntry {
                    sequence: *sequence,
                    locator: *locator,
                    tombstone: *tombstone,
                });
                prop_assert_eq!(tail.layers().newest(key, at), expected);
            }
        }
        prop_assert_eq!(tail.len(), model.len());
        prop_assert_eq!(tail.is_empty(), model.is_empty());
    }
    kept.push((tail.layers(), model));
    // What was pushed after layers were taken does not show in them.
    kept.iter().try_for_each(|(layers, model)| assert_same(layers, model))
}

proptest! {
    #[test]
    fn answers_as_the_model_does(operations in vec(operation(), 0..40), ascending: bool) {
        check(&operations, ascending)?;
    }
}

/// Numbers in an order that a seed determines.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

fn locator() -> PackedLocator {
    PackedLocator::new(0, 0, 1).unwrap()
}

#[test]
fn many_entries_are_a_few_layers_in_little_memory() {
    const ENTRIES: usize = 300_000;
    let mut tail = OrderedTail::new();
    let (mut seed, mut most_layers) = (7, 0);
    for sequence in 1..=ENTRIES as u64 {
        tail.push(
            format!("customer/{:08}/orders", random(&mut seed) % 100_000_000).as_bytes(),
            sequence,
            locator(),
            false,
        );
        if sequence % 1000 == 0 {
            most_layers = most_layers.max(tail.layers().layer_count());
        }
    }
    let layers = tail.layers();
    let bytes = tail.memory_bytes() as f64 / ENTRIES as f64;
    println!("{bytes:.1} bytes per entry of a 24-byte key; at most {most_layers} layers");
    assert!(bytes < 24.0 + 32.0, "{bytes} bytes per entry");
    assert!(layers.memory_bytes() <= tail.memory_bytes());
    assert!(most_layers <= 8, "{most_layers} layers");
    let mut cursor = layers.cursor();
    let mut last: Option<(Vec<u8>, u64)> = None;
    let mut count = 0;
    cursor.next();
    while let Some(entry) = cursor.entry() {
        if let Some((key, sequence)) = &last {
            assert!((key.as_slice(), Reverse(*sequence)) < (entry.key, Reverse(entry.sequence)));
        }
        last = Some((entry.key.to_vec(), entry.sequence));
        count += 1;
        cursor.next();
    }
    assert_eq!(count, ENTRIES);
}

#[test]
fn keys_may_be_empty_and_long() {
    let mut tail = OrderedTail::new();
    let lengths = [0, 1, 7, 8, 9, 65_534, 65_535];
    for round in 0..100 {
        for length in lengths {
            tail.push(&vec![b'k'; length], round * 7 + length as u64 % 7, locator(), round % 2 == 0);
        }
    }
    let layers = tail.layers();
    for length in lengths {
        let newest = layers.newest(&vec![b'k'; length], u64::MAX).unwrap();
        assert_eq!((newest.sequence, newest.tombstone), (99 * 7 + length as u64 % 7, false));
    }
    assert_eq!(layers.newest(&[b'k'; 65_533], u64::MAX), None);
    let mut cursor = layers.cursor();
    cursor.seek_back(Bound::Excluded(&[b'k'; 65_534]));
    assert_eq!(cursor.entry().map(|entry| (entry.key.len(), entry.sequence)), Some((9, 2)));
}

#[test]
fn an_empty_tail_has_nothing() {
    let mut tail = OrderedTail::new();
    let layers = tail.layers();
    assert!(layers.is_empty() && layers.newest(b"", u64::MAX).is_none());
    let mut cursor = layers.cursor();
    for step in [TailCursor::next, TailCursor::prev, |cursor: &mut TailCursor| cursor.seek(Bound::Unbounded)]
    {
        step(&mut cursor);
        assert_eq!(cursor.entry(), None);
    }
}

#[test]
#[should_panic(expected = "sequence")]
fn a_sequence_beyond_the_highest_is_refused() {
    OrderedTail::new().push(b"", OrderedTail::SEQUENCE_MAX + 1, locator(), false);
}

/// Layers are for other threads, while the tail grows.
#[test]
fn readers_see_one_moment_while_the_tail_grows() {
    let mut tail = OrderedTail::new();
    std::thread::scope(|scope| {
        for round in 0..20_u64 {
            for number in 0..500 {
                tail.push(&(number % 97_u64).to_be_bytes(), round * 500 + number + 1, locator(), false);
            }
            let layers = tail.layers();
            scope.spawn(move || {
                assert_eq!(layers.len() as u64, (round + 1) * 500);
                let newest = layers.newest(&96_u64.to_be_bytes(), u64::MAX).unwrap();
                assert_eq!(newest.sequence, round * 500 + 485);
            });
        }
    });
}
