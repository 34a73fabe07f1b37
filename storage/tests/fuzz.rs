//! The fuzz targets, over their seeds and a fixed series of mutations of them: so they are run without a nightly compiler,
//! too. `make fuzz` looks for more.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "the targets are functions of their own for cargo-fuzz")]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

use targets::{TARGETS, Target};

const MUTATIONS: usize = 400;
const CHANGES_MAX: u64 = 4;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// One small change; of bytes that mean something more often than of zeros.
fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    let mut at = random.below(bytes.len());
    if bytes.get(at) == Some(&0) {
        at = random.below(bytes.len());
    }
    let end = bytes.len().min(at + 1 + random.below(64));
    let other = random.below(bytes.len());
    match random.below(8) {
        _ if bytes.is_empty() => bytes.push(random.next() as u8),
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => bytes[at..end].fill(0),
        3 => bytes.extend_from_within(at..end),
        4 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(other..other, piece);
        }
        5 => {
            let numbers = [0, 1, u64::MAX, 1 << 31, 1 << 32, u64::from(u32::MAX), 1 << 48, random.next()];
            let number = numbers[random.below(numbers.len())].to_le_bytes();
            let length = [2, 4, 8][random.below(3)].min(bytes.len() - at);
            bytes[at..at + length].copy_from_slice(&number[..length]);
        }
        6 => bytes[at] = bytes[at].wrapping_add(1),
        _ => bytes[at] ^= 1 << random.below(8),
    }
}

fn feed(target: &Target, input: &[u8], case: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        let path = std::env::temp_dir().join(format!("paddock-fuzz-{}", target.name));
        std::fs::write(&path, input).unwrap();
        let said = panic.downcast_ref::<String>().map_or("see above", String::as_str);
        panic!("target {}, {case}: {said}\nThe input is in {}", target.name, path.display());
    }
}

fn try_target(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = (target.seeds)();
    for (number, seed) in seeds.iter().enumerate() {
        feed(target, seed, &format!("seed {number}"));
    }
    feed(target, b"", "nothing");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for mutation in 0..MUTATIONS {
        let Some(seed) = seeds.get(random.below(seeds.len())) else { continue };
        let mut input = seed.clone();
        for _ in 0..1 + random.next() % CHANGES_MAX {
            change(&mut input, &mut random);
        }
        feed(target, &input, &format!("mutation {mutation}"));
    }
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            try_target(stringify!($name));
        })*

        #[test]
        fn every_target_is_tried() {
            assert_eq!(TARGETS.map(|target| target.name), [$(stringify!($name)),*]);
        }
    };
}

targets!(row, rows, segment, log, manifest, lock, files, run, stored, checkpoint, hash_index, filter);
