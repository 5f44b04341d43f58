//! The floors of `ARCHITECTURE.md` hold: a room uses rooms of lower floors only.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a file.
const LINES_MAX: usize = 500;

/// Modules that exist in tests only, and may use everything.
const OF_TESTS: [&str; 5] = ["campaign", "testing", "golden", "memory_store", "small_backup"];

/// The floor and the room of each module of a crate.
type Map = BTreeMap<String, (usize, String)>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// The crates that have rooms, and where their sources are.
fn crates() -> [(&'static str, PathBuf); 5] {
    [
        ("format", "common/format/src"),
        ("secrets", "common/secrets/src"),
        ("common", "common/src"),
        ("offsite", "offsite/src"),
        ("mountfs", "mountfs/src"),
    ]
    .map(|(name, path)| (name, root().join(path)))
}

/// Reads the list of floors.
fn floors() -> BTreeMap<String, Map> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let list = text.split("```floors\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a list of floors");
    let mut maps = BTreeMap::<String, Map>::new();
    for (floor, line) in list.lines().enumerate() {
        let (of_crate, rooms) = line.split_once(": ").expect("crate: rooms");
        for room in rooms.split(' ') {
            for module in room.split('+') {
                let known =
                    maps.entry(of_crate.to_owned()).or_default().insert(module.to_owned(), (floor, room.to_owned()));
                assert!(known.is_none(), "{of_crate}: {module} is on two floors");
            }
        }
    }
    maps
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The modules that lead to a file, from the root of its crate.
fn module_of(file: &Path, source: &Path) -> Vec<String> {
    let relative = file.strip_prefix(source).expect("a file of the crate").with_extension("");
    let mut parts: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// The code of a file without comments and without its unit tests.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// What a path begins with that leads to the root of the crate: the names behind it, with how many levels it goes up.
fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let is_part =
            code[..start].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$');
        if is_part {
            continue;
        }
        let mut names: Vec<&str> = Vec::new();
        let mut rest = &code[start..];
        loop {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            names.push(&rest[..end]);
            match rest[end..].strip_prefix("::") {
                Some(next) => rest = next,
                None => break,
            }
        }
        let up = names.iter().take_while(|name| **name == "super").count();
        let behind = names.iter().skip(up.max(1)).map(|name| (*name).to_owned()).collect();
        found.push((up, behind));
    }
    found
}

/// What is wrong with the order of a crate.
fn faults(source: &Path, map: &Map, floor_of_crate: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for file in sources(source) {
        let text = fs::read_to_string(&file).expect("a source file");
        let shown = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
        let lines = text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{shown} has {lines} lines"));
        }
        let module = module_of(&file, source);
        let Some(own) = module.first() else { continue };
        let is_of_tests =
            |name: &String| OF_TESTS.contains(&name.as_str()) || name.ends_with("tests") || name == "faulty";
        if module.iter().any(is_of_tests) {
            continue;
        }
        let Some((floor, room)) = map.get(own) else {
            faults.push(format!("{shown}: the module {own} of {floor_of_crate} is on no floor"));
            continue;
        };
        for (up, names) in paths(&code(&text)) {
            // Inside the room.
            if up > 0 && up < module.len() {
                continue;
            }
            match names.first().filter(|name| !name.is_empty()) {
                None => faults.push(format!("{shown}: a list of names of the crate's root")),
                Some(used) if used == own => {}
                Some(used) => match map.get(used) {
                    Some((_, used_room)) if used_room == room => {}
                    Some((used_floor, _)) if used_floor < floor => {}
                    Some(_) => faults.push(format!("{shown}: {own} uses {used}, which is not below it")),
                    // Macros, and what `lib.rs` of `format` has for all.
                    None if floor_of_crate != "common" => {}
                    None if OF_TESTS.contains(&used.as_str()) => {}
                    None => faults
                        .push(format!("{shown}: {used} is imported from the root, not from the module that owns it")),
                },
            }
        }
    }
    faults
}

#[test]
fn a_room_uses_rooms_of_lower_floors_only() {
    let floors = floors();
    let mut all = Vec::new();
    for (name, source) in crates() {
        let map = &floors[name];
        for module in map.keys() {
            let is_there = source.join(module).is_dir() || source.join(format!("{module}.rs")).is_file();
            assert!(is_there, "{name} has no module {module}");
        }
        all.extend(faults(&source, map, name));
    }
    assert!(all.is_empty(), "{all:#?}");
}

/// The faults that the test above is there for.
#[test]
fn an_arrow_upwards_a_circle_an_unknown_module_and_a_long_file_are_noticed() {
    let directory = tempfile::tempdir().expect("a directory");
    let map: Map =
        [("low", 0), ("side", 0), ("high", 1)].map(|(name, floor)| (name.to_owned(), (floor, name.to_owned()))).into();
    let faults_of = |name: &str, text: &str| {
        let file = directory.path().join(name);
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        fs::write(&file, text).expect("a file");
        let faults = faults(directory.path(), &map, "common");
        fs::remove_file(&file).expect("a file");
        faults
    };
    assert!(faults_of("high.rs", "use crate::low::X;\nfn f() { crate::side::g() }").is_empty());
    assert!(faults_of("low/inner.rs", "use super::other::X; // crate::high::X").is_empty());
    assert!(faults_of("low.rs", "#[cfg(test)]\nuse crate::testing::Node;\n").is_empty());
    for (name, text, expected) in [
        ("low.rs", "use crate::high::X;", "low uses high"),
        ("low.rs", "fn f() -> crate::high::X {}", "low uses high"),
        ("low/inner.rs", "use super::super::high::X;", "low uses high"),
        ("low.rs", "use super::side::X;", "low uses side"),
        ("high.rs", "use crate::{low, side};", "a list of names"),
        ("high.rs", "use crate::Backup;", "Backup is imported from the root"),
        ("other.rs", "", "other of common is on no floor"),
    ] {
        let faults = faults_of(name, text);
        assert!(faults.len() == 1 && faults[0].contains(expected), "{name} {text}: {faults:?}");
    }
    assert!(faults_of("low.rs", &"\n".repeat(LINES_MAX + 1))[0].contains("501 lines"));
}
