//! What one partition knows of its idempotent and transactional producers (KIP-98): who may append
//! which sequence numbers, and which transactions are open. Kept as `<offset>.snapshot`.
//!
//! Snapshot, version 1: version i16 | CRC-32C u32 of all that follows | count i32 | entries of 46
//! bytes: producer id i64, epoch i16, last sequence i32, last offset i64, offset delta i32, timestamp
//! i64, coordinator epoch i32, first offset of the open transaction i64. It holds only each producer's
//! last batch, so after a reload duplicates of that one alone are known.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Buf, BufMut};

use super::transactions::OngoingTransactions;
use crate::error::{Error, ErrorKind, Result};
use crate::index::AbortedTxn;
use crate::record::{BatchHeader, EndMarker, RecordBatch, TxnOutcome};
use crate::types::{Offset, ProducerId, Timestamp};

const VERSION: i16 = 1;
/// Version and checksum; the checksum covers what follows them.
const CHECKED_AT: usize = 2 + 4;
const HEADER_LEN: usize = CHECKED_AT + 4;
const ENTRY_LEN: usize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8;
/// As many batches as an idempotent client may have in flight (`max.in.flight.requests.per.connection`).
const BATCHES_KEPT: usize = 5;
const NO_EPOCH: i16 = -1;

/// What producer state needs to know of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchFacts {
    pub(crate) producer_id: ProducerId,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) last_sequence: i32,
    pub(crate) base_offset: Offset,
    pub(crate) last_offset: Offset,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) is_transactional: bool,
    pub(crate) is_control: bool,
    /// Of a control batch that ends a transaction.
    pub(crate) marker: Option<Marker>,
}

impl BatchFacts {
    /// The facts of a batch that is at `base_offset`, or will be.
    pub(crate) fn of(batch: &RecordBatch, base_offset: Offset) -> Result<Self> {
        let marker = if batch.header().is_control() { batch.end_marker()? } else { None };
        let marker = marker.map(|EndMarker { outcome, coordinator_epoch }| Marker {
            outcome: match outcome {
                TxnOutcome::Abort => Outcome::Abort,
                TxnOutcome::Commit => Outcome::Commit,
            },
            coordinator_epoch,
        });
        Ok(Self { marker, ..Self::of_data(batch.header(), base_offset) })
    }

    /// The same of a batch that is no control batch, from its header alone.
    pub(crate) fn of_data(header: &BatchHeader, base_offset: Offset) -> Self {
        Self {
            producer_id: header.producer_id(),
            producer_epoch: header.producer_epoch(),
            base_sequence: header.base_sequence(),
            last_sequence: header.last_sequence(),
            base_offset,
            last_offset: base_offset + i64::from(header.last_offset_delta()),
            max_timestamp: header.max_timestamp(),
            is_transactional: header.is_transactional(),
            is_control: header.is_control(),
            marker: None,
        }
    }

    /// Whether the batch has a producer at all.
    pub(crate) fn has_producer(&self) -> bool {
        self.producer_id.get() >= 0
    }
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) outcome: Outcome,
    pub(crate) coordinator_epoch: i32,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Abort,
    Commit,
}

/// The verdict on a batch that may be appended or was appended before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// To be appended.
    Fresh,
    /// One of the producer's last batches again: answer with the offsets and time of the first copy.
    Duplicate { base_offset: Offset, last_offset: Offset, timestamp: Timestamp },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    last_offset: Offset,
    timestamp: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    coordinator_epoch: i32,
    last_timestamp: Timestamp,
    txn_first_offset: Option<Offset>,
    /// The last batches of this epoch, oldest first.
    batches: VecDeque<Batch>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProducerStates {
    producers: BTreeMap<ProducerId, Producer>,
    transactions: OngoingTransactions,
}

/// What producers were before some batches.
#[derive(Debug, Default)]
pub(crate) struct ProducersUndo(BTreeMap<ProducerId, Option<Producer>>);

impl ProducerStates {
    /// Notes in `undo` what the producer is now, unless it says already what he was before.
    pub(crate) fn remember(&self, id: ProducerId, undo: &mut ProducersUndo) {
        undo.0.entry(id).or_insert_with(|| self.producers.get(&id).cloned());
    }

    /// Makes the producers again what they were; [`cut_transactions`](Self::cut_transactions) does the rest.
    pub(crate) fn restore(&mut self, undo: ProducersUndo) {
        for (id, producer) in undo.0 {
            match producer {
                Some(producer) => drop(self.producers.insert(id, producer)),
                None => drop(self.producers.remove(&id)),
            }
        }
    }

    /// Has the transactions follow the producers, of a log that ends at `end` again.
    pub(crate) fn cut_transactions(&mut self, end: Offset) {
        let open = self.producers.iter().filter_map(|(&id, producer)| Some((producer.txn_first_offset?, id)));
        self.transactions.cut(open.collect(), end);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    pub(crate) fn transactions(&self) -> &OngoingTransactions {
        &self.transactions
    }

    pub(crate) fn transactions_mut(&mut self) -> &mut OngoingTransactions {
        &mut self.transactions
    }

    /// Producer, epoch and first offset of the transactions that are open.
    pub(crate) fn open_transactions(&self) -> impl Iterator<Item = (ProducerId, i16, Offset)> + '_ {
        self.producers.iter().filter_map(|(&id, producer)| Some((id, producer.epoch, producer.txn_first_offset?)))
    }

    /// Whether a snapshot says nothing of offsets from `at` on, where it was taken.
    pub(crate) fn ends_before(&self, at: Offset) -> bool {
        self.producers.values().all(|producer| {
            let last = producer.batches.back().map(|batch| batch.last_offset);
            last.max(producer.txn_first_offset).is_none_or(|last| last < at)
        })
    }

    /// Judges a batch from a producer or coordinator before it is appended; its offsets do not matter yet.
    pub(crate) fn check(&self, batch: &BatchFacts) -> Result<Check> {
        let Some(producer) = self.producers.get(&batch.producer_id) else { return Ok(Check::Fresh) };
        if let Some(known) = producer.find(batch) {
            let Batch { base_offset, last_offset, timestamp, .. } = *known;
            return Ok(Check::Duplicate { base_offset, last_offset, timestamp });
        }
        let refuse = |kind, why: String| Err(Error::new(kind, format!("producer {}: {why}", batch.producer_id)));
        let (epoch, known) = (batch.producer_epoch, producer.epoch);
        if epoch < known {
            return refuse(ErrorKind::ProducerFenced, format!("epoch {epoch} was fenced by epoch {known}"));
        }
        if let Some(marker) = batch.marker {
            let (epoch, known) = (marker.coordinator_epoch, producer.coordinator_epoch);
            if epoch < known {
                return refuse(ErrorKind::NotCoordinator, format!("coordinator epoch {epoch} is older than {known}"));
            }
        } else if !batch.is_control {
            if let Err(expected) = producer.check_sequence(batch) {
                let why = format!("sequence {} where {expected} is next in epoch {epoch}", batch.base_sequence);
                return refuse(ErrorKind::OutOfOrderSequence, why);
            }
            if let Some(first) = producer.txn_first_offset.filter(|_| !batch.is_transactional) {
                let why = format!("data outside of the transaction that is open since offset {first}");
                return refuse(ErrorKind::InvalidTxnState, why);
            }
        }
        Ok(Check::Fresh)
    }

    /// Takes note of a batch that has its place in the log, when it is appended and again when the log is
    /// replayed; checks nothing. An abort gives the entry for the transaction index. A marker ends its
    /// producer's transaction whatever its epoch: it may be the records' or one higher (KIP-890).
    pub(crate) fn update(&mut self, batch: &BatchFacts) -> Option<AbortedTxn> {
        let id = batch.producer_id;
        if id < ProducerId::new(0) || (batch.is_control && batch.marker.is_none()) {
            return None;
        }
        let producer = self.producers.entry(id).or_insert_with(|| Producer::new(batch.producer_epoch));
        producer.touch(batch.producer_epoch, batch.max_timestamp);
        let Some(marker) = batch.marker else {
            producer.push(batch);
            if batch.is_transactional && producer.txn_first_offset.is_none() {
                producer.txn_first_offset = Some(batch.base_offset);
                self.transactions.begin(id, batch.base_offset);
            }
            return None;
        };
        producer.coordinator_epoch = marker.coordinator_epoch;
        let first = producer.txn_first_offset.take()?;
        let txn = self.transactions.complete(id, first, batch.last_offset);
        (marker.outcome == Outcome::Abort).then_some(txn)
    }

    /// Forgets producers without an open transaction that were last heard of `expiration` ago or longer
    /// (`producer.id.expiration.ms`).
    pub(crate) fn expire(&mut self, now: Timestamp, expiration: Duration) {
        self.producers.retain(|_, producer| {
            producer.txn_first_offset.is_some() || producer.last_timestamp.saturating_add(expiration) > now
        });
    }

    /// The bytes of a snapshot file.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let count = i32::try_from(self.producers.len())
            .map_err(|_| Error::new(ErrorKind::TooLarge, "more producers than a snapshot can hold"))?;
        let mut body = Vec::with_capacity(4 + self.producers.len() * ENTRY_LEN);
        body.put_i32(count);
        for (id, producer) in &self.producers {
            producer.encode(*id, &mut body);
        }
        let mut bytes = Vec::with_capacity(CHECKED_AT + body.len());
        bytes.put_i16(VERSION);
        bytes.put_u32(crate::wire::crc32c(&body));
        bytes.put_slice(&body);
        Ok(bytes)
    }

    /// `data` as a snapshot whose version and checksum are right, where it is long enough to have them.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn repaired(data: &[u8]) -> Option<Vec<u8>> {
        let body = data.get(CHECKED_AT..)?;
        let mut bytes = VERSION.to_be_bytes().to_vec();
        bytes.put_u32(crate::wire::crc32c(body));
        bytes.put_slice(body);
        Some(bytes)
    }

    /// Reads a snapshot file, without the producers that have expired since.
    pub(crate) fn decode(bytes: &[u8], now: Timestamp, expiration: Duration) -> Result<Self> {
        let corrupt = |why| Err(Error::new(ErrorKind::Corrupt, format!("producer snapshot: {why}")));
        if bytes.len() < HEADER_LEN {
            return corrupt("shorter than its header");
        }
        let (mut head, mut body) = bytes.split_at(CHECKED_AT);
        if head.get_i16() != VERSION {
            return corrupt("version is not 1");
        }
        if head.get_u32() != crate::wire::crc32c(body) {
            return corrupt("checksum does not match");
        }
        let count = usize::try_from(body.get_i32()).ok();
        if count.and_then(|n| n.checked_mul(ENTRY_LEN)) != Some(body.len()) {
            return corrupt("length does not match the number of entries");
        }
        let mut states = Self::default();
        while body.has_remaining() {
            let Some((id, producer)) = Producer::decode(&mut body) else {
                return corrupt("an entry holds an impossible batch");
            };
            if let Some(first) = producer.txn_first_offset {
                states.transactions.begin(id, first);
            }
            states.producers.insert(id, producer);
        }
        let open = states.producers.values().filter(|producer| producer.txn_first_offset.is_some()).count();
        if Some(states.producers.len()) != count || states.transactions.open().count() != open {
            return corrupt("two entries have the same producer, or transactions that begin at the same offset");
        }
        states.expire(now, expiration);
        Ok(states)
    }
}

impl Producer {
    fn new(epoch: i16) -> Self {
        Self {
            epoch,
            coordinator_epoch: -1,
            last_timestamp: Timestamp::NONE,
            txn_first_offset: None,
            batches: VecDeque::new(),
        }
    }

    /// A new epoch starts its sequences over.
    fn touch(&mut self, epoch: i16, timestamp: Timestamp) {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
        self.last_timestamp = timestamp;
    }

    fn push(&mut self, batch: &BatchFacts) {
        if self.batches.len() == BATCHES_KEPT {
            self.batches.pop_front();
        }
        self.batches.push_back(Batch {
            base_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence,
            base_offset: batch.base_offset,
            last_offset: batch.last_offset,
            timestamp: batch.max_timestamp,
        });
    }

    /// The copy of `batch` that is in the log already.
    fn find(&self, batch: &BatchFacts) -> Option<&Batch> {
        let sequences = (batch.base_sequence, batch.last_sequence);
        let mut known = self.batches.iter().filter(|_| !batch.is_control && batch.producer_epoch == self.epoch);
        known.find(|known| (known.base_sequence, known.last_sequence) == sequences)
    }

    /// Whether the batch continues its epoch's sequence; if not, what would.
    fn check_sequence(&self, batch: &BatchFacts) -> Result<(), i32> {
        let expected = match self.batches.back() {
            Some(last) if batch.producer_epoch == self.epoch => last.last_sequence.checked_add(1).unwrap_or(0),
            _ => 0,
        };
        let unknown_epoch = self.epoch == NO_EPOCH;
        if batch.base_sequence == expected || unknown_epoch { Ok(()) } else { Err(expected) }
    }

    fn encode(&self, id: ProducerId, bytes: &mut Vec<u8>) {
        let none = Offset::new(-1);
        let (last_sequence, last_offset, delta) = match self.batches.back() {
            Some(batch) => (batch.last_sequence, batch.last_offset, batch.last_offset - batch.base_offset),
            None => (-1, none, 0),
        };
        bytes.put_i64(id.get());
        bytes.put_i16(self.epoch);
        bytes.put_i32(last_sequence);
        bytes.put_i64(last_offset.get());
        bytes.put_i32(i32::try_from(delta).unwrap_or(i32::MAX));
        bytes.put_i64(self.last_timestamp.get());
        bytes.put_i32(self.coordinator_epoch);
        bytes.put_i64(self.txn_first_offset.unwrap_or(none).get());
    }

    /// Reads the next `ENTRY_LEN` bytes, which must be there.
    fn decode(bytes: &mut &[u8]) -> Option<(ProducerId, Self)> {
        let id = ProducerId::new(bytes.get_i64());
        let mut producer = Self::new(bytes.get_i16());
        let (last_sequence, last_offset, delta) = (bytes.get_i32(), Offset::new(bytes.get_i64()), bytes.get_i32());
        producer.last_timestamp = Timestamp::new(bytes.get_i64());
        producer.coordinator_epoch = bytes.get_i32();
        producer.txn_first_offset = Some(Offset::new(bytes.get_i64())).filter(|first| *first >= Offset::ZERO);
        if last_offset >= Offset::ZERO {
            let base_offset = last_offset + -i64::from(delta);
            if delta < 0 || base_offset < Offset::ZERO {
                return None;
            }
            // Sequences run from 0 to `i32::MAX` and start over.
            let base_sequence = last_sequence.wrapping_sub(delta) & i32::MAX;
            let timestamp = producer.last_timestamp;
            producer.batches.push_back(Batch { base_sequence, last_sequence, base_offset, last_offset, timestamp });
        }
        Some((id, producer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::unhex;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const T: i64 = 1_700_000_000_000;

    /// A batch of producer 7 with sequences and offsets of its own choice.
    fn data(epoch: i16, sequences: (i32, i32), base_offset: i64) -> BatchFacts {
        BatchFacts {
            producer_id: ProducerId::new(7),
            producer_epoch: epoch,
            base_sequence: sequences.0,
            last_sequence: sequences.1,
            base_offset: Offset::new(base_offset),
            last_offset: Offset::new(base_offset + i64::from(sequences.1.wrapping_sub(sequences.0) & i32::MAX)),
            max_timestamp: Timestamp::new(T + base_offset),
            is_transactional: false,
            is_control: false,
            marker: None,
        }
    }

    fn transactional(batch: BatchFacts) -> BatchFacts {
        BatchFacts { is_transactional: true, ..batch }
    }

    fn marker(epoch: i16, outcome: Outcome, coordinator_epoch: i32, offset: i64) -> BatchFacts {
        let marker = Some(Marker { outcome, coordinator_epoch });
        BatchFacts { is_control: true, marker, ..transactional(data(epoch, (-1, -1), offset)) }
    }

    fn states(batches: &[BatchFacts]) -> ProducerStates {
        let mut states = ProducerStates::default();
        for batch in batches {
            states.update(batch);
        }
        states
    }

    fn refusal(states: &ProducerStates, batch: &BatchFacts) -> ErrorKind {
        states.check(batch).unwrap_err().kind()
    }

    #[test]
    fn sequences_continue_within_an_epoch_and_start_over_in_the_next() {
        assert_eq!(ProducerStates::default().check(&data(0, (10, 12), 0)).unwrap(), Check::Fresh, "unknown: any");
        let states = states(&[data(3, (10, 12), 0)]);
        assert_eq!(states.check(&data(3, (13, 13), 0)).unwrap(), Check::Fresh);
        assert_eq!(refusal(&states, &data(3, (14, 14), 0)), ErrorKind::OutOfOrderSequence, "gap");
        assert_eq!(refusal(&states, &data(3, (12, 13), 0)), ErrorKind::OutOfOrderSequence, "overlap");
        assert_eq!(refusal(&states, &data(2, (13, 13), 0)), ErrorKind::ProducerFenced);
        assert_eq!(refusal(&states, &data(4, (3, 3), 0)), ErrorKind::OutOfOrderSequence);
        assert_eq!(states.check(&data(4, (0, 3), 0)).unwrap(), Check::Fresh);
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let states = states(&[data(0, (i32::MAX - 1, 1), 0)]);
        assert_eq!(states.check(&data(0, (2, 2), 4)).unwrap(), Check::Fresh);
        let reloaded = ProducerStates::decode(&states.encode().unwrap(), Timestamp::new(T), DAY).unwrap();
        assert_eq!(reloaded, states);
        let at_end = self::states(&[data(0, (5, i32::MAX), 0)]);
        assert_eq!(at_end.check(&data(0, (0, 0), 9)).unwrap(), Check::Fresh);
    }

    #[test]
    fn the_last_five_batches_are_known_again() {
        let batches: Vec<_> = (0..6).map(|n| data(0, (n * 2, n * 2 + 1), i64::from(n) * 2)).collect();
        let states = states(&batches);
        for batch in &batches[1..] {
            let (base_offset, last_offset, timestamp) = (batch.base_offset, batch.last_offset, batch.max_timestamp);
            let again = BatchFacts { base_offset: Offset::new(99), ..*batch };
            assert_eq!(states.check(&again).unwrap(), Check::Duplicate { base_offset, last_offset, timestamp });
        }
        assert_eq!(refusal(&states, &batches[0]), ErrorKind::OutOfOrderSequence);

        let reloaded = ProducerStates::decode(&states.encode().unwrap(), Timestamp::new(T), DAY).unwrap();
        assert!(matches!(reloaded.check(&batches[5]).unwrap(), Check::Duplicate { .. }));
        assert_eq!(refusal(&reloaded, &batches[4]), ErrorKind::OutOfOrderSequence, "a snapshot keeps one batch");

        let mut bumped = states;
        bumped.update(&data(1, (0, 0), 12));
        assert_eq!(refusal(&bumped, &batches[5]), ErrorKind::ProducerFenced, "a new epoch forgets the old batches");
    }

    #[test]
    fn a_transaction_holds_plain_data_out_until_its_marker() {
        let mut states = states(&[transactional(data(0, (0, 2), 0)), transactional(data(0, (3, 3), 3))]);
        assert_eq!(refusal(&states, &data(0, (4, 4), 4)), ErrorKind::InvalidTxnState);
        assert_eq!(states.transactions().last_stable_offset(Offset::new(4)), 0);
        assert_eq!(states.update(&marker(0, Outcome::Commit, 0, 4)), None);
        states.transactions_mut().on_high_watermark(Offset::new(5));
        assert_eq!(states.transactions().last_stable_offset(Offset::new(5)), 5);
        assert_eq!(states.check(&data(0, (4, 4), 5)).unwrap(), Check::Fresh, "same epoch: the sequence continues");
        assert_eq!(states.update(&marker(0, Outcome::Abort, 0, 5)), None, "nothing was open");
    }

    #[test]
    fn an_abort_gives_kafkas_index_entry() {
        let aborted = BatchFacts { producer_id: 4000.into(), ..transactional(data(0, (0, 2), 102)) };
        let mut states = states(&[aborted]);
        let end = BatchFacts { producer_id: 4000.into(), ..marker(0, Outcome::Abort, 0, 105) };
        let entry = states.update(&end).unwrap();
        let mut index = crate::index::TransactionIndex::default();
        index.push(entry).unwrap();
        let vector = "00000000000000000fa000000000000000660000000000000069000000000000006a";
        assert_eq!(index.encode(), unhex(vector));
    }

    #[test]
    fn a_marker_one_epoch_higher_ends_the_transaction_and_restarts_the_sequence() {
        let mut states = states(&[transactional(data(1, (0, 2), 0))]);
        assert_eq!(refusal(&states, &marker(0, Outcome::Abort, 0, 3)), ErrorKind::ProducerFenced);
        let end = marker(2, Outcome::Abort, 5, 3);
        assert_eq!(states.check(&end).unwrap(), Check::Fresh);
        assert_eq!(states.update(&end).map(|txn| txn.first_offset), Some(Offset::ZERO));
        assert_eq!(refusal(&states, &marker(2, Outcome::Abort, 4, 4)), ErrorKind::NotCoordinator);
        assert_eq!(refusal(&states, &data(1, (3, 3), 4)), ErrorKind::ProducerFenced);
        assert_eq!(refusal(&states, &data(2, (3, 3), 4)), ErrorKind::OutOfOrderSequence);
        assert_eq!(states.check(&data(2, (0, 0), 4)).unwrap(), Check::Fresh);
    }

    #[test]
    fn batches_without_a_producer_leave_no_trace() {
        let none = BatchFacts { producer_id: ProducerId::NONE, ..data(0, (0, 0), 0) };
        let control = BatchFacts { is_control: true, ..data(0, (-1, -1), 1) };
        let states = states(&[none, control]);
        assert_eq!(states, ProducerStates::default());
        assert_eq!(states.check(&none).unwrap(), Check::Fresh);
    }

    #[test]
    fn silent_producers_expire_unless_a_transaction_is_open() {
        let mut states = states(&[data(0, (0, 0), 0)]);
        let open = BatchFacts { producer_id: 8.into(), ..transactional(data(0, (0, 0), 1)) };
        states.update(&open);
        let expires = Timestamp::new(T).saturating_add(DAY);
        states.expire(Timestamp::new(expires.get() - 1), DAY);
        assert_eq!(states.producers.len(), 2);
        states.expire(expires.saturating_add(DAY), DAY);
        assert_eq!(states.producers.keys().copied().collect::<Vec<_>>(), [ProducerId::new(8)]);
    }

    #[test]
    fn snapshots_are_kafkas() {
        let stopped = "00010c9807de00000001000000000000000000000000000400000000\
                       0000000400000000000001a1fd565c24ffffffffffffffffffffffff";
        // Written by Kafka 4.3.0 at a clean stop: producer 0, epoch 0, sequence 4 at offset 4.
        let states = ProducerStates::decode(&unhex(stopped), Timestamp::new(T), DAY).unwrap();
        assert_eq!(states.encode().unwrap(), unhex(stopped));
        let again = BatchFacts { producer_id: 0.into(), ..data(0, (4, 4), 4) };
        assert!(matches!(states.check(&again).unwrap(), Check::Duplicate { .. }));

        let open = "0001697f1618000000010000000000000fa0000300000000000000000000000200000002\
                    0000018bcfe56805ffffffff0000000000000000";
        let states = ProducerStates::decode(&unhex(open), Timestamp::new(T), DAY).unwrap();
        assert_eq!(states.encode().unwrap(), unhex(open));
        assert_eq!(states.transactions().last_stable_offset(Offset::new(3)), 0, "its transaction is open");

        let empty = ProducerStates::default().encode().unwrap();
        assert_eq!((empty.len(), &empty[..2], &empty[6..]), (10, &[0, 1][..], &[0; 4][..]));
        assert_eq!(ProducerStates::decode(&empty, Timestamp::new(T), DAY).unwrap(), ProducerStates::default());
    }

    #[test]
    fn damaged_snapshots_are_corrupt() {
        let good = states(&[data(0, (0, 4), 10)]).encode().unwrap();
        let decode = |bytes: &[u8]| ProducerStates::decode(bytes, Timestamp::new(T), DAY).map(|_| ());
        for len in 0..good.len() {
            assert_eq!(decode(&good[..len]).unwrap_err().kind(), ErrorKind::Corrupt, "{len} bytes");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(decode(&bad).unwrap_err().kind(), ErrorKind::Corrupt, "byte {at}");
        }
        let mut surplus = good[..CHECKED_AT].to_vec();
        let body = [&good[CHECKED_AT..], &[0; ENTRY_LEN]].concat();
        surplus[2..].copy_from_slice(&crate::wire::crc32c(&body).to_be_bytes());
        assert_eq!(decode(&[surplus, body].concat()).unwrap_err().kind(), ErrorKind::Corrupt, "announced count");
    }
}
