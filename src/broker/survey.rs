//! What stands in the directory beside what the catalog says. A deletion that was interrupted is finished;
//! everything else that belongs to no topic stays where it is and is reported, as are partitions whose logs
//! are elsewhere or gone.
//!
//! The ids of known partitions are compared only after another program had the directory: what nobody else
//! touched is checked when it is used.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::{Inner, directory};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind};
use crate::log::{PARTITION_METADATA, decode_partition_metadata, encode_partition_metadata, is_seal};
use crate::storage::{EntryKind, read_file, replace_file, tmp_path};
use crate::topic::catalog::{Elsewhere, TopicImage};
use crate::topic::{Checkpoint, name};
use crate::types::{Offset, PartitionId, TopicPartition, Uuid};

/// Kafka's cache for tiered storage, at the top of a log.dir.
const REMOTE_INDEX_CACHE: &str = "remote-log-index-cache";

/// The directories that stand for partitions of the catalog.
#[derive(Debug, Default)]
pub(super) struct Survey {
    present: HashSet<String>,
    /// Held a topic that was deleted, until now.
    cleared: HashSet<String>,
}

/// Where a partition's log is.
pub(super) enum Whereabouts {
    Here(Checkpoint),
    Absent(Error),
}

impl Survey {
    pub(super) fn has(&self, name: &TopicPartition) -> bool {
        self.present.contains(&name.to_string())
    }
}

impl Inner {
    /// Looks at every directory. `is_foreign`: another program was here since we last were.
    pub(super) fn survey(&self, is_foreign: bool) -> Result<Survey> {
        let (storage, root) = (&*self.context.storage, &*self.context.root);
        let entries = storage.list(root).map_err(|e| Error::io("cannot list the directory", root, e))?;
        let mut names: Vec<_> = entries.into_iter().filter(|e| e.kind != EntryKind::File).map(|e| e.name).collect();
        names.sort_unstable();
        let (mut survey, mut dropped) = (Survey::default(), 0);
        for name in names {
            let path = root.join(&name);
            if is_foreign && name::parse_partition_dir(&name).is_some() {
                dropped += self.drop_seals(&path)?;
            }
            match name::parse_partition_dir(&name) {
                Some((topic, number)) => self.survey_partition(&mut survey, topic, number.into(), is_foreign)?,
                None if directory::is_deleted_dir(&name) => self.remove_deleted(&path)?,
                None if name == REMOTE_INDEX_CACHE || self.catalog.is_dir(&path) => {}
                None => self.leftover(&path, what_is(&name)),
            }
        }
        if dropped > 0 {
            let message = format!("another program wrote here since; {dropped} seals of segments were dropped");
            self.context.findings.add(Finding::new(FindingKind::ForeignWriter, message).path(root));
        }
        Ok(survey)
    }

    /// Removes our own accounts of a partition's segments, which somebody else may have changed since.
    fn drop_seals(&self, dir: &Path) -> Result<usize> {
        let storage = &*self.context.storage;
        let entries = storage.list(dir).map_err(|e| Error::io("cannot list a partition's directory", dir, e))?;
        let mut dropped = 0;
        for entry in entries.iter().filter(|entry| is_seal(&entry.name)) {
            let path = dir.join(&entry.name);
            storage.remove_file(&path).map_err(|e| Error::io("cannot remove a stale seal", path, e))?;
            dropped += 1;
        }
        if dropped > 0 {
            storage.sync_dir(dir).map_err(|e| Error::io("cannot sync a partition's directory", dir, e))?;
        }
        Ok(dropped)
    }

    fn survey_partition(&self, survey: &mut Survey, topic: &str, number: PartitionId, is_foreign: bool) -> Result<()> {
        let name = TopicPartition::new(topic, number);
        let path = self.context.root.join(name.to_string());
        let image = self.catalog.image();
        let known = image.topic(topic).filter(|topic| topic.partition(number).is_some());
        if known.is_some() && !is_foreign {
            survey.present.insert(name.to_string());
            return Ok(());
        }
        let found = self.topic_id_in(&path);
        let is_its = known.is_some_and(|topic| matches!(&found, Ok(id) if id.is_none_or(|id| id == topic.id)));
        match (known, found) {
            (_, Ok(Some(id))) if image.was_removed(id) => {
                survey.cleared.insert(name.to_string());
                return self.finish_deletion(&path);
            }
            (Some(topic), Ok(Some(id))) if topic.id != id => {
                self.leftover(
                    &path,
                    "is left over from another topic of that name: reads and appends of the partition fail",
                );
            }
            (Some(topic), Ok(None)) => self.adopt(&name, topic.id, &path)?,
            (Some(_), Ok(Some(_))) => {}
            (Some(_), Err(error)) => {
                let finding = Finding::new(FindingKind::Damaged, error.to_string()).partition(name.clone());
                self.context.findings.add(finding.path(path.join(PARTITION_METADATA)));
            }
            // The topic was made, was to have its first record and was deleted, and the power went in between.
            (None, Ok(None)) if self.was_never_a_log(&path)? => return self.finish_deletion(&path),
            (None, _) => self.leftover(&path, "belongs to no topic of the catalog: Kafka would rename it to -stray"),
        }
        // Kafka makes a directory and its first segment together: without one the log is as gone as without both.
        if is_its && !self.holds_log(&path)? {
            return Ok(());
        }
        survey.present.insert(name.to_string());
        Ok(())
    }

    fn topic_id_in(&self, dir: &Path) -> Result<Option<Uuid>> {
        let bytes = read_file(&*self.context.storage, &dir.join(PARTITION_METADATA), 4096)?;
        bytes.map(|bytes| decode_partition_metadata(&bytes)).transpose()
    }

    /// Gives a directory that has lost its topic's id the one of its name: without it Kafka would set the log aside.
    fn adopt(&self, name: &TopicPartition, id: Uuid, dir: &Path) -> Result<()> {
        if !self.holds_log(dir)? {
            return Ok(());
        }
        let path = dir.join(PARTITION_METADATA);
        replace_file(&*self.context.storage, &path, encode_partition_metadata(id).as_bytes())?;
        let message = "the file that says whose log it is is missing: it is made anew from the catalog";
        self.context.findings.add(Finding::new(FindingKind::Rebuilt, message).partition(name.clone()).path(path));
        Ok(())
    }

    fn holds_log(&self, dir: &Path) -> Result<bool> {
        let listed = self.context.storage.list(dir);
        let files = listed.map_err(|e| Error::io("cannot list a partition's directory", dir, e))?;
        Ok(files.iter().any(|file| file.name.ends_with(".log")))
    }

    /// Whether nothing is in a directory but what making a partition's directory begins with.
    fn was_never_a_log(&self, dir: &Path) -> Result<bool> {
        let listed = self.context.storage.list(dir);
        let files = listed.map_err(|e| Error::io("cannot list a partition's directory", dir, e))?;
        let begun = tmp_path(Path::new(PARTITION_METADATA));
        Ok(files.iter().all(|file| Path::new(&file.name) == begun))
    }

    fn leftover(&self, path: &Path, what: &str) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.context.findings.add(Finding::new(FindingKind::Leftover, format!("{name} {what}")).path(path));
    }

    /// The catalog has lost the topic already; its directory goes under the name that Kafka gives it.
    fn finish_deletion(&self, dir: &Path) -> Result<()> {
        if self.context.read_only.is_some() {
            self.leftover(dir, "belongs to a topic that was deleted");
            return Ok(());
        }
        let (storage, root) = (&*self.context.storage, &*self.context.root);
        let Some(aside) = directory::set_aside(storage, dir, "delete")? else { return Ok(()) };
        // Under its old name it must not come back without the file that says whose it was.
        storage.sync_dir(root).map_err(|e| Error::io("cannot sync the directory", root, e))?;
        self.remove_deleted(&aside)
    }

    fn remove_deleted(&self, dir: &Path) -> Result<()> {
        if self.context.read_only.is_some() {
            self.leftover(dir, "waits for deletion");
            return Ok(());
        }
        let removed = self.context.storage.remove_dir_all(dir);
        removed.map_err(|e| Error::io("cannot remove a deleted partition", dir, e))
    }

    /// Where the log of a partition is that the catalog has, and what Kafka's checkpoints say of it.
    pub(super) fn whereabouts(
        &self,
        survey: &Survey,
        topic: &TopicImage,
        number: PartitionId,
        found: Checkpoint,
    ) -> Whereabouts {
        let name = TopicPartition::new(Arc::clone(&topic.name), number);
        if survey.has(&name) {
            return Whereabouts::Here(found);
        }
        if let Some(elsewhere) = self.catalog.elsewhere(topic, number) {
            return Whereabouts::Absent(self.absent(name, &elsewhere));
        }
        let end = found.recovery_point.max(found.high_watermark).max(found.log_start);
        if end == Offset::ZERO || survey.cleared.contains(&name.to_string()) {
            return Whereabouts::Here(Checkpoint::default());
        }
        let message = "the log is gone; it goes on where Kafka's checkpoints say that it was";
        let finding = Finding::new(FindingKind::Lost, message).offsets(Offset::ZERO..end);
        self.context.findings.add(finding.path(self.context.root.join(name.to_string())).partition(name));
        Whereabouts::Here(Checkpoint {
            log_start: end,
            recovery_point: end,
            high_watermark: end,
            ..Checkpoint::default()
        })
    }

    fn absent(&self, name: TopicPartition, elsewhere: &Elsewhere) -> Error {
        let (message, remedy) = match elsewhere {
            Elsewhere::Directory(id) => (
                format!("the partition's log is in another directory, whose directory.id is {id}"),
                "open the directory whose meta.properties has that directory.id",
            ),
            Elsewhere::Nodes(nodes) => (
                format!("the partition's log is kept by nodes {nodes:?}, not by this one"),
                "open a directory of one of those nodes",
            ),
            Elsewhere::Unknown => (
                "the partition's log is not in this directory".to_owned(),
                "open the directory that has it, if there is one",
            ),
        };
        let finding = Finding::new(FindingKind::Absent, message.clone()).partition(name.clone());
        self.context.findings.add(finding.path(&self.context.root));
        Error::new(ErrorKind::Absent, message).partition(name).path(&self.context.root).remedy(remedy)
    }
}

fn what_is(name: &str) -> &'static str {
    if name.ends_with("-stray") {
        "was set aside by Kafka: its topic was not in the catalog"
    } else if name.ends_with("-future") {
        "is an unfinished move of a partition between directories"
    } else {
        "is no partition's directory: Kafka may not start with it"
    }
}

#[cfg(test)]
mod tests;
