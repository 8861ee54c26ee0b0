#![no_main]

archipelago_fuzz::program!("index_table");
