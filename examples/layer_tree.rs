//! The images of the default engine as a tree of their layers, with sizes and what is shared; also as a
//! picture: `cargo run --release --example layer_tree -- layers.svg`.

#![allow(clippy::print_stdout, reason = "an example talks to a person")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use boxship::{ByteSize, DiskUsage, Engine, Error, LayerUsage};

/// A layer on the layers below it; images that end here.
#[derive(Default)]
struct Node {
    above: BTreeMap<String, Node>,
    images: Vec<String>,
}

/// A line of the tree: how deep, the layer, the images that end there.
type Line<'a> = (usize, &'a LayerUsage, String);

fn tree(usage: &DiskUsage) -> Node {
    let mut root = Node::default();
    for image in &usage.images {
        let mut at = &mut root;
        for layer in &image.layers {
            at = at.above.entry(layer.to_string()).or_default();
        }
        let name = image.name.clone().unwrap_or_else(|| image.digest.to_string()[..19].to_owned());
        at.images.push(format!("{name} ({} of its own)", ByteSize::b(image.unique)));
    }
    root
}

fn lines<'a>(node: &Node, depth: usize, usage: &'a DiskUsage, out: &mut Vec<Line<'a>>) {
    for (digest, above) in &node.above {
        if let Some(layer) = usage.layers.iter().find(|l| l.diff_id.to_string() == *digest) {
            out.push((depth, layer, above.images.join(", ")));
        }
        lines(above, depth + 1, usage, out);
    }
}

fn svg(lines: &[Line<'_>]) -> String {
    let largest = lines.iter().map(|(_, l, _)| l.unpacked).max().unwrap_or(1).max(1);
    let mut out = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='1000' height='{}' font-family='sans-serif' \
         font-size='13'>\n<rect width='100%' height='100%' fill='white'/>\n",
        lines.len() * 30 + 20
    );
    for (i, (depth, layer, images)) in lines.iter().enumerate() {
        let (x, y) = (10 + depth * 24, 10 + i * 30);
        let width = 4 + layer.unpacked * 200 / largest;
        let fill = if layer.images > 1 { "#4c78a8" } else { "#f58518" };
        let text = images.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            out,
            "<rect x='{x}' y='{y}' width='{width}' height='20' fill='{fill}'/>\n<text x='{}' y='{}'>{}  {}  \
             {text}</text>",
            x as u64 + width + 8,
            y + 15,
            &layer.diff_id.to_string()[7..19],
            ByteSize::b(layer.unpacked),
        );
    }
    out + "</svg>\n"
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let engine = Engine::default_engine().await?;
    if engine.image().list().await?.is_empty() {
        engine.image().from_host_programs(["/bin/sh", "/bin/ls"]).tag("tools:1").await?;
    }
    let usage = engine.disk_usage().await?;
    let mut all = Vec::new();
    lines(&tree(&usage), 0, &usage, &mut all);
    for (depth, layer, images) in &all {
        let shared = if layer.images > 1 { format!("in {} images", layer.images) } else { String::new() };
        println!(
            "{:indent$}{}  {:>9}  {:>6} files  {shared}  {images}",
            "",
            &layer.diff_id.to_string()[7..19],
            ByteSize::b(layer.unpacked).to_string(),
            layer.entries,
            indent = depth * 2
        );
    }
    let sum: u64 = usage.layers.iter().map(|l| l.unpacked + l.archive).sum();
    println!("{} layers take {}", usage.layers.len(), ByteSize::b(sum));
    if let Some(path) = std::env::args().nth(1) {
        match std::fs::write(&path, svg(&all)) {
            Ok(()) => println!("drawn as {path}"),
            Err(e) => println!("cannot write {path}: {e}"),
        }
    }
    Ok(())
}
