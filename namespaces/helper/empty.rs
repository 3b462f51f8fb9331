//! An empty mount namespace: a read-only tmpfs without entries, and nothing of the host.
//!
//! Containers begin in copies of one. A copy of the host's namespace, which each would make otherwise, takes
//! as long as the host has mounts, and to drop it again waits for a grace period of RCU.

use crate::child;
use crate::message;
use crate::monitor::{abort, required};
use crate::sys::{self, *};
use crate::wire::{Message, report, stage};

pub const CLONE_NEWNS: u64 = 0x2_0000;

/// Makes one, passes it to the caller and ends. `proc` is the host's procfs.
pub fn make(proc: i32) -> ! {
    match namespace(proc) {
        Ok(ns) => {
            let m = Message { kind: report::EMPTY, ..Message::default() };
            required(stage::EMPTY, sys::send(0, &message::encode(&m), &[], Some(ns), 0).map(drop));
            sys::exit(0)
        }
        Err(e) => abort(stage::EMPTY, e),
    }
}

fn namespace(proc: i32) -> Result<i32> {
    sys::unshare(CLONE_NEWNS)?;
    sys::mount_setattr(CWD, Text::literal(c"/"), 0, 0, MS_PRIVATE, 0, true)?;
    let fs = sys::fsopen(Text::literal(c"tmpfs"))?;
    sys::fsconfig_string(fs, Text::literal(c"nr_inodes"), Text::literal(c"1"))?;
    sys::fsconfig_string(fs, Text::literal(c"mode"), Text::literal(c"555"))?;
    sys::fsconfig_create(fs)?;
    child::switch_root(sys::fsmount(fs, 0xf)?)?;
    let ns = sys::openat(proc, Text::literal(c"self/ns/mnt"), 0, 0)?;
    // As a container's process will: who may not enter it has to know before.
    sys::setns(ns, CLONE_NEWNS)?;
    Ok(ns)
}
