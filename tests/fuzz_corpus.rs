//! Replays the corpus of every fuzz target, so that what fuzzing once found stays found without a fuzzer.

use std::path::Path;

use thalweg::testing::{FUZZ_TARGETS, fuzz};

#[test]
fn the_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    if !corpus.exists() {
        println!("skipped: the corpus is in the repository, not in the published crate");
        return;
    }
    for target in FUZZ_TARGETS {
        let inputs = std::fs::read_dir(corpus.join(target)).unwrap().map(|entry| entry.unwrap().path());
        let mut replayed = 0;
        for input in inputs {
            println!("{}", input.display());
            #[expect(clippy::disallowed_methods, reason = "a test reads its own input")]
            fuzz(target, &std::fs::read(&input).unwrap());
            replayed += 1;
        }
        assert!(replayed >= 3, "{target} has {replayed} inputs");
    }
}
