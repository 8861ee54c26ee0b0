//! Labels of volumes and snapshots: set with their making or later, found by their value.

use super::control::{Answer, Request};
use super::{CloneOptions, CreateOptions, Store, VolumeInfo, catalog};
use crate::blocker::RecordKey;
use crate::error::{Error, Result};
use crate::format::header::Kind;
use crate::format::labels::Labels;
use crate::limits::MAX_LIST_PAGE;

/// A change of one label: its key, and the new value, or `None` to take it away.
pub type LabelChange<'a> = (&'a str, Option<&'a str>);

impl Store {
    /// As [`Store::create`]; the volume has these labels from the first moment on.
    pub fn create_labelled(
        &self,
        name: &str,
        options: &CreateOptions,
        labels: &[LabelChange<'_>],
    ) -> Result<VolumeInfo> {
        self.make_empty(name, options, Labels::default().with(labels)?)
    }

    /// As [`Store::clone_snapshot`]; the clone has these labels from the first moment on.
    pub fn clone_labelled(
        &self,
        snapshot: &str,
        name: &str,
        options: &CloneOptions,
        labels: &[LabelChange<'_>],
    ) -> Result<VolumeInfo> {
        let labels = Labels::default().with(labels)?;
        let headers = self.make_clones(snapshot, std::slice::from_ref(&name.to_string()), options, &labels)?;
        catalog::describe_clone(&headers[0], snapshot)
    }

    /// Changes labels of a volume or snapshot, all together or none, asking the process that has it open if there is one. What cannot be
    /// stored is [`Error::InvalidArgument`].
    pub fn set_labels(&self, name: &str, changes: &[LabelChange<'_>]) -> Result<()> {
        let (header, _) = catalog::find(&self.shared, name)?;
        match header.kind {
            Kind::Volume => {
                let owned =
                    || changes.iter().map(|(key, value)| (key.to_string(), value.map(str::to_string))).collect();
                let request = |id: String| Request::Label { id, volume: name.into(), changes: owned() };
                self.by_owner(name, |inner| inner.set_labels(changes).map(|()| Answer::Done), &request).map(drop)
            }
            Kind::Snapshot => {
                let _operation = self.shared.operations.begin();
                let _lock = self.lock_patiently(&header, "try again")?;
                let (mut header, version) = self.find_again(name, header.id)?;
                header.labels = header.labels.with(changes)?;
                let key = RecordKey::Header(header.id);
                self.shared.blocker.commit_record(key, version, &header.encode()).map(drop)
            }
            Kind::Object | Kind::Group => {
                Err(Error::InvalidArgument(format!("{name}: only volumes and snapshots have labels")))
            }
        }
    }

    /// Facts about what has this name, if anything has, as its header has them: in constant time, however much was written since. What
    /// [`VolumeInfo::mapped`] says may be old.
    pub fn lookup(&self, name: &str) -> Result<Option<VolumeInfo>> {
        match catalog::find(&self.shared, name) {
            Ok((header, _)) => catalog::describe(&self.shared, &header, None).map(Some),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The volumes and snapshots with this value under this key, in byte order of names. Reads every header of the store. One that cannot be
    /// read is passed over, as if it had no labels.
    pub fn find_labelled(&self, key: &str, value: &str) -> Result<Vec<VolumeInfo>> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let names = self.shared.blocker.names("", after.as_deref(), MAX_LIST_PAGE)?;
            let last = names.len() < MAX_LIST_PAGE;
            after = names.last().cloned().or(after);
            for name in names {
                match catalog::resolve(&self.shared, &name) {
                    Ok(Some((header, _))) if header.labels.get(key) == Some(value) => {
                        found.push(catalog::describe(&self.shared, &header, None)?);
                    }
                    Ok(_) | Err(Error::Damaged { .. } | Error::TooNew { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            if last {
                return Ok(found);
            }
        }
    }

    /// Makes everything durable in the store that was written to a volume before, asking the process that has it open if there is one.
    pub fn flush(&self, name: &str) -> Result<()> {
        let request = |id: String| Request::Flush { id, volume: name.into() };
        self.by_owner(name, |inner| inner.flush_through().map(|()| Answer::Done), &request).map(drop)
    }
}
