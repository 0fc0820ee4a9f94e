//! The ClientHello reader against a corpus: hellos of OpenSSL, Go and Python, hand-made ones, and what is none; as they are, and damaged in
//! many ways. `cargo run -p isthmus-sni --example fuzz -- SECONDS` does the same for as long as one likes.
#![expect(clippy::unwrap_used, reason = "what helps tests is a test")]

#[path = "hello/corpus.rs"]
mod corpus;
#[path = "hello/mutate.rs"]
mod mutate;

use corpus::{check, corpus, whole};
use isthmus_sni::HelloError;
use mutate::Mutator;

const NAME: &str = "outbound_.9080_.v2_.reviews.default.svc.cluster.local";

#[test]
fn each_file_is_what_its_name_says() {
    let corpus = corpus();
    assert!(corpus.len() >= 40, "{} files", corpus.len());
    for (file, bytes) in &corpus {
        let answer = whole(bytes);
        assert_eq!(check(bytes), answer, "{file}");
        let mut words = file.split('.');
        match (words.next().unwrap(), words.next().unwrap(), answer) {
            ("good", _, Ok(Some(hello))) => assert_eq!(hello.require_server_name(), Ok(NAME), "{file}"),
            ("nameless", _, Ok(Some(hello))) => {
                assert_eq!(hello.require_server_name(), Err(HelloError::NoServerName), "{file}");
            }
            ("part", _, Ok(None)) => {}
            ("bad", cause, Err(error)) => assert_eq!(error.cause(), cause, "{file}: {error}"),
            (_, _, answer) => panic!("{file}: {answer:?}"),
        }
    }
}

#[test]
fn hellos_of_todays_clients_are_as_large_as_they_are_thought_to_be() {
    let corpus = corpus();
    let size = |file: &str| corpus.iter().find(|(name, _)| name == file).unwrap().1.len();
    assert!(size("good.go-post-quantum.bin") > 1460, "more than one segment");
    assert!(size("good.go-two-records.bin") > 16 * 1024 + 5, "more than one record");
    assert!(size("good.browser-like.bin") > 1460);
}

#[test]
fn damaged_hellos_are_read_the_same_in_any_pieces() {
    let corpus = corpus();
    let mut mutator = Mutator::new(1, corpus.iter().map(|(_, bytes)| bytes.clone()).collect());
    let mut answers = [0usize; 3];
    for _ in 0..20_000 {
        let bytes = mutator.next();
        match check(&bytes) {
            Ok(Some(_)) => answers[0] += 1,
            Ok(None) => answers[1] += 1,
            Err(_) => answers[2] += 1,
        }
    }
    assert!(answers.iter().all(|count| *count > 500), "all kinds of answers occur: {answers:?}");
}
