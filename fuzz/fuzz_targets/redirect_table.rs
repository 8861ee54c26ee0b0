#![no_main]

archipelago_fuzz::program!("redirect_table");
