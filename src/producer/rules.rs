//! What a record takes in a batch, and the rules that it may break: one that does fails alone, before it spoils a batch.

use std::time::Duration;

use super::accumulator::Settings;
use super::lane::Lane;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Compression, Record, TimestampType};
use crate::types::Timestamp;

/// What a record takes in a batch beside its key, value and headers, at most.
const RECORD_OVERHEAD: usize = 32;
/// The same for a header beside its key and value.
const HEADER_OVERHEAD: usize = 10;
/// And at least.
const LEAST_HEADER_OVERHEAD: usize = 2;
/// The header of a batch.
pub(super) const BATCH_OVERHEAD: usize = 61;

/// What a record takes in a batch, at most.
#[inline]
pub(super) fn encoded(record: &Record) -> usize {
    let part = |bytes: Option<&bytes::Bytes>| bytes.map_or(0, |b| b.len());
    let headers = record.headers().iter().map(|h| HEADER_OVERHEAD + h.key().len() + h.value().map_or(0, <[u8]>::len));
    RECORD_OVERHEAD + part(record.key_bytes()) + part(record.value_bytes()) + headers.sum::<usize>()
}

/// The least that it takes as a batch of its own: what its key, value and headers hold.
#[cold]
fn certain(record: &Record) -> usize {
    let lengths = record.headers().len() * (HEADER_OVERHEAD - LEAST_HEADER_OVERHEAD);
    BATCH_OVERHEAD + encoded(record) - RECORD_OVERHEAD - lengths
}

/// Fails for a record of so many encoded bytes that cannot be where it is to go.
#[inline]
pub(super) fn check(settings: &Settings, lane: &Lane, record: &Record, bytes: usize, now: Timestamp) -> Result<()> {
    // The estimate is generous, so what passes a limit by it might just fit; the log decides then.
    let most = BATCH_OVERHEAD + bytes;
    if most > settings.max_request_bytes && certain(record) > settings.max_request_bytes {
        let remedy = "raise max_request_size of the producer, or send less at a time";
        return Err(too_large(lane, certain(record), "max.request.size", settings.max_request_bytes, remedy));
    }
    if most > settings.buffer_bytes {
        let remedy = "raise buffer_memory of the producer";
        return Err(too_large(lane, most, "buffer.memory", settings.buffer_bytes, remedy));
    }
    lane.topic.with_settings(|topic| {
        let limit = topic.max_message_bytes as usize;
        let is_plain = || topic.compression.unwrap_or(settings.compression) == Compression::NONE;
        if most > limit && is_plain() && certain(record) > limit {
            let remedy = "raise max.message.bytes of the topic, compress, or send less at a time";
            return Err(too_large(lane, certain(record), "max.message.bytes", limit, remedy));
        }
        if topic.cleanup_policy.compacts() && record.key_bytes().is_none() {
            return Err(keyless(lane));
        }
        let timestamp = match record.explicit_timestamp() {
            Some(timestamp) if topic.timestamp_type == TimestampType::CreateTime => timestamp,
            _ => return Ok(()),
        };
        match (topic.timestamp_after_max, topic.timestamp_before_max) {
            (Some(limit), _) if timestamp > now.saturating_add(limit) => {
                Err(outside(lane, timestamp, ("ahead of", limit), "message.timestamp.after.max.ms"))
            }
            (_, Some(limit)) if timestamp != Timestamp::NONE && timestamp.saturating_add(limit) < now => {
                Err(outside(lane, timestamp, ("behind", limit), "message.timestamp.before.max.ms"))
            }
            _ => Ok(()),
        }
    })
}

#[cold]
fn too_large(lane: &Lane, bytes: usize, name: &str, limit: usize, remedy: &'static str) -> Error {
    let message = format!("a record of {bytes} bytes, but {name} is {limit}");
    Error::new(ErrorKind::TooLarge, message).partition(lane.name().clone()).remedy(remedy)
}

#[cold]
fn keyless(lane: &Lane) -> Error {
    Error::new(ErrorKind::InvalidRecord, "a compacted topic needs a key in every record")
        .partition(lane.name().clone())
        .remedy("give the record a key, or set cleanup.policy=delete")
}

#[cold]
fn outside(lane: &Lane, timestamp: Timestamp, (what, limit): (&str, Duration), name: &str) -> Error {
    let message = format!("timestamp {timestamp} lies more than {} ms {what} the clock", limit.as_millis());
    Error::new(ErrorKind::InvalidTimestamp, message)
        .partition(lane.name().clone())
        .remedy(format!("see {name} of the topic"))
}
