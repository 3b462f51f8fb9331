//! A registry of one's own, with TLS and tokens: an image of this machine's programs is pushed to it, pulled
//! into another store, and run: `cargo run --release --features server --example private_registry`. Give it
//! two PEM files, certificate and key, or it lets `openssl` make some.

#![allow(clippy::print_stdout, reason = "an example talks to a person")]

use std::path::{Path, PathBuf};
use std::process::Command;

use boxship::Engine;
use boxship::registry::{Client, Credentials, Keyring, Registry, Rights, TokenAuth, Users};

type Any = Box<dyn std::error::Error>;

/// Removes the directory at the end, whatever the end is.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A certificate for this machine and its key.
fn certificate(dir: &Path) -> Result<(PathBuf, PathBuf), Any> {
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=private registry",
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()?;
    if made.status.success() { Ok((certificate, key)) } else { Err("openssl makes no certificate".into()) }
}

#[tokio::main]
async fn main() -> Result<(), Any> {
    let dir = std::env::temp_dir().join(format!("boxship-private-registry-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let dir = Directory(dir);
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (certificate, key) = match (args.next(), args.next()) {
        (Some(certificate), Some(key)) => (certificate, key),
        _ => certificate(&dir.0)?,
    };
    let certificate = std::fs::read(certificate)?;

    // Who is known may push, nobody else may do anything.
    let users = Users::new().with("ci", "a long password", Rights::Push);
    let registry = Registry::builder()
        .root(dir.0.join("registry"))
        .bind("127.0.0.1:0")
        .tls(certificate.clone(), std::fs::read(key)?)
        .token_auth(users, TokenAuth::new())
        .spawn()
        .await?;
    let host = registry.address().to_string();
    println!("serving at https://{host}");

    let keys = Keyring::new().with(&host, Credentials::basic("ci", "a long password"));
    let client = Client::builder().certificate_authority(certificate.clone()).credentials(keys).build()?;
    let name = format!("{host}/team/tools:1");

    // One machine makes an image and pushes it ...
    let here = Engine::open(dir.0.join("here")).await?;
    let image = here.image().from_host_programs(["/bin/sh", "/bin/echo"]).tag("tools:1").await?;
    println!("pushed {}", image.push(&name).client(&client).await?);

    // ... and another one pulls and runs it.
    let there = Engine::open(dir.0.join("there")).await?;
    let run =
        there.container().image(&name).registry(&client).command(["/bin/echo", "hello from over there"]);
    let out = run.output().await?;
    println!("{}{}", String::from_utf8_lossy(&out.stdout), out.status);

    // Who has no password gets nothing.
    let stranger = Client::builder().certificate_authority(certificate).build()?;
    let refused = Engine::open(dir.0.join("stranger")).await?.image().pull(&name).client(&stranger).await;
    println!("a stranger: {}", refused.err().map_or_else(|| "got it".into(), |e| e.chain()));

    registry.shutdown().await;
    Ok(())
}
