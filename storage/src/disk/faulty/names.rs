//! What is on the faulty disk: which names there are, which of them last, and what a crash leaves of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Fault;
use super::contents::{Contents, Dice};

#[derive(Default)]
pub(super) struct State {
    pub(super) files: Names,
    pub(super) directories: BTreeSet<PathBuf>,
    pub(super) durable_files: Names,
    pub(super) durable_directories: BTreeSet<PathBuf>,
    pub(super) locked: BTreeSet<PathBuf>,
    pub(super) calls: u64,
    pub(super) fault: Option<Fault>,
    pub(super) looks: u64,
    pub(super) look_fault: Option<Fault>,
    pub(super) capacity_bytes: Option<u64>,
    /// Fsyncs of files below wait.
    pub(super) stalled: Option<PathBuf>,
}

pub(super) type Names = BTreeMap<PathBuf, Arc<Mutex<Contents>>>;

impl State {
    /// Whether fsyncs of a file wait.
    pub(super) fn stalls(&self, contents: &Arc<Mutex<Contents>>) -> bool {
        let Some(below) = &self.stalled else { return false };
        self.files.iter().any(|(path, file)| Arc::ptr_eq(file, contents) && path.starts_with(below))
    }

    pub(super) fn used_bytes(&self) -> u64 {
        // A file of two names takes its room once.
        let files: BTreeMap<_, _> = self.files.values().map(|file| (Arc::as_ptr(file), file)).collect();
        files.values().map(|file| file.lock().seen.len() as u64).sum()
    }

    /// Each name as it was made durable, or as it was seen last; what open handles hold is another file from now on.
    pub(super) fn names_after_crash(&self, directories: &BTreeSet<PathBuf>, dice: &mut Dice) -> Names {
        let names: BTreeSet<&PathBuf> = self.files.keys().chain(self.durable_files.keys()).collect();
        let reachable =
            names.into_iter().filter(|path| path.parent().is_some_and(|p| directories.contains(p)));
        let mut copies = Copies::default();
        let files = reachable.filter_map(|path| {
            let names = if dice.keeps() { &self.files } else { &self.durable_files };
            Some((path.clone(), copies.of(names.get(path)?)))
        });
        files.collect()
    }

    /// Directories whose names last, all the way up.
    pub(super) fn reachable_directories(&self) -> BTreeSet<PathBuf> {
        let lasts = |path: &&PathBuf| path.ancestors().all(|above| self.durable_directories.contains(above));
        self.durable_directories.iter().filter(lasts).cloned().collect()
    }
}

/// Copies of files, of which open handles know nothing; a file of several names is copied once, for all of them.
#[derive(Default)]
pub(super) struct Copies(BTreeMap<*const Mutex<Contents>, Arc<Mutex<Contents>>>);

impl Copies {
    fn of(&mut self, file: &Arc<Mutex<Contents>>) -> Arc<Mutex<Contents>> {
        let copy = || Arc::new(Mutex::new(file.lock().clone()));
        self.0.entry(Arc::as_ptr(file)).or_insert_with(copy).clone()
    }

    pub(super) fn all(&mut self, names: &Names) -> Names {
        names.iter().map(|(path, file)| (path.clone(), self.of(file))).collect()
    }
}
