//! Whose directory it is: reads `meta.properties`, or makes it for a new directory, saved before the
//! first metadata record.

use std::path::Path;

use super::CatalogOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Storage, read_file, replace_file};
use crate::topic::name::CLUSTER_METADATA;
use crate::topic::properties::{META_PROPERTIES, MetaProperties};
use crate::types::Uuid;

/// The node id of a directory whose owner does not care.
const NODE_ID: i32 = 1;
const SIZE_MAX: u64 = 1 << 20;

/// The identity of `dir`, and whether it has yet to be [`save`]d: made where there is none, completed where an old
/// release left out the directory's own id.
pub(super) fn load_or_make(
    storage: &dyn Storage,
    dir: &Path,
    options: &CatalogOptions,
) -> Result<(MetaProperties, bool)> {
    let path = dir.join(META_PROPERTIES);
    let Some(bytes) = read_file(storage, &path, SIZE_MAX)? else {
        return Ok((make(storage, dir, options)?, true));
    };
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| Error::new(ErrorKind::Corrupt, "meta.properties is not UTF-8").path(&path))?;
    let mut identity = MetaProperties::parse(&text).map_err(|e| e.path(&path))?;
    check(&identity, options).map_err(|e| e.path(&path))?;
    let is_complete = identity.directory_id.is_some();
    identity.directory_id.get_or_insert(Uuid::random()?);
    Ok((identity, !is_complete))
}

pub(super) fn save(storage: &dyn Storage, dir: &Path, identity: &MetaProperties) -> Result<()> {
    replace_file(storage, &dir.join(META_PROPERTIES), identity.to_text().as_bytes())
}

fn make(storage: &dyn Storage, dir: &Path, options: &CatalogOptions) -> Result<MetaProperties> {
    let metadata = dir.join(format!("{CLUSTER_METADATA}-0"));
    if storage.metadata(&metadata).is_ok() {
        return Err(Error::new(ErrorKind::Corrupt, "there is a catalog but no meta.properties")
            .path(dir)
            .remedy("restore meta.properties with the cluster.id, node.id and directory.id it had"));
    }
    let cluster_id = match &options.cluster_id {
        Some(id) => id.clone(),
        None => Uuid::random()?.to_string(),
    };
    Ok(MetaProperties::new(cluster_id, options.node_id.unwrap_or(NODE_ID), Uuid::random()?))
}

/// A stock broker refuses the same.
fn check(identity: &MetaProperties, options: &CatalogOptions) -> Result<()> {
    let refuse = |what: &str, wanted: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
        Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("the directory belongs to {what} {found}, but {wanted} was asked for"),
        ))
    };
    match (options.node_id, &options.cluster_id) {
        (Some(node), _) if node != identity.node_id => refuse("node", &node, &identity.node_id),
        (_, Some(cluster)) if *cluster != identity.cluster_id => refuse("cluster", cluster, &identity.cluster_id),
        _ => Ok(()),
    }
}
