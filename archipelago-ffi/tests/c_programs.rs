//! The library as C sees it: programs in `tests/c`, compiled, linked and run in every way that users have, against a store in a temporary
//! directory. A compiler or valgrind that is not installed is a failure.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

const PROGRAMS: [&str; 7] = ["layout", "verbs", "misuse", "threads", "queue", "progress", "fork"];
const WARNINGS: [&str; 5] = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"];

fn crate_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command, which has to succeed; what it printed.
fn run(command: &mut Command) -> String {
    let output =
        command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; `make deps` installs what the tests need"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// The archive that cargo built with this test.
fn archive() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let made = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let archives = fs::read_dir(&deps).unwrap().map(|entry| entry.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libarchipelago_ffi") && name.ends_with(".a")
    });
    archives.max_by_key(|path| made(path)).unwrap_or_else(|| panic!("{}: no libarchipelago_ffi.a", deps.display()))
}

/// The directory of the library, linked once for all tests of a build, whichever processes they run in.
fn library() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libarchipelago");
    fs::create_dir_all(&directory).unwrap();
    let archive = archive();
    let script = crate_root().join("link-library");
    let versions = crate_root().join("archipelago.map");
    let lock = File::create(directory.join("lock")).unwrap();
    lock.lock().unwrap();
    let made = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let of = format!("{}\n{:?}", archive.display(), [made(&archive), made(&script), made(&versions)]);
    let stamp = directory.join("made-of");
    if fs::read_to_string(&stamp).unwrap_or_default() != of {
        // Valgrind would read all that debugging information for every program.
        run(Command::new(script).args([&archive, &directory]).env("LDFLAGS", "-Wl,--strip-debug"));
        fs::write(stamp, of).unwrap();
    }
    directory
}

/// Compiles all programs with `compiler` and flags, and runs each with `before` in front, in a directory of its own.
fn all_programs(compiler: &str, flags: &[&str], static_library: bool, environment: &[(&str, &str)]) {
    programs(&PROGRAMS, compiler, flags, static_library, &[], environment);
}

fn programs(
    programs: &[&str],
    compiler: &str,
    flags: &[&str],
    static_library: bool,
    before: &[&str],
    environment: &[(&str, &str)],
) {
    let library = library();
    let work = tempfile::tempdir().unwrap();
    for program in programs {
        let binary = work.path().join(program);
        let mut compile = Command::new(compiler);
        compile.args(WARNINGS).args(["-g", "-O1"]).args(flags).arg("-I").arg(crate_root().join("../include"));
        compile.arg(crate_root().join(format!("tests/c/{program}.c"))).arg("-o").arg(&binary);
        if static_library {
            compile.arg(library.join("libarchipelago.a")).args(static_libraries().split_whitespace());
        } else {
            compile.arg("-L").arg(&library).arg("-larchipelago").arg(format!("-Wl,-rpath,{}", library.display()));
        }
        run(compile.arg("-lpthread"));
        let directory = work.path().join(format!("{program}.directory"));
        fs::create_dir(&directory).unwrap();
        // A program that hangs is to be told from a slow machine, and named.
        let mut command = Command::new("timeout");
        command.args(["--signal=ABRT", "300"]).args(before).arg(&binary);
        run(command.arg(&directory).envs(environment.iter().copied()));
    }
}

/// What a program linked statically needs, as the pkg-config file says.
fn static_libraries() -> String {
    let file = fs::read_to_string(crate_root().join("archipelago.pc.in")).unwrap();
    file.lines().find_map(|line| line.strip_prefix("Libs.private: ")).unwrap().to_string()
}

#[test]
fn programs_of_gcc_run() {
    all_programs("gcc", &[], false, &[]);
}

#[test]
fn programs_of_clang_run() {
    all_programs("clang", &[], false, &[]);
}

#[test]
fn programs_that_are_linked_statically_run() {
    all_programs("gcc", &[], true, &[]);
}

#[test]
fn programs_run_with_the_address_sanitizer() {
    // Leaks are what valgrind looks for.
    let environment = [("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=1")];
    all_programs("gcc", &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"], false, &environment);
}

#[test]
fn programs_run_under_valgrind_without_an_error_or_leak() {
    let valgrind = ["valgrind", "--quiet", "--error-exitcode=99"];
    let leaks = ["--leak-check=full", "--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"];
    let (forks, others): (Vec<&str>, Vec<&str>) = PROGRAMS.iter().partition(|program| **program == "fork");
    programs(&others, "gcc", &[], false, &[&valgrind[..], &leaks].concat(), &[]);
    // A child leaves alone what its parent had open, and that counts as lost.
    programs(&forks, "gcc", &[], false, &valgrind, &[]);
}

#[test]
fn the_header_is_c99_c11_and_every_cpp_since_2011() {
    let work = tempfile::tempdir().unwrap();
    let (c, cpp) = (work.path().join("header.c"), work.path().join("header.cpp"));
    let text = "#include <archipelago.h>\nint main(void) { archip_work work = ARCHIP_INIT(archip_work); return (int)work.flags; }\n";
    fs::write(&c, text).unwrap();
    fs::write(&cpp, text).unwrap();
    let check = |compiler: &str, standard: &str, file: &Path| {
        let mut command = Command::new(compiler);
        command.arg(format!("-std={standard}")).args(["-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]);
        if file == cpp {
            command.arg("-Wno-missing-field-initializers");
        }
        run(command.arg("-I").arg(crate_root().join("../include")).arg(file));
    };
    for (compiler, cpp_compiler) in [("gcc", "g++"), ("clang", "clang++")] {
        ["c99", "c11"].iter().for_each(|standard| check(compiler, standard, &c));
        ["c++11", "c++17", "c++20"].iter().for_each(|standard| check(cpp_compiler, standard, &cpp));
    }
}

/// Words that begin with `archip_` before `end` on a line that passes `keep`.
fn names(text: &str, end: char, keep: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| keep(line));
    let word = |line: &str| {
        let (before, _) = line.split_once(end)?;
        let word = before.rsplit([' ', '*']).next()?;
        word.starts_with("archip_").then(|| word.to_string())
    };
    lines.filter_map(word).collect()
}

#[test]
fn exported_are_the_functions_of_the_header_and_nothing_else_each_with_its_version() {
    let header = fs::read_to_string(crate_root().join("../include/archipelago.h")).unwrap();
    let declared = names(&header, '(', |line| !line.starts_with([' ', '#', '/']) && !line.starts_with("typedef"));
    assert!(declared.len() > 35, "only {declared:?}");
    let versions = fs::read_to_string(crate_root().join("archipelago.map")).unwrap();
    assert_eq!(
        declared,
        names(&versions, ';', |line| !line.starts_with('#')),
        "archipelago.map is not what the header declares"
    );

    let library = library();
    let symbols = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library.join("libarchipelago.so.1")));
    let mut exported = BTreeSet::new();
    for line in symbols.lines() {
        let name = line.split_whitespace().last().unwrap();
        // The version itself is a symbol too.
        if line.contains(" A ") && name.starts_with("ARCHIPELAGO_1.") {
            continue;
        }
        let (name, version) = name.split_once("@@").unwrap_or_else(|| panic!("{line}: has no version"));
        assert!(version.starts_with("ARCHIPELAGO_1."), "{line}");
        exported.insert(name.to_string());
    }
    assert_eq!(exported, declared);

    let symbols =
        run(Command::new("nm").args(["--extern-only", "--defined-only"]).arg(library.join("libarchipelago.a")));
    let exported: BTreeSet<String> =
        symbols.lines().filter_map(|line| line.split_once(" T ")).map(|(_, name)| name.to_string()).collect();
    assert_eq!(exported, declared);
    assert!(
        !symbols.lines().any(|line| line.contains(" D ") || line.contains(" B ") || line.contains(" R ")),
        "{symbols}"
    );

    let dynamic = run(Command::new("objdump").arg("-p").arg(library.join("libarchipelago.so.1")));
    assert!(dynamic.contains("SONAME               libarchipelago.so.1\n"), "{dynamic}");
}

#[test]
fn what_is_installed_is_found_by_pkg_config_and_serves_programs() {
    let library = library();
    let work = tempfile::tempdir().unwrap();
    let destination = work.path().join("root");
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "install-library", "prefix=/opt/engine"])
        .current_dir(crate_root().parent().unwrap());
    make.arg(format!("DESTDIR={}", destination.display())).arg(format!("LIBRARY={}", library.display()));
    // Of the make that runs this test.
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS");
    run(&mut make);
    let installed = destination.join("opt/engine");
    for (name, target) in
        [("libarchipelago.so", "libarchipelago.so.1"), ("libarchipelago.so.1", "libarchipelago.so.1.0")]
    {
        assert_eq!(fs::read_link(installed.join("lib").join(name)).unwrap(), Path::new(target));
    }
    let flags = |options: &[&str]| {
        let mut command = Command::new("pkg-config");
        command.args(options).arg("archipelago").env("PKG_CONFIG_PATH", installed.join("lib/pkgconfig"));
        run(command.env("PKG_CONFIG_SYSROOT_DIR", &destination)).trim().to_string()
    };
    assert_eq!(flags(&["--modversion"]), env!("CARGO_PKG_VERSION"));
    let source = crate_root().join("tests/c/verbs.c");
    for (name, options) in [("dynamic", &["--cflags", "--libs"][..]), ("static", &["--cflags", "--libs", "--static"])] {
        let binary = work.path().join(name);
        let mut compile = Command::new("gcc");
        compile.args(WARNINGS).arg(&source).arg("-o").arg(&binary);
        // Both are in one directory, where the linker would take the shared one.
        let wanted = if name == "static" { "-l:libarchipelago.a" } else { "-larchipelago" };
        compile.args(flags(options).replace("-larchipelago", wanted).split_whitespace());
        run(&mut compile);
        let directory = work.path().join(format!("{name}.directory"));
        fs::create_dir(&directory).unwrap();
        run(Command::new(&binary).arg(&directory).env("LD_LIBRARY_PATH", installed.join("lib")));
    }
}

#[test]
fn the_nbdkit_plugin_copies_an_image_in_and_out_and_tells_its_holes() {
    let library = library();
    let work = tempfile::tempdir().unwrap();
    let plugin = work.path().join("plugin.so");
    let mut compile = Command::new("gcc");
    compile.args(WARNINGS).args(["-shared", "-fPIC"]).arg(crate_root().join("examples/nbdkit-plugin.c"));
    compile.arg("-I").arg(crate_root().join("../include")).arg("-L").arg(&library).arg("-larchipelago");
    run(compile.arg(format!("-Wl,-rpath,{}", library.display())).arg("-o").arg(&plugin));

    let location = format!("file:{}", work.path().join("store").display());
    let place: archipelago_core::Location = location.parse().unwrap();
    archipelago_core::Store::init(&place, &archipelago_core::InitOptions::default()).unwrap();
    let store = archipelago_core::Store::open(&place, archipelago_core::StoreOptions::default()).unwrap();
    let options = archipelago_core::CreateOptions { size: 8 << 20, block_size: None };
    store.create("served", &options).unwrap();
    let image: Vec<u8> = (0..8_u64 << 20).map(|at| if at < 3 << 20 { ((at * at) >> 7) as u8 | 1 } else { 0 }).collect();
    fs::write(work.path().join("image"), &image).unwrap();

    let served = |volume: &str, commands: &str| {
        let mut nbdkit = Command::new("timeout");
        nbdkit.args(["300", "nbdkit", "--unix", "-"]).arg(&plugin);
        nbdkit.arg(format!("store={location}")).arg(format!("volume={volume}"));
        run(nbdkit.args(["--run", commands]).current_dir(work.path()))
    };
    let map = served("served", "nbdcopy --flush image \"$uri\" && nbdcopy \"$uri\" copy && nbdinfo --map \"$uri\"");
    assert_eq!(fs::read(work.path().join("copy")).unwrap(), image);
    let ranges: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(ranges, [vec!["0", "3145728", "0", "data"], vec!["3145728", "5242880", "3", "hole,zero"]]);

    store.snapshot("served", "served-1").unwrap();
    let read_only =
        "nbdinfo --is read-only \"$uri\" && ! nbdcopy image \"$uri\" 2>/dev/null && nbdcopy \"$uri\" copy-1";
    served("served-1", read_only);
    assert_eq!(fs::read(work.path().join("copy-1")).unwrap(), image);
}

/// Headers of the installed fio; `None` if the package sources of this machine do not have them.
fn fio_headers() -> Option<PathBuf> {
    let version = run(Command::new("fio").arg("--version"));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("headers-{}", version.trim()));
    let fetched = Command::new(crate_root().join("examples/fio-headers")).arg(&directory).output().unwrap();
    let said = String::from_utf8_lossy(&fetched.stderr).into_owned();
    match fetched.status.code() {
        Some(0) => Some(directory),
        Some(3) => {
            eprintln!("left out: {said}");
            None
        }
        _ => panic!("{said}"),
    }
}

#[test]
fn the_fio_engine_verifies_what_it_wrote_and_tells_what_it_cannot_do() {
    let Some(headers) = fio_headers() else { return };
    let library = library();
    let work = tempfile::tempdir().unwrap();
    let engine = work.path().join("engine.so");
    let mut compile = Command::new("gcc");
    // fio's headers are written for GNU C.
    compile.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-isystem"]).arg(headers);
    compile.arg(crate_root().join("examples/fio-engine.c")).arg("-I").arg(crate_root().join("../include"));
    compile.arg("-L").arg(&library).arg("-larchipelago").arg(format!("-Wl,-rpath,{}", library.display()));
    run(compile.arg("-o").arg(&engine));

    let location = format!("file:{}", work.path().join("store").display());
    let place: archipelago_core::Location = location.parse().unwrap();
    archipelago_core::Store::init(&place, &archipelago_core::InitOptions::default()).unwrap();
    let store = archipelago_core::Store::open(&place, archipelago_core::StoreOptions::default()).unwrap();
    let options = archipelago_core::CreateOptions { size: 32 << 20, block_size: None };
    store.create("disk-1", &options).unwrap();
    let fio = |arguments: &[&str]| {
        let mut fio = Command::new("timeout");
        fio.args(["300", "fio", "--name=job", "--output-format=json"])
            .arg(format!("--ioengine=external:{}", engine.display()));
        fio.arg(format!("--store={location}")).args(arguments).current_dir(work.path());
        let output = fio.output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    };
    let counted = |text: &str, what: &str| -> u64 {
        let key = format!("\"{what}\" : ");
        let count = text.split(&key).skip(1).map(|rest| rest.split([',', '\n']).next().unwrap());
        count.map(|number| number.trim().parse::<u64>().unwrap()).sum()
    };
    // By calls, through a queue of the job's own thread, and of two threads.
    for depth in [&["--iodepth=1"][..], &["--iodepth=16"], &["--iodepth=32", "--threads=2"]] {
        let verified = ["--filename=disk-1", "--rw=randwrite", "--bsrange=512-64k", "--fsync=50", "--verify=crc32c"];
        let (good, text) = fio(&[&verified[..], depth].concat());
        assert!(good, "{text}");
        assert!(counted(&text, "total_err") == 0 && counted(&text, "total_ios") > 1000, "{text}");
    }
    // Another way sees the same bytes: what fio wrote is not what was there before.
    store.snapshot("disk-1", "snap-1").unwrap();
    let data = store.info("snap-1").unwrap();
    assert_eq!(data.size, 32 << 20);
    assert!(store.usage("snap-1").unwrap().shared > 16 << 20);
    let (good, text) = fio(&["--filename=snap-1", "--rw=randread", "--bs=4k", "--iodepth=8"]);
    assert!(good && counted(&text, "total_ios") == 8192, "{text}");
    let (good, text) = fio(&["--filename=snap-1", "--rw=randwrite", "--bs=4k"]);
    assert!(!good && text.contains("snap-1"), "{text}");
    let (good, text) = fio(&["--filename=disk-2", "--rw=randread", "--bs=4k"]);
    assert!(!good && text.contains("disk-2"), "{text}");
    // Two jobs share a volume; trims and mixed requests go through.
    let (good, text) = fio(&["--filename=disk-1", "--rw=randtrimwrite", "--bs=64k", "--numjobs=2", "--iodepth=4"]);
    assert!(good, "{text}");
}
