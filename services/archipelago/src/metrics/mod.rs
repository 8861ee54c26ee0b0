//! Figures of a daemon in the text format of Prometheus, over HTTP. Off unless asked for.
//!
//! Everything is read from counters that are there anyway; who serves a request of a disk knows nothing of this.
//!
//! | File | Its job |
//! |---|---|
//! | `text` | the text format |
//! | `page` | which figures there are, and what they are called |
//! | `space` | the room of the store, which a backend that hangs does not tell |
//! | `process` | the daemon's own memory, time and descriptors |
//! | `http` | requests and answers |
//! | `server` | sockets and threads |
//! | `limits` | every bound, with its reason |

mod http;
pub mod limits;
mod page;
mod process;
mod server;
mod space;
mod text;

pub use page::{Census, Jobs, Page, Reloads, Sources};
pub use server::{Server, endpoint};
