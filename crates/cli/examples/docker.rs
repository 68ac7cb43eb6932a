//! wharf's command line alone, for comparing it with docker's.

fn main() -> std::process::ExitCode {
    wharf_cli::main(std::env::args_os().collect())
}
