//! What the long jobs of a process say of themselves, for whoever asks for the state of the store.

use std::collections::BTreeMap;

use crate::sync::Mutex;

/// Longest text of one job, in characters: all of them fit into an answer.
const MAX_TEXT: usize = 500;

/// Jobs, by name. Each has a fixed name, so there are few.
#[derive(Default)]
pub struct Reports {
    jobs: Mutex<BTreeMap<&'static str, Job>>,
}

#[derive(Default)]
struct Job {
    work: Option<String>,
    trouble: Option<String>,
}

fn short(text: String) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => text[..at].to_string(),
        None => text,
    }
}

impl Reports {
    /// What a job is doing now.
    pub fn work(&self, job: &'static str, text: Option<String>) {
        self.jobs.lock().entry(job).or_default().work = text.map(short);
    }

    /// What a job failed with last.
    pub fn trouble(&self, job: &'static str, text: Option<String>) {
        self.jobs.lock().entry(job).or_default().trouble = text.map(short);
    }

    /// What is being done, in the order of the jobs' names.
    pub fn works(&self) -> Vec<String> {
        self.jobs.lock().values().filter_map(|job| job.work.clone()).collect()
    }

    /// What failed, in the same order.
    pub fn troubles(&self) -> Vec<String> {
        self.jobs.lock().values().filter_map(|job| job.trouble.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_says_what_it_does_and_what_it_failed_with_until_it_takes_that_back() {
        let reports = Reports::default();
        reports.work("b", Some("hashing".into()));
        reports.work("a", Some("ä".repeat(900)));
        reports.trouble("b", Some("no room".into()));
        assert_eq!(reports.works(), ["ä".repeat(500), "hashing".into()]);
        assert_eq!(reports.troubles(), ["no room"]);
        reports.work("b", None);
        reports.trouble("b", None);
        assert_eq!((reports.works().len(), reports.troubles().len()), (1, 0));
    }
}
