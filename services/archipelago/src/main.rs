//! Entry point of the `archipelago` command.
fn main() {}
