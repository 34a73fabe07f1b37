//! Finds a line of a text file of yours by its first word, and keeps none of the words: the last line that begins
//! with a word is the one that counts.
//!
//! `cargo run -p paddock-index --example records -- /etc/services ssh`

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;

use paddock_index::{HashIndex, PackedLocator};

/// Reads the line at a place. The place's length may say a little too much: the line ends itself.
fn line_at(file: &File, place: PackedLocator) -> io::Result<String> {
    let mut bytes = vec![0; place.length_max() as usize];
    let length = file.read_at(&mut bytes, place.offset().into())?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The line that `wanted` is the first word of, if there is one, and how many words were indexed.
pub fn find(path: &str, wanted: &str) -> Result<(Option<String>, usize), Box<dyn Error>> {
    let file = File::open(path)?;
    // The index asks whether the line at a place is the word's.
    let is = |word: &str| {
        let (word, file) = (word.to_owned(), &file);
        move |place| Ok::<_, io::Error>(line_at(file, place)?.split_whitespace().next() == Some(&word))
    };
    let mut index = HashIndex::new(0x5eed);
    let mut offset = 0;
    for line in BufReader::new(&file).split(b'\n') {
        let line = line?;
        let length = u32::try_from(line.len())?;
        if let Some(word) = String::from_utf8_lossy(&line).split_whitespace().next() {
            index.insert(word.as_bytes(), PackedLocator::new(0, offset, length)?, is(word))?;
        }
        offset += length + 1;
    }
    let place = index.get(wanted.as_bytes(), is(wanted))?;
    Ok((place.map(|place| line_at(&file, place)).transpose()?, index.len()))
}

#[allow(clippy::print_stdout, dead_code, reason = "it speaks to whoever runs it; its test calls `find`")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, wanted] = arguments.as_slice() else { return Err("usage: records FILE WORD".into()) };
    let (line, words) = find(path, wanted)?;
    println!("{}", line.unwrap_or_else(|| format!("none of {words} words is {wanted}")));
    Ok(())
}
