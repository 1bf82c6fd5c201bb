//! The program. Everything it does is a command of [`arqonbus::cli`].

use std::process::ExitCode;

/// Many small buffers live and die on many threads at once: the case mimalloc is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    arqonbus::cli::run()
}
