//! Users of an image, by our own parser: nothing of the image is loaded or executed for it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use boxship_layers::Digest;

use crate::error::{Error, Result};

/// The largest `/etc/passwd` or `/etc/group` that is read.
pub(crate) const MAX_FILE: u64 = 1 << 20;

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Option<String>,
}

/// The users that starts have asked for, by the layers that they were found in: to read these files in an
/// image of many layers costs more than the rest of a plan.
#[derive(Debug, Default)]
pub(crate) struct Users(Mutex<HashMap<(Vec<Digest>, String), Identity>>);

/// How many are remembered before all are forgotten.
const REMEMBERED: usize = 256;

impl Users {
    /// The one that was found before, or what `find` finds. A failure is not remembered.
    pub(crate) fn get(
        &self,
        layers: &[Digest],
        user: &str,
        find: impl FnOnce() -> Result<Identity>,
    ) -> Result<Identity> {
        let key = (layers.to_vec(), user.to_owned());
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(known.clone());
        }
        let found = find()?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(key, found.clone());
        Ok(found)
    }
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let f: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = f[..] else { return None };
        Some(Passwd { name, uid: id(uid)?, gid: id(gid)?, home })
    })
}

fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut f = line.split(':');
        let (name, gid) = (f.next()?, f.nth(1)?);
        Some((name, id(gid)?, f.next().unwrap_or_default()))
    })
}

/// Digits only, and an id that exists: 4294967295 means "unchanged" to the kernel.
fn id(s: &str) -> Option<u32> {
    let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| s.parse().ok()).flatten().filter(|n| *n != u32::MAX)
}

fn is_number(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())
}

/// Resolves `user[:group]`. A number is a number and never a name (CVE-2016-3697, CVE-2026-46680).
pub(crate) fn resolve(spec: &str, passwd_text: &str, group_text: &str) -> Result<Identity> {
    let unknown = |what: &str, name: &str| {
        Error::invalid(
            "user",
            format!(
                "{what} {name:?} is not in the image's /etc/{}",
                if what == "user" { "passwd" } else { "group" }
            ),
        )
    };
    let (user, group) = match spec.split_once(':') {
        Some((u, g)) => (u, Some(g)),
        None => (spec, None),
    };
    let entry = match user {
        "" => passwd(passwd_text).find(|p| p.uid == 0),
        _ if is_number(user) => {
            let uid =
                id(user).ok_or_else(|| Error::invalid("user", format!("{user} is beyond 4294967294")))?;
            let found = passwd(passwd_text).find(|p| p.uid == uid);
            Some(found.unwrap_or(Passwd { name: "", uid, gid: 0, home: "/" }))
        }
        _ => Some(passwd(passwd_text).find(|p| p.name == user).ok_or_else(|| unknown("user", user))?),
    };
    let (name, uid, own_gid, home) =
        entry.map_or(("root", 0, 0, None), |p| (p.name, p.uid, p.gid, Some(p.home.to_owned())));
    let gid = match group {
        None => own_gid,
        Some("") => return Err(Error::invalid("user", format!("{spec:?} has an empty group"))),
        Some(g) if is_number(g) => {
            id(g).ok_or_else(|| Error::invalid("user", format!("{g} is beyond 4294967294")))?
        }
        Some(g) => groups(group_text).find(|(n, ..)| *n == g).ok_or_else(|| unknown("group", g))?.1,
    };
    let mut member: Vec<u32> = match group {
        None if !name.is_empty() => groups(group_text)
            .filter(|(.., members)| members.split(',').any(|m| m == name))
            .map(|(_, gid, _)| gid)
            .collect(),
        _ => Vec::new(),
    };
    member.sort_unstable();
    member.dedup();
    Ok(Identity { uid, gid, groups: member, home: home.filter(|h| h.starts_with('/')) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n1000:x:0:0:evil:/:/bin/sh\nuser:x:1000:100:u:/home/user:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\naudio:x:29:user,other\nvideo:x:44:user\n";

    fn ids(spec: &str) -> Option<(u32, u32, Vec<u32>)> {
        resolve(spec, PASSWD, GROUP).ok().map(|i| (i.uid, i.gid, i.groups))
    }

    #[test]
    fn a_user_is_looked_for_once_in_the_same_layers() {
        let users = Users::default();
        let layers = |text: &[u8]| vec![Digest::of(text)];
        let who = |uid| Identity { uid, ..Identity::default() };
        assert_eq!(users.get(&layers(b"a"), "app", || Ok(who(7))).unwrap(), who(7));
        assert_eq!(users.get(&layers(b"a"), "app", || panic!("known")).unwrap(), who(7));
        assert_eq!(users.get(&layers(b"b"), "app", || Ok(who(8))).unwrap(), who(8));
        assert_eq!(users.get(&layers(b"a"), "root", || Ok(who(0))).unwrap(), who(0));
        assert!(users.get(&layers(b"c"), "app", || Err(Error::invalid("user", "gone"))).is_err());
        assert_eq!(users.get(&layers(b"c"), "app", || Ok(who(9))).unwrap(), who(9), "a failure is not kept");
        for i in 0..2 * REMEMBERED {
            users.get(&layers(&i.to_ne_bytes()), "", || Ok(who(1))).unwrap();
        }
        assert!(users.0.lock().unwrap().len() <= REMEMBERED);
    }

    #[test]
    fn names_numbers_and_groups() {
        assert_eq!(ids(""), Some((0, 0, vec![])));
        assert_eq!(ids("user"), Some((1000, 100, vec![29, 44])));
        assert_eq!(ids("1000"), Some((1000, 100, vec![29, 44])), "a number never matches a name");
        assert_eq!(ids("user:0"), Some((1000, 0, vec![])));
        assert_eq!(ids("7:audio"), Some((7, 29, vec![])));
        assert_eq!(ids("4294967294"), Some((u32::MAX - 1, 0, vec![])));
        for bad in [
            "nobody",
            "4294967295",
            "4294967296",
            "99999999999",
            "-1",
            "+1",
            " 1",
            "1 ",
            "user:",
            "user:none",
            "1:-1",
            "0x0",
        ] {
            assert_eq!(ids(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_becomes_root_by_accident(spec in "[0-9a-zA-Z:+ -]{1,14}", text in ".{0,80}") {
            let _ = resolve(&spec, &text, &text);
            if let Ok(i) = resolve(&spec, "", "") {
                let user = spec.split(':').next().unwrap_or("");
                prop_assert!(i.uid == 0 && user.is_empty() || user.parse() == Ok(i.uid));
            }
        }
    }
}
