//! Damages hellos of the corpus for some seconds, from a seed: `fuzz SECONDS [SEED]`. It panics where the reader would, or where its answer depends on how
//! the bytes were cut; the seed and the number of the input make it happen again.
#![expect(clippy::unwrap_used, reason = "what helps tests is a test")]

#[path = "../tests/hello/corpus.rs"]
mod corpus;
#[path = "../tests/hello/mutate.rs"]
mod mutate;

use std::time::{Duration, Instant};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().unwrap());
    let (seconds, seed) = (arguments.next().unwrap_or(60), arguments.next().unwrap_or(2));
    let mut mutator =
        mutate::Mutator::new(seed, corpus::corpus().into_iter().map(|(_, bytes)| bytes).collect());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut inputs = 0u64;
    while Instant::now() < until {
        let bytes = mutator.next();
        inputs += 1;
        if std::panic::catch_unwind(|| corpus::check(&bytes)).is_err() {
            eprintln!("seed {seed}, input {inputs}: {bytes:02x?}");
            std::process::exit(1);
        }
    }
    println!("{inputs} inputs, every answer as it should be");
}
