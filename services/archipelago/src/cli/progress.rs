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
