//! Bars as SVG, without a library: rectangles and text.

use std::fmt::Write as _;

use crate::{Samples, median};

const WIDTH: f64 = 560.0;
const LEFT: f64 = 190.0;

/// A horizontal bar per subject, a block per case, each block on its own scale.
pub fn bars(all: &Samples, title: &str) -> String {
    let mut body = String::new();
    let mut y = 44.0;
    let mut last = "";
    for ((case, subject), samples) in all {
        if *case != last {
            y += 14.0;
            let _ = write!(body, r#"<text x="16" y="{y}" class="case">{case}</text>"#);
            y += 8.0;
            last = case;
        }
        let of_case = all.iter().filter(|((c, _), _)| c == case).map(|(_, s)| median(s));
        let top = of_case.max().unwrap_or(1) as f64;
        let ms = median(samples) as f64 / 1e6;
        let w = (median(samples) as f64 / top * WIDTH).max(1.0);
        let class = if subject.starts_with("boxship") { "ours" } else { "theirs" };
        let _ = write!(
            body,
            r#"<text x="{}" y="{}" class="name">{subject}</text><rect x="{LEFT}" y="{y}" width="{w:.1}" height="14" rx="2" class="{class}"/><text x="{:.1}" y="{}">{ms:.2} ms</text>"#,
            LEFT - 8.0,
            y + 11.5,
            LEFT + w + 6.0,
            y + 11.5
        );
        y += 19.0;
    }
    let (width, height) = (LEFT + WIDTH + 110.0, y + 16.0);
    page(width, height, title, &body)
}

pub fn page(width: f64, height: f64, title: &str, body: &str) -> String {
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" font-family="system-ui, sans-serif" font-size="12">
<style>text{{fill:#333}}.case{{font-weight:600}}.name{{text-anchor:end}}.ours{{fill:#0a7d5a}}.theirs{{fill:#b9c2cc}}.a{{fill:#0a7d5a}}.b{{fill:#5b8def}}.c{{fill:#e08a3c}}.axis{{stroke:#ccc}}</style>
<rect width="100%" height="100%" fill="#fff"/>
<text x="16" y="26" font-size="15" font-weight="600">{title}</text>
{body}
</svg>
"##
    )
}
