#![doc = include_str!("../../docs/durability.md")]

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    const DOCUMENT: &str = include_str!("../../docs/durability.md");

    /// Names in backticks with several words, like those of tests.
    fn named_tests() -> BTreeSet<&'static str> {
        let in_backticks = DOCUMENT.split('`').skip(1).step_by(2);
        let is_test = |name: &&str| {
            name.matches('_').count() >= 3
                && name.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        in_backticks.filter(is_test).collect()
    }

    fn collect_tests(directory: &Path, tests: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect_tests(&path, tests);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(&path).unwrap();
                let names =
                    source.split("#[test]").skip(1).filter_map(|test| test.split_once("fn ")?.1.split_once('('));
                tests.extend(names.map(|(name, _)| name.to_owned()));
            }
        }
    }

    #[test]
    fn every_test_that_is_named_exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut tests = BTreeSet::new();
        for part in ["common/src", "tests/tests", "mountfs/src", "mountfs/tests", "recorder/src", "recorder/tests"] {
            collect_tests(&root.join(part), &mut tests);
        }
        let named = named_tests();
        assert!(named.len() > 20, "{named:?}");
        let missing: Vec<_> = named.into_iter().filter(|name| !tests.contains(*name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
