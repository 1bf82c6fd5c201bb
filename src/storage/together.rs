//! Calls of which replicas must have what they wrote before anything is said of it.
//!
//! WAIT is about the connection that it is sent over: it counts the replicas that have what was written
//! over that one. A connection to one server is never made anew behind its user, so WAIT may come by
//! itself. The client of a cluster sends a command again, over another connection or to another master,
//! when the first is lost; a WAIT that comes there alone finds that nothing was written, and vouches for
//! it. So in a cluster the calls for one master and their WAIT are one pipeline, which goes over one
//! connection, and again only as a whole: every call may be made twice, and always writes.
//!
//! *Panics*: an index is the place of one of this round's calls; no answer of Redis is one.
//!
//! *Not here*: calls of which nobody is told that replicas have them.

use crate::storage::link::{Link, Script, wait_for};
use crate::storage::settings::Settings;
use crate::storage::trouble::Trouble;
use futures_util::future::join_all;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, SingleNodeRoutingInfo, Slot, SlotAddr};
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, Value, cmd};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// A call of a script, and the key by which its master is found.
pub(super) struct Call {
    pub(super) key: String,
    pub(super) cmd: Cmd,
}

/// Which slots are of the same master. It may be outdated: then calls that do not go together are made one
/// by one.
#[derive(Debug, Default)]
pub(super) struct Masters(HashMap<Slot, usize>);

impl Masters {
    /// Asks a cluster for them.
    pub(super) async fn read(connection: &mut ClusterConnection) -> Masters {
        let rows: Result<Vec<Vec<Value>>, RedisError> =
            cmd("CLUSTER").arg("SLOTS").query_async(connection).await;
        let (mut slots, mut masters) = (HashMap::new(), Vec::new());
        for row in rows.unwrap_or_default() {
            let [Value::Int(first), Value::Int(last), master, ..] = &row[..] else { continue };
            let number = masters.iter().position(|known| known == master).unwrap_or_else(|| {
                masters.push(master.clone());
                masters.len() - 1
            });
            let range = u16::try_from(*first).unwrap_or(0)..=u16::try_from(*last).unwrap_or(0);
            slots.extend(range.filter_map(Slot::new).map(|slot| (slot, number)));
        }
        Masters(slots)
    }

    /// The calls by master, each by its place among all; of a slot that is not known alone.
    fn groups(&self, calls: &[Call]) -> Vec<Vec<usize>> {
        let mut groups = BTreeMap::<usize, Vec<usize>>::new();
        for (place, call) in calls.iter().enumerate() {
            let alone = self.0.len() + place;
            let master = self.0.get(&Slot::for_key(&call.key)).copied().unwrap_or(alone);
            groups.entry(master).or_default().push(place);
        }
        groups.into_values().collect()
    }
}

impl Link {
    /// Makes calls of a script, and waits until as many replicas as are asked for have what they wrote.
    /// The answers are in the order of the calls.
    pub(super) async fn run_together<T: FromRedisValue>(
        &self,
        script: &Script,
        calls: &[Call],
        settings: &Settings,
        answered: &Cell<Instant>,
    ) -> Vec<Result<T, Trouble>> {
        let (Link::Many(connection, masters), 1..) = (self, settings.replicas) else {
            let runs = calls.iter().map(async |call| {
                let answer = self.run::<T>(script, &call.cmd).await;
                answered.set(Instant::now());
                answer
            });
            let mut answers: Vec<_> = join_all(runs).await;
            if settings.replicas > 0
                && answers.iter().any(Result::is_ok)
                && let Err(trouble) = self.replicate(settings).await
            {
                for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                    *answer = Err(trouble.clone());
                }
            }
            return answers;
        };
        let groups = masters.groups(calls);
        let runs = groups.iter().map(async |group| {
            let together = self.pipeline(connection, script, (calls, group), settings).await;
            match together {
                // Some of them may have moved to another master by now.
                Err(_) if group.len() > 1 => {
                    let alone = group.iter().map(async |&place| {
                        self.pipeline(connection, script, (calls, &[place]), settings).await
                    });
                    let alone = join_all(alone).await;
                    let one = |answer: Result<Vec<_>, RedisError>| match answer {
                        Ok(mut answers) => answers.pop().unwrap_or_else(none),
                        Err(error) => Err(error.into()),
                    };
                    alone.into_iter().map(one).collect()
                }
                Err(error) => vec![Err(Trouble::from(error))],
                Ok(answers) => answers,
            }
        });
        let answers = join_all(runs).await.into_iter();
        answered.set(Instant::now());
        let mut placed: Vec<(usize, Result<Value, Trouble>)> = groups
            .into_iter()
            .zip(answers)
            .flat_map(|(group, answers)| group.into_iter().zip(answers))
            .collect();
        placed.sort_by_key(|&(place, _)| place);
        let read = |(_, answer): (usize, Result<Value, Trouble>)| {
            answer.and_then(|value| Ok(T::from_redis_value(value).map_err(RedisError::from)?))
        };
        placed.into_iter().map(read).collect()
    }

    /// Some calls for one master and their WAIT, over one connection.
    async fn pipeline(
        &self,
        connection: &ClusterConnection,
        script: &Script,
        (calls, group): (&[Call], &[usize]),
        settings: &Settings,
    ) -> Result<Vec<Result<Value, Trouble>>, RedisError> {
        let Some(first) = group.first() else { return Ok(Vec::new()) };
        let mut pipeline = Pipeline::with_capacity(group.len() + 1);
        for &place in group {
            pipeline.add_command(calls[place].cmd.clone());
        }
        pipeline.add_command(wait_for(settings));
        let route = Route::with_key(&calls[*first].key, SlotAddr::Master);
        let route = SingleNodeRoutingInfo::SpecificNode(route);
        for is_again in [false, true] {
            let mut answers = connection
                .clone()
                .route_pipeline(pipeline.clone(), 0, group.len() + 1, route.clone())
                .await?;
            if !is_again && answers.iter().any(is_without_script) {
                script.load(self).await?;
                continue;
            }
            let count = answers.pop().map(Value::extract_error).transpose()?;
            let count = count.and_then(|count| u32::from_redis_value(count).ok()).unwrap_or(0);
            let answers = answers.into_iter().map(|answer| {
                let answer = answer.extract_error()?;
                settings.check_replicas(count)?;
                Ok(answer)
            });
            return Ok(answers.collect());
        }
        Ok(Vec::new())
    }
}

fn is_without_script(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

fn none() -> Result<Value, Trouble> {
    Err(Trouble::Outage("a call was not answered".to_owned()))
}
