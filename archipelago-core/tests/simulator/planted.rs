//! Bugs planted on purpose: a simulator that does not find them is blind.
