//! The narrow waist: one typed method per Kafka verb, in process. Everything above (producers,
//! consumers, a server) calls these and nothing below.

mod groups;
mod verbs;

use std::sync::Arc;

pub(crate) use groups::Committer;

/// A directory of topics, open in this process. Clones are handles to the same one.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {}

/// Names a topic by handle or by name: `&Topic`, `&str`, `&String`. Sealed. A handle carries its topic
/// id, so that after delete and recreate it answers `TopicDeleted`.
pub trait TopicRef: sealed::TopicRef {}

pub(crate) mod sealed {
    pub trait TopicRef {
        fn topic_name(&self) -> &str;
        fn topic_id(&self) -> Option<crate::types::Uuid>;
    }
}
