//! Measures what a store, a server of network block devices, a block device or a file can do: many requests of one kind, in order or in any
//! order in which each occurs once, so many at once, for a number of requests or for a time; and checks every byte that it reads, if asked to.
//!
//! | File | Job |
//! |---|---|
//! | `args` | the options, as data |
//! | `plan` | what they come to for a target, or why they make no sense; which request comes when |
//! | `order` | permutations in which each number occurs once |
//! | `content` | what is written, and whether what was read is that |
//! | `target` | who carries out requests: `engine`, `catalogue`, `nbd`, `file` (with `ring`) |
//! | `run` | keeps requests under way until the end |
//! | `record`, `processor` | counts, times, percentiles; processor time |
//! | `progress`, `report` | what people see meanwhile, and what they and scripts get at the end |

pub mod args;
mod content;
mod limits;
mod order;
mod plan;
mod processor;
mod progress;
mod record;
mod report;
mod run;
mod target;

pub use plan::Plan;
pub use progress::Progress;
pub use report::Report;
pub use run::{End, run};
pub use target::{Open, Target, open};
