#![no_main]

archipelago_fuzz::program!("nbd_session");
