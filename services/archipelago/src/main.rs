//! Entry point of the `archipelago` command.

fn main() -> std::process::ExitCode {
    archipelago_service::cli::main()
}
