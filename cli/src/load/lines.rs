//! Lines of bounded length, with the place where each ends: a file of any size, or a line without end,
//! never fills the memory.

use std::io::{self, BufRead};

/// The longest line. The largest record fits, with every byte of key and value escaped as `\u0000`.
pub(crate) const LINE_BYTES_MAX: usize = 8 << 20;

const _: () = assert!(
    LINE_BYTES_MAX
        >= 6 * (paddock_proto::limits::KEY_BYTES_MAX + paddock_proto::limits::VALUE_BYTES_MAX) + 64
);

/// A place in a file: how many bytes and lines lie before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Bytes.
    pub(crate) offset: u64,
    /// Lines.
    pub(crate) lines: u64,
}

/// What [`Lines::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line; its bytes are in the buffer, without the line feed.
    Whole,
    /// A line longer than [`LINE_BYTES_MAX`], of this many bytes; passed over.
    TooLong(u64),
    /// No line is left.
    End,
}

/// A reader of lines.
pub(crate) struct Lines<R> {
    reader: R,
    /// Where the next line begins.
    pub(crate) position: Position,
    /// The line that was read last.
    pub(crate) buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Lines from here on, where `position` is what lies before.
    pub(crate) fn new(reader: R, position: Position) -> Self {
        Lines { reader, position, buffer: Vec::new() }
    }

    /// Reads the next line. The last one may lack its line feed.
    pub(crate) fn next(&mut self) -> io::Result<Line> {
        self.buffer.clear();
        let mut length: u64 = 0;
        let mut complete = false;
        while !complete {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            let line_feed = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..line_feed.unwrap_or(available.len())];
            length += part.len() as u64;
            if length <= LINE_BYTES_MAX as u64 {
                self.buffer.extend_from_slice(part);
            }
            let consumed = part.len() + usize::from(line_feed.is_some());
            self.reader.consume(consumed);
            self.position.offset += consumed as u64;
            complete = line_feed.is_some();
        }
        if !complete && length == 0 {
            return Ok(Line::End);
        }
        self.position.lines += 1;
        Ok(if length <= LINE_BYTES_MAX as u64 { Line::Whole } else { Line::TooLong(length) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_positions() {
        let mut lines = Lines::new(&b"one\n\nthree"[..], Position::default());
        let mut seen = Vec::new();
        while lines.next().unwrap() == Line::Whole {
            seen.push((lines.buffer.clone(), lines.position.offset, lines.position.lines));
        }
        assert_eq!(seen, [(b"one".to_vec(), 4, 1), (b"".to_vec(), 5, 2), (b"three".to_vec(), 10, 3)]);
    }

    #[test]
    fn a_line_without_end_is_passed_over_in_bounded_memory() {
        let mut input = vec![b'x'; LINE_BYTES_MAX + 1];
        input.extend_from_slice(b"\nnext\n");
        let mut lines = Lines::new(io::BufReader::new(&input[..]), Position::default());
        assert_eq!(lines.next().unwrap(), Line::TooLong(LINE_BYTES_MAX as u64 + 1));
        assert!(lines.buffer.capacity() <= 2 * LINE_BYTES_MAX);
        assert_eq!(lines.next().unwrap(), Line::Whole);
        assert_eq!(lines.buffer, b"next");
        assert_eq!(lines.next().unwrap(), Line::End);
    }
}
