//! A picture of ratios: one row for each, in the groups in which they were measured, on one logarithmic scale.

use std::io::{self, BufRead};

use crate::bars::ratio::Ratio;

const WIDTH: f64 = 1000.0;
const ROW: f64 = 18.0;
const HEAD: f64 = 56.0;
/// Where the scale begins and ends, and its ends.
const LEFT: f64 = 470.0;
const RIGHT: f64 = 800.0;
const LOWEST: f64 = 0.125;
const HIGHEST: f64 = 8.0;

/// The ratios among the lines that measurements printed with `--json`; other lines are for people.
pub fn read(input: impl BufRead) -> io::Result<Vec<Ratio>> {
    let mut ratios = Vec::new();
    for line in input.lines() {
        ratios.extend(serde_json::from_str::<Ratio>(&line?).ok());
    }
    Ok(ratios)
}

/// An SVG.
pub fn draw(ratios: &[Ratio]) -> String {
    let mut rows = String::new();
    let (mut y, mut group) = (HEAD, "");
    for ratio in ratios {
        if ratio.group != group {
            group = &ratio.group;
            y += ROW;
            rows += &text(10.0, y, "start", "group", group);
            y += ROW;
        }
        rows += &row(y, ratio);
        y += ROW;
    }
    let mut scale = String::new();
    for step in [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0] {
        let class = if step == 1.0 { "one" } else { "grid" };
        scale += &line(x(step), HEAD, x(step), y, class);
        scale += &text(x(step), HEAD - 8.0, "middle", "small", &step.to_string());
    }
    let height = y + 12.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>.small{{font-size:10px;fill:#555}}.group{{font-weight:bold}}.grid{{stroke:#ddd}}.one{{stroke:#888}}\
         .yes{{stroke:#1a7f37;fill:#1a7f37}}.no{{stroke:#cf222e;fill:#cf222e}}.none{{stroke:#57606a;fill:#57606a}}\
         .goal{{stroke:#000;stroke-width:2}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}{scale}{rows}</svg>\n",
        text(
            10.0,
            20.0,
            "start",
            "group",
            "Archipelago over its peers: median and quartiles; | the bar, green if met, red if not"
        ),
    )
}

fn row(y: f64, ratio: &Ratio) -> String {
    let class = match ratio.met() {
        Some(true) => "yes",
        Some(false) => "no",
        None => "none",
    };
    let middle = y - 4.0;
    let mut row = text(20.0, y, "start", "label", &format!("{}: {} / {}", ratio.case, ratio.what, ratio.peer));
    row += &line(x(ratio.lower_quartile), middle, x(ratio.upper_quartile), middle, class);
    row += &format!("<circle cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"4\" class=\"{class}\"/>\n", x(ratio.median));
    if let Some(goal) = ratio.goal {
        row += &line(x(goal), middle - 6.0, x(goal), middle + 6.0, "goal");
    }
    row + &text(RIGHT + 12.0, y, "start", "small", &ratio.figures())
}

/// The place of a ratio on the scale, at its ends for what lies past them.
fn x(ratio: f64) -> f64 {
    let part = (ratio.clamp(LOWEST, HIGHEST) / LOWEST).log2() / (HIGHEST / LOWEST).log2();
    LEFT + (RIGHT - LEFT) * part
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64, class: &str) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>\n")
}

fn text(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{escaped}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_ratios_are_read_back_among_other_lines_and_drawn() {
        let ratio = Ratio::new("nbd", "read", "rate", "file & qemu", Some(1.2), false).of([1.4, 1.3, 1.5].into_iter());
        let text = format!("== nbd\n  rate\n{}\n", serde_json::to_string(&ratio).expect("is plain"));
        let read = read(text.as_bytes()).expect("is text");
        assert_eq!(read, [ratio]);
        let svg = draw(&read);
        assert!(svg.contains("file &amp; qemu") && svg.contains("class=\"yes\"") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn the_scale_is_logarithmic_and_ends() {
        assert_eq!(x(1.0), (LEFT + RIGHT) / 2.0);
        assert_eq!((x(0.001), x(1000.0)), (LEFT, RIGHT));
    }
}
