//! Facts about volumes, and their removal: one call after another.

use archipelago_core::Store;

use super::super::plan::{Kind, Plan, Request};
use super::{Ended, Target};
use crate::cli::exit::Failure;

/// The volumes of a store, by name.
pub struct Catalogue {
    store: Store,
    /// For the names.
    plan: Plan,
    ended: Vec<Ended>,
}

impl Catalogue {
    /// Of the volumes of a plan.
    pub fn new(store: Store, plan: &Plan) -> Catalogue {
        Catalogue { store, plan: plan.clone(), ended: Vec::new() }
    }
}

impl Target for Catalogue {
    fn describe(&self) -> String {
        "the store".into()
    }

    fn buffer(&mut self, _tag: usize) -> &mut [u8] {
        &mut []
    }

    fn start(&mut self, tag: usize, request: Request) -> Result<(), Failure> {
        let name = self.plan.name(request.object);
        let result = match request.kind {
            Kind::Delete => self.store.remove(&name),
            _ => self.store.info(&name).map(|_| ()),
        };
        self.ended.push(Ended { tag, result: result.map_err(Failure::from) });
        Ok(())
    }

    fn wait(&mut self, ended: &mut Vec<Ended>) -> Result<(), Failure> {
        ended.append(&mut self.ended);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}
