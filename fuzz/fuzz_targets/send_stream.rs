#![no_main]

archipelago_fuzz::program!("send_stream");
