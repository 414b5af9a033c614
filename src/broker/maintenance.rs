//! The slow rounds: retention and checkpoints. When they run is decided here, what they do to a log is
//! the log's. The catalog writes its snapshots by itself.
//!
//! Kafka's order holds within a round (facts D.3) and nothing above the high watermark is ever
//! deleted. A failure stops neither the other partitions nor the next round.

use std::time::Duration;

use super::{Broker, Inner, directory};
use crate::error::Result;
use crate::finding::{Finding, FindingKind};
use crate::storage::ReservedStorage;
use crate::topic;
use crate::types::Offset;

/// When each round ran last, in monotonic time; `None` before the first.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    retention: Option<Duration>,
    checkpoints: Option<Duration>,
    /// When retention was held back first because the wall clock had leapt ahead, and whether that was told.
    held: Option<(Duration, bool)>,
}

/// How far ahead of what is known, and of what a topic keeps, the wall clock may be after a restart.
const LEAP_MAX: Duration = Duration::from_secs(24 * 3600);

/// Whether a round is due; a broker that just opened waits one interval.
fn is_due(last: &mut Option<Duration>, interval: Duration, now: Duration) -> bool {
    let started = *last.get_or_insert(now);
    let due = now.saturating_sub(started) >= interval;
    if due {
        *last = Some(now);
    }
    due
}

impl Broker {
    /// Does all background work that there is, on the calling thread: open batches of producers are sent,
    /// appends reach their topic's durability, retention is applied, checkpoints are written. For brokers that
    /// are [`manual`](super::BrokerBuilder::manual); others may call it, too.
    ///
    /// # Errors
    /// The first failure; the rest is done all the same. `Closed` after [`close`](Self::close).
    pub fn run_maintenance(&self) -> Result<()> {
        self.inner.check_open()?;
        self.inner.background.settle_queued();
        let retained = self.inner.apply_retention();
        let kept = self.inner.tend_logs();
        retained.and(kept).and(self.inner.write_checkpoints())
    }
}

impl Inner {
    /// What the maintenance thread does at each tick. Failures are the partition's to report: its log is
    /// poisoned and says so to whoever appends or closes.
    pub(super) fn run_due_rounds(&self) {
        let now = self.context.clock.monotonic();
        let (retention, checkpoints) = {
            let mut schedule = self.schedule.lock();
            (
                is_due(&mut schedule.retention, self.settings.retention_interval, now),
                is_due(&mut schedule.checkpoints, self.settings.checkpoint_interval, now),
            )
        };
        drop(self.each_open_partition(|partition| partition.flush_if_due(now)));
        if retention {
            drop(self.apply_retention());
        }
        if checkpoints {
            drop(self.tend_logs().and_then(|()| self.write_checkpoints()));
        }
    }

    /// Deletes old segments of topics that say so (`retention.ms`, `retention.bytes`, `cleanup.policy`).
    fn apply_retention(&self) -> Result<()> {
        if self.context.read_only.is_some() {
            return Ok(());
        }
        let mut first = Ok(());
        let leap = self.leap();
        for topic in self.registry.all() {
            let limits = topic.with_settings(|s| {
                let limited = s.retention.is_some() || s.retention_bytes.is_some();
                (s.cleanup_policy.deletes() && limited).then_some((s.retention, s.retention_bytes))
            });
            let Some((age, bytes)) = limits else { continue };
            let age = age.filter(|&age| leap <= age.saturating_add(LEAP_MAX) || !self.hold(leap));
            for partition in topic.partitions() {
                if self.background.is_stopped() {
                    return first;
                }
                first = first.and(partition.guard(|partition| partition.apply_retention(age, bytes)));
            }
        }
        first
    }

    /// How far the wall clock has leapt ahead over a restart, for one check interval from the first look on. After that
    /// it is believed: a directory that lay on a shelf for a month looks like a clock that is wrong.
    fn leap(&self) -> Duration {
        let (ahead, now) = (self.context.time.ahead(), self.context.clock.monotonic());
        let mut schedule = self.schedule.lock();
        let (since, _) = *schedule.held.get_or_insert((now, false));
        if ahead > LEAP_MAX && now.saturating_sub(since) < self.settings.retention_interval {
            return ahead;
        }
        if ahead > Duration::ZERO {
            self.context.time.believe();
        }
        Duration::ZERO
    }

    /// Tells once that nothing is deleted for its age for now.
    fn hold(&self, leap: Duration) -> bool {
        if let Some((_, told)) = &mut self.schedule.lock().held
            && !std::mem::replace(told, true)
        {
            let (days, wait) = (leap.as_secs() / (24 * 3600), self.settings.retention_interval.as_millis());
            let message = format!(
                "the clock is {days} days ahead of when the directory was last in use, more than its topics keep; for \
                 {wait} ms nothing is deleted for its age"
            );
            let finding = Finding::new(FindingKind::ClockLeapt, message);
            self.context.findings.add(finding.path(&*self.context.root));
        }
        true
    }

    /// Lets every open log finish what waits for nobody.
    fn tend_logs(&self) -> Result<()> {
        let tended = self.each_open_partition(|partition| partition.maintain());
        // One of all of them: the reading takes a while.
        let mut is_sealed = false;
        let sealed = self.each_open_partition(|partition| {
            is_sealed = is_sealed || partition.seal_next()?;
            Ok(())
        });
        let tended = tended.and(sealed);
        // What all of them have noted.
        let tended = tended.and(self.state.sync());
        self.reserve.iter().for_each(ReservedStorage::fill);
        tended
    }

    fn each_open_partition(&self, mut call: impl FnMut(&topic::Partition) -> Result<()>) -> Result<()> {
        let mut first = Ok(());
        for topic in self.registry.all() {
            for partition in topic.partitions() {
                if partition.is_touched() && !self.background.is_stopped() {
                    first = first.and(partition.guard(&mut call));
                }
            }
        }
        first
    }

    /// Kafka's three checkpoints of all partitions. What an untouched partition had in them stays.
    pub(super) fn write_checkpoints(&self) -> Result<()> {
        // One at a time: what an earlier look found must not replace what a later one did.
        let _order = self.checkpointing.lock();
        self.check_open()?;
        self.store_checkpoints()
    }

    /// The same for a broker that closes; `checkpointing` is held.
    pub(super) fn store_checkpoints(&self) -> Result<()> {
        if self.context.read_only.is_some() {
            return Ok(());
        }
        let (storage, root) = (&*self.context.storage, &*self.context.root);
        let (mut recovery, mut starts, mut highs) = (Vec::new(), Vec::new(), Vec::new());
        for partition in self.registry.all().iter().flat_map(|topic| topic.partitions()) {
            let (name, at) = (partition.name(), partition.checkpoint());
            recovery.push((name.clone(), at.recovery_point));
            highs.push((name.clone(), at.high_watermark));
            if at.log_start > Offset::ZERO {
                starts.push((name.clone(), at.log_start));
            }
        }
        directory::write_checkpoint(storage, root, directory::RECOVERY_POINTS, &recovery)?;
        directory::write_checkpoint(storage, root, directory::LOG_STARTS, &starts)?;
        directory::write_checkpoint(storage, root, directory::HIGH_WATERMARKS, &highs)?;
        directory::write_time(storage, root, self.context.time.passed())
    }
}
