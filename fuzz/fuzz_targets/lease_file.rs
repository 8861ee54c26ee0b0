#![no_main]

archipelago_fuzz::program!("lease_file");
