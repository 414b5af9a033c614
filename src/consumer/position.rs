//! Where to read: the offset of one partition that a wish or the start policy means.

use crate::broker::Partition;
use crate::error::{Error, ErrorKind, Result};
use crate::topic::ReadFrom;
use crate::types::{Isolation, Offset, Start};

/// The first and the next offset that a reader of this isolation can get.
pub(super) fn readable(partition: &Partition, isolation: Isolation) -> Result<(Offset, Offset)> {
    let offsets = partition.offsets()?;
    let end = match isolation {
        Isolation::ReadUncommitted => offsets.high_watermark,
        Isolation::ReadCommitted => offsets.last_stable,
    };
    Ok((offsets.log_start, end))
}

/// The offset that `to` means in `partition` now; one that is given has to be readable.
pub(super) fn seek(partition: &Partition, to: ReadFrom, isolation: Isolation) -> Result<Offset> {
    let (start, end) = readable(partition, isolation)?;
    match to {
        ReadFrom::Offset(offset) if !(start..=end).contains(&offset) => {
            let message = format!("cannot go there: readable offsets are {start} to {end}");
            Err(Error::new(ErrorKind::OffsetOutOfRange, message)
                .partition(partition.topic_partition().clone())
                .offset(offset))
        }
        ReadFrom::Start(Start::None) => {
            let message = "Start::None is a policy, not a place to go to";
            Err(Error::new(ErrorKind::InvalidArgument, message).partition(partition.topic_partition().clone()))
        }
        ReadFrom::Offset(offset) => Ok(offset),
        ReadFrom::Start(Start::Earliest) => Ok(start),
        ReadFrom::Start(Start::Latest) => Ok(end),
        ReadFrom::Time(time) => Ok(partition.offset_at(time, isolation)?.map_or(end, |found| found.offset)),
    }
}
