#![no_main]

archipelago_fuzz::program!("file_name");
