//! A daemon that serves: what it consists of, how it goes over to another plan, how it ends.

use std::sync::Arc;
use std::thread::JoinHandle;

use archipelago_core::Store;
use tracing::{error, info, warn};

use super::super::super::exit::Failure;
use super::plan::Plan;
use crate::collector::Collector;
use crate::disk::volumes::StoreExports;
use crate::hasher::Hasher;
use crate::metrics::{self, Jobs, Page, Reloads, Sources};
use crate::nbd::{Endpoint, Server, ServerOptions, tls};
use crate::scrubber::Scrubber;
use crate::{log, vhost_user};

/// A daemon that serves.
pub struct Running {
    plan: Plan,
    store: Store,
    /// What is served.
    pub exports: Arc<StoreExports>,
    machines: vhost_user::Server,
    server: Server,
    metrics: Option<metrics::Server>,
    page: Arc<Page>,
    jobs: Jobs,
    reloads: Arc<Reloads>,
    collector: Option<Collector>,
    scrubber: Option<Scrubber>,
    hasher: Option<Hasher>,
    /// Threads that wait for the end of jobs that were replaced.
    leaving: Vec<JoinHandle<()>>,
}

impl Running {
    /// Serves as planned, if all of it can be.
    pub fn start(store: Store, backend: &'static str, plan: Plan) -> Result<Running, Failure> {
        let tls = plan.tls.as_ref().map(tls::Config::load).transpose()?;
        plan.check_disks(&store)?;
        let exports = Arc::new(StoreExports::with_policy(store.clone(), None, plan.policy.clone()));
        let machines = vhost_user::Server::start(exports.clone(), &plan.attachments)?;
        let options = ServerOptions { tls, ..ServerOptions::default() };
        let server = Server::start(exports.clone(), &plan.endpoints, options)?;
        let (jobs, reloads) = (Jobs::default(), Arc::new(Reloads::new()));
        let page = Arc::new(Page::new(Sources {
            store: store.clone(),
            backend,
            exports: exports.clone(),
            nbd: Box::new(server.census()),
            vhost_user: Box::new(machines.census()),
            jobs: jobs.clone(),
            reloads: reloads.clone(),
        }));
        let metrics = plan.metrics.as_ref().map(|at| metrics::Server::start(at, page.clone())).transpose()?;
        let mut running = Running {
            plan,
            store,
            exports,
            machines,
            server,
            metrics,
            page,
            jobs,
            reloads,
            collector: None,
            scrubber: None,
            hasher: None,
            leaving: Vec::new(),
        };
        running.start_jobs(None)?;
        Ok(running)
    }

    /// Where clients of NBD connect.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.server.endpoints()
    }

    /// Where figures are.
    pub fn metrics(&self) -> Option<&Endpoint> {
        self.metrics.as_ref().map(metrics::Server::endpoint)
    }

    /// Goes over to what `plan` makes, or stays as it is and says why. Returns what counts only later.
    pub fn reload(&mut self, plan: impl FnOnce() -> Result<Plan, Failure>) -> Result<Vec<String>, Failure> {
        let result = plan().and_then(|plan| self.change_to(plan));
        self.reloads.count(result.is_ok());
        match &result {
            Ok(later) => {
                info!("the configuration was read again");
                later.iter().for_each(|note| warn!("{note}"));
            }
            Err(error) => error!(%error, "the configuration was read again and refused; the one before stays"),
        }
        result
    }

    fn change_to(&mut self, plan: Plan) -> Result<Vec<String>, Failure> {
        // All that can be refused comes first, and changes nothing that anybody sees.
        let tls = plan.tls.as_ref().map(tls::Config::load).transpose()?;
        plan.check_disks(&self.store)?;
        let endpoints = self.server.prepare(&plan.endpoints, tls)?;
        let attachments = self.machines.prepare(&plan.attachments)?;
        let metrics = match &plan.metrics {
            Some(at) if self.plan.metrics.as_ref() != Some(at) => Some(metrics::Server::start(at, self.page.clone())?),
            _ => None,
        };
        self.server.apply(endpoints)?;
        self.machines.apply(attachments)?;
        if metrics.is_some() || plan.metrics.is_none() {
            self.metrics = metrics;
        }
        self.exports.gauges().set_policy(plan.policy.clone());
        log::set(plan.log);
        let later = self.plan.later(&plan);
        let before = std::mem::replace(&mut self.plan, plan);
        self.start_jobs(Some(&before))?;
        Ok(later)
    }

    /// Starts the jobs whose plan is another one than before.
    fn start_jobs(&mut self, before: Option<&Plan>) -> Result<(), Failure> {
        let (plan, store) = (&self.plan, &self.store);
        if before.is_none_or(|before| before.collect != plan.collect) {
            let start = |plan| Collector::start(store.clone(), plan, self.jobs.collector.clone());
            let next = plan.collect.map(start).transpose()?;
            leave(&mut self.leaving, std::mem::replace(&mut self.collector, next));
        }
        if before.is_none_or(|before| before.scrub != plan.scrub) {
            let start = |plan| Scrubber::start(store.clone(), plan, self.jobs.scrubber.clone());
            let next = plan.scrub.map(start).transpose()?;
            leave(&mut self.leaving, std::mem::replace(&mut self.scrubber, next));
        }
        if before.is_none_or(|before| before.hash != plan.hash) {
            let start = |plan| Hasher::start(store.clone(), plan, self.jobs.hasher.clone());
            let next = plan.hash.map(start).transpose()?;
            leave(&mut self.leaving, std::mem::replace(&mut self.hasher, next));
        }
        Ok(())
    }

    /// Ends: what is in flight is answered, volumes are flushed and closed.
    pub fn stop(self) {
        let Running { exports, machines, server, metrics, page, collector, scrubber, hasher, leaving, .. } = self;
        drop((metrics, page));
        drop((hasher, collector, scrubber));
        leaving.into_iter().for_each(|thread| drop(thread.join()));
        exports.end_waits();
        drop(exports);
        for volume in machines.stop() {
            warn!(volume, "requests of a virtual machine did not end in time");
        }
        let stopped = server.stop();
        if stopped.cut > 0 {
            warn!(clients = stopped.cut, "clients did not finish in time and were cut off");
        }
    }
}

/// Ends a job in a thread of its own: it may take seconds until it finds out that it is to stop, and who asked for a reload waits.
fn leave<Job: Send + 'static>(leaving: &mut Vec<JoinHandle<()>>, job: Option<Job>) {
    leaving.retain(|thread| !thread.is_finished());
    // Without a thread the job ends here.
    if let Some(job) = job
        && let Ok(thread) = std::thread::Builder::new().name("job-end".into()).spawn(move || drop(job))
    {
        leaving.push(thread);
    }
}
