//! [`Batch`]: records that are sent together, and the thread that reads them.

use std::collections::HashMap;
use std::io::BufRead;

use bytes::Bytes;
use paddock_proto::limits::{BATCH_BYTES_MAX, BATCH_ITEMS_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use tokio::sync::mpsc;

use super::lines::{LINE_BYTES_MAX, Line, Lines, Position};
use crate::{output, record_line};

/// How many bad lines are named; the rest is only counted.
const BAD_LINES_NAMED_MAX: u64 = 20;

/// One record of the input.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// The line that it stands on, from 1.
    pub(crate) line: u64,
    /// The key.
    pub(crate) key: Bytes,
    /// The value.
    pub(crate) value: Bytes,
}

/// Records that are sent together. No key is in it twice: a later line takes the earlier one's place,
/// which leaves the same as writing both.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Counts from 0, in the order of the input.
    pub(crate) number: u64,
    /// What to send.
    pub(crate) records: Vec<Loaded>,
    /// Where each key stands in `records`.
    pub(crate) places: HashMap<Bytes, usize>,
    /// Lines that held a record, those included whose place a later one took.
    pub(crate) records_read: u64,
    /// Lines that were passed over.
    pub(crate) bad_lines: u64,
    /// Everything before this place is in this batch or an earlier one.
    pub(crate) end: Position,
    size_bytes: usize,
}

impl Batch {
    fn has_room(&self, record: &Loaded) -> bool {
        self.records.len() < BATCH_ITEMS_MAX
            && self.size_bytes + record.key.len() + record.value.len() <= BATCH_BYTES_MAX
    }

    fn add(&mut self, record: Loaded) {
        self.records_read += 1;
        self.size_bytes += record.key.len() + record.value.len();
        match self.places.get(&record.key) {
            Some(place) => {
                self.size_bytes -= record.key.len() + self.records[*place].value.len();
                self.records[*place] = record;
            }
            None => {
                self.places.insert(record.key.clone(), self.records.len());
                self.records.push(record);
            }
        }
    }
}

/// A line that is not a record, or breaks a limit.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem} (--skip-bad-lines goes on after such lines)")]
pub(crate) struct BadLine {
    line: u64,
    problem: String,
}

/// Reads the input into batches and hands them over, until it ends, fails, or nobody takes them any more.
pub(crate) fn read(
    input: impl BufRead,
    from: Position,
    skip_bad_lines: bool,
    batches: &mpsc::Sender<anyhow::Result<Batch>>,
) {
    let mut reader =
        Reader { lines: Lines::new(input, from), batch: Batch::default(), bad_lines: 0, batches };
    let ended = reader.run(skip_bad_lines);
    // A closed channel means that the command has ended; then nobody wants the rest.
    if reader.hand_over().is_ok()
        && let Err(error) = ended
    {
        let _ = batches.blocking_send(Err(error));
    }
}

struct Reader<'a, R> {
    lines: Lines<R>,
    batch: Batch,
    bad_lines: u64,
    batches: &'a mpsc::Sender<anyhow::Result<Batch>>,
}

/// Nobody takes batches any more.
#[derive(Debug, thiserror::Error)]
#[error("the load has ended")]
struct Ended;

impl<R: BufRead> Reader<'_, R> {
    fn run(&mut self, skip_bad_lines: bool) -> anyhow::Result<()> {
        loop {
            let problem = match self.lines.next()? {
                Line::End => return Ok(()),
                Line::TooLong(length) => {
                    format!("{length} bytes are more than a line's limit of {LINE_BYTES_MAX}")
                }
                Line::Whole if self.lines.buffer.trim_ascii().is_empty() => {
                    self.batch.end = self.lines.position;
                    continue;
                }
                Line::Whole => match parse(&self.lines.buffer) {
                    Ok((key, value)) => {
                        self.take(key, value)?;
                        continue;
                    }
                    Err(problem) => problem,
                },
            };
            let bad = BadLine { line: self.lines.position.lines, problem };
            if !skip_bad_lines {
                return Err(bad.into());
            }
            self.pass_over(&bad);
        }
    }

    fn take(&mut self, key: Bytes, value: Bytes) -> Result<(), Ended> {
        let record = Loaded { line: self.lines.position.lines, key, value };
        if !self.batch.has_room(&record) {
            self.hand_over()?;
        }
        self.batch.add(record);
        self.batch.end = self.lines.position;
        Ok(())
    }

    fn pass_over(&mut self, bad: &BadLine) {
        self.bad_lines += 1;
        self.batch.bad_lines += 1;
        self.batch.end = self.lines.position;
        if self.bad_lines <= BAD_LINES_NAMED_MAX {
            output::note(format_args!("passed over line {}: {}", bad.line, bad.problem));
        } else if self.bad_lines == BAD_LINES_NAMED_MAX + 1 {
            output::note("more bad lines are only counted");
        }
    }

    fn hand_over(&mut self) -> Result<(), Ended> {
        let next = Batch { number: self.batch.number + 1, end: self.batch.end, ..Batch::default() };
        let batch = std::mem::replace(&mut self.batch, next);
        if batch.records.is_empty() && batch.bad_lines == 0 {
            self.batch.number = batch.number;
            return Ok(());
        }
        self.batches.blocking_send(Ok(batch)).map_err(|_| Ended)
    }
}

/// The limits are checked here, so that one bad record is named by its line and does not get its whole
/// batch refused.
fn parse(line: &[u8]) -> Result<(Bytes, Bytes), String> {
    let (key, value) = record_line::parse(line).map_err(|error| error.to_string())?;
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(format!("a key of {} bytes (1 to {KEY_BYTES_MAX} are allowed)", key.len()));
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("a value of {} bytes (at most {VALUE_BYTES_MAX} are allowed)", value.len()));
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(input: String, skip_bad_lines: bool) -> Vec<anyhow::Result<Batch>> {
        let (sender, mut receiver) = mpsc::channel(64);
        let reading = std::thread::spawn(move || {
            read(std::io::BufReader::new(input.as_bytes()), Position::default(), skip_bad_lines, &sender);
        });
        let mut batches = Vec::new();
        while let Some(batch) = receiver.blocking_recv() {
            batches.push(batch);
        }
        reading.join().unwrap();
        batches
    }

    fn line(key: &str, value: &str) -> String {
        format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}\n")
    }

    #[test]
    fn batches_keep_to_the_limits_and_end_where_their_lines_end() {
        let input: String = (0..2_500).map(|number| line(&number.to_string(), "v")).collect();
        let length = input.len() as u64;
        let batches: Vec<Batch> = read_all(input, false).into_iter().map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(|batch| batch.records.len()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        assert_eq!(batches.iter().map(|batch| batch.number).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(batches[2].end, Position { offset: length, lines: 2_500 });
        assert_eq!(batches[0].end.lines, 1_000);
    }

    #[test]
    fn large_values_make_small_batches() {
        let value = "x".repeat(VALUE_BYTES_MAX);
        let input: String = (0..5).map(|number| line(&number.to_string(), &value)).collect();
        let batches: Vec<Batch> = read_all(input, false).into_iter().map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(|batch| batch.records.len()).collect::<Vec<_>>(), [3, 2]);
    }

    #[test]
    fn a_later_line_takes_the_place_of_an_earlier_one() {
        let input = line("a", "1") + &line("b", "2") + &line("a", "3");
        let batches = read_all(input, false);
        let batch = batches.into_iter().next().unwrap().unwrap();
        assert_eq!(batch.records_read, 3);
        let records: Vec<_> =
            batch.records.iter().map(|record| (&record.key[..], &record.value[..])).collect();
        assert_eq!(records, [(&b"a"[..], &b"3"[..]), (b"b", b"2")]);
    }

    #[test]
    fn a_bad_line_is_named_after_what_stands_before_it() {
        let batches = read_all(line("a", "1") + "nonsense\n" + &line("b", "2"), false);
        assert_eq!(batches[0].as_ref().unwrap().records.len(), 1);
        assert!(batches[1].as_ref().unwrap_err().to_string().starts_with("line 2: not a record"));
        assert_eq!(batches.len(), 2);
    }

    #[test]
    fn bad_lines_can_be_passed_over_and_counted() {
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        let input =
            line("a", "1") + "nonsense\n" + &line("", "x") + &line(&long, "x") + "\n" + &line("b", "2");
        let batches = read_all(input, true);
        let batch = batches.into_iter().next().unwrap().unwrap();
        assert_eq!((batch.records.len(), batch.bad_lines, batch.end.lines), (2, 3, 6));
    }
}
