//! What reaches an owner loop: a bounded queue for what the network sends, and a small slot for what the
//! coordination service says, which must never be dropped and replaces itself.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use paddock_coordination::Member;
use parking_lot::Mutex;

use crate::operation::{Operation, Permit};
use crate::replica::{Event, Message};
use crate::transfer::{TransferError, TransferRequest};

/// The most deliveries that wait in an inbox. Each carries a batch; the bytes of operations, and those of messages,
/// are bounded by a budget each.
const DELIVERIES_MAX: usize = 4_096;
/// With so many deliveries waiting, operations are refused. The rest of the queue is the peers' alone: a flood of
/// operations must not keep grants and acknowledgements out, on which the leadership depends.
const DELIVERIES_BEFORE_OPERATION_MAX: usize = 3_072;
const _: () = assert!(DELIVERIES_BEFORE_OPERATION_MAX < DELIVERIES_MAX);

/// What the network brings.
#[derive(Debug)]
pub enum Delivery {
    /// Operations of one stream, in order.
    Operations(Vec<Operation>),
    /// Messages of one peer, in order.
    Messages {
        /// The peer.
        from: Member,
        /// The messages.
        messages: Vec<Message>,
        /// Their share of the budget of messages that wait.
        permit: Permit,
    },
    /// Nothing: look at the control slot.
    Wake,
}

/// Events of the coordination service, and whether to stop.
#[derive(Debug, Default)]
pub struct Control {
    /// The events, in order.
    pub events: VecDeque<Event>,
    /// The hand-over that was asked for last.
    pub transfer: Option<TransferRequest>,
    /// Whether to stop.
    pub stop: bool,
}

/// The sending side.
#[derive(Clone, Debug)]
pub struct Inbox {
    deliveries: Sender<Delivery>,
    control: Arc<Mutex<Control>>,
}

/// The owner loop's side.
#[derive(Debug)]
pub struct Outlet {
    deliveries: Receiver<Delivery>,
    control: Arc<Mutex<Control>>,
}

/// An inbox and its outlet.
#[must_use]
pub fn inbox() -> (Inbox, Outlet) {
    let (sender, receiver) = crossbeam_channel::bounded(DELIVERIES_MAX);
    let control = Arc::new(Mutex::new(Control::default()));
    (Inbox { deliveries: sender, control: Arc::clone(&control) }, Outlet { deliveries: receiver, control })
}

impl Inbox {
    /// Delivers, unless the inbox is full or the replica has stopped: then the delivery comes back.
    ///
    /// # Errors
    /// The delivery, and which of the two it was. Operations that are dropped answer for themselves; peers
    /// send again.
    pub fn deliver(&self, delivery: Delivery) -> Result<(), TrySendError<Delivery>> {
        let is_operations = matches!(delivery, Delivery::Operations(_));
        if is_operations && self.deliveries.len() >= DELIVERIES_BEFORE_OPERATION_MAX {
            return Err(TrySendError::Full(delivery));
        }
        self.deliveries.try_send(delivery)
    }

    /// Hands over an event of the coordination service. An observation replaces an older one that still waits
    /// at the end: only the newest state matters. So the slot stays short: at most one answer is under way.
    pub fn control(&self, event: Event) {
        {
            let mut control = self.control.lock();
            if let Event::StateObserved { state } = &event
                && let Some(Event::StateObserved { state: waiting }) = control.events.back()
                && waiting.version <= state.version
            {
                control.events.pop_back();
            }
            if matches!(event, Event::NodesDrained { .. }) {
                control.events.retain(|waiting| !matches!(waiting, Event::NodesDrained { .. }));
            }
            control.events.push_back(event);
        }
        self.wake();
    }

    /// Asks for a hand-over. One that waits already is told that it is not done.
    pub fn transfer(&self, request: TransferRequest) {
        let former = self.control.lock().transfer.replace(request);
        if let Some(former) = former {
            let _ = former.reply.send(Err(TransferError::Busy));
        }
        self.wake();
    }

    /// Tells the owner loop to stop.
    pub fn stop(&self) {
        self.control.lock().stop = true;
        self.wake();
    }

    /// Has the owner loop look at what may have changed. A full inbox needs no waking.
    pub fn wake(&self) {
        let _ = self.deliveries.try_send(Delivery::Wake);
    }
}

impl Outlet {
    /// Waits for a delivery, for so long at most.
    #[must_use]
    pub fn receive(&self, timeout: std::time::Duration) -> Option<Delivery> {
        self.deliveries.recv_timeout(timeout).ok()
    }

    /// Takes a delivery that waits already.
    #[must_use]
    pub fn try_receive(&self) -> Option<Delivery> {
        self.deliveries.try_recv().ok()
    }

    /// Whether it is time to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.control.lock().stop
    }

    /// Takes what the control slot holds. Whether to stop stays in it.
    #[must_use]
    pub fn take_control(&self) -> Control {
        let mut control = self.control.lock();
        let stop = control.stop;
        std::mem::replace(&mut *control, Control { stop, ..Control::default() })
    }
}

#[cfg(test)]
mod tests {
    use paddock_coordination::{Epoch, Generation, NodeId};
    use ulid::Ulid;

    use super::*;
    use crate::operation::Budget;

    #[test]
    fn a_flood_of_operations_leaves_room_for_peers() {
        let (inbox, _outlet) = inbox();
        while inbox.deliver(Delivery::Operations(Vec::new())).is_ok() {}
        let budget = Budget::new(1_000);
        let message = Message::Stale { epoch: Epoch(1) };
        let permit = budget.acquire(message.size_bytes()).expect("room");
        let from = Member { node: NodeId(Ulid(1)), generation: Generation(1) };
        let delivered = inbox.deliver(Delivery::Messages { from, messages: vec![message], permit });
        assert!(delivered.is_ok(), "a peer's message was kept out");
    }
}
