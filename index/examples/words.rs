//! Lists the lines of a text file of yours whose first word begins with some letters, in the order of the words: of
//! several lines that begin with the same word, the last one.
//!
//! `cargo run -p paddock-index --example words -- /etc/services http`

use std::error::Error;
use std::fs;
use std::ops::Bound;

use paddock_index::{OrderedTail, PackedLocator};

/// The lines whose first word begins with `prefix`.
pub fn list(path: &str, prefix: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    let mut tail = OrderedTail::new();
    let mut offset = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let length = u32::try_from(line.len())?;
        if let Some(word) = line.split_whitespace().next() {
            tail.push(word.as_bytes(), number, PackedLocator::new(0, offset, length)?, false);
        }
        offset += length;
    }
    let mut found = Vec::new();
    let mut words = tail.layers().keys(u64::MAX); // each word at its highest line number
    words.seek(Bound::Included(prefix.as_bytes()));
    while let Some(word) = words.entry().filter(|word| word.key.starts_with(prefix.as_bytes())) {
        let line = text[word.locator.offset() as usize..].lines().next().unwrap_or_default();
        found.push(format!("{:>6}: {line}", word.sequence));
        words.next();
    }
    Ok(found)
}

#[allow(clippy::print_stdout, dead_code, reason = "it speaks to whoever runs it; its test calls `list`")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), prefix) = (arguments.next(), arguments.next().unwrap_or_default()) else {
        return Err("usage: words FILE [PREFIX]".into());
    };
    list(&path, &prefix)?.iter().for_each(|line| println!("{line}"));
    Ok(())
}
