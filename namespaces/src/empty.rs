//! The empty mount namespace that containers begin in, see `helper/empty.rs`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::Errno;

use crate::protocol::{message, receive, send};
use crate::spawn::Helper;
use crate::wire::{report, request};

/// The one of this process, made when it is first asked for. `None` where it cannot be made or entered:
/// containers then begin in a copy of the host's, as those of ordinary users do.
pub(crate) fn mount_namespace(proc: &OwnedFd) -> Option<BorrowedFd<'static>> {
    static MADE: OnceLock<Option<OwnedFd>> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    if MADE.get().is_none() {
        let _guard = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        if MADE.get().is_none() {
            // What fails for want of descriptors or memory is tried again by the next.
            let made = make(proc)?;
            let _ = MADE.set(made);
        }
    }
    MADE.get().and_then(Option::as_ref).map(AsFd::as_fd)
}

/// The outer `None`: it is not known whether there can be one.
fn make(proc: &OwnedFd) -> Option<Option<OwnedFd>> {
    let helper = Helper::start().ok()?;
    let ask = message(request::EMPTY, 0, 0);
    send(helper.control()?, &ask, &[], &[proc.as_fd()]).ok()?;
    match receive(helper.control()?) {
        Ok(Some((m, _, Some(namespace)))) if m.kind == report::EMPTY => Some(Some(namespace)),
        Ok(Some((m, ..))) if m.kind == report::HELPER_FAILED => {
            #[allow(clippy::cast_possible_truncation, reason = "an errno")]
            let errno = Errno::from_raw_os_error(m.b as i32);
            let passing = [Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::NOSPC, Errno::AGAIN, Errno::INTR];
            (!passing.contains(&errno)).then_some(None)
        }
        _ => None,
    }
}
