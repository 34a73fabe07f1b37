//! [`Quarantined`]: has seen what cannot be, and takes no further part, so that it can do no harm.
//!
//! There are three ways into it, and as many out:
//!
//! * Its store contradicts itself: it has lost entries. That is damage like any other: the replica gives its store up once another one
//!   leads the epoch that the coordination service shows, whose store is sound.
//! * What it holds contradicts what a leader says. One of the two has lost what was committed, and it may be the leader: so nothing is
//!   given up by itself, and a restart does not make it forget. People decide; its store moved away, it begins anew.
//! * The coordination service's record contradicts what it showed before. No replica is at fault: the record has to be
//!   restored, and the process started again.

use paddock_coordination::Member;

use super::Role;
use super::configuration::Observation;
use super::core::Core;
use super::effect::Effect;
use super::event::Event;
use super::message::Message;

/// A replica that neither leads nor follows, until it gives its store up or its process starts again.
#[derive(Debug)]
pub(super) struct Quarantined {
    pub(super) reason: String,
    /// The runtime was told.
    pub(super) is_reported: bool,
    /// The reason is kept with the replica's facts, or need not be.
    pub(super) is_persisted: bool,
    /// It is only its store that is at fault.
    pub(super) may_rebuild: bool,
}

impl Quarantined {
    fn role(reason: String, is_persisted: bool, may_rebuild: bool) -> Role {
        Role::Quarantined(Quarantined { reason, is_reported: false, is_persisted, may_rebuild })
    }

    /// The role, because this replica and others contradict each other.
    pub(super) fn because(reason: String) -> Role {
        Quarantined::role(reason, false, false)
    }

    /// The same after a restart.
    pub(super) fn still_because(reason: String) -> Role {
        Quarantined::role(reason, true, false)
    }

    /// The role, because the store contradicts itself. Each start finds that out anew.
    pub(super) fn of_unsound_store(reason: String) -> Role {
        Quarantined::role(reason, true, true)
    }

    /// The role, because the coordination service's record contradicts what it showed before.
    pub(super) fn for_the_record(reason: String) -> Role {
        Quarantined::role(reason, true, false)
    }

    /// The role of a replica whose store is given up.
    pub(super) fn giving_up(core: &mut Core) -> Role {
        core.effects.push(Effect::AbandonStore);
        let reason = "its store is given up".to_owned();
        let (is_reported, is_persisted, may_rebuild) = (true, true, false);
        Role::Quarantined(Quarantined { reason, is_reported, is_persisted, may_rebuild })
    }

    pub(super) fn step(mut self, core: &mut Core, event: Event) -> Role {
        match event {
            Event::Durable { through } => core.note_durable(through),
            Event::Applied { through } => core.note_applied(through),
            Event::StateWritten { outcome } if self.may_rebuild => {
                let _ = core.configuration.written(core.now, outcome, &core.config, &mut core.effects);
            }
            Event::StateObserved { state } if self.may_rebuild => {
                let epoch = core.epoch();
                let is_ours = state.state.partition_uuid == core.config.partition_uuid;
                let (observation, _) =
                    core.configuration.observe(core.now, state, epoch, &core.config, &mut core.effects);
                // What shows this is no authority for giving anything up.
                self.may_rebuild &= is_ours && !matches!(observation, Observation::Impossible(_));
            }
            Event::Received { from, message } if self.may_rebuild && is_way_out(core, from, &message) => {
                return Quarantined::giving_up(core);
            }
            _ => {}
        }
        Role::Quarantined(self)
    }
}

/// Whether a message says that another replica leads, and has all that this one is asked to give up.
fn is_way_out(core: &Core, from: Member, message: &Message) -> bool {
    matches!(message, Message::Heartbeat { is_sound: true, epoch, .. } if core.is_led_elsewhere(from, *epoch))
}
