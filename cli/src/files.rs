//! Files of objects: one, all below a directory, or standard input.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A directory tree deeper than this is a loop of links.
const DEPTH: usize = 32;
/// A larger file is no configuration.
const LARGEST: u64 = 256 * 1024 * 1024;

/// The texts of a path with the names of their files: a file, `-` for standard input, or a directory's `.yaml`, `.yml` and `.json`
/// files at any depth, in the order of their names.
pub(crate) fn texts(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    each(path)?.into_iter().map(|(name, text)| Ok((name, text?))).collect()
}

/// The same, with an outcome for each file of a directory: one that cannot be read says nothing about the others.
pub(crate) fn each(path: &Path) -> anyhow::Result<Vec<(String, anyhow::Result<String>)>> {
    let shown = path.display().to_string();
    if shown == "-" {
        let name = "standard input".to_string();
        let text = bounded(std::io::stdin().lock()).with_context(|| format!("reading {name}"))?;
        return Ok(vec![(name, Ok(text))]);
    }
    if !path.is_dir() {
        return Ok(vec![(shown, Ok(text(path)?))]);
    }
    let mut files = Vec::new();
    gather(path, DEPTH, &mut files)?;
    files.sort_unstable();
    Ok(files.into_iter().map(|file| (file.display().to_string(), text(&file))).collect())
}

/// The text of one file.
pub(crate) fn text(file: &Path) -> anyhow::Result<String> {
    let read = || bounded(fs::File::open(file)?);
    read().with_context(|| format!("reading {}", file.display()))
}

fn bounded(from: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    let bytes = from.take(LARGEST + 1).read_to_string(&mut text)?;
    anyhow::ensure!(bytes as u64 <= LARGEST, "it is larger than {} MB", LARGEST / 1024 / 1024);
    Ok(text)
}

fn gather(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let reading = || format!("reading {}", directory.display());
    for entry in fs::read_dir(directory).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let readable = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if hidden {
            continue;
        }
        if path.is_dir() {
            anyhow::ensure!(depth > 0, "{}: directories are nested too deeply", path.display());
            gather(&path, depth - 1, files)?;
        } else if readable && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}
