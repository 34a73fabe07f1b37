//! The README's example. `cargo run -p paddock-storage --example birds`

use paddock_storage::{Expected, Readable, Store, WriteBatch};

#[allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path().join("birds"))?;
    store.insert("heron", "grey")?;
    store.insert("robin", "red")?;

    // Several writes, all or none.
    let mut batch = WriteBatch::new();
    batch.insert("wren", "brown")?.remove("heron")?;
    store.write(batch)?;

    // The outer result is a fault, the inner one a lost race.
    if let Err(lost) = store.insert_with("robin", "orange", Expected::Absent)? {
        println!("there is one already: {:?}", lost.current);
    }

    for record in store.prefix(b"r").rev() {
        let record = record?;
        println!("{:?} = {:?}, version {}", record.key, record.value, record.version);
    }
    store.close()?;
    Ok(())
}
