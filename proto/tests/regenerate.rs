//! The committed modules are what the definitions compile to.

use std::path::{Path, PathBuf};

const DEFINITIONS: [&str; 5] = [
    "istio/v1/auth/ca.proto",
    "istio/networking/nds/v1/nds.proto",
    "isthmus/join/v1/join.proto",
    "isthmus/federation/v1/federation.proto",
    "isthmus/discovery/v1/exported_names.proto",
];

#[test]
fn generated_modules_match_the_definitions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile_dir();
    let set = protox::compile(DEFINITIONS, [root.join("definitions")]).expect("definitions compile");
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(&fresh)
        .compile_fds(set)
        .expect("modules are generated");
    for entry in std::fs::read_dir(&fresh).unwrap() {
        let name = entry.unwrap().file_name();
        let made = std::fs::read_to_string(fresh.join(&name)).unwrap();
        let kept = root.join("src/gen").join(&name);
        #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
        if std::env::var("ISTHMUS_REGENERATE").is_ok() {
            std::fs::write(&kept, &made).unwrap();
        }
        let committed = std::fs::read_to_string(&kept).unwrap_or_default();
        assert!(
            committed == made,
            "{} is stale: run ISTHMUS_REGENERATE=1 cargo test -p isthmus-proto",
            kept.display()
        );
    }
    std::fs::remove_dir_all(&fresh).unwrap();
}

fn tempfile_dir() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("isthmus-proto-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("temporary folder");
    dir
}
