//! Host ids for user namespaces: every container of a store has a range of its own.

use boxship_layers::Store;
use boxship_namespaces::IdMap;

use crate::error::{Error, Result};

/// Ids of one container.
const COUNT: u32 = 65_536;
/// First id of the pool, behind the ranges that systemd documents for itself.
const BASE: u32 = 0x7000_0000;
/// Ranges of the pool: up to the last whole range below 2³²-1.
pub(crate) const SLOTS: u32 = (u32::MAX - BASE) / COUNT;

/// Claims a range for container `id`. The claim is a symlink, so making it is atomic, and reading it
/// tells who has it.
pub(crate) fn claim(store: &Store, id: &str) -> Result<u32> {
    let dir = store.dir("ids")?;
    // The id is random, so starts are spread and the first try nearly always succeeds.
    let start = u32::from_str_radix(id.get(..8).unwrap_or("0"), 16).unwrap_or(0);
    for i in 0..SLOTS {
        let slot = start.wrapping_add(i) % SLOTS;
        match rustix::fs::symlinkat(id, &dir, slot.to_string().as_str()) {
            Ok(()) => return Ok(slot),
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(Error::io("claim ids in", store.path().join("ids"))(e)),
        }
    }
    Err(Error::Unsupported { control: "user namespace", reason: "all id ranges of the store are in use" })
}

/// Gives a range back, if it is still this container's.
pub(crate) fn release(store: &Store, slot: u32, id: &str) {
    let path = store.path().join("ids").join(slot.to_string());
    if std::fs::read_link(&path).is_ok_and(|owner| owner.as_os_str() == id) {
        let _ = std::fs::remove_file(path);
    }
}

/// Gives back the ranges of containers that are gone. Called under the store's lock.
pub(crate) fn collect(store: &Store, alive: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(store.path().join("ids")) else { return };
    for entry in entries.flatten() {
        let owner = std::fs::read_link(entry.path()).unwrap_or_default();
        if !alive(&owner.to_string_lossy()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// First host id of a slot.
pub(crate) fn first(slot: u32) -> u32 {
    BASE + slot * COUNT
}

/// The map of a slot.
pub(crate) fn map(slot: u32) -> Result<IdMap> {
    Ok(IdMap::range(first(slot), COUNT)?)
}
