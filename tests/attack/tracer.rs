//! Follows a victim and everything it starts from one system call to the next, and at a chosen one
//! kills somebody or makes the call fail. ptrace(2), through nix.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// After this long a victim hangs, and that is a finding. (Where others keep disk and cores busy ten seconds
/// were met by victims that did not.)
const PATIENCE: Duration = Duration::from_secs(30);
/// PTRACE_EVENT_STOP of ptrace(2); PTRACE_SYSCALL_INFO_ENTRY of the same.
const EVENT_STOP: i32 = 128;
const ENTRY: u8 = 1;

/// What a process is in a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The victim and its threads.
    Embedder,
    /// The helper, later the monitor.
    Helper,
    /// What the helper clones, until it executes the container's program.
    Inner,
}

/// What happens at the chosen call.
#[derive(Clone, Debug)]
pub enum Act {
    /// Nothing: calls are counted.
    Count,
    /// Everybody of these classes is killed.
    Kill(Vec<Class>),
    /// The call is not made and answers this.
    Fail(Errno),
    /// Nor is any other that is chosen.
    Refuse(Errno),
    /// No call with one of these numbers is ever made, as on a kernel without them.
    Without(Vec<u64>),
}

/// Chooses calls.
pub type Only = Rc<dyn Fn(&Call) -> bool>;

/// Where and what.
#[derive(Clone)]
pub struct Plan {
    /// Whose calls are counted; `None` = everybody's.
    pub class: Option<Class>,
    /// Only these calls are counted.
    pub only: Option<Only>,
    /// The call, from 1.
    pub at: usize,
    pub act: Act,
}

/// A system call, before it is made.
#[derive(Clone, Debug)]
pub struct Call {
    pub pid: i32,
    pub class: Class,
    pub number: u64,
    pub args: [u64; 6],
    /// What the arguments name, one after the other: strings, and the paths of descriptors.
    pub names: Vec<String>,
}

impl Call {
    /// Whether it is this one.
    pub fn is(&self, number: nix::libc::c_long) -> bool {
        self.number == number as u64
    }

    /// The name at this place.
    pub fn name(&self, i: usize) -> &str {
        self.names.get(i).map_or("", String::as_str)
    }
}

/// What an argument is.
#[derive(Clone, Copy)]
enum Argument {
    Text(usize),
    File(usize),
    /// A buffer whose length is the argument after it.
    Bytes(usize),
    /// The first 64 bits of a structure.
    Word(usize),
}

/// The arguments that say what a call is about.
fn telling(number: u64) -> &'static [Argument] {
    use Argument::{Bytes, File, Text, Word};
    use nix::libc::*;
    const TABLE: &[(c_long, &[Argument])] = &[
        (SYS_write, &[File(0), Bytes(1)]),
        (SYS_openat, &[File(0), Text(1)]),
        (SYS_openat2, &[File(0), Text(1), Word(2)]),
        (SYS_mkdirat, &[File(0), Text(1)]),
        (SYS_mknodat, &[File(0), Text(1)]),
        (SYS_unlinkat, &[File(0), Text(1)]),
        (SYS_symlinkat, &[Text(0), Text(2)]),
        (SYS_fsopen, &[Text(0)]),
        (SYS_fsconfig, &[Text(2), Text(3)]),
        (SYS_mount_setattr, &[File(0), Text(1), Word(3)]),
        (SYS_open_tree, &[File(0), Text(1)]),
        (SYS_move_mount, &[File(0), File(2)]),
        (SYS_fchdir, &[File(0)]),
        (SYS_fchownat, &[File(0), Text(1)]),
        (SYS_chdir, &[Text(0)]),
        (SYS_sethostname, &[Text(0)]),
        (SYS_setdomainname, &[Text(0)]),
        (SYS_keyctl, &[Text(1)]),
        (SYS_execve, &[Text(0)]),
        (SYS_clone3, &[Word(0)]),
    ];
    TABLE.iter().find(|(n, _)| *n as u64 == number).map_or(&[], |(_, arguments)| arguments)
}

fn name_of(pid: Pid, memory: &std::fs::File, args: [u64; 6], argument: Argument) -> Option<String> {
    let read = |address: u64, length: u64| {
        let mut bytes = vec![0; usize::try_from(length.min(256)).expect("small")];
        let n = if address == 0 { 0 } else { memory.read_at(&mut bytes, address).ok()? };
        bytes.truncate(n);
        Some(bytes)
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match argument {
        // What follows a string may be the end of what is mapped.
        Argument::Text(i) => {
            let near = 4096 - args[i] % 4096;
            let bytes = read(args[i], near)?;
            let bytes = if bytes.contains(&0) || near >= 256 { bytes } else { read(args[i], 256)? };
            Some(text(bytes.split(|b| *b == 0).next().unwrap_or_default()))
        }
        Argument::Bytes(i) => Some(text(&read(args[i], args[i + 1])?)),
        Argument::Word(i) => Some(u64::from_ne_bytes(read(args[i], 8)?.try_into().ok()?).to_string()),
        Argument::File(i) => {
            let link = std::fs::read_link(format!("/proc/{pid}/fd/{}", args[i] as i32));
            Some(link.map(|l| l.to_string_lossy().into_owned()).unwrap_or_default())
        }
    }
}

#[derive(Debug, Default)]
pub struct Report {
    pub counts: HashMap<Class, usize>,
    pub hit: Option<Call>,
    /// The victim's exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub hung: bool,
    pub stdout: String,
    pub stderr: String,
}

struct Tracee {
    class: Class,
    /// A helper that detaches forks before it starts its session: its child is the monitor.
    session: bool,
    /// The answer to put in place of the kernel's at the end of the call.
    answer: Option<Errno>,
}

struct Tracer<'a> {
    plan: &'a Plan,
    main: Pid,
    all: HashMap<Pid, Tracee>,
    /// Stopped before the event of their parent told who they are.
    early: Vec<Pid>,
    report: Report,
    finishing: bool,
}

/// Calls that are let through: memory, threads, time and random seeds are libc's and std's, which abort when these
/// fail whatever a library does; `close` has done its work when it answers; what ends a process, and a
/// signal to one's own child, cannot fail; nor can asking who one is.
pub fn is_spared(number: u64) -> bool {
    use nix::libc::*;
    const SPARED: &[c_long] = &[
        SYS_mmap,
        SYS_munmap,
        SYS_mprotect,
        SYS_mremap,
        SYS_madvise,
        SYS_brk,
        SYS_futex,
        SYS_exit,
        SYS_exit_group,
        SYS_rt_sigreturn,
        SYS_rt_sigprocmask,
        SYS_rt_sigaction,
        SYS_sigaltstack,
        SYS_set_robust_list,
        SYS_rseq,
        SYS_gettid,
        SYS_getpid,
        SYS_close,
        SYS_clock_gettime,
        SYS_nanosleep,
        SYS_clock_nanosleep,
        SYS_sched_yield,
        SYS_sched_getaffinity,
        SYS_restart_syscall,
        SYS_geteuid,
        SYS_getegid,
        SYS_getuid,
        SYS_getgid,
        SYS_getrandom,
        SYS_kill,
    ];
    SPARED.iter().any(|n| *n as u64 == number)
}

/// Runs this program in a role under the plan.
pub fn run(role: &str, args: &[&str], plan: &Plan) -> Report {
    run_below(&[], role, args, plan)
}

/// The same below a program that executes what its arguments name.
pub fn run_below(above: &[&str], role: &str, args: &[&str], plan: &Plan) -> Report {
    let me = std::env::current_exe().expect("this program");
    let mut command = match above {
        [] => Command::new(me),
        [program, rest @ ..] => {
            let mut command = Command::new(program);
            command.args(rest).arg(me);
            command
        }
    };
    let mut child = command
        .arg(format!("--as={role}"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let main = Pid::from_raw(child.id().cast_signed());
    wait_until_ready(&mut child);
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(main, options).expect("ours");
    ptrace::interrupt(main).expect("ours");
    let outputs = [collect(child.stdout.take()), collect(child.stderr.take())];
    let (over, watched) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let hangs = watched.recv_timeout(PATIENCE).is_err_and(|e| e == mpsc::RecvTimeoutError::Timeout);
        if hangs {
            let _ = kill(main, Signal::SIGKILL);
        }
        hangs
    });
    child.stdin.take().expect("piped").write_all(b"go\n").expect("it waits");
    let mut tracer = Tracer {
        plan,
        main,
        all: HashMap::from([(main, Tracee { class: Class::Embedder, session: true, answer: None })]),
        early: Vec::new(),
        report: Report::default(),
        finishing: false,
    };
    tracer.follow();
    let mut report = tracer.report;
    let_go();
    drop(over);
    report.hung = watchdog.join().expect("no panic");
    let [stdout, stderr] = outputs.map(|o| o.join().expect("no panic"));
    report.stdout = stdout;
    report.stderr.push_str(&stderr);
    report
}

/// Whoever is still traced goes on: a stop that came while it was being let go, or a process that was born
/// just as its parent was killed (it is ours then, and traced from its first moment) must not hold it.
fn let_go() {
    let traced = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|l| l == format!("TracerPid:\t{}", std::process::id()))
    };
    for _ in 0..1000 {
        let left: Vec<u32> = crate::check::children().into_iter().filter(traced).collect();
        if left.is_empty() {
            break;
        }
        for pid in left.into_iter().map(|p| Pid::from_raw(p.cast_signed())) {
            let _ = waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG));
            if ptrace::detach(pid, None).is_err() {
                let _ = ptrace::interrupt(pid);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The victim says a line when it is about to wait for its start signal: what comes before is not ours.
fn wait_until_ready(child: &mut Child) {
    let mut byte = [0u8];
    let out = child.stdout.as_mut().expect("piped");
    while out.read(&mut byte).expect("it speaks") == 1 && byte[0] != b'\n' {}
}

fn collect<R: Read + Send + 'static>(stream: Option<R>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        // A detached container holds no copy: the end comes with the victim's.
        let _ = stream.expect("piped").read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    })
}

impl Tracer<'_> {
    fn follow(&mut self) {
        while !self.all.is_empty() {
            match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => self.take(status),
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return,
                Err(e) => self.report.stderr.push_str(&format!("waitpid: {e}\n")),
            }
            // Monitors that live on are nobody's victims.
            if !self.finishing && !self.all.contains_key(&self.main) {
                self.finish(None);
            }
        }
    }

    fn take(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::Exited(pid, code) => {
                if pid == self.main {
                    self.report.code = Some(code);
                }
                self.all.remove(&pid);
            }
            WaitStatus::Signaled(pid, ..) => drop(self.all.remove(&pid)),
            WaitStatus::PtraceSyscall(pid) => self.system_call(pid),
            WaitStatus::PtraceEvent(pid, _, EVENT_STOP) => {
                if self.all.contains_key(&pid) {
                    self.resume(pid, None)
                } else {
                    self.early.push(pid)
                }
            }
            WaitStatus::PtraceEvent(pid, _, event) => self.event(pid, event),
            WaitStatus::Stopped(pid, signal) => self.resume(pid, Some(signal)),
            _ => {}
        }
    }

    fn event(&mut self, pid: Pid, event: i32) {
        let Some((class, session)) = self.all.get(&pid).map(|t| (t.class, t.session)) else { return };
        if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 {
            if class == Class::Inner {
                // The container's own program.
                let _ = ptrace::detach(pid, None);
                self.all.remove(&pid);
                return;
            }
        } else if let Ok(new) = ptrace::getevent(pid) {
            let new = Pid::from_raw(i32::try_from(new).expect("a pid"));
            let inner = if session { Class::Inner } else { Class::Helper };
            self.all.insert(new, Tracee { class: class_of(new, class, inner), session: false, answer: None });
            if let Some(i) = self.early.iter().position(|p| *p == new) {
                self.early.swap_remove(i);
                self.resume(new, None);
            }
        }
        self.resume(pid, None);
    }

    fn resume(&mut self, pid: Pid, signal: Option<Signal>) {
        if self.finishing {
            let _ = ptrace::detach(pid, signal);
            self.all.remove(&pid);
        } else if ptrace::syscall(pid, signal).is_err() {
            // Killed meanwhile: its end is reported next.
        }
    }

    fn system_call(&mut self, pid: Pid) {
        let Some(tracee) = self.all.get_mut(&pid) else { return };
        let class = tracee.class;
        let Ok(info) = ptrace::syscall_info(pid) else { return self.resume(pid, None) };
        if info.op != ENTRY {
            if let Some(errno) = tracee.answer.take()
                && let Ok(mut regs) = ptrace::getregs(pid)
            {
                regs.rax = (-i64::from(errno as i32)).cast_unsigned();
                let _ = ptrace::setregs(pid, regs);
            }
            return self.resume(pid, None);
        }
        if self.finishing {
            return self.resume(pid, None);
        }
        let Ok(regs) = ptrace::getregs(pid) else { return self.resume(pid, None) };
        let number = regs.orig_rax;
        tracee.session |= number == nix::libc::SYS_setsid as u64;
        if let Act::Without(lacking) = &self.plan.act {
            if lacking.contains(&number) {
                self.report.hit.get_or_insert_with(|| call(pid, class, &regs));
                self.refuse(pid, regs, Errno::ENOSYS);
            }
            return self.resume(pid, None);
        }
        // What the victim says is not boxship's.
        let speech = class == Class::Embedder && number == nix::libc::SYS_write as u64 && regs.rdi == 1;
        let failing = matches!(self.plan.act, Act::Fail(_) | Act::Refuse(_) | Act::Count);
        if failing && (speech || is_spared(number)) && self.plan.class.is_some()
            || self.plan.class.is_some_and(|c| c != class)
        {
            return self.resume(pid, None);
        }
        let mut made = None;
        if let Some(only) = &self.plan.only {
            let this = made.insert(call(pid, class, &regs));
            if !only(this) {
                return self.resume(pid, None);
            }
        }
        let count = self.report.counts.entry(class).or_default();
        *count += 1;
        let reached = match self.plan.class {
            Some(_) => *count,
            None => self.report.counts.values().sum(),
        };
        let every = matches!(self.plan.act, Act::Refuse(_));
        if every && reached >= self.plan.at || reached == self.plan.at && self.report.hit.is_none() {
            self.report.hit = made.or_else(|| Some(call(pid, class, &regs)));
            match &self.plan.act {
                Act::Kill(_) => return self.finish(Some(pid)),
                Act::Fail(errno) | Act::Refuse(errno) => self.refuse(pid, regs, *errno),
                _ => {}
            }
        }
        self.resume(pid, None);
    }

    /// The call is not made and answers this.
    fn refuse(&mut self, pid: Pid, mut regs: nix::libc::user_regs_struct, errno: Errno) {
        self.all.get_mut(&pid).expect("known").answer = Some(errno);
        regs.orig_rax = u64::MAX;
        let _ = ptrace::setregs(pid, regs);
    }

    /// Kills whom the plan names and lets go of the others. `stopped` is the one that is stopped now.
    fn finish(&mut self, stopped: Option<Pid>) {
        self.finishing = true;
        for pid in std::mem::take(&mut self.early) {
            let _ = ptrace::detach(pid, None);
        }
        let none = Vec::new();
        let targets = match &self.plan.act {
            Act::Kill(targets) if stopped.is_some() => targets,
            _ => &none,
        };
        let pids: Vec<(Pid, Class)> = self.all.iter().map(|(p, t)| (*p, t.class)).collect();
        for (pid, _) in pids.iter().filter(|(_, c)| targets.contains(c)) {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        for (pid, _) in pids.iter().filter(|(_, c)| !targets.contains(c)) {
            if Some(*pid) == stopped {
                let _ = ptrace::detach(*pid, None);
                self.all.remove(pid);
            } else if ptrace::interrupt(*pid).is_err() {
                self.all.remove(pid);
            }
        }
    }
}

fn call(pid: Pid, class: Class, regs: &nix::libc::user_regs_struct) -> Call {
    let (number, args) = (regs.orig_rax, [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]);
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"));
    let name = |argument: &Argument| name_of(pid, memory.as_ref().ok()?, args, *argument);
    Call {
        pid: pid.as_raw(),
        class,
        number,
        args,
        names: telling(number).iter().map(|a| name(a).unwrap_or_default()).collect(),
    }
}

/// Threads belong to their process; a process is one step further in than its parent.
fn class_of(new: Pid, parent: Class, inner: Class) -> Class {
    let status = std::fs::read_to_string(format!("/proc/{new}/status")).unwrap_or_default();
    let group = status.lines().find_map(|l| l.strip_prefix("Tgid:")?.trim().parse::<i32>().ok());
    match parent {
        _ if group.is_some_and(|g| g != new.as_raw()) => parent,
        Class::Embedder => Class::Helper,
        Class::Helper => inner,
        Class::Inner => Class::Inner,
    }
}
