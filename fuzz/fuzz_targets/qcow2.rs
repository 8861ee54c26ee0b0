#![no_main]

archipelago_fuzz::program!("qcow2");
