#![no_main]

archipelago_fuzz::program!("process_record");
