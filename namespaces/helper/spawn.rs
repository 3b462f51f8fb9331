//! From the first message to the running child.
//!
//! With a user namespace there are two processes. The **donor** only makes the user namespace and
//! those that it must own (network, ipc, uts); it never runs anything. The **child** starts in the
//! outer user namespace, so it can build the tree with mounts that are locked once it enters: it
//! borrows the donor's namespaces (`setns`), mounts what belongs to them, and last enters the user
//! namespace and a second mount namespace. Both run at the same time on two cores.

use core::cell::UnsafeCell;

use crate::child::{self, Context};
use crate::empty;
use crate::log::Log;
use crate::message::{self, Buffer};
use crate::monitor::{Monitor, Pending, abort, required};
use crate::plan::{Plan, Slots};
use crate::sys::{self, *};
use crate::wire::{Header, Message, flag, report, request, stage};

const CLONE_NEWTIME: u64 = 0x80;
const CLONE_NEWUSER: u64 = 0x1000_0000;

/// Memory too large for the stack; this program has one thread and borrows it once.
struct Static<T>(UnsafeCell<T>);
// SAFETY: the helper has one thread.
unsafe impl<T> Sync for Static<T> {}
static SLOTS: Static<Slots> = Static(UnsafeCell::new(Slots::new()));
static LOG: Static<Log> = Static(UnsafeCell::new(Log::none()));

pub fn main() -> ! {
    // SAFETY: `main` runs once and holds the only references.
    let (slots, log) = unsafe { (&mut *SLOTS.0.get(), &mut *LOG.0.get()) };
    let begun_ns = sys::now();
    // Only the control socket is meant for us; an embedder may have leaked others.
    required(stage::RECEIVE, sys::close_range(3, 0));
    sys::signal_mask(!0);
    sys::reset_signals();
    sys::umask(0);
    let plan = required(stage::RECEIVE, receive_plan(slots));
    let h = plan.header();
    if h.flags & flag::DETACHED != 0 {
        detach();
    }
    required(stage::SESSION, sys::setsid());
    own_namespaces(plan, h, slots);
    if h.enter_flags != 0 {
        required(stage::ENTER, sys::setns(slots.optional(h.enter), h.enter_flags));
    }
    // Nobody may attach to us or read our memory. In a user namespace of our own the kernel needs
    // "dumpable" for the donor's files; there the child gives it up later.
    if h.own_flags & CLONE_NEWUSER == 0 {
        required(stage::DUMPABLE, sys::prctl(4, 0, 0));
    }
    if h.flags & flag::LOG != 0 {
        let dir = slots.optional(h.state_dir);
        required(stage::LOG, log.open(dir, h.log_max_size, h.log_max_files));
    }
    start(plan, h, slots, log, begun_ns)
}

/// The first message carries the plan's memfd and the first descriptors; more may follow.
fn receive_plan(slots: &mut Slots) -> Result<Plan> {
    let mut b = Buffer::new();
    let mut plan_fd = -1;
    let mut take = |fd| {
        if plan_fd < 0 {
            plan_fd = fd;
        } else {
            slots.push(fd);
        }
    };
    let first = message::receive(0, &mut b, 0, &mut take)?;
    let Some((m, _)) = first else { sys::exit(0) };
    if m.kind == request::EMPTY {
        empty::make(plan_fd);
    }
    if m.kind != request::PLAN {
        return Err(Errno(EINVAL));
    }
    while slots.received() < m.a as usize {
        let before = slots.received();
        let next = message::receive(0, &mut b, 0, &mut |fd| slots.push(fd))?;
        if next.is_none() || slots.received() == before {
            return Err(Errno(EINVAL));
        }
    }
    let plan = Plan::map(plan_fd)?;
    sys::close(plan_fd);
    Ok(plan)
}

/// Leaves the caller's process tree, so that it has nothing to reap and we outlive it.
fn detach() {
    match required(stage::DETACH, sys::clone3(&CloneArgs { exit_signal: SIGCHLD, ..CloneArgs::default() })) {
        0 => {}
        _ => sys::exit(0),
    }
}

fn own_namespaces(plan: Plan, h: &Header, slots: &Slots) {
    if h.own_flags == 0 {
        return;
    }
    required(stage::OWN_NAMESPACES, sys::unshare(h.own_flags));
    let proc = slots.optional(h.proc_dir);
    if h.own_flags & CLONE_NEWUSER != 0 {
        if h.flags & flag::EXTERNAL_MAP != 0 {
            request_maps();
        } else {
            let deny = h.flags & flag::OWN_DENY_SETGROUPS != 0;
            let r = child::write_maps(proc, sys::getpid(), plan, h.own_uid_map, h.own_gid_map, deny);
            required(stage::OWN_ID_MAP, r);
        }
    }
    if h.own_flags & CLONE_NEWTIME != 0 && h.time_offsets != 0 {
        let write = || -> Result<()> {
            let fd = sys::openat(proc, Text::literal(c"self/timens_offsets"), O_WRONLY, 0)?;
            sys::write(fd, plan.text(u64::from(h.time_offsets))?.bytes())?;
            sys::close(fd);
            Ok(())
        };
        required(stage::TIME_OFFSETS, write());
    }
}

/// The caller runs newuidmap and newgidmap on us, then answers.
fn request_maps() {
    let ask = Message { kind: report::NEED_MAP, a: sys::getpid() as u64, ..Message::default() };
    required(stage::OWN_ID_MAP, sys::send(0, &message::encode(&ask), &[], None, 0));
    let mut b = Buffer::new();
    match message::receive(0, &mut b, 0, &mut |fd| sys::close(fd)) {
        Ok(Some((m, _))) if m.kind == request::MAPPED => {}
        Ok(_) => sys::exit(1),
        Err(e) => abort(stage::OWN_ID_MAP, e),
    }
    // Become the root of the new namespace, as a single-id map makes us by itself.
    required(stage::OWN_ID_MAP, sys::setresgid(0));
    required(stage::OWN_ID_MAP, sys::setresuid(0));
    // The change of ids made us undumpable, which would hide the donor's files from the child.
    required(stage::DUMPABLE, sys::prctl(4, 1, 0));
}

fn pipe() -> [i32; 2] {
    required(stage::PIPES, sys::pipe())
}

fn start(plan: Plan, h: &'static Header, slots: &mut Slots, log: &mut Log, begun_ns: u64) -> ! {
    let report = pipe();
    let hold = if h.flags & flag::HOLD != 0 { pipe() } else { [-1; 2] };
    let donor_ready = if h.donor_flags != 0 { pipe() } else { [-1; 2] };
    let pty = h.flags & flag::PTY != 0;
    let handover = if pty { required(stage::PIPES, sys::socketpair()) } else { [-1; 2] };
    let pumped = h.flags & flag::PUMP != 0 && !pty;
    let stdin = if h.flags & flag::STDIN != 0 && !pty { pipe() } else { [-1; 2] };
    let stdout = if pumped { pipe() } else { [-1; 2] };
    let stderr = if pumped { pipe() } else { [-1; 2] };

    let (donor_pid, donor_pidfd) =
        if h.donor_flags != 0 { clone_donor(h.donor_flags, donor_ready) } else { (-1, -1) };
    let mut pidfd = -1i32;
    let cgroup = slots.optional(h.into_cgroup);
    let mut args = CloneArgs {
        flags: h.clone_flags | CLONE_PIDFD,
        pidfd: &raw mut pidfd as u64,
        exit_signal: SIGCHLD,
        ..CloneArgs::default()
    };
    if cgroup >= 0 {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup as u64;
    }
    let pid = match sys::clone3(&args) {
        Ok(pid) => pid,
        Err(e) => {
            if donor_pidfd >= 0 {
                let _ = sys::kill_child(donor_pid, SIGKILL);
            }
            abort(stage::CLONE, e)
        }
    };
    let cloned_ns = sys::now();
    if pid == 0 {
        sys::close(0);
        let context = Context {
            report: report[1],
            donor_pid,
            donor_pidfd,
            donor_ready: donor_ready[0],
            hold: hold[0],
            handover: handover[1],
            stdio: [stdin[0], stdout[1], stderr[1]],
        };
        // End of file on these must mean that the other process is gone.
        for fd in [report[0], donor_ready[1], hold[1], handover[0], stdin[1], stdout[0], stderr[0]] {
            if fd >= 0 {
                sys::close(fd);
            }
        }
        child::run(plan, slots, &context);
    }
    // The child has made its copy; nobody may attach to us or read our memory from now on.
    if let Err(e) = sys::prctl(4, 0, 0) {
        for child in [pid, donor_pid].into_iter().filter(|pid| *pid > 0) {
            let _ = sys::kill_child(child, SIGKILL);
        }
        abort(stage::DUMPABLE, e)
    }
    for fd in [report[1], donor_ready[0], donor_ready[1], hold[0], handover[1], stdin[0], stdout[1], stderr[1]] {
        if fd >= 0 {
            sys::close(fd);
        }
    }
    if stdin[1] >= 0 {
        sys::set_nonblocking(stdin[1]);
    }
    close_slots(plan, h, slots);
    let mut monitor = Monitor {
        plan,
        header: h,
        slots,
        log,
        control: 0,
        pid,
        pidfd,
        donor_pid,
        donor_pidfd,
        born: 0,
        exit_file: -1,
        report: report[0],
        hold: hold[1],
        handover: handover[0],
        stdio: [stdin[1], stdout[0], stderr[0]],
        executing: false,
        started: false,
        started_ns: 0,
        begun_ns,
        cloned_ns,
        executing_ns: 0,
        pending: Pending::none(),
        clients: [-1; 8],
    };
    monitor.run();
    sys::exit(0)
}

/// Keeps what the monitor itself uses.
fn close_slots(plan: Plan, h: &Header, slots: &mut Slots) {
    let mut keep = [crate::wire::NO_SLOT; 96];
    let own = [
        h.proc_dir, h.state_dir, h.lock_file, h.listener, h.cgroup_kill, h.oom_file, h.cpu_file,
        h.memory_peak_file, h.forward_stdout, h.forward_stderr,
    ];
    keep[..own.len()].copy_from_slice(&own);
    if let Ok(all) = plan.longs(u64::from(h.cleanup), h.cleanup_count as usize * 4) {
        let slots = all.chunks_exact(4).flat_map(|part| [part[0] as u32, part[2] as u32]);
        for (k, slot) in keep[own.len()..].iter_mut().zip(slots) {
            *k = slot;
        }
    }
    slots.close_except(&keep);
}

fn clone_donor(flags: u64, ready: [i32; 2]) -> (i32, i32) {
    let mut pidfd = -1i32;
    let args = CloneArgs {
        flags: CLONE_PIDFD,
        pidfd: &raw mut pidfd as u64,
        exit_signal: SIGCHLD,
        ..CloneArgs::default()
    };
    let parent = sys::getpid();
    let pid = required(stage::CLONE_DONOR, sys::clone3(&args));
    if pid != 0 {
        return (pid, pidfd);
    }
    // The copies of the pipes and of the control socket would hide their ends from the others.
    let alone = sys::dup3(ready[1], 0).and_then(|()| sys::close_range(1, 0));
    let made = alone.and_then(|()| sys::die_with_parent()).and_then(|()| sys::unshare(flags));
    if sys::getppid() != parent {
        // It had died before we could ask for its death's signal.
        sys::exit(127);
    }
    let errno = made.map_or_else(|e| e.0, |()| 0);
    // Descriptor 0 is the control socket if the first step failed.
    let to = if alone.is_ok() { 0 } else { ready[1] };
    if sys::write(to, &errno.to_ne_bytes()).is_err() || errno != 0 {
        sys::exit(127);
    }
    loop {
        let _ = sys::poll(&mut []);
    }
}
