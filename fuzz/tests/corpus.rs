//! Every target over its seeds, its kept corpus and some thousands of mutations of these, on any compiler.
//!
//! `FUZZ_MUTATIONS` is the number of mutations for each target, `FUZZ_SEED` where they start. A failure names the seed and
//! leaves the input in a file.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use archipelago_fuzz::mutate::{Random, mutant};
use archipelago_fuzz::{Target, target, targets};

/// Mutations of each target unless `FUZZ_MUTATIONS` says otherwise: a few seconds.
const MUTATIONS: u64 = 3000;
/// Longest input that is kept: a corpus is a part of the source.
const MAX_KEPT: u64 = 40 << 10;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn directory(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// Inputs that were kept, by name of file.
fn kept(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(directory(target)) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(&path).expect("an input"))).collect()
}

fn run(target: &Target, input: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target.run(input))) {
        let file = std::env::temp_dir().join(format!("fuzz-{}-{:08x}", target.name, crc32c::crc32c(input)));
        let left = std::fs::write(&file, input).map_or("not written".into(), |()| file.display().to_string());
        eprintln!("{} fails for {what}; the input is in {left}", target.name);
        resume_unwind(panic);
    }
}

fn corpus_and_mutations(name: &str) {
    let target = target(name).expect("a target");
    let mut inputs = (target.seeds)();
    assert!(!inputs.is_empty());
    for (i, seed) in inputs.iter().enumerate() {
        assert!(seed.len() <= target.max_len, "seed {i} is too long");
        run(target, seed, &format!("its seed {i}"));
    }
    for (path, input) in kept(target) {
        run(target, &input, &path.display().to_string());
        inputs.push(input);
    }
    let (first, count) = (number("FUZZ_SEED", 1), number("FUZZ_MUTATIONS", MUTATIONS / target.cost));
    for seed in first..first + count {
        let input = mutant(&inputs, &mut Random::new(seed), target.max_len);
        run(target, &input, &format!("FUZZ_SEED={seed} FUZZ_MUTATIONS=1"));
    }
}

macro_rules! tests {
    ($(fn $test:ident() $name:literal)*) => {
        $(#[test]
        fn $test() {
            corpus_and_mutations($name);
        })*

        #[test]
        fn every_target_has_a_test_and_a_program() {
            let tested = [$($name),*];
            let declared: Vec<_> = targets::ALL.iter().map(|target| target.name).collect();
            assert_eq!(tested.as_slice(), declared.as_slice());
            let manifest = include_str!("../Cargo.toml");
            for name in tested {
                let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz_targets/{name}.rs"));
                let text = std::fs::read_to_string(&program).expect(name);
                assert!(text.contains(&format!("program!(\"{name}\")")), "{name}");
                assert!(manifest.contains(&format!("fuzz_targets/{name}.rs")), "{name} is not in Cargo.toml");
            }
        }
    };
}

tests! {
    fn record_files_keep_their_promises() "record"
    fn superblocks_keep_their_promises() "superblock"
    fn headers_keep_their_promises() "header"
    fn nodes_keep_their_promises() "node"
    fn extent_lists_keep_their_promises() "extents"
    fn segment_heads_keep_their_promises() "segment_head"
    fn journal_records_keep_their_promises() "journal_record"
    fn segments_of_any_bytes_are_replayed_or_refused() "segment"
    fn journals_that_were_cut_or_damaged_are_replayed_as_promised() "history"
    fn owner_links_keep_their_promises() "owner_link"
    fn process_records_keep_their_promises() "process_record"
    fn control_connections_keep_their_promises() "control_frames"
    fn control_answers_keep_their_promises() "control_answer"
    fn nbd_negotiations_keep_their_promises() "nbd_negotiation"
    fn nbd_sessions_of_any_bytes_end() "nbd_session"
    fn nbd_requests_do_what_they_say() "nbd_requests"
    fn messages_of_front_ends_of_any_bytes_end() "vhost_messages"
    fn queues_of_any_bytes_lead_nowhere_else() "vhost_queue"
    fn qcow2_images_keep_their_promises() "qcow2"
    fn raw_images_of_any_size_arrive_whole() "raw"
    fn old_maps_keep_their_promises() "legacy_map"
    fn configurations_keep_their_promises() "config"
    fn sizes_keep_their_promises() "size"
    fn names_keep_their_promises() "name"
    fn send_streams_keep_their_promises() "send_stream"
    fn resume_tokens_keep_their_promises() "resume_token"
    fn a_stream_is_received_whole_or_not_at_all() "receive"
    fn index_tables_keep_their_promises() "index_table"
    fn redirect_tables_keep_their_promises() "redirect_table"
    fn files_of_leases_keep_their_promises() "lease_file"
    fn checksums_of_sectors_keep_their_promises() "sums"
    fn files_of_caches_keep_their_promises() "cache_log"
    fn names_of_files_keep_their_promises() "file_name"
}

#[test]
fn the_kept_corpus_is_small_and_belongs_to_targets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(&root).expect("a corpus") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        let target = target(&name).unwrap_or_else(|| panic!("corpus/{name} belongs to no target"));
        let inputs = kept(target);
        assert!(inputs.len() <= 200, "{name}: {} inputs; minimise them (docs/fuzzing.md)", inputs.len());
        for (path, input) in inputs {
            assert!(input.len() as u64 <= MAX_KEPT && input.len() <= target.max_len, "{}", path.display());
        }
    }
}
