//! Figures of several rounds, and their formats.

use std::time::Duration;

/// The same measurement, taken several times.
#[derive(Default)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn add(&mut self, figure: f64) {
        self.0.push(figure);
    }

    pub(crate) fn add_ms(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1000.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    pub(crate) fn greatest(&self) -> f64 {
        self.at(1.0)
    }

    /// The quantile: the figure that this fraction of all does not exceed.
    pub(crate) fn at(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a short list")]
        let place = (part * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(place).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        let mut figures = Figures::default();
        [5.0, 1.0, 3.0, 2.0, 100.0].into_iter().for_each(|figure| figures.add(figure));
        assert_eq!((figures.median(), figures.greatest(), Figures::default().median()), (3.0, 100.0, 0.0));
    }
}
