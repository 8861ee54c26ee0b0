//! Writes the seeds of all targets as files: `seeds DIRECTORY` fills `DIRECTORY/TARGET/seed-N`, and prints for each target its name
//! and its longest input.

use std::io;
use std::path::Path;

use archipelago_fuzz::targets::ALL;

fn main() -> io::Result<()> {
    let Some(root) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("usage: seeds DIRECTORY"));
    };
    for target in ALL {
        let directory = Path::new(&root).join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (i, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{i}")), seed)?;
        }
        println!("{}\t{}", target.name, target.max_len);
    }
    Ok(())
}
