//! The layering table and the small rules of the house, checked over the source text.
//!
//! Changing the table is a decision about the architecture: it belongs in a commit of its own, with
//! `src/docs/architecture.md` changed alongside. Each rule is tested here against a text that breaks it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Who stands on which floor. A module may use modules of lower floors only. Floor 0 is one room: its
/// files are the vocabulary that everything shares, and they may name each other.
const FLOORS: &[(&str, u8)] = &[
    ("types", 0),
    ("error", 0),
    ("clock", 0),
    ("finding", 0),
    ("metrics", 0),
    ("mutants", 0),
    ("sync", 0),
    ("storage", 1),
    ("wire", 1),
    ("record", 2),
    ("index", 2),
    ("segment", 3),
    ("log", 4),
    ("topic", 5),
    ("group", 6),
    ("broker", 7),
    ("producer", 8),
    ("consumer", 8),
    ("typed", 9),
    ("testing", 10),
];

/// Modules that hold no code.
const PAGES: &str = "docs";

/// What tests of every floor may use.
const TEST_HELPERS: &str = "testing";

const HEADER_LINES_MAX: usize = 12;
const FILE_LINES_MAX: usize = 800;

/// Calls whose failure means that data may be lost: their result is never dropped.
const NEVER_DROPPED: &[&str] = &["sync", "rename", "remove_file", "remove_dir", "truncate", "set_len", "flush"];

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// The text with comments and literals blanked out, line numbers kept.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match literal_or_comment_end(bytes, at) {
            Some(end) => end,
            None => {
                at += 1;
                continue;
            }
        };
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Where the comment or literal that starts at `at` ends, if one does.
fn literal_or_comment_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        let mut depth = 0;
        let mut i = 0;
        while i < rest.len() {
            if rest[i..].starts_with(b"/*") {
                depth += 1;
                i += 2;
            } else if rest[i..].starts_with(b"*/") {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return Some(at + i);
                }
            } else {
                i += 1;
            }
        }
        return Some(bytes.len());
    }
    if rest[0] == b'"' {
        let mut i = 1;
        while i < rest.len() && rest[i] != b'"' {
            i += if rest[i] == b'\\' { 2 } else { 1 };
        }
        return Some((at + i + 1).min(bytes.len()));
    }
    if !word_before && (rest[0] == b'r' || rest.starts_with(b"br")) {
        let open = if rest[0] == b'b' { 2 } else { 1 };
        let hashes = rest[open..].iter().take_while(|b| **b == b'#').count();
        if rest.get(open + hashes) == Some(&b'"') {
            let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            let body = open + hashes + 1;
            let length = rest[body..].windows(close.len()).position(|w| w == close);
            return Some(length.map_or(bytes.len(), |n| at + body + n + close.len()));
        }
    }
    if rest[0] == b'\'' {
        // A character, not a lifetime: closed within a few bytes.
        if rest.get(1) == Some(&b'\\') {
            return rest[2..].iter().skip(1).position(|b| *b == b'\'').map(|n| at + n + 4);
        }
        if rest.get(2) == Some(&b'\'') {
            return Some(at + 3);
        }
    }
    None
}

/// The first names behind every `root::` in `code`, groups opened, each with its line.
fn first_names(code: &str, root: &str) -> Vec<(usize, String)> {
    let needle = format!("{root}::");
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&needle) {
        let boundary = code[..at].chars().next_back().is_none_or(|c| !(c.is_alphanumeric() || c == '_'));
        if !boundary {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = code[at + needle.len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group).into_iter().map(|name| (line, name))),
            None => found.extend(leading_name(rest).map(|name| (line, name))),
        }
    }
    found
}

fn leading_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The first name of each entry of a `use` group whose opening brace was just passed.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut entry = String::new();
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.extend(leading_name(entry.trim_start()));
                entry.clear();
                continue;
            }
            _ => {}
        }
        entry.push(c);
    }
    heads.extend(leading_name(entry.trim_start()));
    heads
}

/// The top-level module that a path below `src/` belongs to.
fn module_of(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Every rule that the source file `path` (relative to `src/`) breaks.
fn check_source(path: &str, text: &str) -> Vec<String> {
    let code = code_only(text);
    let mut broken = Vec::new();
    let module = module_of(path);
    if !matches!(module, "lib" | PAGES) {
        check_layers(path, module, &code, inline_tests_line(text), &mut broken);
        if !is_tests(path) {
            check_header(path, text, &mut broken);
        }
    }
    if !path.starts_with("storage/disk") {
        for (line, name) in first_names(&code, "std") {
            if name == "fs" {
                broken.push(format!("{path}:{line}: only storage/disk names std::fs; go through storage::Storage"));
            }
        }
    }
    check_text(path, text, &code, &mut broken);
    check_dropped_results(path, &code, &mut broken);
    let lines = inline_tests_line(text) - 1;
    if lines > FILE_LINES_MAX && !is_tests(path) {
        broken.push(format!("{path}: {lines} lines before its tests; split it by subject (limit {FILE_LINES_MAX})"));
    }
    broken
}

/// A module's tests in a file of their own: their subject is the module's.
fn is_tests(path: &str) -> bool {
    path.ends_with("/tests.rs")
}

/// The line on which the file's inline tests begin; past its end when it has none.
fn inline_tests_line(text: &str) -> usize {
    let shipped = text.rfind("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..shipped].lines().count() + 1
}

fn check_layers(path: &str, module: &str, code: &str, tests_line: usize, broken: &mut Vec<String>) {
    let Some(floor) = floor_of(module) else {
        broken.push(format!("{path}: module `{module}` has no floor; give it one in tests/tidy.rs"));
        return;
    };
    for (line, used) in first_names(code, "crate") {
        match floor_of(&used) {
            _ if used == module => {}
            _ if used == TEST_HELPERS && (line > tests_line || is_tests(path)) => {}
            Some(lower) if lower < floor || (lower == 0 && floor == 0) => {}
            Some(other) => broken.push(format!(
                "{path}:{line}: `{module}` (floor {floor}) uses `{used}` (floor {other}); imports point down"
            )),
            None => {
                broken.push(format!("{path}:{line}: `crate::{used}` is no module of the table; name the module itself"))
            }
        }
    }
}

fn check_header(path: &str, text: &str, broken: &mut Vec<String>) {
    let header = text.lines().take_while(|line| line.starts_with("//!"));
    // Rows of a table are a diagram, not prose.
    let lines = header.filter(|line| !line.starts_with("//! |")).count();
    if lines == 0 {
        broken.push(format!("{path}:1: no header comment: say its job, what is not its job, its invariants"));
    } else if lines > HEADER_LINES_MAX {
        broken.push(format!("{path}:1: header comment of {lines} lines (limit {HEADER_LINES_MAX})"));
    }
}

/// Rules for every Rust file of the project, tests and examples included.
fn check_text(path: &str, text: &str, code: &str, broken: &mut Vec<String>) {
    for (index, line) in text.lines().enumerate() {
        if !line.is_ascii() {
            broken.push(format!("{path}:{}: not ASCII", index + 1));
        }
    }
    for word in ["todo!", "unimplemented!", "dbg!"] {
        for (at, _) in code.match_indices(word) {
            let line = code[..at].matches('\n').count() + 1;
            broken.push(format!("{path}:{line}: `{word}` left in the code"));
        }
    }
}

fn check_dropped_results(path: &str, code: &str, broken: &mut Vec<String>) {
    let mut line = 1;
    for statement in code.split_inclusive([';', '{', '}']) {
        let start = line + statement.chars().take_while(|c| c.is_whitespace()).filter(|c| *c == '\n').count();
        line += statement.matches('\n').count();
        let text = statement.trim();
        let ignored = text.starts_with("let _ =") || text.starts_with("_ =");
        let silenced = text.ends_with(".ok();") && !text.contains('=') && !text.starts_with("return");
        let call = NEVER_DROPPED.iter().find(|call| text.contains(**call));
        if let (true, Some(call)) = (ignored || silenced, call) {
            broken.push(format!("{path}:{start}: the result of a `{call}` is dropped"));
        }
    }
}

/// Paths in backticks that `page` names but the project does not have.
fn missing_paths(page: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let named = text.split('`').skip(1).step_by(2);
    let roots = ["src/", "tests/", "examples/", "benches/", "fuzz/", ".ci/"];
    named
        .filter(|name| roots.iter().any(|root| name.starts_with(root)) && !name.contains([' ', '<', '*']))
        .filter(|name| !exists(name))
        .map(|name| format!("{page}: names `{name}`, which is not there"))
        .collect()
}

/// Rows `| hop | `Type::function` | `file` | ...` of the spines whose file has no such function.
fn lost_hops(page: &str, read: impl Fn(&str) -> Option<String>) -> (usize, Vec<String>) {
    let mut hops = 0;
    let mut lost = Vec::new();
    for row in page.lines() {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, number, name, file, ..] = cells[..] else { continue };
        let (Ok(_), Some((_, function))) = (number.parse::<u8>(), name.split_once("::")) else { continue };
        hops += 1;
        let text = read(file).unwrap_or_default();
        if !["(", "<"].iter().any(|open| text.contains(&format!("fn {function}{open}"))) {
            lost.push(format!("`{name}` is not in `{file}`"));
        }
    }
    (hops, lost)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `dir` with one of the given endings, as paths relative to `dir`.
fn files(dir: &Path, ending: &str) -> Vec<String> {
    let mut waiting = vec![dir.to_path_buf()];
    let mut found = Vec::new();
    while let Some(next) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&next) else { continue };
        for path in entries.map(|entry| entry.expect("a directory entry").path()) {
            if path.is_dir() && !path.ends_with("target") {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == ending) {
                let relative = path.strip_prefix(dir).expect("below its directory");
                found.push(relative.to_str().expect("a UTF-8 path").replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn report(broken: Vec<String>) {
    let mut text = String::new();
    for line in &broken {
        writeln!(text, "  {line}").expect("writing to a String");
    }
    assert!(broken.is_empty(), "{} rule(s) of the house broken:\n{text}", broken.len());
}

#[test]
fn sources_keep_the_rules() {
    let src = root().join("src");
    report(files(&src, "rs").iter().flat_map(|path| check_source(path, &read(src.join(path)))).collect());
}

#[test]
fn tests_examples_and_benches_keep_the_text_rules() {
    let mut broken = Vec::new();
    for dir in ["tests", "examples", "benches", "fuzz"] {
        for path in files(&root().join(dir), "rs") {
            let text = read(root().join(dir).join(&path));
            let path = format!("{dir}/{path}");
            if path != "tests/tidy.rs" {
                check_text(&path, &text, &code_only(&text), &mut broken);
            }
        }
    }
    report(broken);
}

#[test]
fn pages_name_files_that_exist() {
    let mut pages: Vec<String> =
        files(&root().join("src/docs"), "md").iter().map(|p| format!("src/docs/{p}")).collect();
    pages.extend(["README.md", "RELIABILITY.md"].map(String::from));
    let exists = |name: &str| root().join(name).exists();
    report(pages.iter().flat_map(|page| missing_paths(page, &read(root().join(page)), exists)).collect());
}

#[test]
fn spines_are_where_the_architecture_page_says() {
    let page = read(root().join("src/docs/architecture.md"));
    let (hops, lost) = lost_hops(&page, |file| fs::read_to_string(root().join(file)).ok());
    assert_eq!(hops, 12, "two spines of six hops");
    report(lost);
}

#[test]
fn every_floor_is_inhabited() {
    let src = root().join("src");
    for (module, _) in FLOORS {
        let there = src.join(format!("{module}.rs")).exists() || src.join(module).join("mod.rs").exists();
        assert!(there, "the table gives a floor to `{module}`, which does not exist");
    }
}

const HEADER: &str = "//! A subject.\n";

#[track_caller]
fn breaks(path: &str, body: &str, rule: &str) {
    let broken = check_source(path, &format!("{HEADER}{body}"));
    assert!(broken.iter().any(|line| line.contains(rule)), "{body:?} should break {rule:?}, got {broken:?}");
}

#[track_caller]
fn keeps(path: &str, body: &str) {
    let broken = check_source(path, &format!("{HEADER}{body}"));
    assert!(broken.is_empty(), "{body:?} should be fine, got {broken:?}");
}

#[test]
fn imports_that_point_up_or_sideways_are_found() {
    breaks("log/mod.rs", "use crate::broker::Broker;\n", "imports point down");
    breaks("log/read.rs", "use crate::{\n    error::Result,\n    topic::{Topic, Partition},\n};\n", "uses `topic`");
    breaks("producer/mod.rs", "fn f() { crate::consumer::poll(); }\n", "uses `consumer` (floor 8)");
    breaks("index/mod.rs", "use crate::record::Record;\n", "uses `record`");
    breaks("log/mod.rs", "use crate::Error;\n", "no module of the table");
    breaks("attic/mod.rs", "fn f() {}\n", "has no floor");
    keeps("log/mod.rs", "use crate::segment::Segment;\nuse crate::log::state::State;\n");
    keeps("log/mod.rs", "//! [`crate::broker::Broker`]\n// crate::broker\nconst A: &str = \"crate::broker\";\n");
    keeps("log/mod.rs", "const A: &str = r#\"say \"crate::broker\"\"#; const B: char = '\"'; const C: char = '\\'';\n");
    keeps("log/mod.rs", &"//! | a | b |\n".repeat(HEADER_LINES_MAX));
    keeps("error.rs", "use crate::types::Offset;\n");
    breaks("wire/mod.rs", "use crate::testing::vectors;\n", "uses `testing`");
    keeps("wire/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::testing::vectors;\n}\n");
}

#[test]
fn the_disk_has_one_door() {
    breaks("log/mod.rs", "use std::fs::File;\n", "std::fs");
    breaks("storage/memory.rs", "use std::{io, fs};\n", "std::fs");
    breaks("log/mod.rs", "fn f() { let x = std::fs::read(\"p\"); }\n", "std::fs");
    keeps("storage/disk.rs", "use std::fs::File;\n");
    keeps("log/mod.rs", "use std::fmt;\n");
}

#[test]
fn dropped_results_are_found() {
    breaks("log/mod.rs", "fn f() {\n    let _ = file.sync_data();\n}\n", "log/mod.rs:3: the result of a `sync`");
    breaks("log/mod.rs", "fn f() {\n    let _ =\n        storage\n        .rename(a, b);\n}\n", "`rename` is dropped");
    breaks("log/mod.rs", "fn f() { storage.remove_file(a).ok(); }\n", "`remove_file` is dropped");
    keeps("log/mod.rs", "fn f() { let _ = sender.send(1); let kept = storage.rename(a, b).ok(); }\n");
}

#[test]
fn leftovers_are_found() {
    breaks("log/mod.rs", "fn f() { todo!() }\n", "todo!");
    breaks("log/mod.rs", "// caf\u{e9}\n", "not ASCII");
    breaks("log/mod.rs", &"//! More.\n".repeat(HEADER_LINES_MAX), "header comment of 13 lines");
    breaks("log/mod.rs", &"const A: u8 = 0;\n".repeat(FILE_LINES_MAX + 1), "split it by subject");
    assert!(check_source("log/mod.rs", "use std::fmt;\n").iter().any(|line| line.contains("no header comment")));
    let row = "| 2 | `Broker::produce` | `src/broker/verbs.rs` | a door |";
    assert_eq!(lost_hops(row, |_| Some("pub(crate) fn produce(&self)".into())), (1, Vec::new()));
    assert_eq!(lost_hops(row, |_| Some("fn produced()".into())).1.len(), 1);
    assert_eq!(missing_paths("p.md", "see `src/a.rs` and `src/b.rs`", |name| name == "src/a.rs").len(), 1);
}
