//! Collection of what nothing leads to, while others push and pull.

use std::collections::HashSet;
use std::io;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use boxship_layers::Digest;

use super::depot::{Depot, blob_at, link_at, part_of};
use super::manifest::{MAX_MANIFEST, Manifest};
use super::name::Name;
use super::uploads::Uploads;

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Blobs whose content is gone.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads that nobody went on with.
    pub uploads: u64,
}

/// Removes uploads that nobody was at for `grace`, and blobs that no manifest references and nobody asked
/// for in that time. What is pushed meanwhile stays: it is noted from the first moment on, and whoever links
/// content does not do so while something is removed.
pub(super) fn collect(depot: &Depot, uploads: &Uploads, grace: Duration) -> io::Result<Swept> {
    {
        // Who began to link before that has ended: his link is seen, or what he links is noted.
        let _alone = depot.linking.write().unwrap_or_else(PoisonError::into_inner);
        *depot.recent.lock().unwrap_or_else(PoisonError::into_inner) = Some(HashSet::new());
    }
    let result = sweep(depot, uploads, grace);
    *depot.recent.lock().unwrap_or_else(PoisonError::into_inner) = None;
    result
}

fn sweep(depot: &Depot, uploads: &Uploads, grace: Duration) -> io::Result<Swept> {
    let mut swept = Swept::default();
    let mut linked = HashSet::new();
    for name in depot.repositories()? {
        swept.uploads += sweep_uploads(depot, uploads, &name, grace)?;
        // A manifest that cannot be read references we do not know what: then nothing of its repository goes.
        let needless = match referenced(depot, &name)? {
            Some(referenced) => {
                depot.linked(&name, "_blobs")?.into_iter().filter(|d| !referenced.contains(d)).collect()
            }
            None => Vec::new(),
        };
        unlink(depot, &name, &needless, grace)?;
        linked.extend(depot.linked(&name, "_blobs")?);
        linked.extend(depot.linked(&name, "_manifests")?);
    }
    for digest in depot.all_blobs()?.iter().filter(|d| !linked.contains(d)) {
        let _alone = depot.linking.write().unwrap_or_else(PoisonError::into_inner);
        if is_recent(depot, digest) {
            continue;
        }
        let size = depot.disk.stat(&blob_at(digest))?.map_or(0, |(size, _)| size);
        if depot.disk.forget(&blob_at(digest))? {
            swept.blobs += 1;
            swept.bytes += size;
        }
    }
    Ok(swept)
}

fn is_recent(depot: &Depot, digest: &Digest) -> bool {
    let recent = depot.recent.lock().unwrap_or_else(PoisonError::into_inner);
    recent.as_ref().is_none_or(|recent| recent.contains(digest))
}

fn is_old(time: SystemTime, grace: Duration) -> bool {
    SystemTime::now().duration_since(time).is_ok_and(|age| age >= grace)
}

/// Everything that the manifests of a repository need.
fn referenced(depot: &Depot, name: &Name) -> io::Result<Option<HashSet<Digest>>> {
    let mut all = HashSet::new();
    for digest in depot.linked(name, "_manifests")? {
        let Some(bytes) = depot.disk.read(&blob_at(&digest), MAX_MANIFEST)? else { continue };
        match Manifest::parse(&bytes, None) {
            Ok(manifest) => all.extend(manifest.references()),
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(all))
}

fn unlink(depot: &Depot, name: &Name, needless: &[Digest], grace: Duration) -> io::Result<()> {
    for digest in needless {
        let _alone = depot.linking.write().unwrap_or_else(PoisonError::into_inner);
        let link = link_at(name, "_blobs", digest);
        let old = depot.disk.stat(&link)?.is_some_and(|(_, time)| is_old(time, grace));
        if old && !is_recent(depot, digest) {
            // Before its content goes, so that no power cut leaves a link to nothing.
            depot.disk.remove(&link)?;
        }
    }
    Ok(())
}

fn sweep_uploads(depot: &Depot, uploads: &Uploads, name: &Name, grace: Duration) -> io::Result<u64> {
    let mut count = 0;
    let directory = part_of(name, "_uploads");
    for id in depot.disk.names(&directory)? {
        let at = format!("{directory}/{id}");
        let old = depot.disk.stat(&at)?.is_some_and(|(_, time)| is_old(time, grace));
        if old && !uploads.is_busy(&at) && depot.disk.forget(&at)? {
            uploads.forget(&at);
            count += 1;
        }
    }
    Ok(count)
}
