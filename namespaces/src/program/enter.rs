//! A further process in the namespaces of a running one.
//!
//! A pid namespace holds children only, so the helper enters that one before it clones; as root it stays
//! outside of all others, and the child enters them at once. An ordinary user loses the power over the
//! outer namespaces with the first step into the user namespace, so there the helper takes that step and
//! enters all but the mount namespace with it.

use super::{Compiler, Users, rlimits, terminal};
use crate::kind::Namespaces;
use crate::sandbox::{Join, Sandbox};
use crate::wire::op;

pub(super) fn users(rootless: bool) -> Users {
    Users {
        own: None,
        donor: None,
        deny_setgroups: rootless,
        external: false,
        rootless,
        may_mknod: false,
        root: (0, 0),
        tty_gid: (!rootless).then_some(5),
    }
}

/// What takes the place of making a tree and setting its attributes.
pub(super) fn join(c: &mut Compiler, plan: &Sandbox, join: Join) {
    let first = if c.users.rootless { join.set.without(Namespaces::MOUNT) } else { Namespaces::PID };
    c.header.enter = c.send(join.process);
    c.header.enter_flags = join.set.and(first).bits();
    if let Some(value) = plan.oom_score_adj {
        let text = c.text(value.to_string());
        let proc = u64::from(c.header.proc_dir);
        c.step(op::OOM_SCORE, 0, [proc, text, 0], "set", "oom_score_adj");
    }
    let rest = join.set.without(first);
    let slot = u64::from(c.header.enter);
    c.step(op::ENTER, 0, [slot, rest.bits(), 0], "enter namespaces", rest.to_string());
    terminal(c, plan, false);
    let cwd = c.text(&plan.cwd);
    c.step(op::CHDIR, 0, [cwd, 0, 0], "enter the working directory", format!("{:?}", plan.cwd));
    rlimits(c, plan);
}
