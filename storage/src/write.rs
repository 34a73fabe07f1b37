//! What a caller says of a write: options, conditions, several writes together.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::Clock;
use crate::commit::Expectation;
use crate::durability::Durability;
use crate::error::Result;
use crate::position::Sequence;
use crate::record::Record;
use crate::row::{PutOptions, RowsBuilder};

/// What a conditional write expects of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// Anything: the write is unconditional.
    #[default]
    Any,
    /// That it has no value.
    Absent,
    /// That it has a value.
    Present,
    /// That its value was made by the write with this sequence.
    Version(Sequence),
}

/// A conditional write lost: a key was not as expected, and nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The key.
    pub key: Bytes,
    /// What it has instead; `None`: nothing.
    pub current: Option<Record>,
}

/// How a value is written, where the defaults do not suit. An [`Expected`] alone can be given in its place.
///
/// ```
/// use std::time::Duration;
///
/// use paddock_storage::{Expected, Readable, Store, WriteOptions};
///
/// # let directory = tempfile::tempdir()?;
/// # let store = Store::open(directory.path())?;
/// let options = WriteOptions::new()
///     .expected(Expected::Absent)
///     .ttl(Duration::from_secs(3_600))
///     .content_type("application/json");
/// assert!(store.insert_with("lease", r#"{"owner": "me"}"#, options)?.is_ok());
/// assert!(store.get_record(b"lease")?.unwrap().expires_at_ms.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    pub(crate) durability: Option<Durability>,
    pub(crate) expected: Expected,
    expiry: Expiry,
    content_type: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expiry {
    #[default]
    Never,
    After(Duration),
    At(u64),
}

impl WriteOptions {
    /// The defaults: unconditional, as durable as the store's options say, for ever, of no particular type.
    ///
    /// ```
    /// use paddock_storage::{Expected, WriteOptions};
    ///
    /// assert_eq!(WriteOptions::new(), Expected::Any.into());
    /// ```
    #[must_use]
    pub fn new() -> WriteOptions {
        WriteOptions::default()
    }

    /// When the write counts as done.
    ///
    /// ```
    /// use paddock_storage::{Durability, WriteOptions};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let options = WriteOptions::new().durability(Durability::Buffered);
    /// assert!(store.insert_with("heron", "grey", options)?.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> WriteOptions {
        self.durability = Some(durability);
        self
    }

    /// What its key must be like.
    ///
    /// ```
    /// use paddock_storage::{Expected, WriteOptions};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let options = WriteOptions::new().expected(Expected::Absent);
    /// assert!(store.insert_with("heron", "grey", options)?.is_ok());
    /// assert!(store.insert_with("heron", "blue", WriteOptions::new().expected(Expected::Absent))?.is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn expected(mut self, expected: Expected) -> WriteOptions {
        self.expected = expected;
        self
    }

    /// The value expires so long after it is written: from then on it is as if it were not there. Of a removal it changes
    /// nothing.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use paddock_storage::{Readable, WriteOptions};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let options = WriteOptions::new().ttl(Duration::from_secs(60));
    /// assert!(store.insert_with("heron", "grey", options)?.is_ok());
    /// assert!(store.get_record(b"heron")?.unwrap().expires_at_ms.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> WriteOptions {
        self.expiry = Expiry::After(ttl);
        self
    }

    /// The value expires at a time, in milliseconds since 1970. Takes the place of [`WriteOptions::ttl`].
    ///
    /// ```
    /// use paddock_storage::{Readable, WriteOptions};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let options = WriteOptions::new().expires_at_ms(4_102_444_800_000);
    /// assert!(store.insert_with("heron", "grey", options)?.is_ok());
    /// assert_eq!(store.get_record(b"heron")?.unwrap().expires_at_ms, Some(4_102_444_800_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn expires_at_ms(mut self, time_ms: u64) -> WriteOptions {
        self.expiry = Expiry::At(time_ms);
        self
    }

    /// What the value is: printable ASCII, at most [`crate::CONTENT_TYPE_BYTES_MAX`] bytes. Of a removal it changes nothing.
    ///
    /// ```
    /// use paddock_storage::{Readable, WriteOptions};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let options = WriteOptions::new().content_type("text/plain");
    /// assert!(store.insert_with("heron", "grey", options)?.is_ok());
    /// assert_eq!(store.get_record(b"heron")?.unwrap().content_type.as_deref(), Some("text/plain"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> WriteOptions {
        self.content_type = Some(content_type.into());
        self
    }

    /// What of it is kept with the value.
    pub(crate) fn kept(&self, clock: &Clock) -> PutOptions<'_> {
        let expires_at_ms = match self.expiry {
            Expiry::Never => None,
            Expiry::After(ttl) => {
                let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                Some(clock.now_ms().saturating_add(ttl_ms))
            }
            Expiry::At(time_ms) => Some(time_ms),
        };
        PutOptions { expires_at_ms, content_type: self.content_type.as_deref() }
    }
}

impl From<Expected> for WriteOptions {
    fn from(expected: Expected) -> WriteOptions {
        WriteOptions::new().expected(expected)
    }
}

impl Expected {
    /// As a condition on a key; `None`: there is none.
    pub(crate) fn of(self, key: &[u8]) -> Option<(Bytes, Expectation)> {
        let expectation = match self {
            Expected::Any => return None,
            Expected::Absent => Expectation::Absent,
            Expected::Present => Expectation::Present,
            Expected::Version(version) => Expectation::Version(version),
        };
        Some((Bytes::copy_from_slice(key), expectation))
    }
}

/// Writes that happen together: all of them, or after a crash perhaps none; readers see them at once.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    pub(crate) clock: Clock,
    pub(crate) rows: RowsBuilder,
    pub(crate) conditions: Vec<(Bytes, Expectation)>,
    pub(crate) durability: Option<Durability>,
}

impl WriteBatch {
    /// A batch without writes. Where a write has a [`WriteOptions::ttl`], that runs from its being added here, by the
    /// system's clock ([`crate::Store::batch`] takes the store's).
    ///
    /// ```
    /// assert!(paddock_storage::WriteBatch::new().is_empty());
    /// ```
    #[must_use]
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// Adds a write of a value. Of several writes of one key the last one counts.
    ///
    /// ```
    /// use paddock_storage::WriteBatch;
    ///
    /// let mut batch = WriteBatch::new();
    /// batch.insert("heron", "grey")?.insert("robin", "red")?;
    /// assert!(batch.insert("", "no key").is_err());
    /// assert_eq!(batch.len(), 2);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::EmptyKey`], [`crate::Error::TooLarge`]: the batch is as before.
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<&mut WriteBatch> {
        self.rows.put(key.as_ref(), value.as_ref())?;
        Ok(self)
    }

    /// Adds a write of a value with options. What it expects is a condition of the whole batch, held against what is there
    /// before it; and the batch is as durable as the most durable of its writes asks for.
    ///
    /// ```
    /// use paddock_storage::{Expected, WriteBatch, WriteOptions};
    ///
    /// let mut batch = WriteBatch::new();
    /// batch.insert_with("heron", "grey", Expected::Absent)?;
    /// batch.insert_with("robin", "red", WriteOptions::new().content_type("text/plain"))?;
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`WriteBatch::insert`]; [`crate::Error::ContentType`].
    pub fn insert_with(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: impl Into<WriteOptions>,
    ) -> Result<&mut WriteBatch> {
        let options = options.into();
        self.rows.put_with(key.as_ref(), value.as_ref(), &options.kept(&self.clock))?;
        self.note(key.as_ref(), &options);
        Ok(self)
    }

    /// Adds a removal.
    ///
    /// ```
    /// use paddock_storage::WriteBatch;
    ///
    /// let mut batch = WriteBatch::new();
    /// batch.insert("heron", "grey")?.remove("robin")?;
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`WriteBatch::insert`].
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> Result<&mut WriteBatch> {
        self.rows.delete(key.as_ref())?;
        Ok(self)
    }

    /// Adds a removal with options, as [`WriteBatch::insert_with`] has them.
    ///
    /// ```
    /// use paddock_storage::{Expected, WriteBatch};
    ///
    /// let mut batch = WriteBatch::new();
    /// batch.remove_with("robin", Expected::Present)?;
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`WriteBatch::insert`].
    pub fn remove_with(
        &mut self,
        key: impl AsRef<[u8]>,
        options: impl Into<WriteOptions>,
    ) -> Result<&mut WriteBatch> {
        self.remove(key.as_ref())?;
        self.note(key.as_ref(), &options.into());
        Ok(self)
    }

    fn note(&mut self, key: &[u8], options: &WriteOptions) {
        self.conditions.extend(options.expected.of(key));
        self.durability = self.durability.max(options.durability);
    }

    /// How many writes there are.
    ///
    /// ```
    /// use paddock_storage::WriteBatch;
    ///
    /// let mut batch = WriteBatch::new();
    /// batch.insert("heron", "grey")?.remove("heron")?;
    /// assert_eq!(batch.len(), 2);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.count() as usize
    }

    /// Whether there are none.
    ///
    /// ```
    /// use paddock_storage::WriteBatch;
    ///
    /// let mut batch = WriteBatch::new();
    /// assert!(batch.is_empty());
    /// batch.remove("heron")?;
    /// assert!(!batch.is_empty());
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.count() == 0
    }
}
