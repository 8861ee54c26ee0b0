//! A ratio to a peer, over interleaved rounds: printed for people, as a line of JSON, and drawn by `plot`.

use serde::{Deserialize, Serialize};

use super::{Outcome, quartiles};

/// A ratio.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Ratio {
    /// The group of measurements.
    pub group: String,
    /// What was asked for.
    pub case: String,
    /// What is compared, and of whom.
    pub what: String,
    /// With whom.
    pub peer: String,
    /// Of all rounds.
    pub median: f64,
    /// A quarter of the rounds were below.
    pub lower_quartile: f64,
    /// A quarter of the rounds were above.
    pub upper_quartile: f64,
    /// What the median should be, if anything is asked for.
    pub goal: Option<f64>,
    /// The goal is an upper bound.
    pub at_most: bool,
}

impl Ratio {
    /// Over rounds.
    pub fn new(group: &str, case: &str, what: &str, peer: &str, goal: Option<f64>, at_most: bool) -> Ratio {
        let nan = f64::NAN;
        let [group, case, what, peer] = [group, case, what, peer].map(String::from);
        Ratio { group, case, what, peer, median: nan, lower_quartile: nan, upper_quartile: nan, goal, at_most }
    }

    /// With the ratios of the rounds.
    pub fn of(mut self, rounds: impl Iterator<Item = f64>) -> Ratio {
        (self.median, self.lower_quartile, self.upper_quartile) = quartiles(&mut rounds.collect::<Vec<_>>());
        self
    }

    /// Whether the goal is met: by the median, and nearly by the quarter of the rounds that were worst.
    pub fn met(&self) -> Option<bool> {
        let goal = self.goal?;
        Some(if self.at_most {
            self.median <= goal && self.upper_quartile <= goal / 0.9
        } else {
            self.median >= goal && self.lower_quartile >= goal * 0.9
        })
    }

    /// What it comes to.
    pub fn figures(&self) -> String {
        let bound = if self.at_most { "at most" } else { "at least" };
        let goal = self.goal.map_or(String::new(), |goal| format!(", bar {bound} {goal}"));
        format!("{:.2} ({:.2}..{:.2}){goal}", self.median, self.lower_quartile, self.upper_quartile)
    }

    /// Prints a line for people, and with `json` one for `plot`.
    pub fn print(&self, json: bool) -> Outcome {
        println!("  {} / {}: {}", self.what, self.peer, self.figures());
        if json {
            println!("{}", serde_json::to_string(self)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_by_the_median_and_nearly_by_the_worst_quarter() {
        let ratio = |at_most, rounds: [f64; 5]| Ratio::new("", "", "", "", Some(1.0), at_most).of(rounds.into_iter());
        for (at_most, rounds, met) in [
            (false, [0.9, 0.9, 1.0, 2.0, 2.0], true),
            (false, [0.8, 0.85, 1.5, 2.0, 2.0], false),
            (false, [0.95, 0.95, 0.99, 2.0, 2.0], false),
            (true, [0.1, 0.1, 1.0, 1.1, 9.0], true),
            (true, [0.1, 0.1, 0.5, 1.2, 9.0], false),
        ] {
            assert_eq!(ratio(at_most, rounds).met(), Some(met), "{rounds:?}");
        }
        assert_eq!(Ratio::new("", "", "", "", None, false).of([1.0].into_iter()).met(), None);
    }
}
