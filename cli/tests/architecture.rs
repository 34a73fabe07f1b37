//! Who may import whom: the rules of ARCHITECTURE.md, held against what cargo says of the workspace.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each crate of ours may depend on, among ours. A crate that is not here fails the test: whoever
/// adds one decides where it stands.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("paddock-index", &[]),
    ("paddock-storage", &["paddock-index"]),
    ("paddock-coordination", &[]),
    ("paddock-proto", &[]),
    ("paddock-partition", &["paddock-storage", "paddock-coordination", "paddock-proto"]),
    ("paddock-router", &["paddock-coordination", "paddock-proto"]),
    ("paddock-client", &["paddock-proto"]),
    ("paddock-sim", &["paddock-partition", "paddock-storage", "paddock-coordination", "paddock-proto"]),
    (
        "paddock",
        &[
            "paddock-client",
            "paddock-coordination",
            "paddock-partition",
            "paddock-proto",
            "paddock-router",
            "paddock-storage",
        ],
    ),
];

/// What a crate must not depend on, by whatever way.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("paddock-index", &["tokio", "tonic", "prost"]),
    ("paddock-storage", &["paddock-proto", "tokio", "tonic", "prost"]),
    ("paddock-router", &["paddock-partition", "paddock-storage", "paddock-index"]),
    ("paddock-client", &["paddock-coordination", "paddock-storage", "zookeeper-client"]),
];

fn metadata() -> Value {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--manifest-path", manifest])
        // Other platforms' packages were never downloaded, and need not be.
        .args(["--filter-platform", &host()])
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// This machine's target triple.
fn host() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

/// The names of a package's dependencies that are linked into it; not those of its tests and build script.
fn normal_dependencies(package: &Value) -> BTreeSet<String> {
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    dependencies
        .filter(|dependency| dependency["kind"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
        .collect()
}

fn members(metadata: &Value) -> BTreeMap<String, &Value> {
    let ids: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter(|package| ids.contains(package["id"].as_str().unwrap()))
        .map(|package| (package["name"].as_str().unwrap().to_owned(), package))
        .collect()
}

/// Every package that is linked into the named one, by the resolved graph.
fn reachable(metadata: &Value, name: &str) -> BTreeSet<String> {
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeMap<&str, &str> = packages
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let edges: BTreeMap<&str, Vec<&str>> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), normal_edges(node)))
        .collect();
    let start = names.iter().find(|(_, found)| **found == name).unwrap().0;
    let mut seen = BTreeSet::new();
    let mut left = vec![*start];
    while let Some(id) = left.pop() {
        for next in &edges[id] {
            if seen.insert(*next) {
                left.push(next);
            }
        }
    }
    seen.into_iter().map(|id| names[id].to_owned()).collect()
}

fn normal_edges(node: &Value) -> Vec<&str> {
    let dependencies = node["deps"].as_array().unwrap().iter();
    dependencies
        .filter(|dependency| {
            dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null())
        })
        .map(|dependency| dependency["pkg"].as_str().unwrap())
        .collect()
}

#[test]
fn crates_depend_only_on_those_below_them() {
    let metadata = metadata();
    let members = members(&metadata);
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    for (name, package) in &members {
        let Some(may) = allowed.get(name.as_str()) else {
            panic!("{name} is new: decide what it may depend on, here and in ARCHITECTURE.md");
        };
        for dependency in normal_dependencies(package) {
            let ours = members.contains_key(&dependency);
            assert!(!ours || may.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
    assert_eq!(members.len(), allowed.len(), "a crate of the list is gone");
}

#[test]
fn what_is_kept_out_stays_out_by_every_way() {
    let metadata = metadata();
    for (name, forbidden) in FORBIDDEN {
        let reachable = reachable(&metadata, name);
        for dependency in forbidden {
            assert!(!reachable.contains(*dependency), "{name} must not reach {dependency}");
        }
    }
    // The walk itself works: what surely is there is found.
    assert!(reachable(&metadata, "paddock-client").contains("tokio"));
    assert!(reachable(&metadata, "paddock-partition").contains("paddock-index"));
}

/// The switches that break the protocol's rules are for the simulation's own test, which asks for them on the command line.
/// (A build without assertions refuses them by itself.)
#[test]
fn nobody_builds_a_server_whose_rules_can_be_broken() {
    const SWITCHES: &str = "mutations";
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let has_switches = |node: &&Value| {
        node["features"].as_array().unwrap().iter().any(|feature| feature.as_str() == Some(SWITCHES))
    };
    assert_eq!(
        nodes.iter().filter(has_switches).map(|node| &node["id"]).collect::<Vec<_>>(),
        [&Value::Null; 0]
    );
    for (name, package) in members(&metadata) {
        let features = package["features"].as_object().unwrap();
        let has = features.contains_key(SWITCHES);
        assert_eq!(has, ["paddock-partition", "paddock-sim"].contains(&name.as_str()), "{name}");
        let default = features.get("default").map(ToString::to_string).unwrap_or_default();
        assert!(!default.contains(SWITCHES), "{name} has them by default");
        for dependency in package["dependencies"].as_array().unwrap() {
            let asked = dependency["features"].to_string();
            assert!(!asked.contains(SWITCHES), "{name} asks {} for them", dependency["name"]);
        }
    }
}

/// The one file that may use `unsafe`.
const UNSAFE_MODULE: &str = "storage/src/disk/mapping.rs";

/// The crate that has it. The others forbid it, which nothing inside of them can undo; tests and benches are under the
/// workspace's lint.
const UNSAFE_CRATE: &str = "paddock-storage";

#[test]
fn unsafe_code_is_in_one_module() {
    let metadata = metadata();
    let root = Path::new(metadata["workspace_root"].as_str().unwrap());
    for (name, package) in members(&metadata) {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        for target in package["targets"].as_array().unwrap() {
            let kinds = target["kind"].as_array().unwrap();
            if !kinds.iter().any(|kind| kind == "lib" || kind == "bin") {
                continue;
            }
            let source = target["src_path"].as_str().unwrap();
            let text = std::fs::read_to_string(source).unwrap();
            let level = if name == UNSAFE_CRATE { "deny" } else { "forbid" };
            assert!(
                text.contains(&format!("\n#![{level}(unsafe_code)]\n")),
                "{source}: no {level}(unsafe_code)"
            );
        }
        for source in rust_files(manifest.parent().unwrap()) {
            let text = std::fs::read_to_string(&source).unwrap();
            // Spelled so that this test does not find itself.
            let lifted =
                ["allow", "expect", "warn"].iter().any(|level| text.contains(&format!("{level}({LINT}")));
            let source = source.strip_prefix(root).unwrap();
            assert_eq!(lifted, source == Path::new(UNSAFE_MODULE), "{}", source.display());
        }
    }
}

const LINT: &str = "unsafe_code";

/// The sources below a crate's folder, those of its tests included.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().unwrap() != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}
