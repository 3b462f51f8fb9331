//! Images from the host's own programs: each program with its symlinks, its interpreter and the
//! libraries it needs, found as ld.so finds them.

pub(crate) mod ldcache;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use elf::ElfBytes;
use elf::abi;
use elf::endian::AnyEndian;

use crate::error::{Error, Result};
use crate::store::Progress;
use ldcache::Cache;

/// Directories that ld.so knows without a cache.
const SYSTEM_DIRECTORIES: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
const MAX_LINKS: usize = 40;

/// Which programs of the host an image holds.
///
/// ```
/// let image = boxship_layers::HostImage::new(["/bin/sh"]).file("/etc/motd", "hello\n");
/// # let _ = image;
/// ```
#[derive(Clone, Debug, Default)]
pub struct HostImage {
    programs: Vec<PathBuf>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl HostImage {
    /// Programs by absolute path.
    pub fn new<I: IntoIterator<Item = P>, P: AsRef<Path>>(programs: I) -> HostImage {
        HostImage {
            programs: programs.into_iter().map(|p| p.as_ref().to_owned()).collect(),
            files: Vec::new(),
        }
    }

    /// Adds a file with this content (mode 644).
    #[must_use]
    pub fn file(mut self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) -> HostImage {
        self.files.push((path.as_ref().to_owned(), content.into()));
        self
    }

    pub(crate) fn first(&self) -> Option<&Path> {
        self.programs.first().map(PathBuf::as_path)
    }

    /// Finds everything that the programs need.
    pub(crate) fn collect(&self, observe: &mut dyn FnMut(Progress) -> bool) -> Result<Collected> {
        if self.programs.is_empty() {
            return Err(Error::invalid("programs", "name at least one program of the host"));
        }
        let mut c = Collected { cache: Cache::load(), ..Collected::default() };
        for program in &self.programs {
            let up = program.components().any(|p| p == Component::ParentDir);
            if !program.is_absolute() || up {
                return Err(Error::invalid("program", format!("{program:?} is not an absolute path")));
            }
            c.add("program", program, &[])?;
            let files = c.entries.len() as u64;
            if !observe(Progress::Collected { path: program.clone(), files }) {
                return Err(Error::Cancelled);
            }
        }
        for (path, content) in &self.files {
            c.directories_of(path);
            c.entries.insert(path.clone(), Entry::Content(content.clone()));
        }
        c.defaults();
        Ok(c)
    }
}

enum Entry {
    Directory(u32),
    Symlink(PathBuf),
    /// A file of the host and its mode.
    File(PathBuf, u32),
    Content(Vec<u8>),
}

/// Everything that goes into the image, by path.
#[derive(Default)]
pub(crate) struct Collected {
    entries: BTreeMap<PathBuf, Entry>,
    seen: BTreeSet<PathBuf>,
    cache: Cache,
}

impl Collected {
    /// Adds a path as it is on the host: each symlink on the way as a symlink, the file at its end,
    /// and what that file needs.
    fn add(&mut self, what: &'static str, path: &Path, inherited: &[PathBuf]) -> Result<()> {
        let real = self.trace(what, path)?;
        if !self.seen.insert(real.clone()) {
            return Ok(());
        }
        let data = std::fs::read(&real).map_err(Error::io("read", &real))?;
        if let Some(line) = data.strip_prefix(b"#!") {
            let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
            let interpreter =
                String::from_utf8_lossy(line).trim().split([' ', '\t']).next().map(PathBuf::from);
            return match interpreter.filter(|i| i.is_absolute()) {
                Some(i) => self.add("interpreter", &i, &[]),
                None => Ok(()),
            };
        }
        if !data.starts_with(b"\x7fELF") {
            return Ok(());
        }
        self.needs(&real, &data, inherited)
    }

    /// Follows symlinks one at a time and records each.
    fn trace(&mut self, what: &'static str, path: &Path) -> Result<PathBuf> {
        let missing = || Error::NotFound { what, name: path.to_string_lossy().into_owned() };
        let mut todo: VecDeque<std::ffi::OsString> = parts(path);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&part);
            let meta = match std::fs::symlink_metadata(&next) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
                other => other.map_err(Error::io("read", &next))?,
            };
            if meta.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::invalid(what, format!("{path:?} has too many symbolic links")));
                }
                let target = std::fs::read_link(&next).map_err(Error::io("read", &next))?;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    todo.push_front(part);
                }
                self.entries.insert(next, Entry::Symlink(target));
            } else if meta.is_dir() {
                self.entries.insert(next.clone(), Entry::Directory(0o755));
                here = next;
            } else if meta.is_file() && todo.is_empty() {
                // Readable for all: the container's root is another user on the host.
                let mode = meta.mode() & 0o755 | 0o444;
                self.entries.insert(next.clone(), Entry::File(next.clone(), mode));
                return Ok(next);
            } else {
                return Err(Error::invalid(what, format!("{path:?} is not a regular file")));
            }
        }
        Err(Error::invalid(what, format!("{path:?} is a directory")))
    }

    fn needs(&mut self, real: &Path, data: &[u8], inherited: &[PathBuf]) -> Result<()> {
        let bad =
            |e: elf::ParseError| Error::invalid("program", format!("{real:?} is not a sound ELF file: {e}"));
        let file = ElfBytes::<AnyEndian>::minimal_parse(data).map_err(bad)?;
        for segment in file.segments().into_iter().flatten().filter(|s| s.p_type == abi::PT_INTERP) {
            let bytes = file.segment_data(&segment).map_err(bad)?;
            let path = String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
            self.add("interpreter", Path::new(&path), &[])?;
        }
        let Some(dynamic) = file.dynamic().map_err(bad)? else { return Ok(()) };
        let strings = dynamic_strings(&file, data, &dynamic);
        let text = |offset: u64| {
            let rest = strings.get(usize::try_from(offset).ok()?..)?;
            Some(String::from_utf8_lossy(rest.split(|b| *b == 0).next()?).into_owned())
        };
        let origin = real.parent().unwrap_or(Path::new("/"));
        let list = |tag: i64| -> Vec<PathBuf> {
            let all = dynamic.iter().filter(|d| d.d_tag == tag).filter_map(|d| text(d.d_val()));
            all.flat_map(|s| s.split(':').map(str::to_owned).collect::<Vec<_>>())
                .map(|s| s.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", &origin.to_string_lossy()))
                .filter(|s| s.starts_with('/'))
                .map(PathBuf::from)
                .collect()
        };
        let runpath = list(abi::DT_RUNPATH);
        // DT_RPATH counts only without DT_RUNPATH, and also for the libraries of libraries (ld.so(8)).
        let mut rpath = if runpath.is_empty() { list(abi::DT_RPATH) } else { Vec::new() };
        rpath.extend_from_slice(inherited);
        let needed: Vec<String> =
            dynamic.iter().filter(|d| d.d_tag == abi::DT_NEEDED).filter_map(|d| text(d.d_val())).collect();
        for name in needed {
            let path = self.find(&name, &rpath, &runpath, file.ehdr.e_machine)?;
            self.add("library", &path, &rpath)?;
        }
        Ok(())
    }

    /// The search order of ld.so(8), without the environment.
    fn find(&self, name: &str, rpath: &[PathBuf], runpath: &[PathBuf], machine: u16) -> Result<PathBuf> {
        if name.contains('/') {
            return Ok(PathBuf::from(name));
        }
        let fits = |path: &PathBuf| is_elf_for(path, machine);
        let listed = rpath.iter().chain(runpath).map(|d| d.join(name));
        let cached = self.cache.lookup(name).cloned();
        let system = SYSTEM_DIRECTORIES.iter().map(|d| Path::new(d).join(name));
        listed
            .chain(cached)
            .chain(system)
            .find(fits)
            .ok_or_else(|| Error::NotFound { what: "library", name: name.to_owned() })
    }

    fn directories_of(&mut self, path: &Path) {
        for dir in path.ancestors().skip(1).filter(|d| *d != Path::new("/")) {
            self.entries.entry(dir.to_owned()).or_insert(Entry::Directory(0o755));
        }
    }

    /// What programs expect of any system.
    fn defaults(&mut self) {
        for (dir, mode) in
            [("/tmp", 0o1777), ("/root", 0o700), ("/etc", 0o755), ("/var", 0o755), ("/var/tmp", 0o1777)]
        {
            self.entries.entry(dir.into()).or_insert(Entry::Directory(mode));
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        let group = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n";
        for (path, text) in [("/etc/passwd", passwd), ("/etc/group", group)] {
            self.entries.entry(path.into()).or_insert_with(|| Entry::Content(text.as_bytes().to_vec()));
        }
    }

    /// Writes a tar that is the same for the same files: sorted, without times or owners.
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<()> {
        let mut tar = tar::Builder::new(out);
        let fail = |path: &Path| Error::io("archive", path.to_owned());
        for (path, entry) in &self.entries {
            let name = path.strip_prefix("/").unwrap_or(path);
            let mut h = tar::Header::new_gnu();
            h.set_mtime(0);
            h.set_uid(0);
            h.set_gid(0);
            match entry {
                Entry::Directory(mode) => {
                    h.set_entry_type(tar::EntryType::Directory);
                    h.set_mode(*mode);
                    h.set_size(0);
                    tar.append_data(&mut h, name, std::io::empty()).map_err(fail(path))?;
                }
                Entry::Symlink(target) => {
                    h.set_entry_type(tar::EntryType::Symlink);
                    h.set_mode(0o777);
                    h.set_size(0);
                    tar.append_link(&mut h, name, target).map_err(fail(path))?;
                }
                Entry::File(source, mode) => {
                    let data = std::fs::read(source).map_err(Error::io("read", source))?;
                    h.set_mode(*mode);
                    h.set_size(data.len() as u64);
                    tar.append_data(&mut h, name, &data[..]).map_err(fail(path))?;
                }
                Entry::Content(data) => {
                    h.set_mode(0o644);
                    h.set_size(data.len() as u64);
                    tar.append_data(&mut h, name, &data[..]).map_err(fail(path))?;
                }
            }
        }
        tar.into_inner().map(drop).map_err(fail(Path::new("the archive")))
    }
}

fn parts(path: &Path) -> VecDeque<std::ffi::OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(p) => Some(p.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// The dynamic string table, by address through the load segments (section headers may be stripped).
fn dynamic_strings<'d>(
    file: &ElfBytes<'d, AnyEndian>,
    data: &'d [u8],
    dynamic: &elf::dynamic::DynamicTable<'d, AnyEndian>,
) -> &'d [u8] {
    let value = |tag| dynamic.iter().find(|d| d.d_tag == tag).map(|d| d.d_val());
    let (Some(address), Some(size)) = (value(abi::DT_STRTAB), value(abi::DT_STRSZ)) else { return &[] };
    let segments = file.segments().into_iter().flatten();
    segments
        .filter(|s| s.p_type == abi::PT_LOAD)
        .find_map(|s| {
            let within = address.checked_sub(s.p_vaddr).filter(|o| *o < s.p_filesz)?;
            let start = usize::try_from(s.p_offset.checked_add(within)?).ok()?;
            data.get(start..start.checked_add(usize::try_from(size).ok()?)?)
        })
        .unwrap_or(&[])
}

/// A 32-bit library in the path of a 64-bit program is passed over, as ld.so does.
fn is_elf_for(path: &Path, machine: u16) -> bool {
    let mut head = [0u8; 20];
    let read = std::fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut head));
    let mode = std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o444 != 0);
    read.is_ok()
        && mode
        && head.starts_with(b"\x7fELF")
        && u16::from_le_bytes([head[18], head[19]]) == machine
}
