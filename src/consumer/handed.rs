//! What can be committed through: a record that a poll handed out, whatever was made of it since.

use super::records::ConsumerRecord;

/// A record that a poll handed out: a [`ConsumerRecord`], a [`TypedRecord`](crate::TypedRecord) of one, or the
/// [`Undecoded`](crate::Undecoded) that came in its place. [`Consumer::commit_through`](crate::Consumer::commit_through)
/// takes it. Sealed.
pub trait HandedOut: sealed::HandedOut {}

impl<R: sealed::HandedOut> HandedOut for R {}

pub(crate) mod sealed {
    use crate::error::Result;
    use crate::group::Generation;
    use crate::types::{LeaderEpoch, Offset, TopicPartition};

    /// The place of a record, and when it was handed out.
    #[derive(Clone, Debug)]
    pub struct Handed {
        pub(in crate::consumer) partition: TopicPartition,
        pub(in crate::consumer) offset: Offset,
        pub(in crate::consumer) epoch: Option<LeaderEpoch>,
        /// The generation in which the consumer held the partition.
        pub(in crate::consumer) generation: Generation,
    }

    pub trait HandedOut {
        /// Fails for a record that no poll handed out.
        fn handed(&self) -> Result<Handed>;
    }
}

impl ConsumerRecord<'_> {
    /// Its place, to be committed later.
    pub(crate) fn handed_out(&self) -> sealed::Handed {
        sealed::Handed {
            partition: self.topic_partition().clone(),
            offset: self.offset(),
            epoch: self.leader_epoch(),
            generation: self.generation(),
        }
    }
}

impl sealed::HandedOut for ConsumerRecord<'_> {
    fn handed(&self) -> crate::error::Result<sealed::Handed> {
        Ok(self.handed_out())
    }
}
