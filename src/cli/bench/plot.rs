//! `bench --plot`: tokens per second against depth, as SVG.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::report::Measured;
use crate::cli::error::reason;
use crate::cli::messages::message;
use crate::cli::{CliError, ExitStatus};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 390.0;
const TOP: f64 = 30.0;
const RIGHT: f64 = 560.0;

/// Distinguishable in print and for most colour-blind readers (Okabe and Ito).
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];

/// Depth and tokens per second.
type Points = Vec<(f64, f64)>;

/// Draws a line for each kind of test.
pub(super) fn write(file: &Path, measured: &[Measured]) -> Result<(), CliError> {
    let mut lines: BTreeMap<String, Points> = BTreeMap::new();
    for one in measured {
        let kind = super::Test {
            depth: 0,
            ..one.test
        };
        let points = lines.entry(kind.name()).or_default();
        points.push((one.test.depth as f64, one.rate()));
    }
    std::fs::write(file, draw(&lines)).map_err(|error| {
        let message =
            message!("measure-unwritable", path = %file.display(), error = reason(&error));
        CliError::new(ExitStatus::Failed, message)
    })
}

fn draw(lines: &BTreeMap<String, Points>) -> String {
    let all = || lines.values().flatten();
    let deepest = all().map(|p| p.0).fold(1.0, f64::max);
    let fastest = round_up(all().map(|p| p.1).fold(1e-3, f64::max));
    let x = |depth: f64| LEFT + (RIGHT - LEFT) * depth / deepest;
    let y = |rate: f64| BOTTOM - (BOTTOM - TOP) * rate / fastest;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\">{}</text>\n",
        message!("bench-plot-title")
    );
    // Writing to a string cannot fail.
    for step in 0..=4 {
        let (rate, depth) = (
            fastest * f64::from(step) / 4.0,
            deepest * f64::from(step) / 4.0,
        );
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {0:.1}H{RIGHT}\" stroke=\"#ddd\"/>\
             <text x=\"52\" y=\"{1:.1}\" text-anchor=\"end\">{rate:.3}</text>\
             <text x=\"{2:.1}\" y=\"408\" text-anchor=\"middle\">{depth:.0}</text>",
            y(rate),
            y(rate) + 4.0,
            x(depth)
        );
    }
    for (i, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let mut points = points.clone();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let path: Vec<_> = points
            .iter()
            .map(|p| format!("{:.1} {:.1}", x(p.0), y(p.1)))
            .collect();
        let _ = writeln!(
            svg,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join("L")
        );
        for point in &points {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(point.0),
                y(point.1)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            RIGHT + 14.0,
            TOP + 16.0 * (i as f64 + 1.0)
        );
    }
    svg + "</svg>\n"
}

/// The next of 1, 2, 5, 10, 20, 50, ….
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let next = steps.into_iter().map(|step| step * power);
    next.into_iter()
        .find(|next| *next >= value)
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(round_up(0.7), 1.0);
        assert_eq!(round_up(7.3), 10.0);
        assert_eq!(round_up(12.0), 20.0);
        assert_eq!(round_up(41.0), 50.0);
        assert_eq!(round_up(50.0), 50.0);
    }

    #[test]
    fn each_kind_has_a_line() {
        let points = |rate: f64| vec![(4096.0, rate / 2.0), (0.0, rate)];
        let lines = BTreeMap::from([
            ("pp512".to_owned(), points(70.0)),
            ("tg128".to_owned(), points(8.0)),
        ]);
        let svg = draw(&lines);
        assert_eq!(svg.matches("<circle").count(), 4);
        assert_eq!(svg.matches("stroke-width=\"2\"").count(), 2);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        // From the left, at the deepest on the right.
        assert!(svg.contains("M60.0 138.0L560.0 264.0"), "{svg}");
    }
}
