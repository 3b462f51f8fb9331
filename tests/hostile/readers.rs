//! The readers whose word counts: GNU tar, Python's tarfile and Go's archive/tar. Each is asked about many
//! archives at once; what it lists is unpacked by the model and compared with what the product made.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::model::{self, Entry};
use crate::tree::{self, Time, Tree};

/// An archive that was read, and what became of it.
pub struct Question {
    pub name: String,
    pub archive: Vec<u8>,
    pub tree: Tree,
}

/// What a reader says about one archive.
type Answer = Result<Vec<Entry>, String>;

type Reader = fn(&[Question]) -> Vec<Answer>;

/// Compares; the number of comparisons and all differences.
pub fn ask(questions: &[Question]) -> (usize, Vec<String>) {
    let mut differences = Vec::new();
    let mut compared = 0;
    let readers: [(&str, Reader); 3] = [("go", go), ("python", python), ("gnu", gnu)];
    for (reader, f) in readers {
        let answers = f(questions);
        assert_eq!(answers.len(), questions.len(), "{reader} did not answer all questions");
        for (q, answer) in questions.iter().zip(answers) {
            let difference = match answer {
                Err(e) => Some(format!("it refuses the archive: {e}")),
                Ok(entries) => match model::unpack(&entries) {
                    Err(e) => Some(e),
                    Ok(expected) => tree::differs(&expected, &q.tree),
                },
            };
            compared += 1;
            differences.extend(difference.map(|d| format!("{}: {reader}: {d}", q.name)));
        }
    }
    (compared, differences)
}

fn unhex(text: &str) -> Vec<u8> {
    let text = text.trim_start_matches('-');
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal"))
        .collect()
}

/// Asks a program that reads archives behind their lengths and prints lines.
fn stream(command: &mut Command, questions: &[Question]) -> Vec<Answer> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a reader");
    let mut input = child.stdin.take().expect("piped");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let answers = std::thread::scope(|scope| {
        scope.spawn(move || {
            for q in questions {
                let len = u32::try_from(q.archive.len()).expect("small").to_be_bytes();
                input.write_all(&len).and_then(|()| input.write_all(&q.archive)).expect("it reads");
            }
        });
        let (mut answers, mut entries) = (Vec::new(), Vec::new());
        for line in output.lines() {
            let line = line.expect("UTF-8");
            let parts: Vec<&str> = line.split('\t').collect();
            match parts[..] {
                [".", ""] => answers.push(Ok(std::mem::take(&mut entries))),
                [".", error] => {
                    entries.clear();
                    answers.push(Err(error.to_owned()));
                }
                _ => entries.push(entry(&parts)),
            }
        }
        answers
    });
    assert!(child.wait().expect("it ends").success());
    answers
}

fn entry(parts: &[&str]) -> Entry {
    let n = |i: usize| parts[i].parse::<u64>().unwrap_or_else(|_| panic!("{parts:?}"));
    let mtime = match parts[8].parse() {
        Ok(nanos) => Time::Exact(parts[7].parse().expect("seconds"), nanos),
        Err(_) => Time::About(parts[7].parse().expect("a float")),
    };
    let xattrs = (parts[11] != "?").then(|| {
        let pairs = parts[11].split(',').filter_map(|p| p.split_once('='));
        pairs.map(|(k, v)| (unhex(k), unhex(v))).collect::<BTreeMap<_, _>>()
    });
    Entry {
        kind: u8::try_from(n(1)).expect("a byte"),
        name: unhex(parts[2]),
        mode: u32::try_from(n(3)).expect("a mode"),
        uid: n(4),
        gid: n(5),
        size: n(6),
        mtime,
        link: unhex(parts[9]),
        crc: parts[10].parse().ok(),
        xattrs,
    }
}

fn scratch(name: &str) -> PathBuf {
    let dir = crate::home().join("readers").join(name);
    std::fs::create_dir_all(&dir).expect("made");
    dir
}

fn go(questions: &[Question]) -> Vec<Answer> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let dir = scratch("go");
        std::fs::write(dir.join("main.go"), include_str!("readers.go")).expect("written");
        let mut build = Command::new("go");
        build.args(["build", "-o", "readers", "main.go"]).current_dir(&dir);
        build.env("GO111MODULE", "off").env("GOCACHE", dir.join("cache")).env("GOPATH", dir.join("path"));
        let out = build.output().expect("go");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        dir.join("readers")
    });
    stream(&mut Command::new(program), questions)
}

fn python(questions: &[Question]) -> Vec<Answer> {
    let program = include_str!("readers.py");
    stream(Command::new("python3").args(["-c", program]).env("PYTHONIOENCODING", "utf-8"), questions)
}

/// GNU tar takes one archive at a time: a shell asks it for all of a directory.
fn gnu(questions: &[Question]) -> Vec<Answer> {
    static RUNS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let run = RUNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = scratch(&format!("gnu-{run}"));
    for (i, q) in questions.iter().enumerate() {
        std::fs::write(dir.join(i.to_string()), &q.archive).expect("written");
    }
    let list = "i=0; while [ $i -lt $1 ]; do \
        tar --list --verbose --numeric-owner --full-time --quoting-style=c --absolute-names --file=$i 2>err; \
        echo \". $? $(head -n 1 err)\"; i=$((i+1)); done";
    let out = Command::new("sh")
        .args(["-c", list, "sh", &questions.len().to_string()])
        .current_dir(&dir)
        .env("LC_ALL", "C")
        .env("TZ", "UTC0")
        .output()
        .expect("a shell");
    let _ = std::fs::remove_dir_all(&dir);
    let (mut answers, mut entries) = (Vec::new(), Vec::new());
    let mut odd = None;
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        if let Some(end) = line.strip_prefix(". ") {
            let entries = std::mem::take(&mut entries);
            let odd: Option<String> = odd.take();
            answers.push(match (end.split_once(' '), odd) {
                (Some(("0", _)), None) => Ok(entries),
                (_, odd) => Err(odd.unwrap_or_else(|| end.to_owned())),
            });
        } else if let Some(e) = gnu_entry(line) {
            entries.push(e);
        } else {
            odd = Some(format!("not understood: {line}"));
        }
    }
    answers
}

/// `-rw-r--r-- 0/0   5 2001-09-09 01:46:40 "a" link to "b"`
fn gnu_entry(line: &str) -> Option<Entry> {
    let mut rest = line;
    let mut word = || {
        let (w, r) = rest.trim_start().split_once(' ')?;
        rest = r;
        Some(w)
    };
    let (perms, owner, size, date) = (word()?, word()?, word()?, word()?);
    // A time that the calendar does not reach is the number of its seconds.
    let mtime = match date.parse() {
        Ok(seconds) => Time::Exact(seconds, 0),
        Err(_) => moment(date, word()?)?,
    };
    let (kind, perms) = perms.split_at(1);
    let kind = match kind {
        "-" | "C" => b'0',
        "h" => b'1',
        "l" => b'2',
        "c" => b'3',
        "b" => b'4',
        "d" => b'5',
        "p" => b'6',
        _ => return None,
    };
    let (name, rest) = unquote(rest.trim_start())?;
    let link = match rest.strip_prefix(" -> ").or_else(|| rest.strip_prefix(" link to ")) {
        Some(link) => unquote(link)?.0,
        None => Vec::new(),
    };
    let (uid, gid) = owner.split_once('/')?;
    Some(Entry {
        kind,
        name,
        mode: mode(perms)?,
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        size: if matches!(kind, b'3' | b'4') { 0 } else { size.parse().ok()? },
        mtime,
        link,
        crc: None,
        xattrs: None,
    })
}

fn mode(perms: &str) -> Option<u32> {
    let p = perms.as_bytes().get(..9)?;
    let mut mode = 0;
    for (i, c) in p.iter().enumerate() {
        let bit = 0o400 >> i;
        let special = 0o4000 >> (i / 3);
        mode |= match c {
            b'-' => 0,
            b's' | b't' => bit | special,
            b'S' | b'T' => special,
            _ => bit,
        };
    }
    Some(mode)
}

fn moment(date: &str, clock: &str) -> Option<Time> {
    let (sign, digits) = date.strip_prefix('-').map_or((1, date), |d| (-1, d));
    let mut date = digits.split('-').map(|n| n.parse::<i64>().ok());
    let (year, month, day) = (sign * date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':').map(|n| n.parse::<i64>().ok());
    let (h, m, s) = (parts.next()??, parts.next()??, parts.next()??);
    // Howard Hinnant's days from civil.
    let y = year - i64::from(month <= 2);
    let era = y.div_euclid(400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let yoe = y.rem_euclid(400);
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    // It rounds the seconds towards 1970 and lists the rest as a fraction of what is left.
    Some(match (days * 86400 + h * 3600 + m * 60 + s, nanos) {
        (seconds, nanos @ 1..) if seconds < 0 => Time::Exact(seconds - 1, 1_000_000_000 - nanos),
        (0, nanos @ 1..) => Time::Around1970(nanos),
        (seconds, nanos) => Time::Exact(seconds, nanos),
    })
}

/// A string of C, and what follows it.
fn unquote(text: &str) -> Option<(Vec<u8>, &str)> {
    let text = text.strip_prefix('"')?;
    let (mut out, b, mut i) = (Vec::new(), text.as_bytes(), 0);
    loop {
        match *b.get(i)? {
            b'"' => return Some((out, &text[i + 1..])),
            b'\\' => {
                i += 1;
                let c = *b.get(i)?;
                out.push(match c {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'a' => 7,
                    b'b' => 8,
                    b'v' => 11,
                    b'f' => 12,
                    b'0'..=b'7' => {
                        let digits = text.get(i..i + 3)?;
                        i += 2;
                        u8::from_str_radix(digits, 8).ok()?
                    }
                    c => c,
                });
            }
            c => out.push(c),
        }
        i += 1;
    }
}
