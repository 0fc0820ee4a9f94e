//! README's chapter "Your own", word for word.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const TESTBED: &str = env!("CARGO_BIN_EXE_isthmus-testbed");

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the checkout")
}

/// The `sh` blocks of one part of the page.
fn blocks(chapter: &str) -> Vec<String> {
    let page = std::fs::read_to_string(checkout().join("README.md")).expect("README.md");
    let chapter = page.split(&format!("### {chapter}\n")).nth(1).expect("the chapter is there");
    let chapter = chapter.split("\n##").next().unwrap_or_default();
    chapter
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default().to_string())
        .collect()
}

/// Stopped when the test ends early.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        // Gone already when the page's last line stopped it.
        let _ = Command::new(TESTBED).arg("stop").stderr(Stdio::null()).stdout(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

#[test]
fn hosts_and_machines_beside_the_demo() {
    let mut blocks = blocks("Beside the demo").into_iter();
    let first = blocks.next().expect("a block that starts the demo");
    let mut demo = Demo(
        Command::new("sh")
            .args(["-ec", &format!("exec {first}")])
            .current_dir(checkout())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh starts"),
    );
    let mut told = String::new();
    let mut lines = BufReader::new(demo.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let is_up = lines.any(|line| {
        told.push_str(&line);
        told.push('\n');
        line.contains("make demo-stop")
    });
    assert!(is_up, "the demo does not stay up\n{told}");
    let script: String = blocks.collect();
    let output = Command::new("bash")
        .args(["-ec", &script])
        .current_dir(checkout())
        .stdin(Stdio::null())
        .output()
        .expect("bash starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(
        out.matches("Directory listing for /").count(),
        4,
        "two pages, each with title and heading\n{out}\n{err}"
    );
}

#[test]
fn a_mesh_without_the_demo() {
    let output = Command::new(TESTBED).arg("own").stdin(Stdio::null()).output().expect("the testbed starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
}
