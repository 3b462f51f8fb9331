//! Images as one file that docker, podman and skopeo read, and back into another store:
//! `cargo run --release --example save_load`.

#![allow(clippy::print_stdout, reason = "an example talks to a person")]

use std::path::Path;

use boxship::image::TransferEvent;
use boxship::{ByteSize, Engine, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let dir = std::env::temp_dir().join(format!("boxship-save-load-{}", std::process::id()));
    let result = carry(&dir).await;
    let _ = std::fs::remove_dir_all(&dir);
    result
}

async fn carry(dir: &Path) -> Result<(), Error> {
    let here = Engine::open(dir.join("here")).await?;
    here.image().from_host_programs(["/bin/sh", "/bin/echo"]).tag("tools:1").await?;
    here.image().from_host_programs(["/bin/cat"]).tag("cat:1").await?;

    let archive = dir.join("images.tar");
    here.image().save(["tools:1", "cat:1"], &archive).await?;
    let size = std::fs::metadata(&archive).map_or(0, |m| m.len());
    println!("saved two images as {}, {}", archive.display(), ByteSize::b(size));

    let there = Engine::open(dir.join("there")).await?;
    let mut events = there.image().load(&archive).events();
    while let Some(event) = events.next().await {
        if let TransferEvent::Done(images) = event? {
            for image in images {
                println!("loaded {}  {}", image.name().unwrap_or("without a name"), image.digest());
            }
        }
    }
    let hello = ["/bin/echo", "hello from there"];
    let out = there.container().image("tools:1").command(hello).output().await?;
    print!("{}", String::from_utf8_lossy(&out.stdout));
    Ok(())
}
