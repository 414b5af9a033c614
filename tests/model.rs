//! A log against the simplest model of one, a list: random histories of everything that changes a log, and after each
//! step all that can be asked of it. Failing histories are made shorter by `proptest`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use thalweg::testing::{Errno, Fault, Operation, Repeat, SimStorage};
use thalweg::{
    Durability, ErrorKind, Isolation, Log, LogConfig, ManualClock, Offset, ReadMode, Record, Timestamp, Verify,
};

const DIR: &str = "events-0";
/// When the clock stands still.
const NOW: i64 = 1_700_000_000_000;

/// A record: which byte it holds how often, and milliseconds from `NOW`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    byte: u8,
    len: usize,
    time: i64,
}

/// What a log is: batches, one after another, and where it starts.
#[derive(Clone, Debug, Default)]
struct Model {
    batches: Vec<Vec<Entry>>,
    /// Records below are gone.
    start: usize,
    mapped: bool,
    power_loss: bool,
}

impl Model {
    fn len(&self) -> usize {
        self.batches.iter().map(Vec::len).sum()
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.batches.iter().flatten()
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// One batch, waited for at this level.
    Append(Vec<Entry>, Durability),
    /// Several batches, of which the last is waited for.
    Gather(Vec<Vec<Entry>>),
    Roll,
    Sync,
    Maintain,
    /// So many batches go.
    Truncate(usize),
    /// So many records go.
    Advance(usize),
    /// From here on segments are that long.
    Configure(u32),
    /// With no need for it.
    Mend,
    Close,
    Kill,
}

fn entries(most: usize) -> impl Strategy<Value = Vec<Entry>> {
    let len = prop_oneof![4 => 0..20_usize, 1 => 100..200_usize];
    let entry = (any::<u8>(), len, -50..50_i64).prop_map(|(byte, len, time)| Entry {
        byte: if len == 0 { 0 } else { byte },
        len,
        time,
    });
    proptest::collection::vec(entry, 1..most)
}

fn level() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::ProcessCrash), Just(Durability::PowerLoss)]
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        (any::<bool>(), any::<bool>())
            .prop_map(|(mapped, power_loss)| Self { mapped, power_loss, ..Self::default() })
            .boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Step> {
        let left = state.len() - state.start;
        prop_oneof![
            8 => (entries(4), level()).prop_map(|(entries, level)| Step::Append(entries, level)),
            3 => proptest::collection::vec(entries(3), 2..6).prop_map(Step::Gather),
            1 => Just(Step::Roll),
            1 => Just(Step::Sync),
            1 => Just(Step::Maintain),
            2 => (1..4_usize).prop_map(Step::Truncate),
            2 => (0..=left).prop_map(Step::Advance),
            1 => (700..3_000_u32).prop_map(Step::Configure),
            1 => Just(Step::Mend),
            2 => Just(Step::Close),
            2 => Just(Step::Kill),
        ]
        .boxed()
    }

    /// Batches that hold nothing above the log start stay.
    fn preconditions(state: &Self, step: &Step) -> bool {
        match step {
            Step::Truncate(count) => {
                let kept = state.batches.len().checked_sub(*count);
                kept.is_some_and(|kept| state.batches[..kept].iter().map(Vec::len).sum::<usize>() >= state.start)
            }
            Step::Advance(count) => state.start + count <= state.len(),
            _ => true,
        }
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        match step {
            Step::Append(entries, _) => state.batches.push(entries.clone()),
            Step::Gather(batches) => state.batches.extend(batches.iter().cloned()),
            Step::Truncate(count) => state.batches.truncate(state.batches.len() - count),
            Step::Advance(count) => state.start += count,
            _ => {}
        }
        state
    }
}

/// A log, and which offset each batch of the model was given.
struct Subject {
    disk: SimStorage,
    config: LogConfig,
    log: Option<Log>,
    given: Vec<Range<i64>>,
    /// The log start before the last step.
    start: Offset,
}

impl Subject {
    fn log(&self) -> &Log {
        self.log.as_ref().expect("it is open between two steps")
    }

    fn open(&mut self) {
        let clock = Arc::new(ManualClock::new(Timestamp::new(NOW)));
        let log = Log::open_on(Arc::new(self.disk.clone()), clock, DIR, self.config.clone());
        self.log = Some(log.expect("a log that nothing happened to opens"));
    }

    fn append(&mut self, entries: &[Entry]) -> thalweg::LogPosition {
        let record = |e: &Entry| Record::new(vec![e.byte; e.len]).timestamp(Timestamp::new(NOW + e.time));
        let records = entries.iter().map(record);
        let end = self.log().offsets().end;
        let appended = self.log().append_records_if(end, records).expect("there is room, and nobody else");
        let range = appended.base_offset.get()..appended.last_offset.get() + 1;
        assert_eq!(range.end - range.start, entries.len() as i64);
        // Offsets are not given out twice, except those that were cut off.
        assert!(self.given.last().is_none_or(|before| before.end <= range.start), "{range:?} after {:?}", self.given);
        self.given.push(range);
        appended.position
    }

    fn wait(&self, position: thalweg::LogPosition, level: Durability) {
        self.log().wait(position, level).expect("the disk works");
        assert!(self.log().is_committed(position, level).expect("it was not taken back"));
    }

    /// The offset of each record of the model.
    fn offsets(&self) -> Vec<i64> {
        self.given.iter().flat_map(Clone::clone).collect()
    }

    /// Every record that can be read from `at` on.
    fn read(&self, at: Offset, max_bytes: usize, isolation: Isolation) -> Vec<(i64, Entry)> {
        let end = self.log().offsets().high_watermark;
        let (mut from, mut found) = (at, Vec::new());
        while from < end {
            let read = self.log().read(from, max_bytes, isolation).expect("it reads");
            assert!(read.next_offset() > from, "a read at {from} gets nowhere");
            for batch in read.data_batches() {
                let decoded = batch.expect("it is sound").decode().expect("it decodes");
                for record in decoded.iter().map(|record| record.expect("it is sound")) {
                    if record.offset() >= at {
                        let value = record.value().expect("it has one");
                        let byte = value.first().copied();
                        assert!(value.iter().all(|b| Some(*b) == byte), "garbled at {}", record.offset());
                        let time = record.timestamp().get() - NOW;
                        found.push((record.offset().get(), Entry { byte: byte.unwrap_or(0), len: value.len(), time }));
                    }
                }
            }
            from = read.next_offset();
        }
        found
    }
}

impl StateMachineTest for Subject {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(model: &Model) -> Self {
        let level = if model.power_loss { Durability::PowerLoss } else { Durability::ProcessCrash };
        let reading = if model.mapped { ReadMode::Mapped } else { ReadMode::Copied };
        let verify = if model.mapped { Verify::Once } else { Verify::EveryRead };
        let config = LogConfig::default().segment_bytes(700).index_interval_bytes(100).recovery_note_bytes(300);
        let config = config.durability(level).read_mode(reading).verify(verify);
        let disk = SimStorage::new();
        let mut subject = Self { disk, config, log: None, given: Vec::new(), start: Offset::ZERO };
        subject.open();
        subject
    }

    fn apply(mut subject: Self, model: &Model, step: Step) -> Self {
        subject.start = subject.log().offsets().log_start;
        match step {
            Step::Append(entries, level) => {
                let position = subject.append(&entries);
                subject.wait(position, level);
                if !model.power_loss || level == Durability::PowerLoss {
                    assert_eq!(subject.log().offsets().high_watermark.get(), subject.given.last().unwrap().end);
                }
                // What is acknowledged below the log's own level is shown after a sync.
                subject.log().sync().expect("the disk works");
            }
            Step::Gather(batches) => {
                let last = batches.iter().map(|entries| subject.append(entries)).last();
                subject.wait(last.expect("there are some"), Durability::PowerLoss);
            }
            Step::Roll => subject.log().roll().expect("there is room"),
            Step::Sync => subject.log().sync().expect("the disk works"),
            Step::Maintain => subject.log().run_maintenance().expect("the disk works"),
            Step::Truncate(_) => {
                let cut = subject.given.split_off(model.batches.len());
                // Anywhere in the first batch that goes.
                subject.log().truncate(cut[0].end - 1).expect("nothing is damaged");
                assert_eq!(subject.log().offsets().end.get(), cut[0].start);
            }
            Step::Advance(_) => {
                let end = subject.log().offsets().high_watermark;
                let to = subject.offsets().get(model.start).map_or(end, |offset| Offset::new(*offset));
                subject.log().advance_log_start(to).expect("it is below the high watermark");
                assert!(subject.log().offsets().log_start >= to);
            }
            Step::Configure(bytes) => {
                subject.config = subject.config.clone().segment_bytes(bytes);
                subject.log().configure(subject.config.clone()).expect("the level stays");
            }
            Step::Mend => {
                // Not of the state, which a close and an opening mend.
                subject.disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log"));
                // As ext4 does, which is what is simulated where nothing is said: the cache keeps what the disk lacks.
                let failed = subject.log().sync().and_then(|()| subject.log().run_maintenance());
                subject.disk.mend();
                // Where there was nothing to sync, nothing failed.
                if failed.is_err() {
                    let refused = subject.log().append_records([Record::new("refused")]).unwrap_err();
                    assert_eq!(refused.kind(), ErrorKind::Poisoned);
                }
                drop(subject.log().reopen().expect("nothing is damaged"));
            }
            Step::Close => {
                subject.log().close().expect("the disk works");
                subject.log = None;
                subject.open();
                assert!(subject.log().recovery().damaged.is_empty());
            }
            Step::Kill => {
                subject.log = None;
                subject.open();
                assert!(subject.log().recovery().damaged.is_empty());
            }
        }
        subject
    }

    fn check_invariants(subject: &Self, model: &Model) {
        let (offsets, log) = (subject.offsets(), subject.log());
        let LogEnds { start, end } = LogEnds::of(log);
        assert!(start >= subject.start, "the log start goes back");
        let there: Vec<_> = offsets.iter().copied().zip(model.entries().copied()).skip(model.start).collect();
        for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
            assert_eq!(subject.read(start, 150, isolation), there);
        }
        // From the middle, by large reads.
        if let Some((middle, _)) = there.get(there.len() / 2) {
            let found = subject.read(Offset::new(*middle), 1 << 20, Isolation::ReadUncommitted);
            assert_eq!(found, there[there.len() / 2..]);
        }
        for time in [-60, -20, 0, 20, 60] {
            let found = log.offset_at(Timestamp::new(NOW + time), Isolation::ReadUncommitted).expect("it reads");
            let found = found.map(|found| (found.offset.get(), found.timestamp.get() - NOW));
            let first = there.iter().find(|(_, entry)| entry.time >= time).map(|(offset, entry)| (*offset, entry.time));
            assert_eq!(found, first, "by time {time}");
        }
        for other in [-1, 0, start.get(), end.get() - 1, end.get() + 1].into_iter().filter(|other| end != *other) {
            let refused = log.append_records_if(other, ["elsewhere"]).expect_err("it does not end there");
            assert_eq!((refused.kind(), refused.at_offset()), (ErrorKind::Conflict, Some(end)));
        }
        for outside in [start.get() - 1, end.get() + 1] {
            assert!(log.read(outside, 100, Isolation::ReadUncommitted).is_err(), "a read at {outside} gives something");
        }
        let readable = log.wait_readable(end, Isolation::ReadUncommitted, Duration::ZERO).expect("it is open");
        assert!(!readable, "something can be read at the end");
    }
}

/// Where a log starts and ends.
struct LogEnds {
    start: Offset,
    end: Offset,
}

impl LogEnds {
    fn of(log: &Log) -> Self {
        let offsets = log.offsets();
        assert!(offsets.log_start <= offsets.high_watermark && offsets.high_watermark <= offsets.end, "{offsets:?}");
        Self { start: offsets.log_start, end: offsets.end }
    }
}

prop_state_machine! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_log_is_a_list_of_batches(sequential 1..40 => Subject);
}
