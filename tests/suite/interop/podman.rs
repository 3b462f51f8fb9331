//! Images to and from Podman.

use std::path::Path;
use std::process::Command;

use boxship::Engine;
use boxship_layers::Store;
use serde_json::Value;

use super::made::{Made, made};
use super::{
    SHOW, Tree, Wanted, assert_same, comes_back, config_digest, copied_tree, done, early_is_1970, in_seconds,
    json, line, scratch, strings, tree_of, without_mounts,
};
use crate::{daemon, sh, text};

/// Podman with a storage of its own.
fn podman(root: &Path, args: &[&str]) -> Command {
    let mut c = daemon::podman(root, &[]);
    c.args(args);
    c
}

/// Makes a container of an image. What it runs needs no cgroups, and so leaves none.
const CONTAINER: [&str; 4] = ["--network", "none", "--cgroups", "disabled"];

fn inspect(root: &Path, name: &str) -> Value {
    json(&done(&mut podman(root, &["image", "inspect", name])))[0].clone()
}

fn id(image: &Value) -> String {
    format!("sha256:{}", image["Id"].as_str().expect("an id"))
}

fn tree(root: &Path, name: &str) -> Tree {
    let script = "m=$(\"$@\"); cp -a --preserve=all \"$m/.\" $COPY";
    let mut c = daemon::podman(root, &["sh", "-ec", script, "sh"]);
    c.args(["image", "mount", name]);
    copied_tree(c)
}

fn output(root: &Path, name: &str) -> String {
    let run = podman(root, &["run", "--rm"]).args(CONTAINER).args([name, "/bin/sh", "-c", SHOW]).output();
    String::from_utf8(run.expect("it runs").stdout).expect("UTF-8")
}

/// What Podman calls an image whose name has no registry.
fn local(m: &Made) -> String {
    format!("localhost/{}", m.name)
}

pub async fn to() {
    let f = made().await;
    let root = scratch("to-podman");
    done(podman(&root.0, &["load", "-i"]).arg(&f.archive));
    for m in &f.all {
        let image = inspect(&root.0, &local(m));
        assert_eq!(id(&image), m.config, "{}", m.name);
        assert_eq!(strings(&image["RootFS"]["Layers"]), m.image.layers(), "{}", m.name);
        assert_same(m.name, &tree(&root.0, m.name), &early_is_1970(&m.tree));
        assert_eq!(output(&root.0, &local(m)), m.output, "{}", m.name);
    }
    // One alone, as either form, and a directory.
    let other = scratch("to-podman");
    let tar = other.0.join("one.tar");
    for name in ["tools:1", "layered:1"] {
        let m = f.get(name);
        m.image.save(&tar).await.expect("saved");
        done(podman(&other.0, &["load", "-i"]).arg(&tar));
        assert_eq!(id(&inspect(&other.0, name)), m.config, "{name}");
        let pulled = line(&mut podman(&other.0, &["pull", "-q", &format!("oci-archive:{}", tar.display())]));
        assert_eq!(format!("sha256:{pulled}"), m.config, "{name}");
        std::fs::remove_file(&tar).expect("removed");
    }
    let odd = f.get("odd:1");
    let pulled = line(&mut podman(&other.0, &["pull", "-q", &f.layout(odd.name)]));
    assert_eq!(format!("sha256:{pulled}"), odd.config);
}

pub async fn from() {
    let f = made().await;
    let root = scratch("from-podman");
    done(podman(&root.0, &["load", "-i"]).arg(&f.archive));
    for m in &f.all {
        for format in ["docker-archive", "oci-archive"] {
            let tar = root.0.join(format!("{format}-{}.tar", m.name.replace(':', "-")));
            done(podman(&root.0, &["save", "-q", "--format", format, "-o"]).arg(&tar).arg(m.name));
            let wanted = Wanted::new(format!("{format}:{}", tar.display()), local(m), m);
            let configs = comes_back(&tar, &[wanted]).await;
            if format == "docker-archive" {
                assert_eq!(configs, [m.config.as_str()], "{}: as it went", m.name);
            }
            std::fs::remove_file(&tar).expect("removed");
        }
    }
    let tar = root.0.join("several.tar");
    done(podman(&root.0, &["save", "-q", "-m", "-o"]).arg(&tar).args(f.all.iter().map(|m| m.name)));
    let wanted = |m| Wanted::new(format!("docker-archive:{}:{}", tar.display(), local(m)), local(m), m);
    let configs = comes_back(&tar, &f.all.iter().map(wanted).collect::<Vec<_>>()).await;
    assert_eq!(configs.iter().collect::<Vec<_>>(), f.all.iter().map(|m| &m.config).collect::<Vec<_>>());
}

/// Podman commits on top of our commit, in both forms of an archive, and gives and takes flat trees.
pub async fn commits() {
    let f = made().await;
    let root = scratch("commit");
    let ours = f.get("layered:1");
    done(podman(&root.0, &["load", "-i"]).arg(&f.archive));
    let script = "rm -r /opq; mkdir /opq; echo theirs > /opq/theirs; rm /d/hard; ln -s x /d/new";
    done(podman(&root.0, &["run", "--name", "c"]).args(CONTAINER).args([
        &local(ours),
        "/bin/sh",
        "-c",
        script,
    ]));
    let e = Engine::open(root.0.join("engine")).await.expect("an engine");
    let store = Store::open(root.0.join("engine")).expect("the same store");
    for form in ["docker", "oci"] {
        let (name, tar) = (format!("localhost/{form}:1"), root.0.join(form));
        done(&mut podman(&root.0, &["commit", "-q", "-f", form, "-c", "ENV STEP=mine", "c", &name]));
        let archive = format!("{form}-archive");
        done(podman(&root.0, &["save", "-q", "--format", &archive, "-o"]).arg(&tar).arg(&name));
        let theirs = e.image().load(&tar).await.expect("loaded").remove(0);
        assert_eq!(theirs.name(), Some(name.as_str()));
        assert_eq!(config_digest(&store, &theirs), id(&inspect(&root.0, &name)));
        assert_eq!(theirs.layers()[..ours.image.layers().len()], ours.image.layers());
        let tree = tree(&root.0, &name);
        assert!(tree.contains_key("opq/theirs") && !tree.contains_key("opq/new"));
        assert_same(&name, &tree_of(&e, &theirs).await, &tree);
        let out = text(sh(&e, SHOW).image(&theirs).output().await.expect("it runs"));
        assert_eq!(out, output(&root.0, &name), "{name}");
        assert!(out.contains("\nmine\n"), "{out}");
    }
    let flat = root.0.join("flat.tar");
    done(podman(&root.0, &["export", "-o"]).arg(&flat).arg("c"));
    let image = e.image().import(&flat).tag("flat:1").await.expect("imported");
    // Its exports have whole seconds.
    let wanted = in_seconds(&without_mounts(&tree(&root.0, "localhost/oci:1")), false);
    let found = in_seconds(&without_mounts(&tree_of(&e, &image).await), false);
    assert_same("podman export", &found, &wanted);
    std::fs::remove_file(&flat).expect("removed");
    let odd = f.get("odd:1");
    let c = f.engine.container().image(&odd.image).command(["none"]).profile(boxship::Profile::Compat);
    let c = c.create().await.expect("made");
    c.export(&flat).await.expect("exported");
    c.remove().await.expect("removed");
    done(podman(&root.0, &["import", "-q"]).arg(&flat).arg("flat:1"));
    assert_same("podman import", &tree(&root.0, "localhost/flat:1"), &early_is_1970(&odd.tree));
    assert_eq!(output(&root.0, "localhost/flat:1"), odd.output);
}
