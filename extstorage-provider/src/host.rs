//! This node: its configuration, the stores that it names, and what is attached here.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use archipelago_core::{Background, Location, Store, StoreOptions, limits};
use archipelago_service::attach::{Attacher, RUN, default_node};
use archipelago_service::config::{self, Config};

use crate::environment::shown;
use crate::error::ProviderError;

/// The configuration of one provider, in its directory, in the place of the system's.
const OWN: &str = "archipelago.toml";

/// This node, as the provider sees it.
pub struct Host {
    pub config: Config,
    /// The file that it was read from, if it is not the system's.
    file: Option<PathBuf>,
    pub attacher: Attacher,
}

/// A store with how it is named.
pub struct Pool {
    pub store: Store,
    pub location: Location,
}

impl Host {
    /// Reads the configuration. Nothing of it comes from the environment.
    pub fn load(warn: &mut dyn FnMut(String)) -> Result<Host, ProviderError> {
        // By the kernel's word, and not by the name that the program was called by.
        let dir = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_path_buf));
        let file = dir.map(|dir| dir.join(OWN)).filter(|file| file.exists());
        let config = match &file {
            Some(file) => config::load(Some(file), warn),
            None => config::load_for_everybody(warn),
        };
        let config = config.map_err(ProviderError::Configuration)?;
        let node = config.node.clone().map_or_else(default_node, Ok)?;
        let attacher = Attacher::new(config.run_dir.clone().unwrap_or_else(|| RUN.into()), node);
        Ok(Host { config, file, attacher })
    }

    /// Where the store of a disk is that names this pool, or none.
    pub fn location(&self, pool: Option<&str>) -> Result<Location, ProviderError> {
        let text = match pool {
            None => self.config.store.as_ref().ok_or_else(|| {
                ProviderError::refused(
                    format!("no store is configured in {}", self.file_name()),
                    "write store = \"file:/PATH\" there",
                )
            })?,
            Some(pool) => self.config.ganeti.pools.get(pool).ok_or_else(|| {
                let known: Vec<_> = self.config.ganeti.pools.keys().map(String::as_str).collect();
                ProviderError::refused(
                    format!("EXTP_POOL is {}, and no such pool is configured in {}", shown(pool), self.file_name()),
                    match known.is_empty() {
                        true => "leave the parameter `pool` out, or write the pool into [ganeti.pools] there".into(),
                        false => {
                            format!("name one of {}, or write the pool into [ganeti.pools] there", known.join(", "))
                        }
                    },
                )
            })?,
        };
        Ok(Location::from_str(text)?)
    }

    /// Opens the store of a disk.
    pub fn pool(&self, pool: Option<&str>) -> Result<Pool, ProviderError> {
        let location = self.location(pool)?;
        let options = StoreOptions {
            node_cache: self.config.node_cache.unwrap_or(limits::NODE_CACHE),
            // A call is over before there would be anything to do.
            background: Background::Manual,
            max_unfolded: self.config.max_unfolded.unwrap_or(limits::MAX_UNFOLDED),
            direct: self.config.direct.unwrap_or(false),
            ..StoreOptions::default()
        };
        Ok(Pool { store: Store::open(&location, options)?, location })
    }

    /// Names of all pools; `None` is the one that disks have that name none.
    pub fn pools(&self) -> Vec<Option<&str>> {
        let default = self.config.store.is_some().then_some(None);
        default.into_iter().chain(self.config.ganeti.pools.keys().map(|name| Some(name.as_str()))).collect()
    }

    /// Arguments with which the server of a volume works with this store and configuration.
    pub fn arguments(&self, location: &Location) -> Vec<String> {
        let file = self.file.as_ref().map(|file| ["--config".to_string(), file.to_string_lossy().into_owned()]);
        file.into_iter().flatten().chain(["--store".to_string(), location.to_string()]).collect()
    }

    /// The configuration file, for messages.
    pub fn file_name(&self) -> String {
        self.file.as_deref().unwrap_or(Path::new(config::SYSTEM)).display().to_string()
    }
}
