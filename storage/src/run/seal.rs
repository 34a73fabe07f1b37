//! Makes the checksums of a run file right, for fuzzers: what comes behind a checksum is reached by nobody who guesses.

use super::STORED_CHECKSUM_BYTES;
use super::codec::Codec;
use super::format::{FOOTER_BYTES, Footer, RUN_START, Salt, Section, TABLE_END_BYTES, TABLE_ROW_BYTES};
use super::index::Entries;
use crate::header::{FileHeader, StoreId, read_u32};

/// Makes every checksum right that is where the file's lengths say.
pub(crate) fn seal(bytes: &mut [u8], store_id: StoreId, number: u32) {
    let salt = Salt::new(store_id, number);
    FileHeader::seal(bytes);
    let Some((rest, footer)) = bytes.split_last_chunk_mut::<FOOTER_BYTES>() else { return };
    let checksum = salt.checksum(&footer[12..], 0);
    footer[8..12].copy_from_slice(&checksum.to_le_bytes());
    let Ok(mut parts) = Footer::decode(footer, salt) else { return };
    let blocks_end = u64::from(RUN_START) + u64::from(parts.block_bytes);
    let Some((blocks, sections)) =
        usize::try_from(blocks_end).ok().and_then(|end| rest.split_at_mut_checked(end))
    else {
        return;
    };
    let mut sections = &*sections;
    let mut index: &[u8] = &[];
    for (number, section) in
        [&mut parts.filter, &mut parts.index, &mut parts.statistics].into_iter().enumerate()
    {
        let Some((part, behind)) = sections.split_at_checked(section.bytes as usize) else { return };
        *section = Section::of(part).unwrap_or(*section);
        if number == 1 {
            index = part;
        }
        sections = behind;
    }
    *footer = parts.encode(salt);
    seal_blocks(blocks, index, salt);
}

fn seal_blocks(file: &mut [u8], index: &[u8], salt: Salt) {
    let (mut offset, mut logical_offset) = (RUN_START as usize, RUN_START);
    for entry in (Entries { bytes: index }) {
        let Ok(entry) = entry else { return };
        let end = offset.saturating_add(entry.stored_bytes as usize);
        let Some(stored) = file.get_mut(offset..end) else { return };
        if entry.codec == Codec::Raw {
            seal_block(stored, salt, logical_offset);
        } else if let Some((compressed, checksum)) = stored.split_last_chunk_mut::<STORED_CHECKSUM_BYTES>() {
            *checksum = salt.checksum(compressed, logical_offset).to_le_bytes();
        }
        offset = end;
        logical_offset = logical_offset.saturating_add(entry.decoded_bytes);
    }
}

fn seal_block(block: &mut [u8], salt: Salt, logical_offset: u32) {
    let Some(count_at) = block.len().checked_sub(TABLE_END_BYTES) else { return };
    let rows = read_u32(block, count_at) as usize;
    let Some(rows_end) = count_at.checked_sub(rows.saturating_mul(TABLE_ROW_BYTES)) else { return };
    let checksum = salt.checksum(&block[rows_end..count_at + 4], logical_offset);
    block[count_at + 4..].copy_from_slice(&checksum.to_le_bytes());
    for at in (rows_end..count_at).step_by(TABLE_ROW_BYTES) {
        let start = usize::from(u16::from_le_bytes([block[at], block[at + 1]]));
        if let Some(row) = block.get_mut(start..rows_end) {
            crate::row::seal(row);
        }
    }
}
