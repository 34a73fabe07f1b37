//! [`Bell`]: wakes whoever waits for something to change, without a change being missed.

use tokio::sync::watch;

/// A counter that waiters can await. Take [`Bell::seen`] first, look at the world, and then wait with
/// [`Bell::rung_since`]: whatever changed in between ends the wait at once.
#[derive(Debug, Default)]
pub struct Bell {
    count: watch::Sender<u64>,
}

impl Bell {
    /// Wakes everybody.
    pub fn ring(&self) {
        self.count.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// How often it was rung.
    #[must_use]
    pub fn seen(&self) -> u64 {
        *self.count.borrow()
    }

    /// Waits until it was rung after `seen`.
    pub async fn rung_since(&self, seen: u64) {
        // An error would mean that the sender has gone; it is ours, so it has not.
        let _ = self.count.subscribe().wait_for(|count| *count != seen).await;
    }
}
