//! Entry point of every executable of the provider.

fn main() -> std::process::ExitCode {
    extstorage_provider::main()
}
