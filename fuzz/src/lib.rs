//! Fuzz targets: one function for each decoder of bytes from outside or from disk. `docs/fuzzing.md` says how they are run.
//!
//! A target takes any bytes and panics if a promise is broken: the decoder panics or takes more memory than it may, accepts
//! what it would not write, or accepts what is past a limit. So a target is more than "does not crash", and everything
//! that runs it (libFuzzer, the tests over the kept corpus, a debugger) checks the same.

pub mod memory;
pub mod mutate;
pub mod targets;

/// One fuzz target.
pub struct Target {
    /// Name: of the program in `fuzz_targets`, and of the directory in `corpus`.
    pub name: &'static str,
    /// Checks one input; panics if a promise is broken.
    pub check: fn(&[u8]),
    /// Inputs from which a corpus can be grown: sound ones, made by the encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input that makes sense, in bytes.
    pub max_len: usize,
    /// Most bytes that one input may take at once on the heap, for the checks as well as for the decoder, next to
    /// [`PER_BYTE`] for each byte of the input.
    pub memory: usize,
    /// How many times as long as others an input takes.
    pub cost: u64,
}

/// See [`Target::memory`].
pub const PER_BYTE: usize = 64;

impl Target {
    /// Checks one input, and what it took of memory.
    pub fn run(&self, input: &[u8]) {
        let input = &input[..input.len().min(self.max_len)];
        let peak = memory::peak_of(|| (self.check)(input));
        let most = self.memory + PER_BYTE * input.len();
        assert!(peak <= most, "{}: {peak} bytes of memory for an input of {} bytes", self.name, input.len());
    }
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    targets::ALL.iter().copied().find(|target| target.name == name)
}

/// The program of a target.
#[macro_export]
macro_rules! program {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|input: &[u8]| {
            static TARGET: std::sync::OnceLock<&$crate::Target> = std::sync::OnceLock::new();
            TARGET.get_or_init(|| $crate::target($name).expect("a target of that name")).run(input);
        });
    };
}
