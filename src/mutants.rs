//! Bugs that other logs had, to be built back in one at a time: what the searches for such bugs must find.
//!
//! Only a build with `--cfg thalweg_mutants` has them; in any other [`is_on`] is `false` before the code is made. The
//! environment variable `THALWEG_MUTANT` chooses one by its name. Run by `tests/mutants.rs`, for which this file is
//! also a list.

/// A known bug.
#[cfg_attr(not(thalweg_mutants), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The name of a new segment is not made durable (KAFKA-3968).
    DirectoryNotSynced,
    /// Appends are acknowledged before the sync (the default of NATS JetStream, and of Kafka without replicas).
    AcknowledgedUnsynced,
    /// A sync that failed is tried again, and taken for good when that succeeds ("fsyncgate", PostgreSQL).
    SyncRetried,
    /// Readers see what is not durable yet (Kafka with one replica).
    VisibleUnsynced,
    /// A segment is written to while the one before it is not durable.
    NextSegmentFirst,
    /// A clean shutdown is believed without a look at the files (KAFKA-10471, KAFKA-15375).
    CleanBelieved,
    /// The recovery point passes what is synced (Kafka, with two flushers at once).
    RecoveryPointAhead,
    /// What recovery read is built upon though only the cache may hold it (TigerBeetle's rule).
    RecoveredUnsynced,
    /// Offsets that were known outside are given out again after a restart (Iggy).
    OffsetsReused,
    /// An unfinished write stays, and the log goes on behind it (Kafka after a stop that was called clean).
    TornTailKept,
    /// Everything from the first bad batch on is cut off, acknowledged or not (Kafka's recovery).
    CutAtRot,
    /// Checksums are not looked at.
    ChecksumIgnored,
    /// An index that is missing is taken for corruption (KAFKA-13603).
    MissingIndexIsCorrupt,
    /// Deleted records come back: the log start is not durable before it is told (Kafka's DeleteRecords).
    LogStartForgotten,
    /// A truncation that a crash cut short is not finished, and what it was to take stays.
    TruncationForgotten,
    /// After a short write the rest goes to the wrong place.
    ShortWriteMisplaced,
    /// A file takes another's name before its bytes are durable (KAFKA-15046).
    RenamedUnsynced,
    /// Both copies of a state can be lost to one torn write.
    OnlyCopyOverwritten,
    /// What a failed write left in the file stays there.
    FailedWriteLeft,
}

/// Whether this bug is built in.
#[cfg(not(thalweg_mutants))]
pub(crate) const fn is_on(_: Mutant) -> bool {
    false
}

/// Whether this bug is built in.
#[cfg(thalweg_mutants)]
pub(crate) fn is_on(mutant: Mutant) -> bool {
    static CHOSEN: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("THALWEG_MUTANT").ok());
    CHOSEN.as_ref().is_some_and(|name| *name == format!("{mutant:?}"))
}
