//! Indexes a text file of yours: each line's first word becomes a key that points at the line.
//!
//! `cargo run -p paddock-index --example words -- /etc/services http`

use std::fs;

use paddock_index::{BTreeIndex, Locator, OrderedIndex, prefix_end};

#[allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), prefix) = (arguments.next(), arguments.next().unwrap_or_default()) else {
        return Err("usage: words FILE [PREFIX]".into());
    };
    let text = fs::read_to_string(path)?;
    let mut index = BTreeIndex::new();
    let mut offset = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let length = u32::try_from(line.len())?;
        if let Some(word) = line.split_whitespace().next() {
            index.insert(word.as_bytes(), Locator { file: 0, offset, length, tag: number });
        }
        offset += length;
    }
    let end = prefix_end(prefix.as_bytes());
    let end = end.as_deref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    for (_, found) in index.range((std::ops::Bound::Included(prefix.as_bytes()), end)) {
        let line = &text[found.offset as usize..][..found.length as usize];
        println!("{:>6}: {}", found.tag, line.trim_end());
    }
    println!("{} words, about {} bytes of index", index.len(), index.memory_bytes());
    Ok(())
}
