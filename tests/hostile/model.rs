//! What the entries that a reader lists become when they are unpacked one after the other. Independent of the
//! product: it works on names and values alone.

use std::collections::BTreeMap;

use crate::tree::{Node, Time, Tree, is_root};

/// An entry as another reader told it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As in a header, `0` for every regular file.
    pub kind: u8,
    pub name: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime: Time,
    pub link: Vec<u8>,
    pub crc: Option<u32>,
    pub xattrs: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// Names to numbers, and numbers to files: several names may have the same.
#[derive(Default)]
struct Model {
    names: BTreeMap<Vec<u8>, usize>,
    files: Vec<Node>,
}

fn clean(name: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = name.split(|c| *c == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
    parts.join(&b'/')
}

fn split(name: &[u8]) -> (&[u8], &[u8]) {
    name.iter().rposition(|c| *c == b'/').map_or((b"", name), |i| (&name[..i], &name[i + 1..]))
}

impl Model {
    fn kind(&self, name: &[u8]) -> Option<char> {
        self.names.get(name).map(|i| self.files[*i].kind)
    }

    fn remove(&mut self, name: &[u8]) {
        let below = [name, b"/"].concat();
        self.names.retain(|n, _| n != name && !n.starts_with(&below));
    }

    fn put(&mut self, name: &[u8], node: Node) {
        self.files.push(node);
        self.names.insert(name.to_vec(), self.files.len() - 1);
    }

    fn parents(&mut self, name: &[u8]) -> Result<(), String> {
        let (above, _) = split(name);
        if above.is_empty() {
            return Ok(());
        }
        self.parents(above)?;
        match self.kind(above) {
            Some('d') => Ok(()),
            Some(kind) => Err(format!("{:?} is below a {kind}", String::from_utf8_lossy(name))),
            None => {
                let made = Node { xattrs: None, ..Node::made() };
                self.put(above, made);
                Ok(())
            }
        }
    }

    fn directory(&mut self, name: &[u8], node: Node) {
        let replaced = self.kind(name);
        let opaque = match replaced {
            Some('d') => self.names.get(name).is_some_and(|i| self.files[*i].first == b"opaque"),
            other => other.is_some(),
        };
        if replaced != Some('d') {
            self.remove(name);
        }
        // Nobody removes the attributes that an earlier entry gave it.
        let mut node = node;
        if let (Some('d'), Some(i), Some(new)) = (replaced, self.names.get(name), &mut node.xattrs) {
            let mut all = self.files[*i].xattrs.clone().unwrap_or_default();
            all.append(new);
            *new = all;
        }
        // The mark is an attribute of ours, which other readers do not list.
        let first = if opaque { b"opaque".to_vec() } else { vec![] };
        self.put(name, Node { first, ..node });
    }

    fn add(&mut self, e: &Entry) -> Result<(), String> {
        let name = clean(&e.name);
        let shown = String::from_utf8_lossy(&e.name).into_owned();
        if e.name.split(|c| *c == b'/').any(|p| p == b"..") {
            return Err(format!("{shown:?} leads out"));
        }
        let node = |kind, mode| Node {
            kind,
            mode,
            uid: e.uid,
            gid: e.gid,
            mtime: e.mtime.clone(),
            size: if kind == 'f' { e.size } else { 0 },
            crc: if kind == 'f' { e.crc } else { None },
            link: if kind == 'l' { e.link.clone() } else { vec![] },
            xattrs: if kind == 'f' || kind == 'd' { e.xattrs.clone() } else { None },
            first: vec![],
        };
        if name.is_empty() {
            if e.kind != b'5' {
                return Err(format!("{shown:?} is the root and no directory"));
            }
            self.put(b"", node('d', e.mode));
            return Ok(());
        }
        if e.name.starts_with(b"/") {
            return Err(format!("{shown:?} is absolute"));
        }
        self.parents(&name)?;
        let (above, last) = split(&name);
        if last == b".wh..wh..opq" {
            if let Some(i) = self.names.get(above) {
                self.files[*i].first = b"opaque".to_vec();
            }
            return Ok(());
        }
        if let Some(hidden) = last.strip_prefix(b".wh.") {
            let hidden = if above.is_empty() { hidden.to_vec() } else { [above, b"/", hidden].concat() };
            match self.kind(&hidden) {
                None | Some('w') => self.put(&hidden, Node::whiteout()),
                // It speaks of the layers below.
                Some('d') => {
                    if let Some(i) = self.names.get(&hidden) {
                        self.files[*i].first = b"opaque".to_vec();
                    }
                }
                Some(_) => {}
            }
            return Ok(());
        }
        match e.kind {
            b'5' => self.directory(&name, node('d', e.mode)),
            b'0' | b'2' | b'6' => {
                self.remove(&name);
                let (kind, mode) = match e.kind {
                    b'0' => ('f', e.mode),
                    b'2' => ('l', 0o777),
                    _ => ('p', e.mode),
                };
                self.put(&name, node(kind, mode));
            }
            b'1' => {
                let target = clean(&e.link);
                self.remove(&name);
                let file = *self.names.get(&target).ok_or(format!("{shown:?} links to what is not there"))?;
                if matches!(self.files[file].kind, 'd' | 'w') {
                    return Err(format!("{shown:?} links to what is no file"));
                }
                self.names.insert(name, file);
            }
            // Devices are left out.
            b'3' | b'4' => self.remove(&name),
            other => return Err(format!("{shown:?} has the type {other}")),
        }
        Ok(())
    }
}

/// Attributes of an archive that a file may have.
fn allowed(key: &[u8]) -> bool {
    key.starts_with(b"user.") && !key.starts_with(b"user.overlay.")
        || is_root() && key == b"security.capability"
}

/// The tree of these entries.
pub fn unpack(entries: &[Entry]) -> Result<Tree, String> {
    let mut model = Model::default();
    for e in entries {
        model.add(e)?;
    }
    let mut first = BTreeMap::new();
    let mut tree = Tree::new();
    for (name, file) in &model.names {
        let mut node = model.files[*file].clone();
        if let Some(xattrs) = &mut node.xattrs {
            xattrs.retain(|k, _| allowed(k));
            if node.first == b"opaque" {
                xattrs.insert(b"opaque".to_vec(), b"y".to_vec());
            }
        }
        node.first = first.entry(*file).or_insert_with(|| name.clone()).clone();
        tree.insert(name.clone(), node);
    }
    Ok(tree)
}
