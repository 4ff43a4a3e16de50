//! The micro-benchmarks as an example, for `bench/instructions`: unlike a benchmark, an example compiles without the binary
//! of its package.

#[path = "../benches/steps.rs"]
mod steps;

fn main() {
    steps::main();
}
