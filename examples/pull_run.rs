//! Pulls an image and runs a command in it, with a bar for each layer on a terminal and plain lines
//! elsewhere: `cargo run --release --example pull_run -- alpine:3 echo hi`. `--plain HOST` talks to
//! that registry without TLS.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use boxship::image::PullProgress;
use boxship::registry::{Client, PullEvent};
use boxship::{ByteSize, Container, Error, Image};

/// What is known of each layer on its way.
#[derive(Default)]
struct Bars {
    layers: BTreeMap<String, (u64, u64)>,
    drawn: usize,
}

impl Bars {
    fn show(&mut self, event: &PullEvent) {
        let live = std::io::stderr().is_terminal();
        match event {
            PullEvent::Resolved { digest, layers, missing, bytes } => {
                eprintln!("{digest}: {missing} of {layers} layers to fetch, {}", ByteSize::b(*bytes));
            }
            PullEvent::Bytes { layer, done, total } => {
                self.layers.insert(layer.to_string(), (*done, *total));
                if live {
                    self.draw();
                }
            }
            PullEvent::Layer(layer) => {
                if let Some((done, total)) = self.layers.get_mut(&layer.to_string()) {
                    *done = *total;
                }
                if live {
                    self.draw();
                } else {
                    eprintln!("{layer}: verified and unpacked");
                }
            }
            _ => {}
        }
    }

    fn draw(&mut self) {
        let mut text = String::new();
        if self.drawn > 0 {
            text += &format!("\x1b[{}A", self.drawn);
        }
        for (layer, (done, total)) in &self.layers {
            let filled = usize::try_from(done * 30 / (*total).max(1)).unwrap_or(30);
            let sizes = format!("{} of {}", ByteSize::b(*done), ByteSize::b(*total));
            text += &format!("\x1b[2K{}  [{:<30}] {sizes}\n", &layer[7..19], "=".repeat(filled));
        }
        self.drawn = self.layers.len();
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut client = Client::builder();
    if args.first().is_some_and(|a| a == "--plain") && args.len() > 1 {
        client = client.plain_http(args.remove(1));
        args.remove(0);
    }
    let name = if args.is_empty() { "alpine:3".to_owned() } else { args.remove(0) };
    let mut events = Image::pull(&name).client(&client.build()?).events();
    let mut bars = Bars::default();
    let image = loop {
        match events.next().await {
            Some(Ok(PullProgress::Event(event))) => bars.show(&event),
            Some(Ok(PullProgress::Done(image))) => break image,
            Some(Err(e)) => return Err(e),
            _ => return Ok(()),
        }
    };
    eprintln!("{name} is {}", image.digest());
    let mut container = Container::builder().image(&image);
    if !args.is_empty() {
        container = container.command(args);
    }
    let out = container.output().await?;
    print!("{}", String::from_utf8_lossy(&out.stdout));
    eprint!("{}", String::from_utf8_lossy(&out.stderr));
    println!("{}", out.status);
    Ok(())
}
