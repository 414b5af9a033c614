//! What a consumer wants to read, and which topics that means at the moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use regex_lite::Regex;

use crate::broker::Broker;
use crate::error::{Error, ErrorKind, Result};
use crate::topic::name;
use crate::types::TopicPartition;

/// What a consumer was told to read.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    Nothing,
    /// Its share of these topics, as a member of its group.
    Topics(Topics),
    /// These partitions, chosen by hand and shared with nobody.
    Partitions(BTreeSet<TopicPartition>),
}

#[derive(Clone, Debug)]
pub(super) enum Topics {
    Named(BTreeSet<Arc<str>>),
    Matching(Regex),
}

impl Topics {
    /// The names have to be possible ones: nobody shall wait for a topic that can never exist.
    pub(super) fn named<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Result<Self> {
        let checked = |name: T| name::validate(name.as_ref()).map(|()| Arc::from(name.as_ref()));
        names.into_iter().map(checked).collect::<Result<_>>().map(Self::Named)
    }

    /// As in Kafka, the pattern has to match the whole name.
    pub(super) fn matching(pattern: &str) -> Result<Self> {
        // Alone first: with a bracket too many it would escape from the group around it.
        let whole = Regex::new(pattern).and_then(|_| Regex::new(&format!("^(?:{pattern})$")));
        whole.map(Self::Matching).map_err(|e| {
            Error::new(ErrorKind::InvalidArgument, format!("{pattern:?} is not a pattern for topic names")).source(e)
        })
    }

    /// The topics that this means now. A name that does not exist yet counts: the group waits for it.
    /// Topics that only the broker itself reads do not match a pattern (`exclude.internal.topics`).
    pub(super) fn resolve(&self, broker: &Broker) -> BTreeSet<Arc<str>> {
        match self {
            Self::Named(names) => names.clone(),
            Self::Matching(pattern) => {
                let wanted = |topic: &Arc<str>| !name::is_internal(topic) && pattern.is_match(topic);
                broker.topic_names().into_iter().filter(wanted).collect()
            }
        }
    }
}
