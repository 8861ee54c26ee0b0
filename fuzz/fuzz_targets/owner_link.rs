#![no_main]

archipelago_fuzz::program!("owner_link");
