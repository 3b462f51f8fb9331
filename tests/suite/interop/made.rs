//! The images that travel.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use boxship::{Engine, Image};
use boxship_layers::Store;
use rustix::fs::XattrFlags;

use super::{Tree, config_digest, dir, done, output_of, skopeo, tree_of};
use crate::{images, own_engine, sh};

pub struct Made {
    pub image: Image,
    pub name: &'static str,
    pub config: String,
    pub tree: Tree,
    /// Of `SHOW`.
    pub output: String,
}

pub struct Fixture {
    pub engine: Engine,
    pub store: Store,
    pub all: Vec<Made>,
    /// All in one file.
    pub archive: PathBuf,
    /// Each in a directory of its own, by its place in `all`.
    pub layouts: Vec<PathBuf>,
}

impl Fixture {
    pub fn get(&self, name: &str) -> &Made {
        self.all.iter().find(|m| m.name == name).expect("a name of a made image")
    }

    pub fn layout(&self, name: &str) -> String {
        let n = self.all.iter().position(|m| m.name == name).expect("a name of a made image");
        format!("oci:{}:1", self.layouts[n].display())
    }
}

/// The images that travel.
pub async fn made() -> &'static Fixture {
    static MADE: tokio::sync::OnceCell<Fixture> = tokio::sync::OnceCell::const_new();
    MADE.get_or_init(make).await
}

async fn make() -> Fixture {
    let root = dir();
    std::fs::create_dir_all(&root).expect("made");
    let engine = own_engine(&root.join("engine")).await;
    let store = Store::open(root.join("engine")).expect("the same store");
    images::layered(&engine).await.tag("layered:1").await.expect("tagged");
    deep(&engine).await;
    odd(&engine, &root).await;
    // Its layers again, as only new tools read them.
    let (plain, zstd) = (root.join("plain"), root.join("zstd"));
    store.save_directory(&["layered:1".into()], &plain, &mut |_| true).expect("saved");
    let mut copy = skopeo("copy", &[&format!("oci:{}:1", plain.display())]);
    copy.args(["--dest-compress", "--dest-compress-format", "zstd"]);
    done(copy.arg(format!("oci:{}:zstd:1", zstd.display())));
    engine.image().load(&zstd).await.expect("zstd is loaded");
    busybox(&engine, &root).await;
    let mut names = vec!["tools:1", "layered:1", "deep:1", "odd:1", "zstd:1", "busybox:1"];
    if std::env::var_os("BOXSHIP_INTEROP_DEBIAN").is_some() {
        debian(&engine).await;
        names.push("debian:1");
    }
    let archive = root.join("all.tar");
    engine.image().save(names.clone(), &archive).await.expect("saved");
    let (mut all, mut layouts) = (Vec::new(), Vec::new());
    for name in names {
        let layout = root.join(format!("layout-{}", layouts.len()));
        store.save_directory(&[name.to_owned()], &layout, &mut |_| true).expect("saved");
        layouts.push(layout);
        let image = engine.image().get(name).await.expect("there");
        let (config, tree) = (config_digest(&store, &image), tree_of(&engine, &image).await);
        let output = output_of(&engine, &image).await;
        all.push(Made { image, name, config, tree, output });
    }
    assert_eq!(all[2].image.layers().len(), 13);
    assert!(
        all[1].output.contains("\nd/one\nchanged\n") && !all[1].output.contains("\nw"),
        "{}",
        all[1].output
    );
    assert!(all[2].output.contains("\n12\n") && all[2].output.contains("\nw/f12\n12\n"), "{}", all[2].output);
    assert!(all[4].image.size() < all[1].image.size() / 2, "it is compressed");
    Fixture { engine, store, all, archive, layouts }
}

/// One program with some hundred names, half of them hard links.
async fn busybox(e: &Engine, root: &Path) {
    let top = root.join("busybox");
    for dir in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(top.join(dir)).expect("made");
    }
    std::fs::write(top.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("written");
    let program = top.join("bin/busybox");
    done(Command::new("cp").arg("/bin/busybox").arg(&program));
    let applets = String::from_utf8(done(Command::new(&program).arg("--list"))).expect("UTF-8");
    for (i, name) in applets.lines().filter(|n| *n != "busybox").enumerate() {
        let path = top.join("bin").join(name);
        match i % 2 {
            0 => std::fs::hard_link(&program, path).expect("linked"),
            _ => std::os::unix::fs::symlink("busybox", path).expect("linked"),
        }
    }
    let tar = root.join("busybox.tar");
    done(Command::new("tar").args(["--numeric-owner", "-cf"]).arg(&tar).arg("-C").arg(&top).arg("."));
    e.image().import(&tar).tag("busybox:1").command(["/bin/sh"]).await.expect("imported");
    std::fs::remove_dir_all(&top).expect("removed");
    std::fs::remove_file(&tar).expect("removed");
}

/// A whole distribution, and a layer of our own above it.
async fn debian(e: &Engine) {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian.tar");
    e.image().import(&archive).tag("debian:0").await.expect("`bash .ci/debian` makes target/debian.tar");
    let script = "rm -r /usr/share/doc; chmod g+w /etc/motd; echo x >> /etc/issue; chown daemon /var/mail";
    let c = sh(e, script).image("debian:0").create().await.expect("made");
    c.start().await.expect("starts");
    let end = c.wait().await.expect("ends");
    assert!(end.success(), "{end}: {:?}", c.logs().lines().await);
    c.commit().tag("debian:1").await.expect("committed");
    c.remove().await.expect("removed");
}

/// What step `i` of twelve does: it makes something, and removes, replaces and hides what steps before made.
pub fn step(i: usize) -> String {
    let mut script =
        format!("set -e; mkdir -p /w/keep /w/d{i}/in; echo {i} > /w/f{i}; echo {i} > /w/d{i}/in/f; ");
    script += &format!(
        "echo {i} > /w/keep/{i}; ln /w/f{i} /w/hard{i}; ln -s d{i} /w/last.new; mv /w/last.new /w/last; "
    );
    if i > 1 {
        let (before, two) = (i - 1, i / 2);
        script += &format!("rm -f /w/f{before} /w/keep/{two}; rm -rf /w/d{before}; ");
        // A directory anew where one was: nothing of the old may show. And a file there, and back.
        script += "rm -rf /w/again; ";
        script += &match i % 3 {
            0 => "echo file > /w/again".to_owned(),
            _ => format!("mkdir /w/again; echo {i} > /w/again/only{i}"),
        };
    }
    script
}

/// Twelve layers that mostly hide what is below them.
async fn deep(e: &Engine) {
    let mut image = e.image().get("tools:1").await.expect("the tools");
    for i in 1..=12 {
        let c = sh(e, &step(i)).image(&image).create().await.expect("made");
        c.start().await.expect("starts");
        let end = c.wait().await.expect("ends");
        assert!(end.success(), "{end}: {:?}", c.logs().lines().await);
        image = c.commit().tag("deep:1").env("STEP", i.to_string()).await.expect("committed");
        c.remove().await.expect("removed");
    }
}

/// Files that few archives have: attributes, large owners, long and strange names, times far away.
async fn odd(e: &Engine, root: &Path) {
    let (tar, top) = (root.join("odd.tar"), root.join("odd"));
    let c = e.container().image("tools:1").create().await.expect("made");
    c.export(&tar).await.expect("exported");
    c.remove().await.expect("removed");
    let odd = top.join("odd");
    std::fs::create_dir_all(&odd).expect("made");
    done(Command::new("tar").arg("-xpf").arg(&tar).arg("-C").arg(&top));
    std::fs::remove_file(&tar).expect("removed");
    let file = |name: &[u8]| {
        let path = odd.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().expect("one")).expect("made");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o640).open(&path).expect("made");
        std::fs::write(&path, name).expect("written");
        path
    };
    let set = |path: &Path, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, key, value, XattrFlags::empty())
            .expect("this file system keeps attributes");
    };
    set(&file(b"attribute"), "user.note", b"two\nlines\0and \xff");
    set(&odd, "user.of-a-directory", b"=");
    // cap_net_raw+ep, version 2.
    let raw = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set(&file(b"capability"), "security.capability", &raw);
    for (name, uid, gid) in [("ids", 1000, 2000), ("large-ids", 70_000, 3_000_000)] {
        std::os::unix::fs::chown(file(name.as_bytes()), Some(uid), Some(gid)).expect("given away");
    }
    for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2750), ("none", 0o0)] {
        std::fs::set_permissions(file(name.as_bytes()), PermissionsExt::from_mode(mode)).expect("set");
    }
    let long = "long-\u{20ac}-".repeat(20);
    file(format!("{long}/{long}/{long}").as_bytes());
    file(&[b'n'; 100]);
    file(&[&[b'p'; 90][..], b"/", &[b'q'; 99]].concat());
    file(b"line\nfeed and \\ and trailing ");
    file(b"not \xff\xfe UTF-8");
    std::os::unix::fs::symlink("t".repeat(300), odd.join("long-link")).expect("linked");
    std::os::unix::fs::symlink("nowhere \u{fc}", odd.join("dangling")).expect("linked");
    std::fs::hard_link(odd.join("setuid"), odd.join("zz-hard")).expect("linked");
    std::fs::create_dir(odd.join("sticky")).expect("made");
    std::fs::set_permissions(odd.join("sticky"), PermissionsExt::from_mode(0o1777)).expect("set");
    let script = "mkfifo -m 622 fifo; : > empty; touch -d '1965-04-03 02:01:00.123456789 UTC' before-1970; \
         touch -h -d '2107-08-09 UTC' dangling; touch -d '2200-01-01 UTC' later; truncate -s 3M sparse; \
         touch -d '2011-12-13 14:15:16.5 UTC' sticky .";
    done(Command::new("sh").args(["-ec", script]).current_dir(&odd));
    let mut pack = Command::new("tar");
    pack.args(["--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-czf"]).arg(&tar);
    done(pack.arg("-C").arg(&top).arg("."));
    e.image().import(&tar).tag("odd:0").command(["/bin/sh"]).await.expect("imported");
    // So that a layer of ours has the attributes as well: these files are copied to it.
    let script =
        "cd /odd; chmod 604 attribute; chmod 711 capability .; touch -d 2001-02-03T04:05:06.789 ids fifo";
    let c = sh(e, script).image("odd:0").create().await.expect("made");
    c.start().await.expect("starts");
    let end = c.wait().await.expect("ends");
    assert!(end.success(), "{end}: {:?}", c.logs().lines().await);
    c.commit().tag("odd:1").await.expect("committed");
    c.remove().await.expect("removed");
    std::fs::remove_dir_all(&top).expect("removed");
    std::fs::remove_file(&tar).expect("removed");
    let tree = tree_of(e, &e.image().get("odd:1").await.expect("there")).await;
    for (name, part) in [
        ("attribute", "604 (0, 0)"),
        ("attribute", r"user.note=two\nlines\x00and \xff"),
        ("capability", r"security.capability=\x01\x00\x00\x02\x00 \x00"),
        ("large-ids", "640 (70000, 3000000)"),
        ("before-1970", "-149810340.123456789"),
        ("later", "7258118400.000000000 "),
        ("fifo", "622 (0, 0)"),
        ("setuid", "4755 (0, 0)"),
    ] {
        let found = tree.get(&format!("odd/{name}"));
        assert!(found.is_some_and(|f| f.contains(part)), "{name}: {found:?} lacks {part:?}");
    }
}
