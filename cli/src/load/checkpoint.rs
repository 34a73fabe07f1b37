//! The file beside the input that remembers how far everything was acknowledged: `FILE.paddock-progress`.
//! It is replaced whole (write, sync, rename), and removed at the end of the load.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::lines::Position;

/// The format that this build writes, and the only one that it reads.
const FORMAT: u32 = 1;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    format: u32,
    /// Where the records went: another cluster has none of them.
    cluster_id: String,
    /// Of the input: another size or time means another content.
    file_bytes: u64,
    file_modified_ns: u64,
    /// Every line before this byte is acknowledged.
    offset: u64,
    /// How many lines those are.
    lines: u64,
}

/// What was found beside the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing: begin at the beginning.
    Nothing,
    /// An interrupted load of this file into this cluster.
    Interrupted(Position),
    /// The remains of something else, in words.
    Other(&'static str),
}

/// The file that remembers.
pub(crate) struct Checkpoint {
    path: PathBuf,
    cluster_id: String,
    file_bytes: u64,
    file_modified_ns: u64,
}

impl Checkpoint {
    /// The checkpoint of an input file for a cluster.
    pub(crate) fn of(input: &Path, file: &File, cluster_id: String) -> anyhow::Result<Self> {
        let metadata = file.metadata().with_context(|| input.display().to_string())?;
        let mut name = input.as_os_str().to_owned();
        name.push(".paddock-progress");
        Ok(Checkpoint {
            path: PathBuf::from(name),
            cluster_id,
            file_bytes: metadata.len(),
            file_modified_ns: metadata.modified().map_or(0, nanoseconds),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier load left.
    pub(crate) fn find(&self) -> anyhow::Result<Found> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error).with_context(|| self.path.display().to_string()),
        };
        let Ok(content) = serde_json::from_slice::<Content>(&bytes) else {
            return Ok(Found::Other("it cannot be read"));
        };
        let position = Position { offset: content.offset, lines: content.lines };
        Ok(if content.format != FORMAT {
            Found::Other("it has another format")
        } else if content.cluster_id != self.cluster_id {
            Found::Other("it belongs to a load into another cluster")
        } else if content != self.content(position) || position.offset > self.file_bytes {
            Found::Other("the file has changed since")
        } else {
            Found::Interrupted(position)
        })
    }

    /// Remembers that every line before the position is acknowledged.
    pub(crate) fn save(&self, position: Position) -> io::Result<()> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&self.content(position))?)?;
        // Else a crash could leave an empty file under the name.
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }

    /// Forgets: the load has ended.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn content(&self, position: Position) -> Content {
        Content {
            format: FORMAT,
            cluster_id: self.cluster_id.clone(),
            file_bytes: self.file_bytes,
            file_modified_ns: self.file_modified_ns,
            offset: position.offset,
            lines: position.lines,
        }
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_file_and_cluster_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let input = directory.path().join("input");
        fs::write(&input, "0123456789").unwrap();
        let of =
            |cluster: &str| Checkpoint::of(&input, &File::open(&input).unwrap(), cluster.to_owned()).unwrap();
        assert_eq!(of("one").find().unwrap(), Found::Nothing);
        let position = Position { offset: 4, lines: 2 };
        of("one").save(position).unwrap();
        assert_eq!(of("one").find().unwrap(), Found::Interrupted(position));
        assert!(matches!(of("two").find().unwrap(), Found::Other(why) if why.contains("another cluster")));
        fs::write(&input, "0123456789 and more").unwrap();
        assert!(matches!(of("one").find().unwrap(), Found::Other(why) if why.contains("changed")));
        fs::write(of("one").path(), "{").unwrap();
        assert!(matches!(of("one").find().unwrap(), Found::Other(why) if why.contains("cannot be read")));
        of("one").remove().unwrap();
        of("one").remove().unwrap();
        assert_eq!(of("one").find().unwrap(), Found::Nothing);
    }
}
