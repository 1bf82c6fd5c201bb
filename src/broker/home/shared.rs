//! A home of one of several nodes.

use crate::base::time::Now;
use crate::broker::home::{Home, Told};
use crate::broker::peers::{PeerNews, PeerRecord};

impl Home {
    /// Hears what peers and the storage that is shared with them say.
    pub(super) fn on_peers(&mut self, _now: Now, _news: PeerNews, _told: &mut Told) {}

    /// There was no place for a record that only peers need.
    pub(super) fn lose_of_peers(&mut self, _record: PeerRecord, _told: &mut Told) {}
}
