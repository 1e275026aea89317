//! Devices: replicas that say who they are, and what an operator is shown of them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cursor::Position;
use crate::id::{ChangeId, OpId, ReplicaId, UserId};
use crate::time::Timestamp;
use crate::wire::device::Description;
use crate::wire::telemetry::{Counted, KEPT_REPORTS};

/// The number of a user's devices that have rows. Beyond it the one that was away longest is
/// forgotten; revoked ones are kept.
pub const MAX_USER_DEVICES: u64 = 1_000;

/// The time since a device's last call for which it counts as active, in milliseconds.
pub const ACTIVE_MILLIS: i64 = 3_600_000;
/// The time without progress after which an active device counts as stuck, in milliseconds.
pub const STUCK_MILLIS: i64 = 3_600_000;
/// The time of absence after which the time without progress begins again, in milliseconds: twice
/// the longest pause of a client that is connected.
const AWAY_MILLIS: i64 = 600_000;

/// A call of a device, as it is noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The user of the device.
    pub user: UserId,
    /// The id of the device's replica.
    pub client: ReplicaId,
    /// The time of the call.
    pub at: Timestamp,
    /// The address that the call came from, if it is known.
    pub address: Option<String>,
    /// The device as it describes itself; `None` if it does not.
    pub description: Option<Description>,
}

/// The row of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// The user of the device.
    pub user: UserId,
    /// The id of the device's replica.
    pub client: ReplicaId,
    /// The time of its last noted call.
    pub last_seen: Timestamp,
    /// The time at which it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The facts that no statement looks for.
    pub facts: DeviceFacts,
}

/// The facts about a device that are stored as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceFacts {
    /// The time of its first noted call.
    pub first_seen: Timestamp,
    /// The name that the device gives itself.
    pub name: String,
    /// The name that the user gave it.
    pub given_name: Option<String>,
    /// The version of the client's program.
    pub version: String,
    /// The operating system and the processor.
    pub platform: String,
    /// The address of the last noted call.
    pub address: Option<String>,
    /// The number of operations and contents that wait, as the device last said.
    pub queue: Option<u64>,
    /// The time since when `queue` is what it is.
    pub queue_since: Timestamp,
    /// The position that the device had acknowledged at its last noted call.
    pub applied: Option<ChangeId>,
    /// The time since when `applied` is what it is.
    pub applied_since: Timestamp,
    /// The signature or code with which the device is stopped, as it last said.
    pub stopped: Option<String>,
    /// The device's last reports, the oldest first.
    pub reports: Vec<KeptReport>,
}

/// A report that is kept with its device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptReport {
    /// The random id by which a repetition is recognised.
    pub report_id: OpId,
    /// The `stage:code` of a violation, the code of a stop, or `other`.
    pub signature: String,
    /// The details: numbers, times and ids.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
    /// The time of the client's clock.
    pub occurred_at: Timestamp,
    /// The time at which the server received it.
    pub received_at: Timestamp,
}

impl Device {
    /// Creates the row of a device that was never seen before.
    #[must_use]
    pub fn new(user: UserId, client: ReplicaId, now: Timestamp) -> Self {
        let facts = DeviceFacts {
            first_seen: now,
            name: String::new(),
            given_name: None,
            version: String::new(),
            platform: String::new(),
            address: None,
            queue: None,
            queue_since: now,
            applied: None,
            applied_since: now,
            stopped: None,
            reports: Vec::new(),
        };
        Self { user, client, last_seen: now, revoked_at: None, facts }
    }

    /// Returns the name that the user gave the device, or else its own.
    #[must_use]
    pub fn name(&self) -> &str {
        self.facts.given_name.as_deref().unwrap_or(&self.facts.name)
    }

    /// Notes a call, at which the device had acknowledged `applied`. A call that is older than the
    /// last noted one changes nothing.
    pub fn note(&mut self, seen: &Sighting, applied: Option<ChangeId>) {
        if seen.at < self.last_seen {
            return;
        }
        let facts = &mut self.facts;
        let was_away = seen.at.as_millis() - self.last_seen.as_millis() > AWAY_MILLIS;
        self.last_seen = seen.at;
        facts.address.clone_from(&seen.address);
        if was_away || facts.applied != applied {
            (facts.applied, facts.applied_since) = (applied, seen.at);
        }
        let Some(description) = &seen.description else { return };
        if was_away || facts.queue != description.queue {
            (facts.queue, facts.queue_since) = (description.queue, seen.at);
        }
        facts.name.clone_from(&description.name);
        facts.version.clone_from(&description.version);
        facts.platform.clone_from(&description.platform);
        facts.stopped.clone_from(&description.stopped);
    }

    /// Keeps reports, and returns those that are not repetitions of kept ones.
    pub fn report(&mut self, reports: Vec<Counted>, now: Timestamp) -> Vec<Counted> {
        let mut new = Vec::new();
        for report in reports {
            let kept = &mut self.facts.reports;
            if kept.iter().any(|one| one.report_id == report.report_id) {
                continue;
            }
            kept.push(KeptReport {
                report_id: report.report_id.clone(),
                signature: report.kind.signature(),
                details: report.details.clone(),
                occurred_at: report.occurred_at,
                received_at: now,
            });
            new.push(report);
        }
        let surplus = self.facts.reports.len().saturating_sub(KEPT_REPORTS);
        self.facts.reports.drain(..surplus);
        new
    }
}

/// A device beside the rows that it is compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceState {
    /// The row of the device.
    pub device: Device,
    /// The position that the device has acknowledged.
    pub applied: Option<ChangeId>,
    /// The counter of its user's feed head.
    pub head: Option<u64>,
}

/// The condition of a device, from what it last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Condition {
    /// It calls, and gets on or has nothing to do.
    Active,
    /// It calls, but has not got on for [`STUCK_MILLIS`].
    Stuck,
    /// It said that it stopped.
    Stopped,
    /// It has not called for [`ACTIVE_MILLIS`].
    Away,
    /// Its user or an operator revoked it.
    Revoked,
}

impl Condition {
    /// Returns the condition's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl DeviceState {
    /// Returns the number of positions by which the device is behind the head of its user's feed;
    /// `None` if it never acknowledged any.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        let applied = Position::parse(self.applied.as_ref()?)?;
        Some(self.head?.saturating_sub(applied.counter))
    }

    /// Returns the condition of the device at `now`.
    #[must_use]
    pub fn condition(&self, now: Timestamp) -> Condition {
        let (device, facts) = (&self.device, &self.device.facts);
        let age = |since: Timestamp| now.as_millis() - since.as_millis();
        if device.revoked_at.is_some() {
            return Condition::Revoked;
        }
        if facts.stopped.is_some() {
            return Condition::Stopped;
        }
        if age(device.last_seen) > ACTIVE_MILLIS {
            return Condition::Away;
        }
        let waits = facts.queue > Some(0) && age(facts.queue_since) > STUCK_MILLIS;
        let lags = self.lag() > Some(0)
            && facts.applied == self.applied
            && age(facts.applied_since) > STUCK_MILLIS;
        if waits || lags { Condition::Stuck } else { Condition::Active }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Epoch;
    use crate::wire::telemetry::Kind;

    const MINUTE: i64 = 60_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_767_225_600_000 + millis).unwrap()
    }

    fn position(counter: u64) -> ChangeId {
        Position { epoch: Epoch::first(at(0)), counter }.change_id()
    }

    fn device() -> Device {
        Device::new(UserId::new("alice").unwrap(), ReplicaId::new("laptop").unwrap(), at(0))
    }

    fn sighting(millis: i64, queue: u64, stopped: Option<&str>) -> Sighting {
        let (device, queue) = (device(), Some(queue));
        let stopped = stopped.map(str::to_owned);
        let description = Some(Description { queue, stopped, ..Description::default() });
        Sighting {
            user: device.user,
            client: device.client,
            at: at(millis),
            address: None,
            description,
        }
    }

    fn after(
        minutes: i64,
        queue: impl Fn(i64) -> u64,
        applied: impl Fn(i64) -> u64,
    ) -> DeviceState {
        let mut device = device();
        for minute in 1..=minutes {
            let seen = sighting(minute * MINUTE, queue(minute), None);
            device.note(&seen, Some(position(applied(minute))));
        }
        DeviceState { device, applied: Some(position(applied(minutes))), head: Some(100) }
    }

    #[test]
    fn a_device_is_stuck_once_its_queue_or_its_position_has_not_moved_for_an_hour() {
        let condition = |state: &DeviceState, minute: i64| state.condition(at(minute * MINUTE));
        let stands = after(61, |_| 7, |_| 100);
        assert_eq!(condition(&stands, 61), Condition::Active);
        assert_eq!(condition(&stands, 62), Condition::Stuck);
        assert_eq!(condition(&after(90, |m| 7 + m.unsigned_abs(), |_| 100), 90), Condition::Active);
        let lags = after(62, |_| 0, |_| 40);
        assert_eq!(lags.lag(), Some(60));
        assert_eq!(condition(&lags, 62), Condition::Stuck);
        let moved = DeviceState { applied: Some(position(41)), ..lags };
        assert_eq!(condition(&moved, 62), Condition::Active, "it got on since it was noted");
        assert_eq!(condition(&after(90, |_| 0, |_| 100), 90), Condition::Active, "nothing to do");
    }

    #[test]
    fn a_device_that_was_away_has_an_hour_from_its_return() {
        let mut state = after(5, |_| 7, |_| 40);
        state.device.note(&sighting(600 * MINUTE, 7, None), Some(position(40)));
        assert_eq!(state.condition(at(600 * MINUTE)), Condition::Active);
        assert_eq!(state.condition(at(700 * MINUTE)), Condition::Away);
    }

    #[test]
    fn a_stop_counts_until_the_device_says_otherwise_and_a_revocation_for_ever() {
        let mut state = after(5, |_| 0, |_| 100);
        state.device.note(&sighting(6 * MINUTE, 0, Some("client")), None);
        assert_eq!(state.condition(at(600 * MINUTE)), Condition::Stopped);
        state.device.note(&sighting(5 * MINUTE, 0, None), None);
        assert_eq!(state.condition(at(7 * MINUTE)), Condition::Stopped, "an older call");
        state.device.note(&sighting(7 * MINUTE, 0, None), None);
        assert_eq!(state.condition(at(7 * MINUTE)), Condition::Active);
        state.device.revoked_at = Some(at(0));
        assert_eq!(state.condition(at(7 * MINUTE)), Condition::Revoked);
    }

    #[test]
    fn the_last_reports_are_kept_and_a_repetition_counts_once() {
        let report = |n: usize| Counted {
            report_id: OpId::new(format!("r{n}")).unwrap(),
            kind: Kind::Stop { code: "client" },
            details: Map::new(),
            occurred_at: at(0),
        };
        let mut device = device();
        assert_eq!(device.report(vec![report(1), report(2), report(1)], at(1)).len(), 2);
        assert_eq!(device.report(vec![report(2), report(3)], at(2)), [report(3)]);
        device.report((4..30).map(report).collect(), at(3));
        let kept: Vec<&str> =
            device.facts.reports.iter().map(|one| one.report_id.as_str()).collect();
        assert_eq!((kept.len(), kept[0]), (KEPT_REPORTS, "r20"));
    }
}
