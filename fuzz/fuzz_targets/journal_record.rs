#![no_main]

archipelago_fuzz::program!("journal_record");
