//! Cutting streams to what is kept, beside the scripts that append to them.
//!
//! *Not here*: which channels, and when (`trimming`).

use crate::protocol::command::Address;
use crate::storage::codec::read_address;
use crate::storage::keys::Keys;
use crate::storage::link::{Link, TRIM, WEIGH};
use crate::storage::meters::{Meters, add};
use crate::storage::trimming::{Cut, Due};
use crate::storage::trouble::Trouble;
use futures_util::future::join_all;
use redis::{FromRedisValue, Value};
use std::sync::Arc;

/// For how long one of the nodes cuts for all when it has begun to, in milliseconds.
const TRIMMER_MS: u64 = 5_000;

/// What came of cutting one channel: the time of its oldest event in milliseconds, 0 if it has none.
pub(super) type Trimmed = Result<(u64, Option<Cut>), Trouble>;

/// Who cuts, and where.
pub(super) struct Cutter<'a> {
    pub(super) link: &'a Link,
    pub(super) keys: &'a Keys,
    pub(super) generation: u64,
    /// The time, in milliseconds since 1970.
    pub(super) now_ms: u64,
}

impl Cutter<'_> {
    /// Cuts channels; the answers are in their order.
    pub(super) async fn round(&self, dues: &[Due]) -> Vec<Trimmed> {
        join_all(dues.iter().map(|due| self.trim(due))).await
    }

    async fn trim(&self, Due { address, keep, .. }: &Due) -> Trimmed {
        let mut call = TRIM.call(&[&self.keys.stream(address), &self.keys.meta(address)]);
        call.arg(self.generation).arg(keep.messages).arg(keep.oldest_ms(self.now_ms));
        call.arg(keep.bytes);
        let (word, number, cut): (String, u64, Vec<u64>) = self.link.run(&TRIM, &call).await?;
        match word.as_str() {
            "fenced" => Err(Trouble::Fenced(number)),
            _ => Ok((number, Cut::of(&cut))),
        }
    }

    /// Notes how many bytes channels hold, for all nodes. If they hold more than they may, and this node
    /// is the one that sees to it, gives the channels that hold the most, and by how much it is too much.
    pub(super) async fn weigh(
        &self,
        token: &str,
        bytes_max: u64,
        changed: &[(Arc<Address>, u64)],
    ) -> Result<(u64, Vec<(Arc<Address>, u64)>), Trouble> {
        let mut call = WEIGH.call(&[&self.keys.bytes, &self.keys.trimmer]);
        call.arg(token).arg(TRIMMER_MS).arg(bytes_max);
        for (address, bytes) in changed {
            call.arg(address.to_string()).arg(bytes);
        }
        let answer: Value = self.link.run(&WEIGH, &call).await?;
        let (total, largest) = <(u64, Vec<(String, u64)>)>::from_redis_value(answer)
            .map_err(|error| Trouble::Broken(error.to_string()))?;
        let largest = largest
            .into_iter()
            .filter_map(|(name, bytes)| Some((Arc::new(read_address(&name).ok()?), bytes)));
        Ok((total.saturating_sub(bytes_max), largest.collect()))
    }
}

/// Counts what was cut.
pub(super) fn count(meters: &Meters, cut: Option<Cut>, is_squeezed: bool) {
    let Some(cut) = cut else { return };
    let by_bytes = if is_squeezed { &meters.trimmed_for_all } else { &meters.trimmed_by_bytes };
    add(&meters.trimmed_by_count, cut.by_count);
    add(&meters.trimmed_by_age, cut.by_age);
    add(by_bytes, cut.by_bytes);
}
