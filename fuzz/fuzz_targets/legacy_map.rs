#![no_main]

archipelago_fuzz::program!("legacy_map");
