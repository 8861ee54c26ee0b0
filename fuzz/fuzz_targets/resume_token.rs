#![no_main]

archipelago_fuzz::program!("resume_token");
