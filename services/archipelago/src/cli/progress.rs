//! Progress of long copies, on standard error, for people only.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar, or nothing when nobody looks.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Shows a bar for `total` bytes (`None`: unknown) if standard error is a terminal and `json` is not asked for.
    pub fn new(json: bool, total: Option<u64>) -> Progress {
        if json || !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}"),
            None => (ProgressBar::no_length(), "{spinner} {bytes} {bytes_per_sec}"),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Progress(Some(bar))
    }

    /// Shows a bar for a number of things that may still grow, with a remark.
    pub fn of_things(json: bool) -> Progress {
        if json || !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let bar = ProgressBar::new(0);
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Progress(Some(bar))
    }

    /// Moves to `position` of `total` things.
    pub fn at_of(&self, position: u64, total: u64, remark: impl FnOnce() -> String) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(position);
            bar.set_message(remark());
        }
    }

    /// Moves to `position` bytes.
    pub fn at(&self, position: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(position);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
