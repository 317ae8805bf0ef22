//! Plots as SVG: lines over named points of the x axis, readable on light and dark backgrounds.

use std::fmt::Write as _;

use crate::report::Spread;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// The area of the lines.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 610.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 340.0;
/// The smallest distance of two labels at the ends of lines.
const NAME_HEIGHT: f64 = 18.0;

const STYLE: &str = "\
.ground { fill: #ffffff } text { fill: #1f2328; font: 13px sans-serif } .title { font-size: 15px; font-weight: bold }
.grid { stroke: #d1d9e0; stroke-width: 1 } .line { fill: none; stroke-width: 2 } .spread { stroke-width: 1 }
.s0 { stroke: #0969da } .m0 { fill: #0969da } .s1 { stroke: #bc4c00; stroke-dasharray: 6 4 } .m1 { fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } text { fill: #f0f6fc } .grid { stroke: #3d444d }
.s0 { stroke: #4493f8 } .m0 { fill: #4493f8 } .s1 { stroke: #f0883e } .m1 { fill: #f0883e }
}";

/// The contents of a plot.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    /// Labels of the axes, with units.
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) places: Vec<&'a str>,
    /// The name and the points of the first line, and of the second: median, minimum and maximum at each point.
    pub(crate) lines: [(&'a str, Vec<Spread>); 2],
    /// Whether the y axis is logarithmic; otherwise it starts at zero.
    pub(crate) multiples: bool,
}

impl Plot<'_> {
    pub(crate) fn draw(&self) -> String {
        let values = self.lines.iter().flat_map(|(_, points)| points);
        let most = values.clone().map(|spread| spread.max).fold(0.0, f64::max).max(1e-3);
        let least = values.map(|spread| spread.min).fold(f64::INFINITY, f64::min).clamp(1e-3, most);
        let ticks = if self.multiples { multiples(least, most) } else { steps(most) };
        let [from, to] = [ticks.first(), ticks.last()].map(|tick| self.height(tick.copied().unwrap_or_default()));
        let y = |value: f64| BOTTOM - (self.height(value) - from) / (to - from) * (BOTTOM - TOP);
        let step = (RIGHT - LEFT) / self.places.len() as f64;
        let x = |place: usize| LEFT + step * (place as f64 + 0.5);

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n\
             <style>\n{STYLE}\n</style>\n<rect class=\"ground\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n",
            self.title
        );
        let mut add = |element: String| svg.extend([&element, "\n"]);
        let middle = f64::midpoint(LEFT, RIGHT);
        add(format!("<text class=\"title\" x=\"{LEFT}\" y=\"28\">{}</text>", self.title));
        add(format!("<text x=\"{middle:.0}\" y=\"{}\" text-anchor=\"middle\">{}</text>", HEIGHT - 14.0, self.x));
        let up = f64::midpoint(TOP, BOTTOM);
        add(format!("<text transform=\"translate(18 {up:.0}) rotate(-90)\" text-anchor=\"middle\">{}</text>", self.y));
        for tick in &ticks {
            let at = y(*tick);
            add(format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"));
            add(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>", LEFT - 8.0, at + 4.5));
        }
        for (place, name) in self.places.iter().enumerate() {
            add(format!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>", x(place), BOTTOM + 22.0));
        }
        for (number, (_, points)) in self.lines.iter().enumerate() {
            let mut path = String::new();
            for (place, Spread { median, min, max }) in points.iter().enumerate() {
                let (at, top, bottom) = (x(place) + 6.0 * number as f64, y(*max), y(*min));
                let _infallible = write!(path, "{at:.1},{:.1} ", y(*median));
                add(format!(
                    "<path class=\"spread s{number}\" style=\"stroke-dasharray: none\" d=\"M{at:.1} {top:.1}V{bottom:.1}\"/>"
                ));
                add(format!("<circle class=\"m{number}\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"4\"/>", y(*median)));
            }
            add(format!("<polyline class=\"line s{number}\" points=\"{}\"/>", path.trim_end()));
        }
        let [first, second] =
            self.lines.each_ref().map(|(_, points)| points.last().map_or(BOTTOM, |last| y(last.median)));
        // Keeps the labels apart, even if the lines end at one point.
        let apart = ((NAME_HEIGHT - (first - second).abs()) / 2.0).max(0.0);
        let heights = if first < second { [first - apart, second + apart] } else { [first + apart, second - apart] };
        for (number, ((name, _), height)) in self.lines.iter().zip(heights).enumerate() {
            add(format!("<text class=\"m{number}\" x=\"{}\" y=\"{:.1}\">{name}</text>", RIGHT + 8.0, height + 4.5));
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn height(&self, value: f64) -> f64 {
        if self.multiples { value.ln() } else { value }
    }
}

/// Round steps from zero, about five of them.
fn steps(most: f64) -> Vec<f64> {
    let rough = most / 5.0;
    let ten = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * ten).into_iter().find(|step| *step >= rough).unwrap_or(rough);
    let count = (most / step).ceil();
    // Rounded, since 3 × 0.1 is not 0.3.
    (0_u32..)
        .map(f64::from)
        .take_while(|number| *number <= count)
        .map(|number| (number * step * 1e6).round() / 1e6)
        .collect()
}

/// 1, 2, 5, 10, 20 and so on, from at most `least` to at least `most`.
fn multiples(least: f64, most: f64) -> Vec<f64> {
    let all: Vec<f64> = (-3..9).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power))).collect();
    let first = all.iter().rposition(|tick| *tick <= least).unwrap_or_default();
    let last = all.iter().position(|tick| *tick >= most).unwrap_or(all.len() - 1).max(first + 1);
    all.into_iter().take(last + 1).skip(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(steps(23.0), [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]);
        assert_eq!(steps(0.3), [0.0, 0.1, 0.2, 0.3]);
        assert_eq!(multiples(13.0, 90.0), [10.0, 20.0, 50.0, 100.0]);
    }

    #[test]
    fn a_line_has_a_point_at_each_place() {
        let points = || [1.0, 2.0].map(|median| Spread { median, min: median / 2.0, max: median * 2.0 }).into();
        let lines = [("a", points()), ("b", points())];
        let plot = Plot { title: "t", x: "x", y: "y", places: vec!["1", "2"], lines, multiples: false };
        let svg = plot.draw();
        assert_eq!((svg.matches("<circle").count(), svg.matches("<polyline").count()), (4, 2));
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
