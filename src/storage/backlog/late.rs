//! What becomes of what waits when what was kept is read late: of each channel that was kept only the
//! events of the life that its home goes on with are left, in the places that they have by now.
//!
//! *Invariant*: nothing of the backlog was under way before.
//!
//! *Panics*: nothing is written before the homes have answered, and a channel in quarantine is
//! released before it is merged.

use super::{Backlog, LaneState, Loss, Pending, Step, order_of};
use crate::broker::late::{Merged, MergedChannel, Renumbering};
use crate::broker::record::EventRecord;
use crate::protocol::timestamp::Writer;
use std::collections::VecDeque;
use std::sync::Arc;

impl Backlog<EventRecord> {
    /// Changes what waits of a room as its home says.
    pub(in crate::storage) fn merge(&mut self, merged: Merged) {
        if let Some(lane) = self.lanes.get_mut(&order_of(&merged.room)) {
            lane.steps.retain(|step| !matches!(step, Step::Room(_) | Step::RoomGone(_)));
        }
        self.merge_channels(merged.channels);
    }

    /// Changes what waits of channels as their home says.
    pub(in crate::storage) fn merge_channels(&mut self, channels: Vec<MergedChannel>) {
        channels.into_iter().for_each(|channel| self.merge_channel(channel));
    }

    fn merge_channel(&mut self, MergedChannel { address, record, said }: MergedChannel) {
        let lane = self.lanes.entry(Arc::clone(&address)).or_default();
        assert_ne!(
            lane.state,
            LaneState::Busy,
            "nothing is under way before what is kept is known"
        );
        let (mut events, times) = (VecDeque::new(), &mut Writer::default());
        for step in std::mem::take(&mut lane.steps) {
            let Step::Events(waiting) = step else { continue };
            self.events -= waiting.len() as u64;
            self.bytes -= waiting.iter().map(EventRecord::bytes).sum::<u64>();
            if let Some(said) = said.as_ref().filter(|said| said.from == waiting[0].epoch) {
                let moved = waiting.into_iter().filter_map(|event| said.of_event(event, times));
                events.extend(moved);
            }
        }
        self.events += events.len() as u64;
        lane.bytes = events.iter().map(EventRecord::bytes).sum();
        self.bytes += lane.bytes;
        lane.steps.extend(record.map(|record| Step::Channel(Box::new(record))));
        lane.steps.extend((!events.is_empty()).then_some(Step::Events(events)));
        self.settle(&address);
        if let Some(said) = said {
            self.move_losses(&said);
        }
    }

    /// What was lost and is not told yet is told by the sequences that its home knows.
    fn move_losses(&mut self, said: &Renumbering) {
        let Some(losses) = self.losses.remove(&said.channel) else { return };
        let moved = losses.into_iter().filter_map(|Loss { channel, first, last }| {
            let (first, last) = said.of_run((first, last))?;
            Some(Loss { channel, first, last })
        });
        self.losses.insert(said.channel, moved.collect());
    }

    /// Forgets the lanes that have nothing left to do.
    pub(in crate::storage) fn forget_idle(&mut self) {
        self.drop_steps(|_, _| false);
    }
}
