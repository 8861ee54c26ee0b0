//! What is wrong with this host, a store and its configuration, and what to do about each.
//!
//! | File | Its job |
//! |---|---|
//! | `host` | what the kernel offers, limits of the process, the clock |
//! | `place` | the file system under a store, and what may be done there |
//! | `store` | the store: whether it opens, who has it open, what is damaged or set aside |
//! | `configuration` | the configuration files, and what they point at |
//! | `probe` | system calls that are tried |
//!
//! Nothing is changed: files that are needed for a trial have no name.

use serde::Serialize;

pub mod configuration;
pub mod host;
pub mod place;
#[allow(unsafe_code)]
mod probe;
pub mod store;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is not available here that somebody may want.
    Note,
    /// Something should be seen to, or will be slow, or will fail one day.
    Warning,
    /// Something does not work.
    Error,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at, in a word that stays.
    pub topic: &'static str,
    /// What is the matter.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// What was found so far.
#[derive(Debug, Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// Something is not available.
    pub fn note(&mut self, topic: &'static str, what: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Note, topic, what.into(), advice.into());
    }

    /// Something should be seen to.
    pub fn warning(&mut self, topic: &'static str, what: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Warning, topic, what.into(), advice.into());
    }

    /// Something does not work.
    pub fn error(&mut self, topic: &'static str, what: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Error, topic, what.into(), advice.into());
    }

    fn add(&mut self, severity: Severity, topic: &'static str, what: String, advice: String) {
        self.0.push(Finding { severity, topic, what, advice });
    }

    /// The worst first; otherwise in the order in which they were found.
    pub fn sorted(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        self.0
    }
}
