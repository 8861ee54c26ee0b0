#![no_main]

archipelago_fuzz::program!("segment_head");
