//! The one disk that a server of its own socket has.

use std::sync::Arc;

use crate::disk::device::{Device, ExportError, Exports};

/// One disk under one name. A server with it leads to nothing else of the store.
pub struct OnlyExport {
    name: String,
    disk: Arc<dyn Device>,
}

impl OnlyExport {
    /// This disk under this name.
    pub fn new(name: String, disk: Arc<dyn Device>) -> OnlyExport {
        OnlyExport { name, disk }
    }
}

impl Exports for OnlyExport {
    fn open(&self, name: &str) -> Result<Arc<dyn Device>, ExportError> {
        if name == self.name {
            return Ok(self.disk.clone());
        }
        Err(ExportError::Unknown(format!("{name}: only {} is served here", self.name)))
    }

    fn list(&self) -> Vec<String> {
        vec![self.name.clone()]
    }

    fn default_export(&self) -> Option<String> {
        None
    }
}
