//! # Safety
//! Messages of the control socket: one [`Message`] as bytes, then optional data. The struct is
//! `repr(C)` without padding, so viewing it as bytes and back is sound.

use crate::sys::{self, Errno, Result};
use crate::wire::{MAGIC, Message};

const LEN: usize = size_of::<Message>();
// No padding: 2 x u32 + 2 x u64 + (2 x i32 + 5 x u64).
const _: () = assert!(LEN == 8 + 16 + 8 + 40);

/// Room for one message and 4 KiB of data.
#[repr(C, align(8))]
pub struct Buffer([u8; LEN + 4096]);

impl Buffer {
    pub fn new() -> Buffer {
        Buffer([0; LEN + 4096])
    }
}

pub fn encode(m: &Message) -> [u8; LEN] {
    let m = Message { magic: MAGIC, ..*m };
    // SAFETY: same size, no padding, any byte is a valid u8.
    unsafe { core::mem::transmute(m) }
}

/// The next message and its data; `None` at the end of the connection.
pub fn receive<'a>(
    fd: i32,
    b: &'a mut Buffer,
    flags: u32,
    take: &mut dyn FnMut(i32),
) -> Result<Option<(Message, &'a [u8])>> {
    let n = sys::receive(fd, &mut b.0, flags, take)?;
    if n == 0 {
        return Ok(None);
    }
    if n < LEN {
        return Err(Errno(sys::EINVAL));
    }
    // SAFETY: the buffer is aligned for Message, holds LEN bytes, and every bit pattern is valid.
    let m = unsafe { *b.0.as_ptr().cast::<Message>() };
    if m.magic != MAGIC {
        return Err(Errno(sys::EINVAL));
    }
    Ok(Some((m, &b.0[LEN..n])))
}
