//! Handing leadership over, by plan. The core does it; here is who asked for it, and how long writes waited.
//!
//! What arrives meanwhile waits in its place. When the reign is over it is answered with NOT_LEADER and the name of the
//! new leader: nothing of it was begun, so routers take it there, and nobody else hears of it.

use std::time::Instant;

use tracing::{info, warn};

use super::OwnerLoop;
use crate::replica::{Event, RoleName};
use crate::transfer::{Transfer, TransferError, TransferRequest, Transferred};

impl OwnerLoop {
    /// Begins a hand-over, unless one is under way.
    pub(super) fn begin_transfer(&mut self, request: TransferRequest) -> Result<(), paddock_storage::Error> {
        let TransferRequest { to, deadline, reply } = request;
        let refusal = if self.round.transfer.is_some() {
            Some(TransferError::Busy)
        } else if self.replica.role() != RoleName::Leader {
            Some(TransferError::NotLeader { leader: self.replica.leader() })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            // Whoever asked may have gone.
            let _ = reply.send(Err(refusal));
            return Ok(());
        }
        self.round.transfer = Some(Transfer { reply, began: Instant::now() });
        self.step(Event::TransferLeadership { to, deadline })
    }

    /// The leader goes on.
    pub(super) fn transfer_failed(&mut self, why: String, nobody_stays: bool) {
        warn!(partition = %self.partition, %why, "leadership was not handed over");
        self.metrics.transfer_failed();
        if let Some(transfer) = self.round.transfer.take() {
            let _ = transfer.reply.send(Err(TransferError::Refused { why, nobody_stays }));
        }
    }

    /// Leadership is lost; if a hand-over was under way, as it was meant to be.
    pub(super) fn transferred(&mut self) {
        let Some(transfer) = self.round.transfer.take() else { return };
        let (leader, epoch) = (self.replica.leader(), self.replica.epoch());
        let took = transfer.began.elapsed();
        let to = leader.map_or_else(|| "nobody known".to_owned(), |leader| leader.to_string());
        info!(partition = %self.partition, to, %epoch, took_ms = took.as_millis(), "leadership was handed over");
        self.metrics.transferred(took);
        let _ = transfer.reply.send(Ok(Transferred { leader, epoch, took }));
    }
}
