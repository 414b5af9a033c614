//! How a topic is named and made.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Broker, Topic, TopicEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::topic::{TopicConfig, name};
use crate::types::Durability;

/// Names a topic by handle or by name alike: `&Topic`, `&str` or `&String`. A handle means its own topic only,
/// a name whichever has it now. Sealed.
pub trait TopicRef: sealed::Sealed {}

impl<T: sealed::Sealed + ?Sized> TopicRef for T {}

mod sealed {
    use super::Topic;

    pub trait Sealed {
        fn name(&self) -> &str;

        /// The topic itself, where more than its name is known.
        fn handle(&self) -> Option<&Topic>;
    }
}

impl sealed::Sealed for str {
    fn name(&self) -> &str {
        self
    }

    fn handle(&self) -> Option<&Topic> {
        None
    }
}

impl sealed::Sealed for String {
    fn name(&self) -> &str {
        self
    }

    fn handle(&self) -> Option<&Topic> {
        None
    }
}

impl sealed::Sealed for Topic {
    fn name(&self) -> &str {
        Topic::name(self)
    }

    fn handle(&self) -> Option<&Topic> {
        Some(self)
    }
}

impl<T: sealed::Sealed + ?Sized> sealed::Sealed for &T {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn handle(&self) -> Option<&Topic> {
        (**self).handle()
    }
}

impl Broker {
    /// The live topic that `topic` names.
    #[inline]
    pub(crate) fn resolve<'a, T: TopicRef + ?Sized>(&self, topic: &'a T) -> Result<Cow<'a, Arc<TopicEntry>>> {
        let Some(handle) = topic.handle() else { return self.topic_entry(topic.name(), None).map(Cow::Owned) };
        if !Arc::ptr_eq(&self.inner, &handle.broker().inner) {
            let message = format!("the handle of topic {:?} belongs to another broker", handle.name());
            return Err(Error::new(ErrorKind::InvalidArgument, message).remedy("open the topic in this one"));
        }
        handle.entry().check_alive()?;
        Ok(Cow::Borrowed(handle.entry()))
    }

    /// Names a topic, to be opened or created. Nothing happens before.
    pub fn topic(&self, name: impl Into<String>) -> TopicBuilder {
        TopicBuilder {
            broker: self.clone(),
            name: name.into(),
            partitions: None,
            config: TopicConfig::new(),
            refused: None,
        }
    }

    /// All topics by name, without those that Kafka keeps for itself.
    ///
    /// # Errors
    /// `Closed`.
    ///
    /// ```
    /// let broker = thalweg::Broker::in_memory()?;
    /// broker.topic("orders").create()?;
    /// let names: Vec<_> = broker.topics()?.iter().map(|t| t.name().to_owned()).collect();
    /// assert_eq!(names, ["orders"]);
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn topics(&self) -> Result<Vec<Topic>> {
        let topics = self.all_topics()?.into_iter().filter(|topic| !topic.is_internal());
        Ok(topics.map(|topic| Topic::new(self.clone(), topic)).collect())
    }
}

/// A topic to be opened or created; from [`Broker::topic`].
///
/// ```
/// use std::time::Duration;
/// use thalweg::{Broker, ErrorKind, TopicConfig};
/// let broker = Broker::in_memory()?;
/// let day = Duration::from_secs(24 * 3600);
/// broker.topic("clicks").partitions(4).config(TopicConfig::new().retention(day)).create()?;
///
/// // The second run of a program finds what the first one made...
/// broker.topic("clicks").partitions(4).open_or_create()?;
/// // ...and is told when it asks for something else.
/// let error = broker.topic("clicks").partitions(8).open_or_create().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidArgument);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is opened or created before open(), create() or open_or_create()"]
pub struct TopicBuilder {
    broker: Broker,
    name: String,
    partitions: Option<u32>,
    config: TopicConfig,
    refused: Option<Error>,
}

impl TopicBuilder {
    /// How many partitions it has, at least 1 (default `num.partitions` of the broker, else 1).
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Its configs, in place of any given before.
    pub fn config(mut self, config: TopicConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets one config by Kafka's name. A bad name or value is reported when the topic is opened or created.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        match self.config.clone().set(name, value) {
            Ok(config) => self.config = config,
            Err(error) => drop(self.refused.get_or_insert(error)),
        }
        self
    }

    /// What an acknowledged append survives unless it asks for another level (`flush.messages`).
    pub fn durability(mut self, level: Durability) -> Self {
        self.config = self.config.durability(level);
        self
    }

    /// Makes the topic.
    ///
    /// # Errors
    /// `TopicExists`; `InvalidTopicName` by Kafka's rules; `InvalidArgument` for an impossible number of
    /// partitions; `InvalidConfig`; `Unsupported` for a codec whose cargo feature is off; `ReadOnly`; `Closed`; `Io`.
    pub fn create(self) -> Result<Topic> {
        self.check()?;
        let entry = self.broker.create_topic(&self.name, self.partitions, self.config)?;
        Ok(Topic::new(self.broker, entry))
    }

    /// Opens an existing topic. Partitions and configs that were given must be those that it has.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition`; `InvalidTopicName`; `InvalidArgument` for a mismatch, naming both; `Closed`.
    pub fn open(self) -> Result<Topic> {
        self.check()?;
        let entry = self.broker.topic_entry(&self.name, None)?;
        self.compare(&entry)?;
        Ok(Topic::new(self.broker, entry))
    }

    /// Opens the topic, or makes it when there is none. Never alters one: what differs from what was asked for is an
    /// error.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`create`](Self::create).
    pub fn open_or_create(self) -> Result<Topic> {
        self.check()?;
        if self.broker.find_topic(&self.name)?.is_some() {
            return self.open();
        }
        match self.clone().create() {
            // Another thread was faster.
            Err(error) if error.kind() == ErrorKind::TopicExists => self.open(),
            created => created,
        }
    }

    fn check(&self) -> Result<()> {
        name::validate(&self.name)?;
        match &self.refused {
            Some(refused) => Err(refused.clone()),
            None => Ok(()),
        }
    }

    fn compare(&self, entry: &TopicEntry) -> Result<()> {
        let mismatch = |what: &str, has: &dyn std::fmt::Display, asked: &dyn std::fmt::Display| {
            Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("topic {:?} has {what} {has}, but {asked} was asked for", self.name),
            )
            .remedy("ask for what it has, or change it with alter_configs or add_partitions"))
        };
        let count = entry.partition_count();
        if let Some(asked) = self.partitions.filter(|&n| n as usize != count) {
            return mismatch("a partition count of", &count, &asked);
        }
        let defaults = self.broker.inner.catalog.defaults();
        self.config.validate(defaults)?;
        let present = entry.configured().overrides.describe(defaults);
        for asked in self.config.describe(defaults).iter().filter(|asked| self.config.get(asked.name()).is_some()) {
            if let Some(has) = present.iter().find(|has| has.name() == asked.name() && has.value() != asked.value()) {
                return mismatch(asked.name(), &has.value(), &asked.value());
            }
        }
        Ok(())
    }
}
