//! POSIX access control lists (acl(5)): as archives have them in words, and as the kernel has them in bytes.

/// The attributes, and how PAX records name the same in words.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";
pub(crate) const FORMS: [(&[u8], &[u8]); 2] =
    [(b"SCHILY.acl.access", ACCESS), (b"SCHILY.acl.default", DEFAULT)];

const VERSION: [u8; 4] = 2u32.to_le_bytes();
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id of an entry that needs none.
const NO_ID: u32 = u32::MAX;

/// Who, with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    tag: u16,
    id: u32,
    rights: u16,
}

/// A list that the kernel takes: in its order, with everything that one needs and nothing twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Entry>);

/// Why a text is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Malformed,
    /// It has names whose numbers only the host knows that it was made on.
    Names,
}

impl Acl {
    fn new(mut entries: Vec<Entry>) -> Option<Acl> {
        entries.sort_unstable();
        let count = |tag| entries.iter().filter(|e| e.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let twice = entries.windows(2).any(|pair| (pair[0].tag, pair[0].id) == (pair[1].tag, pair[1].id));
        let whole = [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1);
        let masked = count(MASK) == 1 || count(MASK) == 0 && named == 0;
        (!twice && whole && masked).then_some(Acl(entries))
    }

    /// From the value of the attribute.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Acl> {
        let entries = bytes.strip_prefix(&VERSION)?;
        if entries.len() % 8 != 0 {
            return None;
        }
        let entry = |e: &[u8]| {
            let (tag, rights) = (u16::from_le_bytes([e[0], e[1]]), u16::from_le_bytes([e[2], e[3]]));
            let id = u32::from_le_bytes([e[4], e[5], e[6], e[7]]);
            let id = if tag == USER || tag == GROUP { id } else { NO_ID };
            let valid = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].contains(&tag) && rights <= 7;
            let named = (tag == USER || tag == GROUP) == (id != NO_ID);
            (valid && named).then_some(Entry { tag, id, rights })
        };
        Acl::new(entries.chunks_exact(8).map(entry).collect::<Option<_>>()?)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        for e in &self.0 {
            bytes.extend([e.tag.to_le_bytes(), e.rights.to_le_bytes()].concat());
            bytes.extend(e.id.to_le_bytes());
        }
        bytes
    }

    /// `user::rwx,user:1000:r-x,…`; star has the number behind the name of whom it is about.
    pub(crate) fn of_text(text: &[u8]) -> Result<Acl, Fault> {
        let text = std::str::from_utf8(text).map_err(|_| Fault::Malformed)?;
        let mut entries = Vec::new();
        for line in text.split([',', '\n']) {
            let line = line.split('#').next().unwrap_or_default().trim();
            let line = line.strip_prefix("default:").unwrap_or(line);
            if !line.is_empty() {
                entries.push(entry_of(line)?);
            }
        }
        Acl::new(entries).ok_or(Fault::Malformed)
    }

    pub(crate) fn to_text(&self) -> Vec<u8> {
        let lines: Vec<String> = self.0.iter().map(Entry::text).collect();
        lines.join(",").into_bytes()
    }

    /// The same with other ids, without those who have none. The mask stays, so that a group has no more than before.
    pub(crate) fn map(&self, id: impl Fn(u32) -> Option<u32>) -> Option<Acl> {
        let mapped = self.0.iter().filter_map(|e| match e.tag {
            USER | GROUP => Some(Entry { id: id(e.id)?, ..*e }),
            _ => Some(*e),
        });
        let mut entries: Vec<Entry> = mapped.collect();
        entries.sort_unstable();
        entries.dedup_by_key(|e| (e.tag, e.id));
        Acl::new(entries)
    }
}

impl Entry {
    fn text(&self) -> String {
        let who = match self.tag {
            USER_OBJ | USER => "user",
            GROUP_OBJ | GROUP => "group",
            MASK => "mask",
            _ => "other",
        };
        let id = if self.id == NO_ID { String::new() } else { self.id.to_string() };
        let right = |bit, letter| if self.rights & bit != 0 { letter } else { '-' };
        format!("{who}:{id}:{}{}{}", right(4, 'r'), right(2, 'w'), right(1, 'x'))
    }
}

fn entry_of(line: &str) -> Result<Entry, Fault> {
    let parts: Vec<&str> = line.split(':').map(str::trim).collect();
    let (who, name, rights, number) = match parts[..] {
        [who, rights] if who != "user" && who != "group" => (who, "", rights, None),
        [who, name, rights] => (who, name, rights, None),
        [who, name, rights, number] => (who, name, rights, Some(number)),
        _ => return Err(Fault::Malformed),
    };
    let tag = match (who, name.is_empty()) {
        ("user" | "u", true) => USER_OBJ,
        ("user" | "u", false) => USER,
        ("group" | "g", true) => GROUP_OBJ,
        ("group" | "g", false) => GROUP,
        ("mask" | "m", true) => MASK,
        ("other" | "o", true) => OTHER,
        _ => return Err(Fault::Malformed),
    };
    let decimal = |s: &str| {
        let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| s.parse::<u32>().ok().filter(|n| *n != NO_ID)).flatten()
    };
    let id = match number.or((!name.is_empty()).then_some(name)) {
        None => NO_ID,
        Some(_) if name.is_empty() => return Err(Fault::Malformed),
        Some(text) => match decimal(text) {
            Some(id) => id,
            // A number that is none, or a name without one.
            None if number.is_some() || text.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(Fault::Malformed);
            }
            None => return Err(Fault::Names),
        },
    };
    Ok(Entry { tag, id, rights: rights_of(rights)? })
}

fn rights_of(text: &str) -> Result<u16, Fault> {
    let mut rights = 0;
    for letter in text.chars() {
        rights |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return Err(Fault::Malformed),
        };
    }
    if text.is_empty() || text.len() > 3 { Err(Fault::Malformed) } else { Ok(rights) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_others_write_them() {
        let full = "user::rwx,user:1000:r-x,group::r--,group:7:---,mask::r-x,other::---";
        for text in [
            full,
            "user::rwx\nuser:1000:r-x\t#effective:r-x\ngroup::r--\ngroup:7:---\nmask::r-x\nother::---\n",
            "user::rwx,user:lisa:r-x:1000,group::r--,group:wheel:---:7,mask::r-x,other::---",
            "u::rwx,g::r,m:rx,o:-,u:1000:rx,g:7:-",
            "default:user::rwx,default:user:1000:r-x,default:group::r--,default:group:7:---,default:mask::r-x,default:other::---",
        ] {
            let acl = Acl::of_text(text.as_bytes());
            assert_eq!(acl.map(|acl| acl.to_text()), Ok(full.as_bytes().to_vec()), "{text}");
        }
        let names = b"user::rwx,user:lisa:r-x,group::r--,mask::r-x,other::---";
        assert_eq!(Acl::of_text(names), Err(Fault::Names));
        for text in [
            "",
            "user::rwx",
            "user::rwx,group::rwx,other::rwx,other::r--",
            "user::rwx,user:1:rwx,group::rwx,other::rwx",
            "user::rwx,user:1:rwx,user:1:r--,group::rwx,mask::rwx,other::rwx",
            "user::rwz,group::rwx,other::rwx",
            "user::rwxr,group::rwx,other::rwx",
            "user:4294967295:rwx,user::rwx,group::rwx,mask::rwx,other::rwx",
            "user:99999999999:rwx,user::rwx,group::rwx,mask::rwx,other::rwx",
            "user::rwx:5,group::rwx,other::rwx",
            "mask:1:rwx,user::rwx,group::rwx,other::rwx",
        ] {
            assert_eq!(Acl::of_text(text.as_bytes()), Err(Fault::Malformed), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Acl::of_text(&bytes);
            let _ = Acl::of_bytes(&bytes);
        }

        #[test]
        fn both_forms_say_the_same(
            users in prop::collection::btree_map(0u32..NO_ID, 0u16..8, 0..5),
            groups in prop::collection::btree_map(0u32..NO_ID, 0u16..8, 0..5),
            rights in prop::collection::vec(0u16..8, 4),
        ) {
            let own = [USER_OBJ, GROUP_OBJ, MASK, OTHER].into_iter().zip(&rights);
            let own = own.map(|(tag, rights)| Entry { tag, id: NO_ID, rights: *rights });
            let user = users.iter().map(|(id, rights)| Entry { tag: USER, id: *id, rights: *rights });
            let group = groups.iter().map(|(id, rights)| Entry { tag: GROUP, id: *id, rights: *rights });
            let acl = Acl::new(own.chain(user).chain(group).collect()).unwrap();
            prop_assert_eq!(Acl::of_text(&acl.to_text()), Ok(acl.clone()));
            prop_assert_eq!(Acl::of_bytes(&acl.to_bytes()), Some(acl.clone()));
            prop_assert_eq!(acl.map(Some), Some(acl.clone()));
            prop_assert!(acl.map(|id| Some(id / 2)).is_some());
            prop_assert_eq!(acl.map(|_| None).map(|acl| acl.0.len()), Some(4));
        }
    }
}
