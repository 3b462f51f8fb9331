//! What a container changed, and an image made of it: `cargo run --release --example commit_and_diff`.

#![allow(clippy::print_stdout, reason = "an example talks to a person")]

use boxship::container::ChangeKind;
use boxship::{Container, Error, Image};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let programs = ["/bin/sh", "/bin/cat", "/bin/mkdir", "/bin/rm"];
    let base = Image::from_host_programs(programs).tag("commit-example:1").await?;
    println!("base       {}  {} layer", base.digest(), base.layers().len());

    let script = "mkdir /app; echo 'hello from the commit' > /app/greeting; rm /etc/group";
    let container = Container::builder().image(&base).command(["/bin/sh", "-c", script]).create().await?;
    container.start().await?;
    println!("ended with {}", container.wait().await?);

    for change in container.diff().await? {
        let sign = match change.kind {
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
            _ => 'C',
        };
        println!("  {sign} {}", change.path.display());
    }
    let commit = container.commit().tag("commit-example:2").command(["/bin/cat", "/app/greeting"]);
    let image = commit.comment("made by an example").await?;
    println!("committed  {}  {} layers", image.digest(), image.layers().len());
    container.remove().await?;

    let out = Container::builder().image(&image).output().await?;
    print!("it says    {}", String::from_utf8_lossy(&out.stdout));
    for name in ["commit-example:2", "commit-example:1"] {
        Image::get(name).await?.remove().await?;
    }
    Ok(())
}
