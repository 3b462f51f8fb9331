//! # Safety
//! The mapped plan. Everything here reads memory that `Plan::map` mapped and never unmaps; offsets
//! are checked against its length, and the library puts a NUL after its last byte.

use crate::sys::{self, EINVAL, Errno, Result, Text};
use crate::wire::{Header, MAGIC, MAX_SLOTS, NO_SLOT, Op, VERSION};

#[derive(Clone, Copy)]
pub struct Plan {
    base: *mut u8,
    len: usize,
}

impl Plan {
    pub fn map(fd: i32) -> Result<Plan> {
        let (_, _, size) = sys::fstat(fd)?;
        let len = size as usize;
        let plan = Plan { base: sys::map(fd, len.max(1))?, len };
        if len < size_of::<Header>() + 1 {
            return Err(Errno(EINVAL));
        }
        let h = plan.header();
        let ops_end = h.ops as usize + h.op_count as usize * size_of::<Op>();
        // SAFETY: `len - 1` is inside the mapping.
        let last = unsafe { *plan.base.add(len - 1) };
        if h.magic != MAGIC || h.version != VERSION || h.ops % 8 != 0 || ops_end > len || last != 0 {
            return Err(Errno(EINVAL));
        }
        Ok(plan)
    }

    pub fn header(&self) -> &'static Header {
        // SAFETY: the mapping is page-aligned, longer than a header (checked in `map`) and permanent.
        unsafe { &*self.base.cast::<Header>() }
    }

    pub fn ops(&self) -> &'static [Op] {
        let h = self.header();
        // SAFETY: `map` checked alignment and bounds.
        unsafe { core::slice::from_raw_parts(self.base.add(h.ops as usize).cast(), h.op_count as usize) }
    }

    fn at(&self, offset: u64, need: usize) -> Result<*mut u8> {
        let o = offset as usize;
        match o.checked_add(need) {
            // SAFETY: in bounds by the comparison.
            Some(end) if end <= self.len && o != 0 => Ok(unsafe { self.base.add(o) }),
            _ => Err(Errno(EINVAL)),
        }
    }

    pub fn text(&self, offset: u64) -> Result<Text> {
        let p = self.at(offset, 1)?;
        // SAFETY: in bounds, and the mapping ends with a NUL.
        Ok(unsafe { Text::from_ptr(p) })
    }

    /// A `u32` length followed by that many bytes.
    pub fn bytes(&self, offset: u64) -> Result<&'static [u8]> {
        let n = self.words(offset, 1)?[0] as usize;
        let p = self.at(offset + 4, n)?;
        // SAFETY: in bounds.
        Ok(unsafe { core::slice::from_raw_parts(p, n) })
    }

    pub fn words(&self, offset: u64, n: usize) -> Result<&'static [u32]> {
        let p = self.at(offset, n * 4)?;
        if p as usize % 4 != 0 {
            return Err(Errno(EINVAL));
        }
        // SAFETY: in bounds and aligned.
        Ok(unsafe { core::slice::from_raw_parts(p.cast(), n) })
    }

    pub fn longs(&self, offset: u64, n: usize) -> Result<&'static [u64]> {
        let p = self.at(offset, n * 8)?;
        if p as usize % 8 != 0 {
            return Err(Errno(EINVAL));
        }
        // SAFETY: in bounds and aligned.
        Ok(unsafe { core::slice::from_raw_parts(p.cast(), n) })
    }

    /// BPF instructions, 8 bytes each.
    pub fn program(&self, offset: u64, len: u64) -> Result<*const u8> {
        self.at(offset, len as usize * 8).map(|p| p.cast_const())
    }

    /// Turns a zero-terminated array of offsets into an array of pointers, in place (the mapping is
    /// private and the calling process uses the array once).
    pub fn pointers(&self, offset: u64) -> Result<*const usize> {
        let mut n = 0u64;
        loop {
            let p = self.at(offset + n * 8, 8)?.cast::<u64>();
            if p as usize % 8 != 0 {
                return Err(Errno(EINVAL));
            }
            // SAFETY: in bounds and aligned.
            let value = unsafe { *p };
            if value == 0 {
                break;
            }
            let target = self.at(value, 1)? as u64;
            // SAFETY: as above; no reference to this memory exists.
            unsafe { *p = target };
            n += 1;
        }
        self.at(offset, 8).map(|p| p.cast_const().cast())
    }
}

/// The descriptor table: slots 0.. are received, later ones are registers.
pub struct Slots {
    fds: [i32; MAX_SLOTS],
    received: usize,
}

impl Slots {
    pub const fn new() -> Slots {
        Slots { fds: [-1; MAX_SLOTS], received: 0 }
    }
    pub fn push(&mut self, fd: i32) {
        if let Some(slot) = self.fds.get_mut(self.received) {
            *slot = fd;
            self.received += 1;
        }
    }
    pub fn received(&self) -> usize {
        self.received
    }
    pub fn get(&self, slot: u64) -> Result<i32> {
        match self.fds.get(slot as usize) {
            Some(fd) if *fd >= 0 => Ok(*fd),
            _ => Err(Errno(EINVAL)),
        }
    }
    /// The descriptor of a header slot, or -1.
    pub fn optional(&self, slot: u32) -> i32 {
        if slot == NO_SLOT { -1 } else { self.get(u64::from(slot)).unwrap_or(-1) }
    }
    pub fn set(&mut self, slot: u64, fd: i32) -> Result<()> {
        let place = self.fds.get_mut(slot as usize).ok_or(Errno(EINVAL))?;
        if *place >= 0 {
            sys::close(*place);
        }
        *place = fd;
        Ok(())
    }
    /// Closes every received descriptor that is not in `keep`.
    pub fn close_except(&mut self, keep: &[u32]) {
        for (i, fd) in self.fds.iter_mut().enumerate().take(self.received) {
            if *fd >= 0 && !keep.contains(&(i as u32)) {
                sys::close(*fd);
                *fd = -1;
            }
        }
    }
}
