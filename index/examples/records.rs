//! Indexes a file of records of yours without keeping their keys: each line's first word is its key, the last
//! line of a key is the one that counts.
//!
//! `cargo run -p paddock-index --example records -- /etc/services ssh`

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;

use paddock_index::{HashIndex, PackedLocator};

/// Reads a record where the index says it lies. The length may say a little too much: the line ends itself.
fn record(file: &File, place: PackedLocator) -> io::Result<String> {
    let mut bytes = vec![0; place.length_max() as usize];
    let length = file.read_at(&mut bytes, place.offset().into())?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, wanted] = arguments.as_slice() else { return Err("usage: records FILE KEY".into()) };
    let file = File::open(path)?;
    let is = |key: &str| {
        let (key, file) = (key.to_owned(), &file);
        move |place| Ok::<_, io::Error>(record(file, place)?.split_whitespace().next() == Some(&key))
    };

    let mut index = HashIndex::new(0x5eed);
    let mut offset = 0;
    for line in BufReader::new(&file).split(b'\n') {
        let line = line?;
        let length = u32::try_from(line.len())?;
        if let Some(key) = String::from_utf8_lossy(&line).split_whitespace().next() {
            index.insert(key.as_bytes(), PackedLocator::new(0, offset, length)?, is(key))?;
        }
        offset += length + 1;
    }
    match index.get(wanted.as_bytes(), is(wanted))? {
        Some(place) => println!("{}", record(&file, place)?),
        None => println!("no record of {wanted}"),
    }
    println!("{} records, {} bytes of index", index.len(), index.memory_bytes());
    Ok(())
}
