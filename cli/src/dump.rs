//! `batch dump`: every record as a line of JSON, partition by partition, each in key order.
//!
//! That order is what makes a dump resumable: its last whole line says which partition it had reached
//! (where the key is located) and after which key it goes on.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use paddock_client::{Client, Error, Record, messages};

use crate::arguments::Dump;
use crate::exit::Interrupted;
use crate::load::LINE_BYTES_MAX;
use crate::signals::Signals;
use crate::{output, record_line};

/// Records of one page; a page may be shorter.
const PAGE_RECORDS: u32 = 1_000;

/// The wait between two attempts at a page, after those of the client.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// The size of the writes.
const WRITE_BYTES: usize = 256 * 1024;

/// Runs the command.
pub(crate) async fn run(client: &Client, dump: Dump) -> anyhow::Result<()> {
    let to_stdout = dump.file == Path::new("-");
    anyhow::ensure!(
        !(to_stdout && dump.resume),
        "--resume needs a FILE: what went to stdout cannot be seen again"
    );
    let mut partitions = client.partitions().await?;
    partitions.sort_by_key(|partition| partition.partition_id);
    let mut signals = Signals::listen()?;
    if to_stdout {
        let out = BufWriter::with_capacity(WRITE_BYTES, output::stdout());
        let mut dumper = Dumper::new(client, &dump, &partitions, out);
        return dumper.run(&mut signals, &partitions, None).await;
    }
    let (file, last_key) = open(&dump)?;
    let start = match last_key {
        Some(key) => Some(locate(client, key).await?),
        None => None,
    };
    let path = dump.file.display();
    let out = BufWriter::with_capacity(WRITE_BYTES, file);
    let mut dumper = Dumper::new(client, &dump, &partitions, out);
    dumper.run(&mut signals, &partitions, start).await.with_context(|| path.to_string())?;
    // The dump may be all that is left of the data one day.
    dumper.out.get_ref().sync_all().with_context(|| path.to_string())
}

/// A place in a dump: the partition, and the key that was written last.
struct Place {
    partition_id: u32,
    after_key: Bytes,
}

async fn locate(client: &Client, key: Bytes) -> anyhow::Result<Place> {
    let partition =
        client.locate(key.clone()).await?.partition.context("the router does not place the last key")?;
    Ok(Place { partition_id: partition.partition_id, after_key: key })
}

/// Opens the file: new, or to go on with, after its last whole line.
fn open(dump: &Dump) -> anyhow::Result<(File, Option<Bytes>)> {
    let path = &dump.file;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(path).with_context(|| path.display().to_string())?;
    if !file.metadata()?.is_file() {
        anyhow::ensure!(
            !dump.resume,
            "{}: not a regular file, so there is nothing to resume",
            path.display()
        );
        return Ok((file, None));
    }
    if !dump.resume {
        anyhow::ensure!(
            file.metadata()?.len() == 0,
            "{}: there is something in it (--resume goes on with an interrupted dump)",
            path.display()
        );
        return Ok((file, None));
    }
    let last = cut_torn_line(&mut file).with_context(|| path.display().to_string())?;
    let Some(line) = last else { return Ok((file, None)) };
    let (key, _) = record_line::parse(&line)
        .with_context(|| format!("{}: its last whole line is not a record", path.display()))?;
    Ok((file, Some(key)))
}

/// Cuts what follows the last line feed, leaves the file at its end, and returns the last whole line.
fn cut_torn_line(file: &mut File) -> anyhow::Result<Option<Vec<u8>>> {
    let length = file.metadata()?.len();
    let Some(end) = last_line_feed(file, length)? else {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        return Ok(None);
    };
    let begin = last_line_feed(file, end)?.map_or(0, |line_feed| line_feed + 1);
    let line_bytes = usize::try_from(end - begin)?;
    anyhow::ensure!(line_bytes <= LINE_BYTES_MAX, "its last line is longer than {LINE_BYTES_MAX} bytes");
    let mut line = vec![0; line_bytes];
    file.seek(SeekFrom::Start(begin))?;
    file.read_exact(&mut line)?;
    file.set_len(end + 1)?;
    file.seek(SeekFrom::Start(end + 1))?;
    Ok(Some(line))
}

/// The last line feed before a place, searched for backwards.
fn last_line_feed(file: &mut File, before: u64) -> io::Result<Option<u64>> {
    const STEP_BYTES: u64 = 64 * 1024;
    let mut end = before;
    while end > 0 {
        let begin = end.saturating_sub(STEP_BYTES);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(begin))?;
        Read::by_ref(file).take(end - begin).read_to_end(&mut bytes)?;
        if let Some(found) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(begin + found as u64));
        }
        end = begin;
    }
    Ok(None)
}

struct Dumper<'a, W: Write> {
    client: &'a Client,
    patience: Duration,
    hint: String,
    out: BufWriter<W>,
    bar: ProgressBar,
    began: Instant,
    records: u64,
}

impl<'a, W: Write> Dumper<'a, W> {
    fn new(client: &'a Client, dump: &Dump, partitions: &[messages::Partition], out: BufWriter<W>) -> Self {
        let hint = if dump.file == Path::new("-") {
            "the dump is incomplete".to_owned()
        } else {
            format!("`paddock batch dump --resume {}` goes on", dump.file.display())
        };
        Dumper {
            client,
            patience: Duration::from_secs(dump.retry_seconds),
            hint,
            out,
            bar: bar(partitions),
            began: Instant::now(),
            records: 0,
        }
    }

    /// Dumps from the place on, and says at the end what was done.
    async fn run(
        &mut self,
        signals: &mut Signals,
        partitions: &[messages::Partition],
        start: Option<Place>,
    ) -> anyhow::Result<()> {
        let outcome = tokio::select! {
            biased;
            () = signals.received() => Err(Interrupted { hint: self.hint.clone() }.into()),
            outcome = self.dump_all(partitions, start) => outcome,
        };
        self.bar.finish_and_clear();
        self.out.flush()?;
        let seconds = self.began.elapsed().as_secs_f64();
        output::note(format_args!("dumped {} records in {seconds:.1} s", self.records));
        outcome
    }

    async fn dump_all(
        &mut self,
        partitions: &[messages::Partition],
        start: Option<Place>,
    ) -> anyhow::Result<()> {
        let first = start.as_ref().map_or(0, |place| place.partition_id);
        for partition in partitions.iter().filter(|partition| partition.partition_id >= first) {
            let mut after_key = match &start {
                Some(place) if place.partition_id == partition.partition_id => place.after_key.clone(),
                _ => Bytes::new(),
            };
            loop {
                let (records, more) = self.page(partition.partition_id, &after_key).await?;
                for record in &records {
                    record_line::print(&mut self.out, &record.key, &record.value, None)?;
                }
                self.note(&records);
                match records.last() {
                    Some(last) if more => after_key = last.key.clone(),
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// Reads a page, patiently: a leader may be changing.
    async fn page(&self, partition_id: u32, after_key: &Bytes) -> anyhow::Result<(Vec<Record>, bool)> {
        let began = Instant::now();
        loop {
            match self.client.list_records(partition_id, after_key.clone(), PAGE_RECORDS).await {
                Ok(page) => return Ok(page),
                Err(error) if error.is_transient() && began.elapsed() < self.patience => {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(error) => return Err(failed(error, partition_id)),
            }
        }
    }

    fn note(&mut self, records: &[Record]) {
        self.records += records.len() as u64;
        let rate = self.records as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        self.bar.inc(records.len() as u64);
        self.bar.set_message(format!("{rate:.0}/s"));
    }
}

fn failed(error: Error, partition_id: u32) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("partition {partition_id}"))
}

/// A bar over what the leaders say they hold; it is an estimate while others write.
fn bar(partitions: &[messages::Partition]) -> ProgressBar {
    let total = partitions
        .iter()
        .map(|partition| partition.replicas.iter().map(|replica| replica.record_count).max().unwrap_or(0))
        .sum();
    let style = ProgressStyle::with_template(
        "{wide_bar} {percent:>3}%  {human_pos}/{human_len} records  {msg}  ETA {eta}",
    );
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(content: &[u8]) -> (Option<Vec<u8>>, Vec<u8>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let line = cut_torn_line(&mut file).unwrap();
        let mut left = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut left).unwrap();
        (line, left)
    }

    #[test]
    fn a_torn_last_line_is_cut() {
        assert_eq!(cut(b"one\ntwo\nthr"), (Some(b"two".to_vec()), b"one\ntwo\n".to_vec()));
        assert_eq!(cut(b"one\n"), (Some(b"one".to_vec()), b"one\n".to_vec()));
        assert_eq!(cut(b"torn"), (None, Vec::new()));
        assert_eq!(cut(b""), (None, Vec::new()));
    }

    #[test]
    fn long_lines_are_found_over_several_steps() {
        let mut content = b"first\n".to_vec();
        content.extend(vec![b'x'; 200_000]);
        content.extend(b"\ntorn");
        let (line, left) = cut(&content);
        assert_eq!(line.unwrap().len(), 200_000);
        assert_eq!(left.len(), content.len() - 4);
    }
}
