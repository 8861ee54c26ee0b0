//! What a daemon is to do, by its flags and the configuration; and what of that holds for as long as it runs.

use std::path::{Path, PathBuf};

use archipelago_core::Store;

use super::super::super::args::Serve;
use super::super::super::exit::Failure;
use super::{attachment, endpoint, hash_plan, policy, tls_files};
use crate::collector::CollectPlan;
use crate::config::Config;
use crate::disk::gauges::Policy;
use crate::hasher::HashPlan;
use crate::log::{self, Format, Settings};
use crate::metrics;
use crate::nbd::{Endpoint, tls};
use crate::scrubber::ScrubPlan;
use crate::vhost_user::Attachment;

/// What a daemon is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Where to listen for clients of NBD.
    pub endpoints: Vec<Endpoint>,
    /// What to attach to virtual machines.
    pub attachments: Vec<Attachment>,
    /// Certificates.
    pub tls: Option<tls::Files>,
    /// Limits, and what is slow.
    pub policy: Policy,
    /// When and how to collect.
    pub collect: Option<CollectPlan>,
    /// When and how to scrub.
    pub scrub: Option<ScrubPlan>,
    /// When and how to hash.
    pub hash: Option<HashPlan>,
    /// Where to tell figures.
    pub metrics: Option<Endpoint>,
    /// What the log looks like.
    pub log: Settings,
    /// What a running daemon does not change, by the names of keys.
    pub fixed: Vec<(&'static str, String)>,
}

impl Plan {
    /// By these flags, which win, and this configuration. Looks at nothing else, so it refuses only what can never be.
    pub fn new(args: &Serve, config: &Config) -> Result<Plan, Failure> {
        let either = |flags: &[String], keys: &[String]| if flags.is_empty() { keys.to_vec() } else { flags.to_vec() };
        let (nbd, vhost_user) = (either(&args.nbd, &config.nbd), either(&args.vhost_user, &config.vhost_user));
        let endpoints = nbd.iter().map(|text| endpoint(text, args)).collect::<Result<Vec<_>, _>>()?;
        let attachments = vhost_user.iter().map(|text| attachment(text, args)).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() && attachments.is_empty() {
            let reason = "nothing to serve; use --nbd unix:/PATH or --nbd tcp:127.0.0.1:10809, or --vhost-user unix:/PATH=NAME, or set \
                          serve.nbd or serve.vhost_user in the configuration";
            return Err(Failure::Usage(reason.into()));
        }
        let metrics = args.metrics.as_ref().or(config.metrics.as_ref()).map(|text| {
            metrics::endpoint(text, args.socket_mode, args.metrics_allow_remote)
                .map_err(|reason| Failure::Usage(format!("--metrics {text}: {reason}")))
        });
        Ok(Plan {
            endpoints,
            attachments,
            tls: tls_files(args, config)?,
            policy: Policy { standby: args.standby, ..policy(config) },
            collect: CollectPlan::new(config),
            scrub: ScrubPlan::new(config, args.scrub_rate),
            hash: hash_plan(args, config),
            metrics: metrics.transpose()?,
            log: settings(args, config)?,
            fixed: fixed(args, config),
        })
    }

    /// Says now what a guest would be told later otherwise: that a disk is not there.
    pub fn check_disks(&self, store: &Store) -> Result<(), Failure> {
        self.attachments.iter().try_for_each(|attachment| Ok(store.info(&attachment.name).map(drop)?))
    }

    /// What another plan changes that counts only when the daemon is started anew.
    pub fn later(&self, other: &Plan) -> Vec<String> {
        let pairs = self.fixed.iter().zip(&other.fixed).filter(|(before, after)| before != after);
        pairs.map(|((key, _), _)| format!("`{key}` counts when the daemon is started anew")).collect()
    }
}

/// What the log looks like.
fn settings(args: &Serve, config: &Config) -> Result<Settings, Failure> {
    let default = Settings::default();
    let wrong = |name: &str, reason: String| Failure::Usage(format!("{name} {reason}"));
    let format = args.log_format.as_ref().or(config.log_format.as_ref()).map(|text| text.parse::<Format>()).transpose();
    let level = args.log_level.as_ref().or(config.log_level.as_ref()).map(|text| log::level(text)).transpose();
    Ok(Settings {
        format: format.map_err(|e| wrong("--log-format", e))?.unwrap_or(default.format),
        level: level.map_err(|e| wrong("--log-level", e))?.unwrap_or(default.level),
    })
}

fn fixed(args: &Serve, config: &Config) -> Vec<(&'static str, String)> {
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let pid_file: Option<&PathBuf> = args.pid_file.as_ref().or(config.pid_file.as_ref());
    vec![
        ("store", config.store.clone().unwrap_or_default()),
        ("node_cache", number(config.node_cache)),
        ("max_unfolded", number(config.max_unfolded)),
        ("direct", config.direct.unwrap_or(false).to_string()),
        ("serve.pid_file", pid_file.map(|path| Path::display(path).to_string()).unwrap_or_default()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::args;
    use super::*;

    fn config() -> Config {
        Config { nbd: vec!["unix:/run/a.sock".into()], ..Config::default() }
    }

    #[test]
    fn a_plan_needs_something_to_serve() {
        assert!(matches!(Plan::new(&args(), &Config::default()), Err(Failure::Usage(_))));
        assert_eq!(Plan::new(&args(), &config()).unwrap().endpoints.len(), 1);
    }

    #[test]
    fn logs_and_figures_are_as_flags_say_or_else_the_configuration() {
        let plan = Plan::new(&args(), &config()).unwrap();
        assert_eq!((plan.metrics, plan.log), (None, Settings::default()));
        let config = Config {
            log_format: Some("json".into()),
            log_level: Some("warn".into()),
            metrics: Some("127.0.0.1:9809".into()),
            ..config()
        };
        let plan = Plan::new(&args(), &config).unwrap();
        assert_eq!((plan.log.format, plan.log.level), (Format::Json, tracing::Level::WARN));
        assert!(matches!(plan.metrics, Some(Endpoint::Tcp { .. })));
        let flags = Serve { log_format: Some("logfmt".into()), metrics: Some("unix:/run/m.sock".into()), ..args() };
        let plan = Plan::new(&flags, &config).unwrap();
        assert_eq!((plan.log.format, plan.log.level), (Format::Logfmt, tracing::Level::WARN));
        assert!(matches!(plan.metrics, Some(Endpoint::Unix { .. })));
        for bad in [
            Config { log_format: Some("xml".into()), ..config.clone() },
            Config { log_level: Some("loud".into()), ..config.clone() },
            Config { metrics: Some("0.0.0.0:1".into()), ..config },
        ] {
            assert!(matches!(Plan::new(&args(), &bad), Err(Failure::Usage(_))), "{bad:?}");
        }
    }

    #[test]
    fn what_counts_only_later_is_told() {
        let plan = Plan::new(&args(), &config()).unwrap();
        assert!(plan.later(&plan).is_empty());
        let other = Config { node_cache: Some(5), store: Some("file:/b".into()), ..config() };
        let later = plan.later(&Plan::new(&args(), &other).unwrap());
        assert_eq!(later.len(), 2, "{later:?}");
        assert!(later[0].starts_with("`store` counts"));
    }
}
