//! The monitor: one loop that watches the container's process, pumps its output, answers the
//! library and attached processes, and records the exit.

use crate::child;
use crate::format;
use crate::log::Log;
use crate::message::{self, Buffer};
use crate::plan::{Plan, Slots};
use crate::sys::{self, *};
use crate::wire::{Exit, Header, Message, flag, report, request, stage};

const CLIENTS: usize = 8;
/// Bytes of an exit record, padded with empty lines: seven numbers and their names fit.
const EXIT_RECORD: usize = 256;

pub struct Monitor<'a> {
    pub plan: Plan,
    pub header: &'static Header,
    pub slots: &'a Slots,
    pub log: &'a mut Log,
    pub control: i32,
    pub pid: i32,
    pub pidfd: i32,
    pub donor_pid: i32,
    /// When the container's process was made; 0 until it is known.
    pub born: u64,
    /// The exit record in the making: its space is taken before the program runs.
    pub exit_file: i32,
    pub donor_pidfd: i32,
    pub report: i32,
    pub hold: i32,
    pub handover: i32,
    /// Write end of stdin, read ends of stdout and stderr; the pty's master serves as the first two.
    pub stdio: [i32; 3],
    pub executing: bool,
    pub started: bool,
    pub started_ns: u64,
    /// When the helper began, and when the child existed: for the caller's traces.
    pub begun_ns: u64,
    pub cloned_ns: u64,
    pub executing_ns: u64,
    pub pending: Pending,
    pub clients: [i32; CLIENTS],
}

/// Input for the container that its pipe did not take yet.
pub struct Pending {
    data: [u8; 4096],
    start: usize,
    end: usize,
    close: bool,
}

impl Pending {
    pub const fn none() -> Pending {
        Pending { data: [0; 4096], start: 0, end: 0, close: false }
    }
}

impl Monitor<'_> {
    /// Runs until the container has ended; the caller then exits.
    pub fn run(&mut self) {
        if let Err(e) = self.record_pid().and_then(|()| self.reserve_exit_record()) {
            self.kill(SIGKILL);
            self.reap();
            self.remove_directories();
            abort(stage::RECORD, e);
        }
        loop {
            let waiting = self.pending.start < self.pending.end;
            let mut fds = [PollFd { fd: -1, events: POLLIN, revents: 0 }; 8 + CLIENTS];
            // While input waits for the container no more is taken. Of the caller only its hang-up is of
            // interest then, which poll always tells, and only if the container ends with it.
            let interest = if waiting { 0 } else { POLLIN };
            let bound = self.header.flags & flag::DETACHED == 0;
            for (slot, fd) in fds.iter_mut().zip([
                self.control, self.pidfd, self.report, self.handover, self.stdio[1], self.stdio[2],
                self.slots.optional(self.header.listener), -1,
            ]) {
                slot.fd = fd;
            }
            fds[0].events = interest;
            if waiting {
                fds[0].fd = if bound { self.control } else { -1 };
                fds[7] = PollFd { fd: self.stdio[0], events: POLLOUT, revents: 0 };
            }
            for (slot, fd) in fds[8..].iter_mut().zip(self.clients) {
                *slot = PollFd { fd: if waiting { -1 } else { fd }, events: POLLIN, revents: 0 };
            }
            if sys::poll(&mut fds).is_err() {
                continue;
            }
            let ready = |i: usize| fds[i].revents != 0;
            // Hand-over before output, reports before exit: the order in which they happened.
            if ready(3) {
                self.take_terminal();
            }
            if ready(2) && self.take_report() {
                return;
            }
            if ready(4) {
                self.pump(1);
            }
            if ready(5) {
                self.pump(2);
            }
            if ready(7) {
                self.feed();
            }
            if ready(6) {
                self.accept();
            }
            for i in 0..CLIENTS {
                // The one before may have brought input that does not fit.
                if ready(8 + i) && self.pending.start >= self.pending.end {
                    self.serve(i);
                }
            }
            if ready(0) && waiting {
                self.hung_up();
            } else if ready(0) && self.pending.start >= self.pending.end {
                self.control();
            }
            if ready(1) {
                // Whatever it had to say has been written; nobody else's copy of the pipe matters.
                sys::set_nonblocking(self.report);
                while self.report >= 0 {
                    if self.take_report() {
                        return;
                    }
                }
                self.finish();
                return;
            }
        }
    }

    /// Anyone who finds the lock held learns from it which process runs. Always the same length: the
    /// second time, when the program runs, there is no need of space that may be gone.
    fn record_pid(&mut self) -> Result<()> {
        let lock = self.slots.optional(self.header.lock_file);
        if lock < 0 {
            return Ok(());
        }
        if self.born == 0 {
            self.born = self.start_time()?;
        }
        let mut b = [b'\n'; 96];
        let mut end = format::append(&mut b, 0, b"pid ");
        end = format::decimal(&mut b, end, self.pid as u64);
        end = format::append(&mut b, end, b"\nborn ");
        end = format::decimal(&mut b, end, self.born);
        if self.started {
            end = format::append(&mut b, end, b"\nstarted ");
            format::decimal(&mut b, end, self.started_ns);
        }
        write_whole(lock, &b)
    }

    fn reserve_exit_record(&mut self) -> Result<()> {
        if self.header.flags & flag::EXIT_FILE == 0 {
            return Ok(());
        }
        let dir = self.slots.optional(self.header.state_dir);
        let flags = O_CREAT | O_TRUNC | O_WRONLY | O_NOFOLLOW;
        self.exit_file = sys::openat(dir, Text::literal(c"exit.tmp"), flags, 0o600)?;
        write_whole(self.exit_file, &[b'\n'; EXIT_RECORD])
    }

    /// When the container's process was made, in ticks since boot: with its pid an identity that no
    /// later process can have.
    fn start_time(&self) -> Result<u64> {
        let mut path = [0u8; 32];
        let text = child::proc_path(&mut path, self.pid, b"stat").ok_or(Errno(EINVAL))?;
        let fd = sys::openat(self.slots.optional(self.header.proc_dir), text, 0, 0)?;
        let mut b = [0u8; 512];
        let n = sys::read(fd, &mut b);
        sys::close(fd);
        let b = &b[..n?];
        // The name in parentheses may hold anything; field 3 follows the last one.
        let after = b.iter().rposition(|c| *c == b')').and_then(|at| b.get(at + 2..));
        let field = after.and_then(|rest| rest.split(|c| *c == b' ').nth(19));
        field.and_then(|f| format::number_after(f, b"")).ok_or(Errno(EINVAL))
    }

    /// A message that cannot be sent is as good as a closed socket: the caller must not wait for it.
    fn tell(&mut self, kind: u32, a: u64, b: u64, exit: Exit, pass: Option<i32>) {
        let m = message::encode(&Message { kind, a, b, exit, ..Message::default() });
        if self.control >= 0 && again(|| sys::send(self.control, &m, &[], pass, 0)).is_err() {
            self.hung_up();
        }
    }

    fn kill(&self, signal: i32) {
        // Once it has been waited for, its number may be another process's.
        if self.pid > 0 {
            let _ = sys::kill_child(self.pid, signal);
        }
        if signal == SIGKILL {
            let all = self.slots.optional(self.header.cgroup_kill);
            if all >= 0 {
                let _ = sys::write(all, b"1");
            }
        }
    }

    /// True when the set-up failed and everything is over.
    fn take_report(&mut self) -> bool {
        let mut b = [0u8; 16];
        let n = sys::read(self.report, &mut b).unwrap_or(0);
        if n == 16 {
            let word = |i: usize| u32::from_ne_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
            match word(0) {
                report::EXECUTING => {
                    self.executing = true;
                    self.executing_ns = sys::now();
                }
                report::HELD => self.tell(report::HELD, self.pid as u64, 0, Exit::default(), Some(self.pidfd)),
                _ => {
                    self.reap();
                    self.tell(report::FAILED, u64::from(word(4)), u64::from(word(8)) << 32 | u64::from(word(12)), Exit::default(), None);
                    self.remove_directories();
                    return true;
                }
            }
            return false;
        }
        // End of file: the program runs, or the child is gone.
        sys::close(self.report);
        self.report = -1;
        self.drop_donor();
        if !self.executing {
            self.kill(SIGKILL);
            self.reap();
            self.tell(report::DIED, 0, 0, Exit::default(), None);
            self.remove_directories();
            return true;
        }
        self.started = true;
        self.started_ns = sys::now();
        if self.record_pid().is_err() {
            // Running, but listed as if it were not: that must not be.
            self.kill(SIGKILL);
            self.reap();
            self.tell(report::DIED, 0, 0, Exit::default(), None);
            self.remove_directories();
            return true;
        }
        let exit = Exit {
            started_ns: self.started_ns,
            finished_ns: self.executing_ns,
            cpu_ns: self.begun_ns,
            memory_peak: self.cloned_ns,
            ..Exit::default()
        };
        // Untold it has not started.
        self.started = false;
        self.tell(report::STARTED, self.pid as u64, 0, exit, Some(self.pidfd));
        self.started = true;
        false
    }

    /// The donor's namespaces now belong to the container alone.
    fn drop_donor(&mut self) {
        if self.donor_pidfd >= 0 {
            let _ = sys::kill_child(self.donor_pid, SIGKILL);
            let _ = sys::wait(self.donor_pidfd, false);
            sys::close(self.donor_pidfd);
            self.donor_pidfd = -1;
        }
    }

    fn reap(&mut self) -> Option<(i32, i32, u64, u64)> {
        self.drop_donor();
        // It is our child and nobody else's to wait for: there is no reason to fail for good.
        let mut end = sys::wait(self.pidfd, false);
        for _ in 0..100 {
            if end.is_ok() {
                break;
            }
            end = sys::wait(self.pidfd, false);
        }
        self.pid = -1;
        end.ok().flatten()
    }

    fn take_terminal(&mut self) {
        let mut b = [0u8; 8];
        let mut master = -1;
        let _ = sys::receive(self.handover, &mut b, MSG_DONTWAIT, &mut |fd| master = fd);
        sys::close(self.handover);
        self.handover = -1;
        if master >= 0 {
            sys::set_nonblocking(master);
            self.stdio = [master, master, -1];
        }
    }

    /// Copies what is there; false at the end of the stream.
    fn pump(&mut self, stream: usize) -> bool {
        let mut b = [0u8; 4096];
        let n = match sys::read(self.stdio[stream], &mut b) {
            Ok(n) if n > 0 => n,
            Err(Errno(EINTR | EAGAIN)) => return true,
            // A pty's master answers EIO when its other end is closed for good.
            _ => {
                if self.stdio[0] != self.stdio[stream] {
                    sys::close(self.stdio[stream]);
                }
                self.stdio[stream] = -1;
                return false;
            }
        };
        let data = &b[..n];
        self.log.append(stream as u32, data);
        let h = self.header;
        let forward = self.slots.optional(if stream == 1 { h.forward_stdout } else { h.forward_stderr });
        if forward >= 0 {
            let _ = sys::write_all(forward, data);
        }
        let head = message::encode(&Message { kind: report::OUTPUT, a: stream as u64, ..Message::default() });
        for client in self.clients.iter().filter(|c| **c >= 0) {
            // A client that does not read loses output; the container never waits for it.
            let _ = sys::send(*client, &head, data, None, MSG_DONTWAIT);
        }
        true
    }

    fn accept(&mut self) {
        let Ok(fd) = sys::accept(self.slots.optional(self.header.listener)) else { return };
        let allowed = sys::peer_uid(fd).is_ok_and(|uid| uid == 0 || uid == sys::geteuid());
        match self.clients.iter_mut().find(|c| **c < 0) {
            Some(place) if allowed => *place = fd,
            _ => sys::close(fd),
        }
    }

    fn serve(&mut self, i: usize) {
        let fd = self.clients[i];
        let mut b = Buffer::new();
        match message::receive(fd, &mut b, MSG_DONTWAIT, &mut |fd| sys::close(fd)) {
            Ok(Some((m, tail))) => self.request(&m, tail),
            Err(Errno(EAGAIN)) => {}
            _ => {
                sys::close(fd);
                self.clients[i] = -1;
            }
        }
    }

    fn control(&mut self) {
        let mut b = Buffer::new();
        match message::receive(self.control, &mut b, MSG_DONTWAIT, &mut |fd| sys::close(fd)) {
            Ok(Some((m, tail))) => self.request(&m, tail),
            Err(Errno(EAGAIN)) => {}
            _ => self.hung_up(),
        }
    }

    /// The caller is gone.
    fn hung_up(&mut self) {
        sys::close(self.control);
        self.control = -1;
        if !self.started || self.header.flags & flag::DETACHED == 0 {
            self.kill(SIGKILL);
        }
    }

    fn request(&mut self, m: &Message, tail: &[u8]) {
        match m.kind {
            request::GO => {
                let _ = sys::write(self.hold, b"g");
            }
            request::KILL => self.kill(m.a as i32),
            request::RESIZE if self.header.flags & flag::PTY != 0 => {
                let _ = sys::set_window_size(self.stdio[0], (m.a >> 16) as u16, m.a as u16);
            }
            request::INPUT => {
                let p = &mut self.pending;
                p.start = 0;
                p.end = format::append(&mut p.data, 0, tail);
                self.feed();
            }
            request::CLOSE_INPUT => {
                self.pending.close = true;
                self.feed();
            }
            _ => {}
        }
    }

    /// Hands pending input to the container, as much as its pipe takes.
    fn feed(&mut self) {
        let p = &mut self.pending;
        if self.stdio[0] < 0 {
            p.start = p.end;
            return;
        }
        match sys::write(self.stdio[0], &p.data[p.start..p.end]) {
            Ok(n) => p.start += n,
            Err(Errno(EAGAIN | EINTR)) => return,
            Err(_) => p.start = p.end,
        }
        if p.close && p.start >= p.end && self.header.flags & flag::PTY == 0 {
            sys::close(self.stdio[0]);
            self.stdio[0] = -1;
        }
    }

    /// The container has ended: drain, measure, record, report, then remove.
    fn finish(&mut self) {
        let finished_ns = sys::now();
        let all = self.slots.optional(self.header.cgroup_kill);
        if all >= 0 {
            let _ = sys::write(all, b"1");
        }
        for stream in 1..3 {
            if self.stdio[stream] >= 0 {
                sys::set_nonblocking(self.stdio[stream]);
                // As much as the largest pipe holds: without a pid namespace somebody may go on writing.
                for _ in 0..256 {
                    if !self.drain(stream) {
                        break;
                    }
                }
            }
        }
        let (code, status, cpu, peak) = self.reap().unwrap_or((2, SIGKILL, 0, 0));
        let h = self.header;
        let exit = Exit {
            code,
            status,
            oom_kills: self.read_number(h.oom_file, b"oom_kill").unwrap_or(u64::MAX),
            cpu_ns: self.cpu_ns().unwrap_or(cpu),
            memory_peak: self.read_number(h.memory_peak_file, b"").unwrap_or(peak),
            started_ns: self.started_ns,
            finished_ns,
        };
        if h.flags & flag::EXIT_FILE != 0 {
            self.record_exit(&exit);
        }
        self.tell(report::EXITED, 0, 0, exit, None);
        let m = message::encode(&Message { kind: report::EXITED, exit, ..Message::default() });
        for client in self.clients.iter().filter(|c| **c >= 0) {
            let _ = sys::send(*client, &m, &[], None, MSG_DONTWAIT);
        }
        self.remove_directories();
    }

    /// One non-blocking read; false when there is nothing more.
    fn drain(&mut self, stream: usize) -> bool {
        let mut one = [PollFd { fd: self.stdio[stream], events: POLLIN, revents: 0 }];
        sys::poll_now(&mut one) && self.pump(stream)
    }

    fn read_number(&self, slot: u32, key: &[u8]) -> Option<u64> {
        let mut b = [0u8; 512];
        let n = sys::pread(self.slots.optional(slot), &mut b).ok()?;
        format::number_after(&b[..n], key)
    }

    /// `cpuacct.usage` holds nanoseconds, `cpu.stat` microseconds under a key.
    fn cpu_ns(&self) -> Option<u64> {
        match self.read_number(self.header.cpu_file, b"usage_usec") {
            Some(us) => Some(us * 1000),
            None => self.read_number(self.header.cpu_file, b""),
        }
    }

    /// Written beside and renamed, both made durable, before anyone is told.
    fn record_exit(&self, exit: &Exit) {
        let dir = self.slots.optional(self.header.state_dir);
        let mut b = [b'\n'; EXIT_RECORD];
        let mut end = 0;
        for (key, value) in [
            (&b"code "[..], exit.code as u64),
            (b"status ", exit.status as u64),
            (b"oom_kills ", exit.oom_kills),
            (b"cpu_ns ", exit.cpu_ns),
            (b"memory_peak ", exit.memory_peak),
            (b"started_ns ", exit.started_ns),
            (b"finished_ns ", exit.finished_ns),
        ] {
            end = format::append(&mut b, end, key);
            end = format::decimal(&mut b, end, value);
            end = format::append(&mut b, end, b"\n");
        }
        let written = write_whole(self.exit_file, &b).is_ok();
        // Not again after a failure: the kernel reports lost pages once and forgets them.
        let synced = sys::fsync(self.exit_file).is_ok();
        let (temporary, name) = (Text::literal(c"exit.tmp"), Text::literal(c"exit"));
        if written && synced && again(|| sys::renameat(dir, temporary, dir, name)).is_ok() {
            let _ = sys::fsync(dir);
        }
    }

    /// Removes what the plan says; a process that is still dying keeps a cgroup busy for a moment.
    fn remove_directories(&self) {
        let h = self.header;
        let Ok(all) = self.plan.longs(u64::from(h.cleanup), h.cleanup_count as usize * 4) else { return };
        for part in all.chunks_exact(4) {
            let (dir, Ok(name)) = (self.slots.optional(part[0] as u32), self.plan.text(part[1])) else { continue };
            let to = self.slots.optional(part[2] as u32);
            if let (true, Ok(new)) = (to >= 0, self.plan.text(part[3])) {
                let _ = sys::renameat(dir, name, to, new);
                continue;
            }
            let flags = if part[3] != 0 { 0x200 } else { 0 };
            for _ in 0..50 {
                match sys::unlinkat(dir, name, flags) {
                    Err(Errno(EBUSY)) => sys::sleep_ms(2),
                    _ => break,
                }
            }
        }
    }
}

/// A record that nobody else can write is tried again: what interrupts once need not lose it.
fn again<T>(f: impl Fn() -> Result<T>) -> Result<T> {
    let mut last = f();
    for _ in 0..8 {
        if last.is_ok() {
            break;
        }
        last = f();
    }
    last
}

/// Puts `b` at the beginning of a file.
fn write_whole(fd: i32, b: &[u8]) -> Result<()> {
    match again(|| sys::pwrite(fd, b))? {
        n if n == b.len() => Ok(()),
        _ => Err(Errno(EIO)),
    }
}

/// Tells the caller that the helper itself could not go on, and ends.
pub fn abort(stage: u32, errno: Errno) -> ! {
    let m = message::encode(&Message {
        kind: report::HELPER_FAILED,
        a: u64::from(stage),
        b: errno.0 as u64,
        ..Message::default()
    });
    let _ = sys::send(0, &m, &[], None, 0);
    sys::exit(1)
}

/// The value, or the end of the helper.
pub fn required<T>(stage: u32, r: Result<T>) -> T {
    match r {
        Ok(v) => v,
        Err(e) => abort(stage, e),
    }
}

