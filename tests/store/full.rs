//! Disks without space, without inodes, and ones that nothing can be written to.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use boxship_layers::{Check, Error, Store};
use libtest_mimic::Failed;

use crate::check::Arena;
use crate::disk::{Disk, in_own_mounts, run};
use crate::operation::{self, operate};
use crate::tracer::Report;

/// Every `step`-th amount of space and of inodes.
pub fn disks(step: usize) -> Result<String, Failed> {
    in_own_mounts("full", &[step.to_string()])
}

#[derive(Clone, Copy, Debug)]
enum Lack {
    /// This many KiB are left.
    Space(u64),
    /// This many inodes are left.
    Inodes(u64),
    /// The file system is read-only.
    ReadOnly,
}

pub fn drive(args: &[String]) {
    let (dir, step) = (Path::new(&args[0]), args[1].parse::<u64>().expect("a number").max(1));
    let mut disk = Disk::none(dir);
    // No reserve: root finds as little as everybody.
    disk.make("full.img", 48, "full", &["-m", "0", "-N", "1024", "-O", "^resize_inode"]);
    let mounted = PathBuf::from(disk.path("full"));
    let arena = Arena::at(mounted.join("arena"));
    let spaces = (0..2048).step_by(usize::try_from(step * 8).expect("small"));
    let inodes = (0..64).step_by(usize::try_from(step / 4).expect("small").max(1));
    let lacks: Vec<Lack> = spaces.map(Lack::Space).chain(inodes.map(Lack::Inodes)).collect();
    let (mut runs, mut errors, mut wrong) = (0, 0, Vec::new());
    for operation in operation::chosen().into_iter().filter(|o| *o != "open") {
        for lack in lacks.iter().chain(&[Lack::ReadOnly]) {
            let (failed, found) = attempt(&arena, &mounted, operation, *lack);
            runs += 1;
            errors += usize::from(failed);
            wrong.extend(found.into_iter().map(|w| format!("{operation} with {lack:?}: {w}")));
        }
        assert!(wrong.len() < 20, "{wrong:#?}");
    }
    drop(arena);
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{runs} runs, {errors} typed errors; nothing half there, all went well with space again");
}

fn attempt(arena: &Arena, mounted: &Path, operation: &str, lack: Lack) -> (bool, Vec<String>) {
    arena.renew(operation);
    let ballast = mounted.join("ballast");
    std::fs::create_dir(&ballast).expect("made");
    // What is freed counts only when it is written.
    run("sync", &["-f", ballast.to_str().expect("UTF-8")]);
    fill(&ballast, lack);
    let remount =
        |mode: &str| run("mount", &["-o", &format!("remount,{mode}"), mounted.to_str().expect("UTF-8")]);
    if matches!(lack, Lack::ReadOnly) {
        remount("ro");
    }
    let (root, material) = (arena.root(), arena.material());
    let mut said = Vec::new();
    let result = operate(operation, &root, &material, false, &mut |line: &str| said.push(line.to_owned()));
    let mut wrong = Vec::new();
    let failed = result.is_err();
    if let Err(e) = result {
        wrong.extend(untyped(e.as_ref(), lack));
    }
    // Still full: whoever looks sees a sound store.
    match Store::open(&root).and_then(|store| store.fsck(Check::Structure, false)) {
        Ok(defects) if defects.is_empty() || operation == "repair" => {}
        other => wrong.push(format!("fsck of the full store: {other:?}")),
    }
    // Whoever makes room must not need any.
    if failed && ["remove_image", "gc"].contains(&operation) && !matches!(lack, Lack::ReadOnly) {
        wrong.push("nothing can be removed".to_owned());
    }
    if matches!(lack, Lack::ReadOnly) {
        let saved = Store::open(&root)
            .and_then(|store| store.save(&["base:1".into()], std::io::sink(), &mut |_| true));
        wrong.extend(saved.err().map(|e| format!("it cannot be saved elsewhere: {e:?}")));
        remount("rw");
    }
    std::fs::remove_dir_all(&ballast).expect("removed");
    let report = Report { code: Some(0), stdout: said.join("\n"), ..Report::default() };
    wrong.extend(arena.check(operation, &report, true));
    (failed, wrong)
}

/// The error names what is missing.
fn untyped(e: &(dyn std::error::Error + 'static), lack: Lack) -> Option<String> {
    let errno = match lack {
        Lack::ReadOnly => rustix::io::Errno::ROFS,
        _ => rustix::io::Errno::NOSPC,
    };
    let mut next = Some(e);
    while let Some(e) = next {
        let found = match e.downcast_ref::<Error>() {
            Some(Error::Io { source, .. }) => source.raw_os_error(),
            _ => e.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error),
        };
        if found == Some(errno.raw_os_error()) {
            return None;
        }
        next = e.source();
    }
    Some(format!("the error is {e:?}"))
}

fn fill(ballast: &Path, lack: Lack) {
    let free = || rustix::fs::statvfs(ballast).expect("mounted");
    match lack {
        Lack::Space(left) => {
            let mut file = File::create(ballast.join("space")).expect("made");
            let keep = left * 1024;
            let spare = (free().f_bavail * free().f_frsize).saturating_sub(keep);
            // In pieces: the extents need some themselves.
            let mut at = 0;
            while at < spare {
                let piece = (spare - at).min(256 << 10);
                let flags = rustix::fs::FallocateFlags::empty();
                if rustix::fs::fallocate(&file, flags, at, piece).is_err() {
                    break;
                }
                at += piece;
            }
            while left == 0 && file.write_all(&[1; 1024]).is_ok() {}
        }
        Lack::Inodes(left) => {
            let make = free().f_favail.saturating_sub(left);
            for i in 0..make {
                File::create(ballast.join(i.to_string())).expect("made");
            }
        }
        Lack::ReadOnly => {}
    }
}
