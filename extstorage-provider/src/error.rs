//! Why something is refused, and what an administrator of Ganeti can do about it.

use archipelago_core::Error;
use archipelago_service::attach::AttachError;
use archipelago_service::cli::exit::Failure;

/// Why a call failed. The text says what is wrong, [`ProviderError::advice`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// A variable that Ganeti gave, or did not give.
    #[error("{name} {reason}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Parameters that the provider does not know.
    #[error("unknown parameters: {0}")]
    Unknown(String),
    /// No such volume.
    #[error("no such volume: {looked_for}, in {store}")]
    Missing {
        /// The names that were tried, in words.
        looked_for: String,
        /// Where.
        store: String,
    },
    /// The names of a disk lead to different volumes.
    #[error("the disk may be any of {}: its names lead to different volumes", .0.join(", "))]
    Ambiguous(Vec<String>),
    /// What is asked for does not fit what is there.
    #[error("{what}")]
    Refused {
        /// What is wrong.
        what: String,
        /// What to do.
        advice: String,
    },
    /// The configuration cannot be used.
    #[error("{0}")]
    Configuration(Failure),
    /// The engine refused or failed.
    #[error("{0}")]
    Engine(#[from] Error),
    /// Attaching or detaching failed.
    #[error("{0}")]
    Attach(#[from] AttachError),
}

impl ProviderError {
    /// Something that does not fit, with what to do.
    pub fn refused(what: impl Into<String>, advice: impl Into<String>) -> ProviderError {
        ProviderError::Refused { what: what.into(), advice: advice.into() }
    }

    /// What an administrator can do about it, in one sentence.
    pub fn advice(&self) -> String {
        match self {
            ProviderError::Variable { name, .. } if name.starts_with("EXTP_") => {
                "correct the disk's parameter of that name; docs/ganeti.md has a table of them".into()
            }
            ProviderError::Variable { name, .. } if name == "VOL_CNAME" => {
                "give the disk another name, or none; or write volume_naming = \"name\" in [ganeti] of archipelago.toml"
                    .into()
            }
            ProviderError::Variable { .. } => {
                "Ganeti sets it; by hand, set the variables as docs/ganeti.md lists them for each action".into()
            }
            ProviderError::Unknown(_) => {
                "leave them out, or correct their names; `gnt-storage diagnose` lists those that there are".into()
            }
            ProviderError::Missing { .. } => {
                "look with `archipelago list` whether it has another name or was removed; if the \
                store is another one, the disk's parameter `pool` must name it"
                    .into()
            }
            ProviderError::Ambiguous(_) => {
                "look at both with `archipelago info`, and rename the one that is not the disk; or \
                write volume_naming = \"cname\" or \"name\" in [ganeti] of archipelago.toml to have one side win"
                    .into()
            }
            ProviderError::Refused { advice, .. } => advice.clone(),
            ProviderError::Configuration(_) => {
                "correct the configuration on this node, and run `verify` in the provider's directory".into()
            }
            ProviderError::Engine(error) => engine_advice(error).into(),
            ProviderError::Attach(error) => attach_advice(error).into(),
        }
    }
}

fn engine_advice(error: &Error) -> &'static str {
    match error {
        Error::NoStore(_) => {
            "mount the store on this node, or correct `store` and ganeti.pools in archipelago.toml; `archipelago init` makes a new one"
        }
        Error::OpenElsewhere { .. } | Error::Busy(_) | Error::GivenUp(_) => {
            "end who has it open: `archipelago showmapped` and `archipelago status` list processes; an instance that runs elsewhere must be \
             shut down first"
        }
        Error::NoSpace(_) => {
            "make room: remove what is not needed, then run `archipelago gc`; `archipelago du` shows what takes it"
        }
        Error::Exists(_) => "remove or rename what has that name, or give the disk another name",
        Error::InvalidName { .. } => "give the disk another name: 6 to 82 letters, digits and . - + @ _",
        Error::InvalidArgument(_) => "correct the disk's size or parameters",
        Error::Timeout(_) | Error::TooBusy(_) => {
            "try again; if it stays so, look with `archipelago status` who does not answer"
        }
        Error::Damaged { .. } | Error::Io { .. } => {
            "look into the kernel's log for errors of the disk below the store, then run `archipelago check`"
        }
        Error::TooNew { .. } => "install the version of Archipelago that made it on this node too",
        _ => "run `archipelago doctor` on this node",
    }
}

fn attach_advice(error: &AttachError) -> &'static str {
    match error {
        AttachError::InUse { .. } => {
            "end who uses it (an instance that still runs, a mounted file system), then try again"
        }
        AttachError::Unsupported(_) => {
            "have the kernel's modules loop and fuse loaded on this node, as root; without them, disks need access=userspace"
        }
        AttachError::Server { .. } => {
            "see the reason above; if another process has the volume open, end it: `archipelago status` lists them"
        }
        _ => "look with `archipelago showmapped` on this node, then try again",
    }
}
