//! The folder tree is the architecture: the edges between our packages are those of ARCHITECTURE.md, and every package
//! is held to the workspace's lints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

type Edges = BTreeMap<String, BTreeSet<String>>;

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the checkout")
}

/// Packages of the workspace: their manifests, and what they depend on among themselves, dev-dependencies left out.
fn members() -> (Edges, Vec<PathBuf>) {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--locked", "--format-version", "1"])
        .current_dir(checkout())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_string();
    let names: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let mut edges = Edges::new();
    for package in packages {
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        let ours = dependencies
            .iter()
            .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
            .map(|dependency| text(&dependency["name"]))
            .filter(|name| names.contains(name))
            .collect();
        edges.insert(text(&package["name"]), ours);
    }
    (edges, packages.iter().map(|package| PathBuf::from(text(&package["manifest_path"]))).collect())
}

/// The fenced block of ARCHITECTURE.md with lines `name -> dep dep …`.
fn table() -> Edges {
    let page = fs::read_to_string(checkout().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let block =
        page.split("```arrows\n").nth(1).expect("a block ```arrows").split("```").next().unwrap_or_default();
    block
        .lines()
        .map(|line| {
            let (name, dependencies) = line.split_once("->").expect("name -> dependencies");
            (name.trim().to_string(), dependencies.split_whitespace().map(str::to_string).collect())
        })
        .collect()
}

#[test]
fn edges_between_packages_are_those_of_the_architecture() {
    let (edges, _) = members();
    let table = table();
    let mut wrong = Vec::new();
    for name in edges.keys().chain(table.keys()).collect::<BTreeSet<_>>() {
        match (edges.get(name), table.get(name)) {
            (Some(real), Some(written)) => {
                wrong
                    .extend(real.difference(written).map(|to| format!("{name} -> {to} is not in the table")));
                wrong.extend(
                    written.difference(real).map(|to| format!("{name} -> {to} is only in the table")),
                );
            }
            (Some(_), None) => wrong.push(format!("package {name} is not in the table")),
            _ => wrong.push(format!("package {name} is only in the table")),
        }
    }
    assert!(wrong.is_empty(), "ARCHITECTURE.md and cargo metadata differ:\n{}", wrong.join("\n"));
}

#[test]
fn arrows_have_no_circle() {
    let mut left = table();
    while !left.is_empty() {
        let free: Vec<String> = left
            .iter()
            .filter(|(_, to)| to.iter().all(|to| !left.contains_key(to)))
            .map(|(name, _)| name.clone())
            .collect();
        assert!(!free.is_empty(), "these depend on one another: {:?}", left.keys());
        for name in free {
            left.remove(&name);
        }
    }
}

#[test]
fn every_package_takes_the_workspaces_lints() {
    for manifest in members().1 {
        let text = fs::read_to_string(&manifest).expect("manifest");
        let mut lints =
            text.split("[lints]").nth(1).unwrap_or_default().lines().map(str::trim).filter(|l| !l.is_empty());
        assert_eq!(
            lints.next(),
            Some("workspace = true"),
            "{} lacks `[lints] workspace = true`",
            manifest.display()
        );
    }
}
