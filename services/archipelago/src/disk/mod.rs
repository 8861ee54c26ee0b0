//! What endpoints serve: disks of a store, whatever protocol leads to them.
//!
//! | File | Its job |
//! |---|---|
//! | `device` | the two traits by which endpoints know of disks |
//! | `volumes` | volumes and snapshots of a store behind them, opened once for all |
//! | `served` | a volume that a server has for good, or stands for while others may have it |
//! | `standby` | questions about that, and orders, from other processes |
//! | `batch` | requests to a volume that are under way together |
//! | `spin` | whether to look for requests for a moment before sleeping |
//! | `gauges` | what is measured and limited of each, and questions about it |
//! | `meter`, `slow` | counters and histograms; requests that took long |
//! | `limiter` | requests and bytes per second |
//! | `limits` | every bound that they share |

mod batch;
pub mod device;
pub mod gauges;
pub mod limiter;
pub mod limits;
pub mod meter;
mod served;
pub mod slow;
pub mod spin;
pub mod standby;
pub mod volumes;
