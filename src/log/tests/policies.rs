//! What a log's recovery policy makes of damage.

use super::*;

type Files = Vec<(String, Vec<u8>)>;

fn files(bed: &Bed) -> Files {
    bed.names().into_iter().map(|name| (name.clone(), bed.file(&name))).collect()
}

fn by(bed: &Bed, policy: RecoveryPolicy) -> Result<Log> {
    let config = LogConfig::default().recovery_policy(policy);
    Log::open_on(Arc::clone(&bed.storage), Arc::new(bed.clock.clone()), &bed.dir, config)
}

/// A log of three records that was killed, with a wrong byte in each of the batches at these offsets.
fn rotten(at: &[u64]) -> Bed {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    for value in ["a", "b", "c"] {
        put(&log, &[value]);
    }
    let size = log.size_bytes() / 3;
    bed.kill(log);
    let bytes = bed.file("00000000000000000000.log");
    for &batch in at {
        let place = batch * size + size - 2;
        bed.overwrite("00000000000000000000.log", place, &[bytes[usize::try_from(place).unwrap()] ^ 1]);
    }
    bed
}

fn texts(log: &Log) -> Vec<String> {
    all(log).into_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_strict_opening_refuses_damage_names_it_and_changes_nothing() {
    for at in [&[1][..], &[2], &[0, 2], &[1, 2], &[0, 1, 2]] {
        let bed = rotten(at);
        let before = files(&bed);
        let error = by(&bed, RecoveryPolicy::Strict).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(error.at_offsets().unwrap().start, i64::try_from(at[0]).unwrap(), "{error}");
        assert!(error.to_string().contains("DamagedTail") && error.to_string().contains("Degraded"), "{error}");
        assert_eq!(files(&bed), before, "{at:?}");
        // And again: a refusal leaves nothing that the next opening would take for sound.
        by(&bed, RecoveryPolicy::Strict).unwrap_err();
        by(&bed, RecoveryPolicy::Degraded).unwrap();
    }
}

#[test]
fn a_strict_opening_takes_what_nobody_was_promised() {
    let bed = rotten(&[]);
    let whole = bed.file("00000000000000000000.log");
    bed.overwrite("00000000000000000000.log", whole.len() as u64, &whole[..70]);
    let log = by(&bed, RecoveryPolicy::Strict).unwrap();
    assert!(log.recovery().rows.contains(&RecoveryRow::TornTail), "{}", log.recovery());
    assert_eq!(texts(&log), ["a", "b", "c"]);
    log.close().unwrap();
    assert_eq!(texts(&by(&bed, RecoveryPolicy::Strict).unwrap()), ["a", "b", "c"]);
}

#[test]
fn a_strict_opening_cuts_nothing_when_the_state_is_lost() {
    let bed = rotten(&[]);
    bed.storage.remove_file(&bed.dir.join("log.state")).unwrap();
    let whole = bed.file("00000000000000000000.log");
    bed.overwrite("00000000000000000000.log", whole.len() as u64, &whole[..70]);
    let before = files(&bed);
    let error = by(&bed, RecoveryPolicy::Strict).unwrap_err();
    assert!(error.to_string().contains("StateLost"), "{error}");
    assert_eq!(files(&bed), before);
    by(&bed, RecoveryPolicy::Degraded).unwrap().close().unwrap();
    by(&bed, RecoveryPolicy::Strict).unwrap();
}

#[test]
fn a_salvaged_log_is_read_past_damage_which_is_told() {
    for (at, left) in
        [(&[0][..], &["b", "c"][..]), (&[1], &["a", "c"]), (&[2], &["a", "b"]), (&[1, 2], &["a"]), (&[0, 1, 2], &[])]
    {
        let bed = rotten(at);
        let log = by(&bed, RecoveryPolicy::Salvage).unwrap();
        assert_eq!(texts(&log), left, "{at:?}");
        let findings = log.inner().context.findings.all();
        let told = |batch: u64| {
            let batch = Offset::new(i64::try_from(batch).unwrap());
            let mut passed = findings.iter().filter(|finding| finding.message.contains("passed over"));
            passed.any(|finding| finding.offsets.as_ref().is_some_and(|lost| lost.contains(&batch)))
        };
        assert!(at.iter().all(|&batch| told(batch)), "{findings:?}");
        // Not only for as long as the configuration is the one it was opened with.
        log.configure(LogConfig::default()).unwrap();
        let end = log.offsets().end;
        assert_eq!(log.read(Offset::ZERO, 1 << 20, Isolation::ReadUncommitted).unwrap().offsets().end, end);
        put(&log, &["d"]);
        assert_eq!(texts(&log).last().unwrap(), "d");
    }
}

#[test]
fn only_a_salvage_begins_a_damaged_state_anew_and_keeps_the_old_one() {
    let bed = rotten(&[]);
    bed.overwrite("log.state", 3, b"xxx");
    let damaged = bed.file("log.state");
    for policy in [RecoveryPolicy::Strict, RecoveryPolicy::Degraded] {
        assert_eq!(by(&bed, policy).unwrap_err().kind(), ErrorKind::Corrupt, "{policy:?}");
        assert_eq!(bed.file("log.state"), damaged);
    }
    let log = by(&bed, RecoveryPolicy::Salvage).unwrap();
    assert_eq!(bed.file("log.state.damaged"), damaged);
    assert!(log.recovery().rows.contains(&RecoveryRow::StateLost), "{}", log.recovery());
    assert_eq!(texts(&log), ["a", "b", "c"]);
    log.close().unwrap();
    assert_eq!(by(&bed, RecoveryPolicy::Strict).unwrap().recovery().rows, [RecoveryRow::Clean]);
}
