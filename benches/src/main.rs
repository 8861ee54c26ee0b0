//! Measurements of the engine against its peers.
fn main() {}
