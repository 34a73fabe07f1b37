//! A buffer per thread for rows that are read with a system call.

use std::cell::Cell;

/// What a thread keeps between reads. One large value must not cost its bytes for good.
const KEPT_BYTES_MAX: usize = 256 << 10;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs something that needs a buffer. Within another such run it gets one of its own.
pub(crate) fn with_buffer<T>(run: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut buffer = BUFFER.take();
    let outcome = run(&mut buffer);
    if buffer.capacity() <= KEPT_BYTES_MAX {
        BUFFER.set(buffer);
    }
    outcome
}
