//! The loops in which requests spend their time, each alone, by criterion: checksums, the test for zeros, looking a block up in a tree, merging
//! a write into the map of a block, and making a journal record.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use archipelago_core::VolumeId;
use archipelago_core::format::header::LogPos;
use archipelago_core::format::log::{Body, RecordHead, Run, RunKind, encode_head};
use archipelago_core::kernels::{BlockOf, Lookups, crc32c, is_zero};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};

use super::{Numbers, Options, Outcome, Scratch};

/// Blocks of the tree: three levels, of which the lower two do not fit into a processor's cache.
const BLOCKS: u64 = 200_000;

/// Prints the times.
pub fn run(dir: &Path, options: &Options) -> Outcome {
    // What criterion keeps of a run is for a comparison that nobody makes here.
    let scratch = Scratch::new(dir, "kernels")?;
    let time = options.turn.unwrap_or(Duration::from_secs(2));
    let mut criterion =
        Criterion::default().without_plots().output_directory(&scratch.0).warm_up_time(time / 4).measurement_time(time);
    bytes(&mut criterion);
    maps(&mut criterion)?;
    records(&mut criterion)
}

fn bytes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bytes");
    for len in [512, 4096, 64 << 10] {
        let data: Vec<u8> = (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let zeros = vec![0; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::new("crc32c", len), &data, |b, data| b.iter(|| crc32c(black_box(data))));
        group.bench_with_input(BenchmarkId::new("zero", len), &zeros, |b, zeros| b.iter(|| is_zero(black_box(zeros))));
    }
    group.finish();
}

fn maps(criterion: &mut Criterion) -> Outcome {
    let mut group = criterion.benchmark_group("maps");
    let lookups = Lookups::new(BLOCKS)?;
    let mut numbers = Numbers(1);
    group.bench_function("lookup in a tree of three levels", |b| {
        b.iter(|| lookups.find(numbers.next() % BLOCKS));
    });
    for pieces in [1, 16, 256] {
        let block = BlockOf::pieces(pieces);
        group.bench_function(BenchmarkId::new("merge a sector into extents", pieces), |b| {
            let start = || (block.clone(), (numbers.next() % u64::from(BlockOf::SECTORS)) as u16);
            b.iter_batched(start, |(mut block, sector)| block.set(black_box(sector), 1), BatchSize::SmallInput);
        });
    }
    group.finish();
    Ok(())
}

fn records(criterion: &mut Criterion) -> Outcome {
    let mut group = criterion.benchmark_group("journal record");
    let synced = LogPos { segment: 1, offset: 4096 };
    let mut case = |name: &str, runs: Vec<Run>, payload: &[u8]| -> Outcome {
        let head = RecordHead { seq: 7, generation: 9, epoch: 3, synced, body: Body::Map(runs) };
        let encode = || encode_head(VolumeId(5), black_box(&head), &[black_box(payload)]);
        // One that is refused takes no time.
        encode()?;
        group.bench_function(name, |b| b.iter(encode));
        Ok(())
    };
    case("of one run of data", vec![Run { start: 64, len: 8, kind: RunKind::Data }], &[])?;
    case("of 4 KiB that it holds", vec![Run { start: 64, len: 1, kind: RunKind::Logged }], &[7; 4096])?;
    let many = (0..16).map(|i| Run { start: i * 100, len: 8, kind: RunKind::Data }).collect();
    case("of 16 runs of data", many, &[])?;
    group.finish();
    Ok(())
}
