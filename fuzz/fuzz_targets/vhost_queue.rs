#![no_main]

archipelago_fuzz::program!("vhost_queue");
