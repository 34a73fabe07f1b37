//! The limits that both ends of a stream must agree on. Each is enforced with an error that names it.

/// The longest key, in bytes. The shortest is 1.
pub const KEY_BYTES_MAX: usize = 4_096;

/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// The most keys, or writes, of one batch.
pub const BATCH_ITEMS_MAX: usize = 1_000;

/// The most bytes of keys and values in one batch.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// The largest gRPC message that a server or client decodes: well above the largest lawful one, so that a
/// batch over its limit is refused by the rule that it breaks, not by its framing. A page of
/// [`BATCH_BYTES_MAX`] and the largest value fit.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(MESSAGE_BYTES_MAX >= 2 * BATCH_BYTES_MAX + VALUE_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX > KEY_BYTES_MAX + VALUE_BYTES_MAX);
