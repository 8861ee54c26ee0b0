#![no_main]

archipelago_fuzz::program!("control_answer");
