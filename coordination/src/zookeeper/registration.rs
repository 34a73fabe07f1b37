//! One registration: an ephemeral node that is put back whenever it has gone.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use zookeeper_client as zk;

use super::Link;
use super::errors::Complaints;

/// The wait before another attempt when a request failed although the connection stands.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Holds a node at a path until told to stop, and then takes it away.
pub(super) async fn hold(link: Link, path: String, value: Bytes, stopped: oneshot::Receiver<()>) {
    let full = link.full(&path);
    let mut holder = Holder { link, path, full, value, sessions: BTreeSet::new(), is_placed: false };
    tokio::select! {
        _ = stopped => {}
        () = holder.keep_holding() => return,
    }
    holder.release().await;
}

struct Holder {
    link: Link,
    path: String,
    full: String,
    value: Bytes,
    /// The sessions in which we have held it: a node of theirs is our own.
    sessions: BTreeSet<i64>,
    /// Once it stood, another's node in its place is a newer registration's, not a former one's.
    is_placed: bool,
}

/// What stands at the path.
enum Found {
    /// Nothing: it can be created.
    Nothing,
    /// Our node, of the session in force.
    Ours,
    /// One that is to be replaced: of our former sessions, or of a former process.
    Former,
    /// One that we leave alone.
    Foreign { owner: i64 },
}

impl Holder {
    /// Returns only when the handle is closed.
    async fn keep_holding(&mut self) {
        let mut complaints = Complaints::default();
        while let Some(client) = self.link.sessions.connected().await {
            if let Err(error) = self.hold_once(&client).await {
                complaints.take("a registration", &self.path, &error);
                drop(client);
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }

    /// Puts the node in place, and waits until something happens to it.
    async fn hold_once(&mut self, client: &zk::Client) -> Result<(), zk::Error> {
        self.sessions.insert(client.session_id().0);
        let (stat, watcher) = self.link.ask(client.check_and_watch_stat(&self.full)).await?;
        match self.judge(client, stat.as_ref()) {
            Found::Nothing => return self.create(client).await,
            Found::Former => return self.replace(client).await,
            Found::Ours => {
                if !self.is_placed {
                    // Of an earlier registration of this handle, with another value perhaps.
                    self.link.ask(client.set_data(&self.full, &self.value, None)).await?;
                    self.is_placed = true;
                    return Ok(());
                }
            }
            Found::Foreign { owner: 0 } => {
                tracing::error!(
                    path = self.path,
                    "a persistent node stands where an ephemeral one should be"
                );
            }
            Found::Foreign { owner } => {
                tracing::warn!(path = self.path, owner, "another process has registered at the same path");
            }
        }
        // Survives reconnects, and fires when the session ends.
        tokio::select! {
            _ = watcher.changed() => {}
            () = self.link.sessions.replaced(client) => {}
        }
        Ok(())
    }

    fn judge(&self, client: &zk::Client, stat: Option<&zk::Stat>) -> Found {
        match stat.map(|stat| stat.ephemeral_owner) {
            None => Found::Nothing,
            Some(owner) if owner == client.session_id().0 => Found::Ours,
            Some(owner) if owner != 0 && (!self.is_placed || self.sessions.contains(&owner)) => Found::Former,
            Some(owner) => Found::Foreign { owner },
        }
    }

    async fn create(&mut self, client: &zk::Client) -> Result<(), zk::Error> {
        let options = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
        match self.link.ask(client.create(&self.full, &self.value, &options)).await {
            Ok(_) => self.is_placed = true,
            // Somebody was quicker: look again.
            Err(zk::Error::NodeExists) => {}
            Err(zk::Error::NoNode) => self.link.make_parents(client, &self.full).await?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Replaces a former node at one stroke, so that nobody sees neither.
    async fn replace(&mut self, client: &zk::Client) -> Result<(), zk::Error> {
        let options = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
        let mut writer = client.new_multi_writer();
        writer.add_delete(&self.full, None)?;
        writer.add_create(&self.full, &self.value, &options)?;
        let commit = writer.commit();
        match self.link.ask(async { commit.await.map_err(zk::Error::from) }).await {
            Ok(_) => self.is_placed = true,
            Err(zk::Error::NoNode | zk::Error::NodeExists) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes our node away; tries until it has an answer, or the handle is closed.
    async fn release(&self) {
        let mut complaints = Complaints::default();
        while let Some(client) = self.link.sessions.connected().await {
            match self.release_once(&client).await {
                Ok(()) => return,
                Err(error) => complaints.take("a registration's end", &self.path, &error),
            }
            drop(client);
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn release_once(&self, client: &zk::Client) -> Result<(), zk::Error> {
        // A request of ours may still be under way: it is answered before this one.
        let Some(stat) = self.link.ask(client.check_stat(&self.full)).await? else { return Ok(()) };
        let is_ours =
            stat.ephemeral_owner == client.session_id().0 || self.sessions.contains(&stat.ephemeral_owner);
        if !is_ours {
            return Ok(());
        }
        match self.link.ask(client.delete(&self.full, None)).await {
            Ok(()) | Err(zk::Error::NoNode) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
