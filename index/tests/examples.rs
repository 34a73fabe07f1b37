//! The examples do what they say.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;

#[path = "../examples/records.rs"]
mod records;
#[path = "../examples/words.rs"]
mod words;

const TEXT: &str = "pear green\n\napple red\n  plum blue and ripe\npear yellow\nапельсин orange\npeach pink";

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, TEXT).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn records_finds_the_last_line_of_a_word() {
    let path = text("records.txt");
    let find = |word| records::find(&path, word).unwrap();
    assert_eq!(find("pear"), (Some("pear yellow".into()), 5));
    assert_eq!(find("plum"), (Some("  plum blue and ripe".into()), 5));
    assert_eq!(find("апельсин"), (Some("апельсин orange".into()), 5));
    assert_eq!(find("peach"), (Some("peach pink".into()), 5));
    assert_eq!(find("green"), (None, 5));
}

#[test]
fn words_lists_in_order() {
    let path = text("words.txt");
    assert_eq!(words::list(&path, "pea").unwrap(), ["     7: peach pink", "     5: pear yellow"]);
    let all = words::list(&path, "").unwrap();
    let starts: Vec<&str> =
        all.iter().map(|line| line[8..].trim_start().split(' ').next().unwrap()).collect();
    assert_eq!(starts, ["apple", "peach", "pear", "plum", "апельсин"]);
    assert!(words::list(&path, "q").unwrap().is_empty());
}
