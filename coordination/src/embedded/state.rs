//! The embedded backend's memory: the tree, the sessions, their registrations and watches. All of it is behind
//! one lock, and each change shows itself to the watches before the lock is let go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::disk::Nodes;
use crate::store::{Error, Tree, Version, Versioned, Watch, is_within, parents};

/// The version of a new node, as in ZooKeeper.
const FIRST_VERSION: Version = Version(0);

/// A client's number, never reused within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionId(u64);

/// What a client asks for.
pub(super) enum Operation {
    Create { value: Bytes },
    CompareAndSet { value: Bytes, expected: Version },
    Delete { expected: Option<Version> },
}

/// One node's new value; `None`: it goes.
pub(super) struct Change {
    path: String,
    node: Option<Versioned>,
}

/// An operation that may go ahead.
pub(super) struct Plan {
    /// What it changes.
    pub(super) changes: Vec<Change>,
    /// What the file must hold before that may be shown; `None` where nothing persistent changes.
    pub(super) file: Option<Nodes>,
    /// The version that the client gets.
    pub(super) version: Version,
}

/// One client.
struct Client {
    connected: bool,
    next_write: NextWrite,
}

/// What becomes of a client's next write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NextWrite {
    Answered,
    LosesRequest,
    LosesAnswer,
}

/// What keeps an ephemeral node in place.
struct Registered {
    session: SessionId,
    path: String,
    value: Bytes,
}

struct Ephemeral {
    node: Versioned,
    /// The number of its registration.
    registration: u64,
}

struct Watching {
    session: SessionId,
    path: String,
    sender: watch::Sender<Arc<Tree>>,
}

pub(super) struct State {
    persistent: Nodes,
    /// Never at the path of a persistent node.
    ephemeral: BTreeMap<String, Ephemeral>,
    clients: BTreeMap<SessionId, Client>,
    /// By number: of two for one path, the higher is the newer.
    registrations: BTreeMap<u64, Registered>,
    watches: Vec<Watching>,
    next_number: u64,
    poisoned: Option<String>,
}

impl State {
    pub(super) fn new(persistent: Nodes) -> State {
        State {
            persistent,
            ephemeral: BTreeMap::new(),
            clients: BTreeMap::new(),
            registrations: BTreeMap::new(),
            watches: Vec::new(),
            next_number: 1,
            poisoned: None,
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    // Sessions.

    pub(super) fn open_session(&mut self) -> SessionId {
        let id = SessionId(self.number());
        self.clients.insert(id, Client { connected: true, next_write: NextWrite::Answered });
        id
    }

    pub(super) fn close_session(&mut self, id: SessionId) {
        self.clients.remove(&id);
        self.watches.retain(|watching| watching.session != id);
        self.registrations.retain(|_, registered| registered.session != id);
        self.settle_all();
    }

    pub(super) fn set_connected(&mut self, id: SessionId, connected: bool) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.connected = connected;
        }
        self.settle_all();
        self.show(|watching| watching.session == id);
    }

    pub(super) fn expire(&mut self, id: SessionId) {
        let State { ephemeral, registrations, .. } = self;
        let ends = |node: &Ephemeral| registrations.get(&node.registration).is_some_and(|r| r.session == id);
        let gone = ephemeral.extract_if(.., |_, node| ends(node)).map(|(path, _)| path).collect::<Vec<_>>();
        self.show_paths(&gone);
        self.settle_all();
    }

    pub(super) fn set_next_write(&mut self, id: SessionId, next_write: NextWrite) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.next_write = next_write;
        }
    }

    /// True if this write is the one that meets with the fault.
    pub(super) fn takes_fault(&mut self, id: SessionId, fault: NextWrite) -> bool {
        let found = self.clients.get_mut(&id).filter(|client| client.next_write == fault);
        found.map(|client| client.next_write = NextWrite::Answered).is_some()
    }

    pub(super) fn poison(&mut self, reason: String) {
        self.poisoned = Some(reason);
    }

    pub(super) fn reload(&mut self, persistent: Nodes) {
        self.persistent = persistent;
        self.ephemeral.clear();
        self.poisoned = None;
        self.settle_all();
        self.show(|_| true);
    }

    fn check_reachable(&self, id: SessionId) -> Result<(), Error> {
        if let Some(reason) = self.poisoned.clone() {
            return Err(Error::Unavailable { reason });
        }
        match self.clients.get(&id) {
            Some(client) if client.connected => Ok(()),
            _ => Err(Error::Unavailable { reason: "the session is disconnected".to_owned() }),
        }
    }

    // The tree.

    fn node(&self, path: &str) -> Option<&Versioned> {
        self.persistent.get(path).or_else(|| self.ephemeral.get(path).map(|found| &found.node))
    }

    fn has_children(&self, path: &str) -> bool {
        let within = |found: &String| found != path && is_within(found, path);
        self.persistent.keys().chain(self.ephemeral.keys()).any(within)
    }

    pub(super) fn get(&self, id: SessionId, path: &str) -> Result<Option<Versioned>, Error> {
        self.check_reachable(id)?;
        Ok(self.node(path).cloned())
    }

    /// Says what an operation would change, and changes nothing.
    pub(super) fn plan(&self, id: SessionId, path: &str, operation: Operation) -> Result<Plan, Error> {
        self.check_reachable(id)?;
        let (changes, version) = match operation {
            Operation::Create { value } => (self.plan_create(path, value)?, FIRST_VERSION),
            Operation::CompareAndSet { value, expected } => {
                self.check_version(path, Some(expected))?;
                let version = Version(expected.0.wrapping_add(1));
                (vec![Change { path: path.to_owned(), node: Some(Versioned { version, value }) }], version)
            }
            Operation::Delete { expected } => {
                let found = self.check_version(path, expected)?;
                if self.has_children(path) {
                    return Err(conflict(path));
                }
                (vec![Change { path: path.to_owned(), node: None }], found)
            }
        };
        let file = (!self.ephemeral.contains_key(path)).then(|| {
            let mut nodes = self.persistent.clone();
            for change in &changes {
                change.apply_to(&mut nodes);
            }
            nodes
        });
        Ok(Plan { changes, file, version })
    }

    fn plan_create(&self, path: &str, value: Bytes) -> Result<Vec<Change>, Error> {
        if self.node(path).is_some() {
            return Err(conflict(path));
        }
        if let Some(parent) = parents(path).find(|parent| self.ephemeral.contains_key(*parent)) {
            let reason = format!("{parent} is ephemeral: it has no children");
            return Err(Error::Rejected { path: path.to_owned(), reason });
        }
        let missing = parents(path).filter(|parent| self.node(parent).is_none());
        let mut changes = missing.map(|parent| Change::new(parent, Bytes::new())).collect::<Vec<_>>();
        changes.push(Change::new(path, value));
        Ok(changes)
    }

    fn check_version(&self, path: &str, expected: Option<Version>) -> Result<Version, Error> {
        let found = self.node(path).ok_or_else(|| conflict(path))?.version;
        match expected {
            Some(expected) if expected != found => Err(conflict(path)),
            _ => Ok(found),
        }
    }

    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        let paths = changes.iter().map(|change| change.path.clone()).collect::<Vec<_>>();
        for change in changes {
            match self.ephemeral.get_mut(&change.path) {
                Some(found) if !self.persistent.contains_key(&change.path) => match change.node {
                    Some(node) => found.node = node,
                    None => drop(self.ephemeral.remove(&change.path)),
                },
                _ => change.apply_to(&mut self.persistent),
            }
        }
        self.show_paths(&paths);
        self.settle_all();
    }

    // Registrations.

    pub(super) fn register(&mut self, session: SessionId, path: &str, value: Bytes) -> u64 {
        let number = self.number();
        // A session that is closed holds nothing any more.
        if self.clients.contains_key(&session) {
            self.registrations.insert(number, Registered { session, path: path.to_owned(), value });
            self.settle(path);
        }
        number
    }

    pub(super) fn unregister(&mut self, number: u64) {
        if let Some(registered) = self.registrations.remove(&number) {
            self.settle(&registered.path);
        }
    }

    fn settle_all(&mut self) {
        let registered = self.registrations.values().map(|registered| registered.path.clone());
        let paths = registered.chain(self.ephemeral.keys().cloned()).collect::<BTreeSet<_>>();
        for path in paths {
            self.settle(&path);
        }
    }

    /// Puts the newest reachable registration's node at a path, or none where there is no such
    /// registration. A node stays while its client is out of reach.
    fn settle(&mut self, path: &str) {
        let reachable = |id| self.clients.get(&id).is_some_and(|client: &Client| client.connected);
        let holder = self.ephemeral.get(path).map(|found| found.registration);
        let wanted = self
            .registrations
            .iter()
            .rev()
            .find(|(number, r)| r.path == path && (reachable(r.session) || holder == Some(**number)));
        let blocked =
            self.persistent.contains_key(path) || parents(path).any(|p| self.ephemeral.contains_key(p));
        let wanted = wanted.filter(|_| !blocked).map(|(number, r)| (*number, r.value.clone()));
        if wanted.as_ref().map(|(number, _)| *number) == holder {
            return;
        }
        if self.ephemeral.remove(path).is_some() {
            self.show_paths(&[path.to_owned()]);
        }
        if let Some((registration, value)) = wanted {
            // Not written to the file: whoever needs these parents creates them anew.
            for parent in parents(path) {
                let empty = Versioned { version: FIRST_VERSION, value: Bytes::new() };
                self.persistent.entry(parent.to_owned()).or_insert(empty);
            }
            let node = Versioned { version: FIRST_VERSION, value };
            self.ephemeral.insert(path.to_owned(), Ephemeral { node, registration });
            self.show_paths(&[path.to_owned()]);
        }
    }

    // Watches.

    pub(super) fn watch(&mut self, session: SessionId, path: &str, is_valid: bool) -> Watch {
        let (sender, receiver) = watch::channel(Arc::new(Tree::default()));
        // Of a session that is closed the watch has ended, too.
        if is_valid && self.clients.contains_key(&session) {
            self.watches.push(Watching { session, path: path.to_owned(), sender });
            let last = self.watches.len() - 1;
            self.show_one(last);
        }
        receiver
    }

    fn show_paths(&mut self, changed: &[String]) {
        // Parents may have come along with a node, so what lies above a path counts as changed too.
        let touches = |watched: &str, path: &String| is_within(path, watched) || is_within(watched, path);
        self.show(|watching| changed.iter().any(|path| touches(&watching.path, path)));
    }

    /// Shows the tree to some of the watches, and forgets those that nobody holds.
    fn show(&mut self, concerned: impl Fn(&Watching) -> bool) {
        self.watches.retain(|watching| !watching.sender.is_closed());
        for index in 0..self.watches.len() {
            if self.watches.get(index).is_some_and(&concerned) {
                self.show_one(index);
            }
        }
    }

    fn show_one(&self, index: usize) {
        let Some(watching) = self.watches.get(index) else { return };
        let connected = self.clients.get(&watching.session).is_some_and(|client| client.connected);
        let former = Arc::clone(&watching.sender.borrow());
        let nodes = if connected { self.subtree(&watching.path) } else { former.nodes.clone() };
        let tree = Tree { nodes, connected };
        if *former != tree {
            watching.sender.send_replace(Arc::new(tree));
        }
    }

    fn subtree(&self, path: &str) -> Nodes {
        let ephemeral = self.ephemeral.iter().map(|(path, found)| (path, &found.node));
        let all = self.persistent.iter().chain(ephemeral);
        all.filter(|(found, _)| is_within(found, path))
            .map(|(path, node)| (path.clone(), node.clone()))
            .collect()
    }
}

impl Change {
    fn new(path: &str, value: Bytes) -> Change {
        Change { path: path.to_owned(), node: Some(Versioned { version: FIRST_VERSION, value }) }
    }

    fn apply_to(&self, nodes: &mut Nodes) {
        match &self.node {
            Some(node) => drop(nodes.insert(self.path.clone(), node.clone())),
            None => drop(nodes.remove(&self.path)),
        }
    }
}

fn conflict(path: &str) -> Error {
    Error::Conflict { path: path.to_owned() }
}
