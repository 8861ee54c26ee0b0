#![no_main]

archipelago_fuzz::program!("sums");
