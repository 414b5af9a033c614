//! Wall clocks that jump: nothing is deleted before its time, and nothing stays for ever.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const YEARS: i64 = 10 * 365 * 24 * 3_600_000;
/// What a clock may be off by without being called wrong, twice.
const SLACK: Duration = Duration::from_secs(25);

/// Numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// A log under a clock that jumps, and when its records came in monotonic time.
struct Jumping {
    bed: Bed,
    log: Log,
    came: Vec<Duration>,
    dice: Dice,
}

impl Jumping {
    fn new(seed: u64) -> Self {
        let bed = Bed::new();
        let log = bed.open(small());
        Self { bed, log, came: Vec::new(), dice: Dice(seed) }
    }

    fn step(&mut self) {
        let clock = &self.bed.clock;
        let wall = clock.now().get();
        match self.dice.below(12) {
            0 => clock.set_wall(Timestamp::new(wall + YEARS)),
            1 => clock.set_wall(Timestamp::new((wall - YEARS).max(-YEARS))),
            2 => clock.set_wall(Timestamp::new(0)),
            3 => clock.set_wall(Timestamp::new(wall - self.dice.below(7_200_000) as i64)),
            4 => clock.set_wall(Timestamp::new(wall + self.dice.below(7_200_000) as i64)),
            5 => clock.set_wall(Timestamp::new(T + clock.monotonic().as_millis() as i64)),
            6 | 7 => clock.advance(Duration::from_secs(self.dice.below(3000))),
            8 | 9 => self.retain(),
            _ => {
                put(&self.log, &["value"]);
                self.came.push(self.bed.clock.monotonic());
            }
        }
    }

    fn retain(&self) {
        self.log.apply_retention(Some(HOUR), None).unwrap();
        let now = self.bed.clock.monotonic();
        let start = self.log.offsets().log_start.get() as usize;
        for (offset, came) in self.came[..start].iter().enumerate() {
            let age = now.saturating_sub(*came) + SLACK;
            assert!(age >= HOUR, "offset {offset} of {start} was deleted after {age:?}");
        }
    }
}

#[test]
fn a_clock_that_jumps_deletes_nothing_early_and_pins_nothing() {
    let mut kept = 0;
    for seed in 0..200 {
        let mut jumping = Jumping::new(seed);
        for _ in 0..150 {
            jumping.step();
        }
        kept += jumping.log.offsets().end - jumping.log.offsets().log_start;
        jumping.bed.clock.advance(HOUR + SLACK);
        jumping.retain();
        let offsets = jumping.log.offsets();
        assert_eq!(offsets.log_start, offsets.end, "seed {seed}: some of it stays for ever");
    }
    assert!(kept > 200, "the check looked at nothing");
}

#[test]
fn on_a_sane_clock_records_are_as_old_as_they_say() {
    let bed = Bed::new();
    let log = bed.open(small());
    bed.clock.advance(HOUR * 24);
    let at = |hours: i64| Record::new("stamped").timestamp(Timestamp::new(T + hours * 3_600_000));
    for hours in [22, 23, 40] {
        let appended = log.append_records([at(hours)]).unwrap();
        log.wait(appended.position, Durability::PowerLoss).unwrap();
        log.roll().unwrap();
    }
    for (passed, start) in [(0, 1), (2, 2), (12, 2), (5, 3)] {
        bed.clock.advance(HOUR * passed);
        log.apply_retention(Some(HOUR + HOUR / 2), None).unwrap();
        assert_eq!(log.offsets().log_start, start, "{passed} hours later");
    }
}

#[test]
fn segments_roll_by_age_whatever_the_clock_does() {
    let bed = Bed::new();
    let config = || LogConfig::default().segment_age(HOUR);
    let log = bed.open(config());
    let segments = |log: &Log| log.inner().segments.load().len();
    put(&log, &["before"]);
    bed.clock.set_wall(Timestamp::new(T - YEARS));
    for minute in 0..59 {
        put(&log, &["behind"]);
        assert_eq!(segments(&log), 1, "minute {minute}");
        bed.clock.advance(Duration::from_secs(60));
    }
    bed.clock.advance(Duration::from_secs(120));
    put(&log, &["an hour later"]);
    assert_eq!(segments(&log), 2);
    bed.clock.set_wall(Timestamp::new(T + YEARS));
    for _ in 0..20 {
        put(&log, &["ahead"]);
    }
    assert_eq!(segments(&log), 3, "once for the jump");
}

#[test]
fn producers_are_remembered_over_a_restart_that_leaps_ahead() {
    let bed = Bed::new();
    let open = || {
        let known = Some(Timestamp::new(T));
        let time = Arc::new(SteadyTime::new(Arc::new(bed.clock.clone()), known));
        let context = LogContext { time, ..damage::context(&bed, Outside::default(), 0) };
        Log::open_in(context, &bed.dir, LogConfig::default()).unwrap()
    };
    let send = |log: &Log| {
        let mut batch = BatchBuilder::new().producer(ProducerId::new(7), 0, 0);
        batch.push(Timestamp::new(T), &Record::new("once")).unwrap();
        let appended = log.append(&batch.finish().unwrap(), LeaderEpoch::new(0)).unwrap();
        log.sync().unwrap();
        appended.base_offset
    };
    bed.storage.create_dir(&bed.dir).unwrap();
    let log = open();
    assert_eq!(send(&log), 0);
    log.close().unwrap();
    bed.clock.set_wall(Timestamp::new(T + YEARS));
    let log = open();
    assert_eq!((send(&log), log.offsets().end), (Offset::ZERO, Offset::new(1)));
}
