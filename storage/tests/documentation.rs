//! What the documentation promises: each public method has an example, and the README's table has each error.
#![allow(clippy::unwrap_used, reason = "what helpers of a test meet unexpectedly fails it")]

use std::fs;
use std::path::{Path, PathBuf};

/// The crate's sources, but for tests and what is no part of the API.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if !["benchmarking.rs", "fuzzing.rs", "tests.rs"].iter().any(|name| path.ends_with(name)) {
            found.push(path);
        }
    }
}

/// The lines of documentation and attributes right above a line.
fn above<'a>(lines: &'a [&'a str], at: usize) -> impl Iterator<Item = &'a str> {
    let documents = |line: &&str| line.starts_with("///") || line.starts_with("#[");
    lines[..at].iter().rev().map(|line| line.trim()).take_while(documents)
}

#[test]
fn every_public_method_has_an_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.sort();
    let mut without = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        // The one trait that users call; those of the disk they implement.
        let readable = lines.iter().position(|line| line.starts_with("pub trait Readable"));
        for (number, line) in lines.iter().enumerate() {
            let of_trait = readable.is_some_and(|start| {
                number > start && line.starts_with("    fn ") && !lines[start..number].contains(&"}")
            });
            let starts = ["pub fn ", "pub const fn "];
            let is_method = of_trait || starts.iter().any(|start| line.trim().starts_with(start));
            if is_method && !above(&lines, number).any(|line| line.contains("```")) {
                let file = path.strip_prefix(&root).unwrap().display();
                without.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(without.is_empty(), "public methods without a doc test:\n{}", without.join("\n"));
}

#[test]
fn the_readme_has_every_error() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let errors = fs::read_to_string(root.join("src/error.rs")).unwrap();
    let body = errors.split_once("pub enum Error {\n").unwrap().1.split_once("\n}\n").unwrap().0;
    let variants = body.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?.trim_end_matches([' ', '{', ',']);
        name.chars().all(char::is_alphanumeric).then_some(name).filter(|name| !name.is_empty())
    });
    let missing: Vec<&str> = variants.filter(|name| !readme.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not in README.md: {missing:?}");
}
