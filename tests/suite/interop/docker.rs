//! Images to and from Docker.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use boxship::Engine;
use boxship_layers::Store;
use serde_json::Value;

use super::made::{made, step};
use super::{
    SHOW, Tree, Wanted, assert_same, comes_back, config_digest, copied_tree, dir, done, early_is_1970, json,
    line, output_of, scratch, strings, tree_of, without_mounts,
};
use crate::daemon::Dockerd;
use crate::sh;

static DAEMON: Mutex<Option<Dockerd>> = Mutex::new(None);

fn dockerd() -> MutexGuard<'static, Option<Dockerd>> {
    DAEMON.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Docker's client; the daemon starts with the first use.
fn docker(args: &[&str]) -> Command {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let start = || {
        let name = format!("boxship-interop-{}", std::process::id());
        *dockerd() = Some(Dockerd::start(&dir().join("docker"), &name)?);
        Ok(())
    };
    STARTED.get_or_init(start).as_ref().expect("dockerd starts");
    let mut c = dockerd().as_ref().expect("it was started").client();
    c.args(args);
    c
}

/// Ends dockerd, and removes all that the tests share.
pub fn stop() {
    drop(dockerd().take());
    let _ = std::fs::remove_dir_all(dir());
}

/// The tree of an image in Docker, as overlayfs shows its layers.
fn tree(image: &Value) -> Tree {
    let data = &image["GraphDriver"]["Data"];
    let mut layers = data["UpperDir"].as_str().expect("overlay2").to_owned();
    if let Some(lower) = data["LowerDir"].as_str() {
        layers = format!("{layers}:{lower}");
    }
    // The lowest is empty: one alone is no overlay.
    let script = "mkdir $COPY/none $COPY/m $COPY/out; mount -t overlay -o \"ro,lowerdir=$0:$COPY/none\" none $COPY/m; \
        cp -a --preserve=all $COPY/m/. $COPY/out; umount $COPY/m; rmdir $COPY/m $COPY/none; mv $COPY/out/* $COPY; \
        rmdir $COPY/out";
    let mut c = Command::new("unshare");
    c.args(["--mount", "sh", "-ec", script]).arg(layers);
    copied_tree(c)
}

fn inspect(name: &str) -> Value {
    json(&done(&mut docker(&["image", "inspect", name])))[0].clone()
}

fn output(name: &str) -> String {
    let run = done(&mut docker(&["run", "--rm", "--network", "none", name, "/bin/sh", "-c", SHOW]));
    String::from_utf8(run).expect("UTF-8")
}

pub async fn to() {
    let f = made().await;
    let said = line(docker(&["load", "-i"]).arg(&f.archive));
    for m in &f.all {
        assert!(said.contains(&format!("Loaded image: {}", m.name)), "{said}");
        let image = inspect(m.name);
        assert_eq!(image["Id"], m.config, "{}", m.name);
        assert_eq!(strings(&image["RootFS"]["Layers"]), m.image.layers(), "{}", m.name);
        assert_same(m.name, &tree(&image), &early_is_1970(&m.tree));
        assert_eq!(output(m.name), m.output, "{}", m.name);
    }
    // And a flat tree.
    let root = scratch("to-docker");
    let odd = f.get("odd:1");
    let flat = root.0.join("flat.tar");
    let c = f.engine.container().image(&odd.image).command(["none"]).profile(boxship::Profile::Compat);
    let c = c.create().await.expect("made");
    c.export(&flat).await.expect("exported");
    c.remove().await.expect("removed");
    done(docker(&["import"]).arg(&flat).arg("flat:1"));
    assert_same("docker import", &tree(&inspect("flat:1")), &early_is_1970(&odd.tree));
    assert_eq!(output("flat:1"), odd.output);
}

/// An image of layers that Docker made: the tree, and the id.
fn build(context: &Path) -> (Tree, String) {
    std::fs::create_dir(context).expect("made");
    std::fs::write(context.join("same"), "same").expect("written");
    let mut file = "FROM tools:1\nSHELL [\"/bin/sh\", \"-c\"]\n".to_owned();
    for i in 1..=12 {
        // Two layers that are the same, and layers that are empty, which Docker leaves out.
        let more = if i % 6 == 0 { "COPY same /same\nRUN true\n" } else { "" };
        file += &format!("{more}RUN {}\n", step(i));
    }
    file += "ENV STEP=12\n";
    std::fs::write(context.join("Dockerfile"), file).expect("written");
    let mut build = docker(&["build", "--network", "none", "-q", "-t", "built:1"]);
    done(build.env("DOCKER_BUILDKIT", "0").arg(context));
    let built = inspect("built:1");
    let layers = strings(&built["RootFS"]["Layers"]);
    assert!(layers.len() == 15 && layers[6] == layers[13], "two are the same: {layers:?}");
    (tree(&built), built["Id"].as_str().expect("an id").to_owned())
}

pub async fn from() {
    let f = made().await;
    done(docker(&["load", "-i"]).arg(&f.archive));
    let root = scratch("from-docker");
    let (tree, id) = build(&root.0.join("context"));
    let printed = output("built:1");
    let one = root.0.join("built.tar");
    let built = |archive: &Path| {
        let reference = format!("docker-archive:{}:built:1", archive.display());
        Wanted { reference, name: "built:1".into(), tree: &tree, output: &printed }
    };
    done(docker(&["save", "-o"]).arg(&one).arg("built:1"));
    assert_eq!(comes_back(&one, &[built(&one)]).await, [id.as_str()]);
    // Several with layers in common; and what came from us comes back as it was.
    let all = root.0.join("all.tar");
    done(docker(&["save", "-o"]).arg(&all).arg("built:1").args(f.all.iter().map(|m| m.name)));
    let reference = |name: &str| format!("docker-archive:{}:{name}", all.display());
    let mut images = vec![built(&all)];
    images.extend(f.all.iter().map(|m| Wanted::new(reference(m.name), m.name, m)));
    let configs = comes_back(&all, &images).await;
    let own: Vec<&String> = f.all.iter().map(|m| &m.config).collect();
    assert_eq!(configs[1..].iter().collect::<Vec<_>>(), own);
    // A flat tree.
    let id = line(&mut docker(&["create", "built:1", "none"]));
    let flat = root.0.join("flat.tar");
    done(docker(&["export", "-o"]).arg(&flat).arg(&id));
    done(&mut docker(&["rm", &id]));
    let e = Engine::open(root.0.join("engine")).await.expect("an engine");
    let image = e.image().import(&flat).tag("flat:1").env("STEP", "12").await.expect("imported");
    assert_same("docker export", &without_mounts(&tree_of(&e, &image).await), &without_mounts(&tree));
    assert_eq!(output_of(&e, &image).await, printed);
    there_and_back(&e, &one, &root.0).await;
}

/// We commit on top of Docker's image, Docker on top of that, and we have all of it in the end.
async fn there_and_back(e: &Engine, built: &Path, root: &Path) {
    let store = Store::open(root.join("engine")).expect("the same store");
    let base = e.image().load(built).await.expect("loaded").remove(0);
    let c = sh(e, "rm -r /w/d12; mkdir -p /w/d12 /opq; echo ours > /opq/ours").image(&base);
    let c = c.create().await.expect("made");
    c.start().await.expect("starts");
    assert!(c.wait().await.expect("ends").success());
    let ours = c.commit().tag("ours:1").label("by", "us").await.expect("committed");
    c.remove().await.expect("removed");
    let tar = root.join("ours.tar");
    ours.save(&tar).await.expect("saved");
    done(docker(&["load", "-i"]).arg(&tar));
    let image = inspect("ours:1");
    assert_eq!(image["Id"], config_digest(&store, &ours));
    assert_eq!(image["Config"]["Labels"]["by"], "us");
    assert_same("ours:1", &tree(&image), &tree_of(e, &ours).await);
    let printed = output("ours:1");
    assert_eq!(printed, output_of(e, &ours).await);
    assert!(printed.contains("opq/ours\nours\n"), "{printed}");
    let script = "rm /opq/ours; echo theirs > /opq/theirs";
    let id = line(&mut docker(&["create", "--network", "none", "ours:1", "/bin/sh", "-c", script]));
    done(&mut docker(&["start", "-a", &id]));
    done(&mut docker(&["commit", "-c", "USER 7:8", "-m", "why", &id, "theirs:1"]));
    done(&mut docker(&["rm", &id]));
    let tar = root.join("theirs.tar");
    done(docker(&["save", "-o"]).arg(&tar).arg("theirs:1"));
    let theirs = e.image().load(&tar).await.expect("loaded").remove(0);
    assert_eq!(theirs.layers()[..ours.layers().len()], ours.layers());
    assert_eq!(inspect("theirs:1")["Id"], config_digest(&store, &theirs));
    assert_eq!(theirs.history().last().and_then(|h| h.comment().clone()).as_deref(), Some("why"));
    assert_same("theirs:1", &tree_of(e, &theirs).await, &tree(&inspect("theirs:1")));
    let out = sh(e, "cat /opq/*; id -u; id -g").image(&theirs).output().await.expect("it runs");
    assert_eq!(crate::text(out), "theirs\n7\n8\n");
}
