//! What endpoints serve: disks of a store, whatever protocol leads to them.
//!
//! | File | Its job |
//! |---|---|
//! | `device` | the two traits by which endpoints know of disks |
//! | `volumes` | volumes and snapshots of a store behind them, opened once for all |
//! | `spin` | whether to look for requests for a moment before sleeping |
//! | `limits` | every bound that they share |

pub mod device;
pub mod limits;
pub mod spin;
pub mod volumes;
