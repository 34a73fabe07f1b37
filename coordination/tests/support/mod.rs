//! What the conformance suite asks of a backend's test bed: clients, and every fault that can befall them.

pub mod embedded;
pub mod log;
pub mod proxy;
pub mod server;
pub mod zookeeper;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use paddock_coordination::{Coordinator, Tree, Watch};

/// How long anything may take before a test calls it lost. Generous: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// A backend with its server, if it has one.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// A service whose root is empty. One that can be restarted is nobody else's.
    async fn start(may_restart: bool) -> Self;

    /// A client of its own, with its own connection.
    async fn client(&self) -> Client;

    /// Stops the service and starts it again on the same data.
    async fn restart(&mut self);
}

/// A client, and what may befall it.
pub struct Client {
    pub coordinator: Arc<dyn Coordinator>,
    pub faults: Arc<dyn Faults>,
}

impl Deref for Client {
    type Target = dyn Coordinator;

    fn deref(&self) -> &Self::Target {
        &*self.coordinator
    }
}

#[async_trait]
pub trait Faults: Send + Sync {
    /// The service is out of reach until [`Faults::reconnect`].
    async fn disconnect(&self);

    async fn reconnect(&self);

    /// The service ends the session.
    async fn expire(&self);

    /// The next write is lost on its way, and the connection with it.
    async fn lose_next_request(&self);

    /// The next write is done, and its answer is lost, and the connection with it.
    async fn lose_next_answer(&self);
}

/// Waits until a watch shows what it should.
#[track_caller]
pub fn shows<'a>(
    watch: &'a mut Watch,
    what: &'a str,
    mut condition: impl FnMut(&Tree) -> bool + 'a,
) -> impl Future<Output = Arc<Tree>> + 'a {
    let at = std::panic::Location::caller();
    async move {
        let shown = tokio::time::timeout(DEADLINE, watch.wait_for(|tree| condition(tree))).await;
        match shown {
            Ok(Ok(tree)) => Arc::clone(&tree),
            Ok(Err(_)) => panic!("{at}: the watch ended before it showed {what}"),
            Err(_) => panic!("{at}: the watch never showed {what}"),
        }
    }
}

/// The value at a path, as text.
pub fn text<'a>(tree: &'a Tree, path: &str) -> Option<&'a str> {
    tree.nodes.get(path).map(|found| std::str::from_utf8(&found.value).unwrap())
}
