//! Line plots as SVG, small enough to stand in a page. Colours are the page's: a line has a class,
//! and the page says what it looks like in light and in dark.
//!
//! A plotting crate would bring fonts, back ends and colours of its own; what is needed here is a
//! scale, a grid and a path.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;
/// The most marks on a linear scale.
const MARKS: f64 = 6.0;

/// How values become places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By their logarithm.
    Log,
}

/// One axis.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Axis {
    /// What it shows.
    pub(in crate::cli) title: &'static str,
    /// How.
    pub(in crate::cli) scale: Scale,
    /// How a mark is written.
    pub(in crate::cli) mark: fn(f64) -> String,
}

/// One line.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Line {
    /// The class that gives it its colour, a number from 0.
    pub(in crate::cli) color: usize,
    /// What it is called; a line without a name is not in the legend.
    pub(in crate::cli) name: Option<String>,
    /// Its points.
    pub(in crate::cli) points: Vec<(f64, f64)>,
    /// Whether each point is marked.
    pub(in crate::cli) has_dots: bool,
    /// Whether it is dashed.
    pub(in crate::cli) is_dashed: bool,
}

/// A plot; empty if there is nothing to be seen.
pub(in crate::cli) fn plot(x: &Axis, y: &Axis, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let (Some(across), Some(up)) = (
        Span::of(x.scale, points().map(|point| point.0)),
        Span::of(y.scale, points().map(|p| p.1)),
    ) else {
        return String::new();
    };
    let mut svg = String::new();
    let legend = lines.iter().filter(|line| line.name.is_some()).count().div_ceil(4);
    let height = HEIGHT + 20.0 * legend as f64;
    let _ = write!(
        svg,
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{} by {}">"#,
        escaped(y.title),
        escaped(x.title)
    );
    let to_x = |value: f64| LEFT + across.place(value) * (WIDTH - LEFT - RIGHT);
    let to_y = |value: f64| HEIGHT - BOTTOM - up.place(value) * (HEIGHT - TOP - BOTTOM);
    grid(&mut svg, x, y, (&across, &up), (&to_x, &to_y));
    for line in lines {
        draw(&mut svg, line, &to_x, &to_y);
    }
    names(&mut svg, lines);
    svg += "</svg>";
    svg
}

type To<'a> = &'a dyn Fn(f64) -> f64;

fn grid(
    svg: &mut String,
    x: &Axis,
    y: &Axis,
    spans: (&Span, &Span),
    (to_x, to_y): (To<'_>, To<'_>),
) {
    let (floor, ceiling, end) = (HEIGHT - BOTTOM, TOP, WIDTH - RIGHT);
    for mark in spans.0.marks() {
        let at = to_x(mark);
        let text = escaped(&(x.mark)(mark));
        let _ = write!(
            svg,
            r#"<path class="grid" d="M{at:.1} {ceiling}V{floor}"/><text x="{at:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
            floor + 16.0
        );
    }
    for mark in spans.1.marks() {
        let at = to_y(mark);
        let text = escaped(&(y.mark)(mark));
        let _ = write!(
            svg,
            r#"<path class="grid" d="M{LEFT} {at:.1}H{end}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
            LEFT - 8.0,
            at + 4.0
        );
    }
    let _ = write!(
        svg,
        r#"<text class="title" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text><text class="title" transform="translate(12 {:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
        (LEFT + end) / 2.0,
        floor + 36.0,
        escaped(x.title),
        (ceiling + floor) / 2.0,
        escaped(y.title)
    );
}

fn draw(svg: &mut String, line: &Line, to_x: To<'_>, to_y: To<'_>) {
    let mut path = String::new();
    for (number, &(x, y)) in line.points.iter().enumerate() {
        let step = if number == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{step}{:.1} {:.1}", to_x(x), to_y(y));
    }
    let dashed = if line.is_dashed { " dashed" } else { "" };
    let _ = write!(svg, r#"<path class="line c{}{dashed}" d="{path}"/>"#, line.color);
    for &(x, y) in line.points.iter().filter(|_| line.has_dots) {
        let (x, y) = (to_x(x), to_y(y));
        let _ =
            write!(svg, r#"<circle class="dot c{}" cx="{x:.1}" cy="{y:.1}" r="3.5"/>"#, line.color);
    }
}

fn names(svg: &mut String, lines: &[Line]) {
    let width = (WIDTH - LEFT - RIGHT) / 4.0;
    let named = lines.iter().filter_map(|line| Some((line, line.name.as_ref()?)));
    for (place, (line, name)) in named.enumerate() {
        let (x, y) = (LEFT + (place % 4) as f64 * width, HEIGHT + 14.0 + 20.0 * (place / 4) as f64);
        let dashed = if line.is_dashed { " dashed" } else { "" };
        let _ = write!(
            svg,
            r#"<path class="line c{}{dashed}" d="M{x:.1} {:.1}h20"/><text x="{:.1}" y="{y:.1}">{}</text>"#,
            line.color,
            y - 4.0,
            x + 26.0,
            escaped(name)
        );
    }
}

/// The values of an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Span {
    /// From the least to the most; `None` without any value.
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Option<Span> {
        let usable = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let (low, high) =
            values.filter(usable).fold((f64::INFINITY, f64::NEG_INFINITY), |span, value| {
                (span.0.min(value), span.1.max(value))
            });
        if low > high {
            return None;
        }
        Some(match scale {
            Scale::Linear => {
                let high = if high > 0.0 { high } else { 1.0 };
                let step = step(high);
                Span { scale, low: 0.0, high: (high / step).ceil() * step }
            }
            Scale::Log => {
                let high = if high > low { high } else { low * 2.0 };
                Span { scale, low: floor_of(low), high: ceiling_of(high) }
            }
        })
    }

    /// Where a value is, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => {
                let value = value.max(self.low);
                (value / self.low).ln() / (self.high / self.low).ln()
            }
        };
        place.clamp(0.0, 1.0)
    }

    fn marks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = step(self.high);
                (0..)
                    .map(|number| f64::from(number) * step)
                    .take_while(|mark| *mark <= self.high * 1.001)
                    .collect()
            }
            Scale::Log => {
                let mut marks = Vec::new();
                let mut power = 10f64.powf(self.low.log10().floor());
                let is_short = self.high / self.low < 300.0;
                while power <= self.high * 1.001 {
                    let factors: &[f64] = if is_short { &[1.0, 2.0, 5.0] } else { &[1.0] };
                    marks.extend(factors.iter().map(|factor| power * factor));
                    power *= 10.0;
                }
                marks.retain(|mark| *mark >= self.low * 0.999 && *mark <= self.high * 1.001);
                marks
            }
        }
    }
}

/// The distance of marks: 1, 2 or 5 times a power of ten.
fn step(high: f64) -> f64 {
    let rough = high / MARKS;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| power * factor >= rough);
    power * factor.unwrap_or(10.0)
}

fn floor_of(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let factor = [5.0, 2.0, 1.0].into_iter().find(|factor| power * factor <= value * 1.000_001);
    power * factor.unwrap_or(1.0)
}

fn ceiling_of(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let factor =
        [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| power * factor >= value * 0.999_999);
    power * factor.unwrap_or(10.0)
}

/// Text that a page may hold.
pub(in crate::cli) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_hold_their_values_and_marks_lie_on_them() {
        for (scale, values) in [
            (Scale::Linear, vec![0.0]),
            (Scale::Linear, vec![3.0, 517.0]),
            (Scale::Linear, vec![1e6, 2.98e6]),
            (Scale::Log, vec![20_000.0]),
            (Scale::Log, vec![1.0, 1e7]),
            (Scale::Log, vec![0.0, 33.0, 99.0]),
        ] {
            let span = Span::of(scale, values.iter().copied()).unwrap();
            for &value in &values {
                assert!((0.0..=1.0).contains(&span.place(value)), "{span:?} {value}");
            }
            let marks = span.marks();
            assert!((2..=12).contains(&marks.len()), "{span:?} {marks:?}");
            assert!(marks.iter().all(|&mark| mark >= span.low * 0.99 && mark <= span.high * 1.01));
        }
        assert_eq!(Span::of(Scale::Log, [0.0, f64::NAN].into_iter()), None);
    }

    #[test]
    fn a_plot_is_sound_markup_and_nothing_is_no_plot() {
        let axis = Axis { title: "a<b", scale: Scale::Linear, mark: |value| value.to_string() };
        let line = Line {
            color: 0,
            name: Some("x & y".into()),
            points: vec![(0.0, 1.0), (2.0, 3.0)],
            has_dots: true,
            is_dashed: false,
        };
        let svg = plot(&axis, &axis, &[line]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
        assert!(svg.contains("a&lt;b") && svg.contains("x &amp; y") && !svg.contains("NaN"));
        assert_eq!(plot(&axis, &axis, &[]), "");
    }
}
