//! The files, and what holds for every input.

use std::path::Path;

use isthmus_sni::hello::MAX_HELLO;
use isthmus_sni::{ClientHello, HelloError, HelloReader};

type Answer = Result<Option<ClientHello>, HelloError>;

/// All files by name.
pub(crate) fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hello/corpus");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
}

/// The answer when all bytes come at once.
pub(crate) fn whole(bytes: &[u8]) -> Answer {
    HelloReader::new().push(bytes)
}

/// Reads bytes whole and in pieces of several sizes: every answer is the same, and so is what the reader kept for the peer behind. A name that
/// is given is one that can be looked up and logged.
pub(crate) fn check(bytes: &[u8]) -> Answer {
    let expected = whole(bytes);
    for size in [1, 2, 7, 61, 1448] {
        let mut reader = HelloReader::new();
        let mut answer = Ok(None);
        let mut given = 0;
        for piece in bytes.chunks(size) {
            answer = reader.push(piece);
            given += piece.len();
            assert_eq!(reader.bytes(), &bytes[..given], "nothing is lost or changed");
            if !matches!(answer, Ok(None)) {
                break;
            }
        }
        assert_eq!(answer, expected, "in pieces of {size}");
        assert!(given <= MAX_HELLO + 16 * 1024 + size, "{given} bytes were taken");
    }
    if let Ok(Some(hello)) = &expected {
        let name = hello.server_name().unwrap_or("none");
        assert!(!name.is_empty() && name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
        assert!(hello.alpn().all(|protocol| !protocol.is_empty()));
    }
    expected
}
