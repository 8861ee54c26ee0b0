//! Images made by qemu-img are compared with what qemu-img reads from them; damaged ones must be errors, nothing else.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::tests::copy_to_memory;
use super::*;

/// An image in memory, which refuses what the reader must never ask for.
struct Buffer(Vec<u8>);

impl Bytes for Buffer {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).expect("an offset inside the image");
        let end = start.checked_add(buf.len()).expect("a range inside the image");
        buf.copy_from_slice(self.0.get(start..end).expect("the reader left the image"));
        Ok(())
    }
}

fn read_all(bytes: Vec<u8>) -> Result<Vec<u8>, ImageError> {
    let image = Qcow2::new(PathBuf::from("image"), Buffer(bytes))?;
    copy_to_memory(Box::new(image)).map(|(memory, _)| memory)
}

fn run(dir: &Path, program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).current_dir(dir).output().expect(program);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// These tests need the tools that define the format.
fn have_qemu() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("skipped: qemu-img is not installed");
    }
    found
}

/// A disk of 9 MiB and three sectors with noise, text, zeros and holes; noise does not compress.
fn disk() -> Vec<u8> {
    let mut disk = vec![0u8; (9 << 20) + 3 * 512];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut noise = |range: &mut [u8]| {
        for byte in range {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
    };
    noise(&mut disk[0..200_000]);
    noise(&mut disk[(4 << 20) - 5000..(4 << 20) + 70_000]);
    disk[1 << 20..(2 << 20) + 12_345].fill(b'x');
    for (i, byte) in disk[6 << 20..7 << 20].iter_mut().enumerate() {
        *byte = (i / 97) as u8;
    }
    let end = disk.len();
    noise(&mut disk[end - 700..]);
    disk
}

/// Makes an image of [`disk`] with these options, and lets qemu-io write into it.
fn make(dir: &TempDir, options: &str, compress: bool, io: &[&str]) -> (PathBuf, Vec<u8>) {
    std::fs::write(dir.path().join("disk.raw"), disk()).unwrap();
    let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
    if compress {
        args.push("-c");
    }
    args.extend(["-o", options, "disk.raw", "image.qcow2"]);
    run(dir.path(), "qemu-img", &args);
    for command in io {
        run(dir.path(), "qemu-io", &["-f", "qcow2", "-c", command, "image.qcow2"]);
    }
    run(dir.path(), "qemu-img", &["convert", "-f", "qcow2", "-O", "raw", "image.qcow2", "truth.raw"]);
    (dir.path().join("image.qcow2"), std::fs::read(dir.path().join("truth.raw")).unwrap())
}

#[test]
fn images_of_every_accepted_kind_read_as_qemu_reads_them() {
    if !have_qemu() {
        return;
    }
    let writes = ["write -P 0x5a 3M 100k", "write -z 1M 256k", "write -P 9 8M 1536", "discard 6M 512k"];
    for (options, compress) in [
        ("compat=0.10", false),
        ("compat=0.10", true),
        ("compat=0.10,cluster_size=512", false),
        ("compat=1.1,cluster_size=512", true),
        ("compat=1.1,cluster_size=4k", false),
        ("compat=1.1", false),
        ("compat=1.1", true),
        ("compat=1.1,cluster_size=2M", false),
        ("compat=1.1,cluster_size=2M", true),
        ("compat=1.1,lazy_refcounts=on", false),
        ("compat=1.1,refcount_bits=1", false),
        ("compat=1.1,preallocation=metadata", false),
        ("compat=1.1,preallocation=falloc", false),
        ("compression_type=zstd", true),
        ("compression_type=zstd,cluster_size=2M", true),
        ("compression_type=zstd,cluster_size=512", true),
        ("extended_l2=on", false),
        ("extended_l2=on,cluster_size=16k", false),
        ("extended_l2=on,cluster_size=128k", true),
        ("extended_l2=on,compression_type=zstd,cluster_size=2M", true),
    ] {
        for io in [&[][..], &writes[..]] {
            let dir = TempDir::new().unwrap();
            let (path, truth) = make(&dir, options, compress, io);
            let (memory, copied) = copy_to_memory(open(&path).unwrap()).unwrap_or_else(|e| panic!("{options}: {e}"));
            assert!(memory == truth, "{options}, compressed: {compress}, {io:?}");
            assert!(copied.written < 4 << 20, "{options}: {copied:?}");
        }
    }
}

#[test]
fn an_image_with_internal_snapshots_reads_as_its_live_state() {
    if !have_qemu() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let (path, _) = make(&dir, "compat=1.1", false, &[]);
    run(dir.path(), "qemu-img", &["snapshot", "-c", "before", "image.qcow2"]);
    run(dir.path(), "qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 5M", "image.qcow2"]);
    run(dir.path(), "qemu-img", &["convert", "-f", "qcow2", "-O", "raw", "image.qcow2", "truth.raw"]);
    let (memory, _) = copy_to_memory(open(&path).unwrap()).unwrap();
    assert!(memory == std::fs::read(dir.path().join("truth.raw")).unwrap());
}

#[test]
fn a_sparse_image_of_a_large_disk_is_read_without_walking_its_holes() {
    if !have_qemu() {
        return;
    }
    let dir = TempDir::new().unwrap();
    run(dir.path(), "qemu-img", &["create", "-f", "qcow2", "-o", "cluster_size=2M", "image.qcow2", "1P"]);
    run(dir.path(), "qemu-io", &["-f", "qcow2", "-c", "write -P 7 700T 4k", "image.qcow2"]);
    let mut image = open(&dir.path().join("image.qcow2")).unwrap();
    let mut buf = Vec::new();
    assert_eq!(image.size(), Some(1 << 50));
    assert_eq!(image.next_piece(&mut buf).unwrap(), Some(700 << 40));
    assert!(buf[..4096].iter().all(|b| *b == 7));
    assert_eq!(image.next_piece(&mut buf).unwrap(), None);
}

#[track_caller]
fn refused(dir: &TempDir, name: &str, word: &str) {
    let error = open(&dir.path().join(name)).err().expect("refused").to_string();
    assert!(error.contains(word), "{error}");
}

#[test]
fn s36_images_that_point_at_other_files_are_refused() {
    if !have_qemu() {
        return;
    }
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("base.raw"), vec![1; 1 << 20]).unwrap();
    run(dir.path(), "qemu-img", &["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "backed.qcow2"]);
    refused(&dir, "backed.qcow2", "backing file");
    let options = "data_file=data.raw,data_file_raw=on";
    run(dir.path(), "qemu-img", &["create", "-f", "qcow2", "-o", options, "data.qcow2", "1M"]);
    refused(&dir, "data.qcow2", "another file");
    let secret = ["create", "-f", "qcow2", "--object", "secret,id=s,data=abc"];
    let luks = ["-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "luks.qcow2", "1M"];
    run(dir.path(), "qemu-img", &[&secret[..], &luks[..]].concat());
    refused(&dir, "luks.qcow2", "encrypted");
    run(dir.path(), "qemu-img", &["create", "-f", "qed", "image.qed", "1M"]);
    refused(&dir, "image.qed", "not a qcow2 image");
    refused(&dir, "base.raw", "not a qcow2 image");
}

/// A version 3 image of one 64 KiB cluster that holds `7`s, with the header extended to 112 bytes: header, L1, L2, data.
fn small() -> Vec<u8> {
    let mut image = vec![0; 4 << 16];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &16u32.to_be_bytes());
    put(24, &(1u64 << 16).to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &(1u64 << 16).to_be_bytes());
    put(100, &112u32.to_be_bytes());
    put(1 << 16, &(COPIED | 2 << 16).to_be_bytes());
    put(2 << 16, &(COPIED | 3 << 16).to_be_bytes());
    image[3 << 16..].fill(7);
    image
}

#[test]
fn headers_that_lie_are_errors_that_say_what_is_wrong() {
    assert!(read_all(small()).unwrap() == vec![7; 1 << 16]);
    let max = u64::MAX.to_be_bytes();
    let cases: &[(usize, &[u8], &str)] = &[
        (4, &[0, 0, 0, 1], "version 1"),
        (4, &[0, 0, 0, 4], "version 4"),
        (8, &max, "backing file"),
        (20, &8u32.to_be_bytes(), "cluster size"),
        (20, &22u32.to_be_bytes(), "cluster size"),
        (20, &u32::MAX.to_be_bytes(), "cluster size"),
        (24, &0u64.to_be_bytes(), "empty"),
        (24, &max, "4 PiB"),
        (24, &(4u64 << 50).to_be_bytes(), "L1 table has 1 entries"),
        (32, &1u32.to_be_bytes(), "encrypted"),
        (36, &0u32.to_be_bytes(), "L1 table has 0 entries"),
        (36, &u32::MAX.to_be_bytes(), "32 MiB"),
        (40, &max, "cluster boundary"),
        (40, &(4u64 << 16).to_be_bytes(), "leaves the file"),
        (40, &(0xffff_ffff_ffffu64 << 16).to_be_bytes(), "leaves the file"),
        (72, &1u64.to_be_bytes(), "qemu-img check -r"),
        (72, &2u64.to_be_bytes(), "qemu-img check -r"),
        (72, &4u64.to_be_bytes(), "another file"),
        (72, &8u64.to_be_bytes(), "disagree"),
        (72, &32u64.to_be_bytes(), "0x20"),
        (72, &(1u64 << 63).to_be_bytes(), "not known"),
        (100, &100u32.to_be_bytes(), "shorter"),
        (104, &[1], "disagree"),
        (104, &[2], "compression type 2"),
        (1 << 16, &(COPIED | 1).to_be_bytes(), "reserved"),
        (1 << 16, &(512u64).to_be_bytes(), "cluster boundary"),
        (1 << 16, &(4u64 << 16).to_be_bytes(), "leave the file"),
        (2 << 16, &(4u64 << 16).to_be_bytes(), "leave the file"),
        (2 << 16, &(3u64 << 16 | 512).to_be_bytes(), "cluster boundary"),
        (2 << 16, &(3u64 << 16 | 4).to_be_bytes(), "reserved"),
        (2 << 16, &(COMPRESSED | 3 << 16).to_be_bytes(), "deflate"),
        (2 << 16, &(COMPRESSED | 4 << 16).to_be_bytes(), "behind the end"),
        (2 << 16, &(COMPRESSED | (COMPRESSED - 1)).to_be_bytes(), "behind the end"),
    ];
    for (at, bytes, word) in cases {
        let mut image = small();
        image[*at..at + bytes.len()].copy_from_slice(bytes);
        let error = read_all(image).expect_err(word).to_string();
        assert!(error.contains(word), "at {at}: {error}, expected {word}");
    }
    for len in 0..120 {
        assert!(read_all(small()[..len].to_vec()).is_err(), "cut to {len}");
    }
}

#[test]
fn a_zero_flag_in_a_version_2_image_is_damage() {
    let mut image = small();
    image[2 << 16..(2 << 16) + 8].copy_from_slice(&(3u64 << 16 | ZERO).to_be_bytes());
    assert!(read_all(image.clone()).unwrap() == vec![0; 1 << 16]);
    image[7] = 2;
    assert!(matches!(read_all(image), Err(ImageError::Damaged { .. })));
}

#[test]
fn s63_a_map_that_names_one_cluster_many_times_is_refused() {
    // 8192 guest clusters, all at the same host cluster: half a gigabyte out of 256 KiB.
    let mut image = small();
    image[24..32].copy_from_slice(&(8192u64 << 16).to_be_bytes());
    for entry in image[2 << 16..3 << 16].chunks_exact_mut(8) {
        entry.copy_from_slice(&(3u64 << 16).to_be_bytes());
    }
    let mut reader = Qcow2::new(PathBuf::from("bomb"), Buffer(image)).unwrap();
    assert!(reader.next_piece(&mut Vec::new()).unwrap_err().to_string().contains("more than once"));
}

/// Small images of each kind, as starting points of the mutations.
fn seeds() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let mut seeds = vec![small()];
        if have_qemu() {
            for (options, compress) in [
                ("cluster_size=64k", true),
                ("cluster_size=512", false),
                ("cluster_size=4k,compression_type=zstd", true),
                ("cluster_size=16k,extended_l2=on", false),
            ] {
                let dir = TempDir::new().unwrap();
                let path = dir.path().join("disk.raw");
                let disk: Vec<u8> = (0..150_000u32).map(|i| if i < 70_000 { (i / 300) as u8 } else { 0 }).collect();
                std::fs::write(&path, disk).unwrap();
                let flag = if compress { "-c" } else { "-p" };
                run(dir.path(), "qemu-img", &["convert", flag, "-O", "qcow2", "-o", options, "disk.raw", "image"]);
                seeds.push(std::fs::read(dir.path().join("image")).unwrap());
            }
        }
        seeds
    })
}

/// One change to an image: where (a part of the file, and a place in it) and what.
type Mutation = (u8, prop::sample::Index, u8, u64);

fn mutate(image: &mut Vec<u8>, (region, place, how, value): Mutation) {
    // Most changes go where the structure is: the header and the non-zero part of the tables.
    let at = match region {
        0 => place.index(112.min(image.len())),
        1 => {
            let used: Vec<usize> = (0..image.len()).step_by(8).filter(|at| image[*at] & 0xc0 != 0).collect();
            if used.is_empty() { 0 } else { used[place.index(used.len())] }
        }
        _ => place.index(image.len()),
    };
    let end = (at + 8).min(image.len());
    match how {
        0 => image[at] ^= 1 << (value % 8),
        1 => image[at] = value as u8,
        2 => image[at..end].copy_from_slice(&value.to_be_bytes()[..end - at]),
        3 => image[at..end].copy_from_slice(&(value >> (value % 56)).to_be_bytes()[..end - at]),
        _ => image.truncate(at.max(1)),
    }
}

/// Reads up to 1 GiB of pieces, without keeping them.
fn drain(bytes: Vec<u8>) -> Result<(), ImageError> {
    let mut image = Qcow2::new(PathBuf::from("image"), Buffer(bytes))?;
    let mut buf = Vec::new();
    let mut last = None;
    for _ in 0..256 {
        let Some(at) = image.next_piece(&mut buf)? else { break };
        assert!(last.is_none_or(|last| at > last) && at % PIECE == 0 && at + buf.len() as u64 <= image.header.size);
        last = Some(at);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 3000 }))]

    #[test]
    fn a_mutated_image_never_panics_and_is_never_read_outside(
        seed in any::<prop::sample::Index>(),
        mutations in prop::collection::vec((0u8..3, any::<prop::sample::Index>(), 0u8..5, any::<u64>()), 1..8),
    ) {
        let mut image = seeds()[seed.index(seeds().len())].clone();
        mutations.into_iter().for_each(|mutation| mutate(&mut image, mutation));
        let _ = drain(image);
    }
}
