//! A file of the faulty disk: what is seen of it, what is durable, and what a crash makes of the difference.

use super::Unsynced;

/// What a crash tears apart.
const SECTOR_BYTES: usize = 512;

/// A file's bytes: as they are seen, as they are on the platter, and what lies between.
#[derive(Clone, Default)]
pub(super) struct Contents {
    pub(super) seen: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) unsynced: Vec<Change>,
}

#[derive(Clone)]
pub(super) enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Contents {
    pub(super) fn settle(&mut self, change: Change) {
        match change {
            Change::Length(length) => set_length(&mut self.durable, length),
            Change::Write { offset, bytes } => write(&mut self.durable, offset, &bytes),
        }
    }

    pub(super) fn crash(&mut self, dice: &mut Dice) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Length(length) => {
                    if dice.keeps() {
                        set_length(&mut self.durable, length);
                    }
                }
                Change::Write { offset, bytes } => {
                    for (start, end) in sectors(offset, bytes.len()) {
                        if dice.keeps() {
                            write(&mut self.durable, start, &bytes[start - offset..end - offset]);
                        }
                    }
                }
            }
        }
        self.seen.clone_from(&self.durable);
    }
}

/// The sectors' parts of a range.
fn sectors(offset: usize, length: usize) -> impl Iterator<Item = (usize, usize)> {
    let end = offset + length;
    let first = offset / SECTOR_BYTES;
    (first..end.div_ceil(SECTOR_BYTES))
        .map(move |sector| ((sector * SECTOR_BYTES).max(offset), ((sector + 1) * SECTOR_BYTES).min(end)))
}

/// Cuts, or extends by zeros: in one piece, since without optimisation `resize` goes byte by byte.
pub(super) fn set_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.truncate(length);
    let more = vec![0; length - bytes.len()];
    bytes.extend_from_slice(&more);
}

pub(super) fn write(into: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if into.len() < offset + bytes.len() {
        set_length(into, offset + bytes.len());
    }
    into[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Decides sector by sector; SplitMix64 is small, and good enough for dice.
pub(super) struct Dice(pub(super) Unsynced);

impl Dice {
    pub(super) fn keeps(&mut self) -> bool {
        match &mut self.0 {
            Unsynced::Lost => false,
            Unsynced::Kept => true,
            Unsynced::Torn { seed } => {
                *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (mixed ^ (mixed >> 31)) & 1 == 1
            }
        }
    }
}
