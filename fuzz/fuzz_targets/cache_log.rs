#![no_main]

archipelago_fuzz::program!("cache_log");
