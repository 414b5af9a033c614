//! Kafka's rules for topic names: characters, length, collisions, and which names are Kafka's own.
//! Whether a topic exists is the catalog's business.

use crate::error::{Error, ErrorKind, Result};

/// Kafka's limit on a topic name, in bytes (all legal characters are ASCII). With `-`, a partition
/// number and the suffix of a deleted directory it still fits a file name of 255.
const NAME_LEN_MAX: usize = 249;

/// Committed offsets of consumer groups.
pub(crate) const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// State of transactional ids.
pub(crate) const TRANSACTION_STATE: &str = "__transaction_state";
/// State of share groups.
pub(crate) const SHARE_GROUP_STATE: &str = "__share_group_state";
/// The catalog itself: not a topic that anybody can open.
pub(crate) const CLUSTER_METADATA: &str = "__cluster_metadata";

/// Whether Kafka keeps its own state in a topic of this name.
pub(crate) fn is_internal(name: &str) -> bool {
    matches!(name, CONSUMER_OFFSETS | TRANSACTION_STATE | SHARE_GROUP_STATE)
}

/// Checks a name against Kafka's rules (`Topic.validate`): 1 to 249 of `[a-zA-Z0-9._-]`, neither `.`
/// nor `..`, and not the catalog's own name.
pub(crate) fn validate(name: &str) -> Result<()> {
    let refuse = |why: String| {
        Err(Error::new(ErrorKind::InvalidTopicName, format!("topic name {name:?} {why}"))
            .remedy("use 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'"))
    };
    if name.is_empty() {
        return refuse("is empty".into());
    }
    if name == "." || name == ".." {
        return refuse("would name a directory of the file system".into());
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some((at, bad)) = name.chars().enumerate().find(|&(_, c)| !legal(c)) {
        return refuse(format!("has the illegal character {bad:?} at position {at}"));
    }
    if name.len() > NAME_LEN_MAX {
        return refuse(format!("has {} characters, {NAME_LEN_MAX} are allowed", name.len()));
    }
    if name == CLUSTER_METADATA {
        return refuse("is the name of Kafka's own metadata log".into());
    }
    Ok(())
}

/// Topic and number of a partition's directory, `<topic>-<number>`; `None` for every other name.
pub(crate) fn parse_partition_dir(name: &str) -> Option<(&str, i32)> {
    let (topic, digits) = name.rsplit_once('-')?;
    let number = digits.parse::<i32>().ok().filter(|n| *n >= 0 && n.to_string() == digits)?;
    validate(topic).is_ok().then_some((topic, number))
}

/// The form under which names collide: Kafka's metric names turn `.` into `_`, so it refuses to create
/// `a.b` beside `a_b`.
pub(crate) fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_kafka_accepts() {
        for name in ["a", "...", "A.b_c-9", "__consumer_offsets", &"x".repeat(249)] {
            validate(name).unwrap();
        }
    }

    #[test]
    fn names_the_offending_character_and_its_position() {
        let error = validate("no topic").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTopicName);
        assert!(error.to_string().contains("' ' at position 2"), "{error}");
        for name in ["", ".", "..", "a/b", "caf\u{e9}", "__cluster_metadata", &"x".repeat(250)] {
            assert_eq!(validate(name).unwrap_err().kind(), ErrorKind::InvalidTopicName, "{name:?}");
        }
    }

    #[test]
    fn directories_are_parted_at_the_last_dash() {
        assert_eq!(parse_partition_dir("a-b-12"), Some(("a-b", 12)));
        for name in ["a", "a-", "-1", "a-x", "a--1x", "a-01", "a-+1", "__cluster_metadata-0", "a-0.ff-delete"] {
            assert_eq!(parse_partition_dir(name), None, "{name}");
        }
    }

    #[test]
    fn dots_and_underscores_collide() {
        assert_eq!(collision_key("a.b_c"), collision_key("a_b.c"));
        assert_ne!(collision_key("a-b"), collision_key("a_b"));
    }
}
