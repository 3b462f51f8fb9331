//! What the victims of kills and faults do. Each line on stdout is an acknowledgement.

use std::fs::File;
use std::io::{BufRead, Write};
use std::path::Path;

use boxship_layers::{Check, CommitOptions, Error, Expected, Owners, Publish, Store};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Everything that changes a store, or reads all of it.
pub const ALL: &[&str] = &[
    "open",
    "import",
    "unpack",
    "load",
    "save",
    "commit",
    "tag_image",
    "remove_image",
    "gc",
    "fsck",
    "repair",
];

/// All of them, or the one that is asked for.
pub fn chosen() -> Vec<&'static str> {
    let only = std::env::var("BOXSHIP_STORE_ONLY").ok();
    let chosen: Vec<&str> =
        ALL.iter().copied().filter(|o| only.as_ref().is_none_or(|only| only == o)).collect();
    assert!(!chosen.is_empty(), "no operation {only:?}");
    chosen
}

/// The images that an operation makes: name and the number of the topmost layer.
pub fn makes(operation: &str) -> &'static [(&'static str, u64)] {
    match operation {
        "import" => &[("new:1", 100)],
        "load" => &[("load-a:1", 200), ("load-b:1", 201)],
        "commit" => &[("committed:1", 3)],
        "tag_image" => &[("tagged:1", 1)],
        _ => &[],
    }
}

fn say(line: &str) {
    // A failing write is what the attack may want.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// Does it, and does it again after an error.
pub fn play(operation: &str, args: &[String]) {
    say("ready");
    let _ = std::io::stdin().lock().read_line(&mut String::new());
    let (root, material) = (Path::new(&args[0]), Path::new(&args[1]));
    match operate(operation, root, material, false, &mut say) {
        Ok(()) => say("done"),
        Err(e) => {
            say(&format!("error {}", chain(e.as_ref())));
            // The fault is over. Nothing may be half there, and the same thing works now.
            match Store::open(root).and_then(|store| store.fsck(Check::Structure, false)) {
                Ok(defects) if defects.is_empty() || operation == "repair" => {}
                other => say(&format!("broken {other:?}").replace('\n', " ")),
            }
            match operate(operation, root, material, true, &mut say) {
                Ok(()) => say("retried"),
                Err(e) => say(&format!("refused {}", chain(e.as_ref()))),
            }
        }
    }
}

fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text.replace('\n', " ")
}

/// One operation on the store, after opening it.
pub fn operate(
    operation: &str,
    root: &Path,
    material: &Path,
    again: bool,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let store = Store::open(root)?;
    let made = makes(operation);
    let mut image = |image: boxship_layers::Image| {
        let seed = made.iter().find(|(name, _)| Some(*name) == image.name()).map(|(_, seed)| seed);
        say(&format!("image {} {} {}", image.name().unwrap_or("?"), image.digest(), seed.unwrap_or(&0)));
    };
    match operation {
        "open" => say("opened"),
        "import" => {
            let archive = File::open(material.join("new.tar"))?;
            image(store.import(archive, "new:1", &Default::default(), &mut |_| true)?);
        }
        "load" => {
            let archive = File::open(material.join("load.tar"))?;
            store.load(archive, &Default::default(), &mut |_| true)?.into_iter().for_each(image);
        }
        // A layer as a pull brings it: visible before its image is.
        "unpack" => {
            let archive = File::open(material.join("unpack.tar.gz"))?;
            let add = store.begin(Publish::Each)?;
            let layer = add.layer(archive, Expected::default(), &mut |_| true)?;
            say(&format!("layer {}", layer.diff_id));
        }
        "fsck" => {
            let defects = store.fsck(Check::Content, false)?;
            match &defects[..] {
                [] => say("sound"),
                // What the disk does not give is defect, until it gives it.
                all if all.iter().all(|d| d.problem.contains("Input/output error")) => {
                    return Err(format!("{defects:?}").into());
                }
                all => say(&format!("broken: what is sound is found defect: {all:?}")),
            }
        }
        // The files of a layer are damaged when it begins.
        "repair" => {
            let defects = store.fsck(Check::Content, true)?;
            if defects.iter().any(|d| !d.repaired) || defects.is_empty() && !again {
                return Err(format!("not repaired: {defects:?}").into());
            }
            say("repaired");
        }
        "save" => {
            let names = ["base:1".to_owned(), "two:1".to_owned()];
            let out = File::create(root.with_extension("saved"))?;
            store.save(&names, std::io::BufWriter::new(out), &mut |_| true)?;
            say("saved");
        }
        "commit" => {
            let base = store.image("base:1")?;
            let options = CommitOptions { created: Some(1_800_000_000), ..Default::default() };
            image(store.commit("snap", &base, Owners::AsTheyAre, &options, Some("committed:1"))?);
        }
        "tag_image" => image(store.tag_image("base:1", "tagged:1")?),
        "remove_image" => {
            say("removing");
            match store.remove_image("two:1") {
                // An attempt that failed, or died, had come that far.
                Err(Error::NotFound { what: "image", .. }) if again => {}
                other => other?,
            }
            say("removed");
        }
        "gc" => {
            let found = store.gc(false)?;
            if !found.complete {
                return Err("somebody adds images".into());
            }
            say("collected");
        }
        other => panic!("no operation {other:?}"),
    }
    Ok(())
}
