//! The documents: links lead somewhere, and the commands, options, methods and knobs that they show exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use common::BackupLock;
use mountfs::cli::Cli;
use recorder::plugin::BACKUP_STATUS;
use tests::binaries::workspace;

/// The README is what an operator reads in a hurry.
const README_LINES: usize = 200;

/// Options of other programs that a document names alone: of `lightningd`, containers, `rsync`, and the benchmarks.
const FOREIGN_OPTIONS: [&str; 8] =
    ["--wallet", "--device", "--security-opt", "--checksum", "--dir", "--versions", "--keep", "--reuse"];

/// The one knob that only `.ci/nightly` reads.
const OF_NIGHTLY: &str = "BACKUPFS_NIGHTLY";

/// A Markdown file of the repository.
struct Document {
    path: PathBuf,
    text: String,
}

/// The parts of a document that the tests check.
#[derive(Debug, Default)]
struct Parts<'t> {
    /// Code blocks, each with what stands behind the opening fence.
    blocks: Vec<(&'t str, String)>,
    /// Inline code.
    spans: Vec<String>,
    /// Targets of links.
    links: Vec<String>,
    /// Headings, as they are written, with their level.
    headings: Vec<(usize, &'t str)>,
    /// `<a name="…">`.
    names: Vec<String>,
}

impl Document {
    fn name(&self) -> String {
        self.path.strip_prefix(workspace()).unwrap_or(&self.path).display().to_string()
    }

    fn parts(&self) -> Parts<'_> {
        let mut parts = Parts::default();
        let mut fence: Option<(&str, String)> = None;
        let mut paragraph = String::new();
        for line in self.text.lines().chain([""]) {
            if let Some(info) = line.trim_start().strip_prefix("```") {
                match fence.take() {
                    Some(block) => parts.blocks.push(block),
                    None => fence = Some((info.trim(), String::new())),
                }
                continue;
            }
            if let Some((_, block)) = &mut fence {
                block.push_str(line);
                block.push('\n');
                continue;
            }
            let level = line.chars().take_while(|&c| c == '#').count();
            if (1..=6).contains(&level) && line[level..].starts_with(' ') {
                parts.headings.push((level, line[level..].trim()));
            }
            // Links and inline code may go on in the next line, but not in the next paragraph.
            if line.trim().is_empty() {
                parts.read_paragraph(&std::mem::take(&mut paragraph));
            } else {
                paragraph.push_str(line);
                paragraph.push('\n');
            }
        }
        assert!(fence.is_none(), "{}: a code block does not end", self.name());
        parts
    }

    /// What a `#fragment` can lead to.
    fn anchors(&self) -> BTreeSet<String> {
        let parts = self.parts();
        let mut seen = BTreeMap::<String, usize>::new();
        let mut anchors: BTreeSet<String> = parts.names.into_iter().collect();
        for (_, heading) in &parts.headings {
            let slug = slug(heading);
            let times = seen.entry(slug.clone()).or_default();
            anchors.insert(if *times == 0 { slug } else { format!("{slug}-{times}") });
            *times += 1;
        }
        anchors
    }
}

impl Parts<'_> {
    fn read_paragraph(&mut self, text: &str) {
        let mut prose = String::new();
        for (number, part) in text.split('`').enumerate() {
            if number % 2 == 1 {
                self.spans.push(part.replace('\n', " ").replace("\\|", "|"));
                prose.push_str("code");
            } else {
                prose.push_str(part);
            }
        }
        let target = |rest: &str| rest.split(')').next().unwrap_or_default().trim().to_owned();
        self.links.extend(prose.split("](").skip(1).map(target));
        self.names
            .extend(prose.split("<a name=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
    }
}

/// The anchor that GitHub gives a heading.
fn slug(heading: &str) -> String {
    let mut text = String::new();
    let mut rest = heading;
    // Of a link only the text counts.
    while let Some((before, link)) = rest.split_once('[') {
        let Some((shown, behind)) = link.split_once("](") else { break };
        text.push_str(before);
        text.push_str(shown);
        rest = behind.split_once(')').map_or("", |(_, behind)| behind);
    }
    text.push_str(rest);
    let kept = text.chars().filter(|&c| c.is_alphanumeric() || c == '_' || c == '-' || c == ' ');
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn find_documents(directory: &Path, found: &mut Vec<Document>) {
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry")) {
        let (path, name) = (entry.path(), entry.file_name());
        let is_dir = entry.file_type().expect("a type").is_dir();
        if is_dir && name != "target" && !name.to_string_lossy().starts_with('.') {
            find_documents(&path, found);
        } else if !is_dir && path.extension().is_some_and(|extension| extension == "md") {
            found.push(Document { text: fs::read_to_string(&path).expect("a text"), path });
        }
    }
}

/// All of them, in a fixed order.
fn documents() -> Vec<Document> {
    let mut found = Vec::new();
    find_documents(workspace(), &mut found);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(found.len() > 10, "{} documents", found.len());
    found
}

fn expect_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_link_has_a_target() {
    let documents = documents();
    let anchors: BTreeMap<PathBuf, BTreeSet<String>> =
        documents.iter().map(|document| (document.path.clone(), document.anchors())).collect();
    let mut problems = Vec::new();
    let mut checked = 0;
    for document in &documents {
        for link in document.parts().links {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (file, anchor) = link.split_once('#').map_or((&*link, None), |(file, anchor)| (file, Some(anchor)));
            let path = match file {
                "" => document.path.clone(),
                _ => document.path.parent().expect("a directory").join(file),
            };
            let Ok(path) = path.canonicalize() else {
                problems.push(format!("{}: there is no {link}", document.name()));
                continue;
            };
            let is_known = |anchor| anchors.get(&path).is_some_and(|anchors| anchors.contains(anchor));
            if !path.starts_with(workspace().canonicalize().expect("the workspace")) {
                problems.push(format!("{}: {link} is outside of the repository", document.name()));
            } else if anchor.is_some_and(|anchor| !is_known(anchor)) {
                problems.push(format!("{}: {link} has no such heading", document.name()));
            }
        }
    }
    assert!(checked > 50, "{checked} links");
    expect_none(&problems);
}

#[test]
fn every_document_has_one_title_and_the_readme_is_short() {
    let mut problems = Vec::new();
    for document in documents() {
        let titles = document.parts().headings.iter().filter(|(level, _)| *level == 1).count();
        if titles != 1 {
            problems.push(format!("{}: {titles} top headings", document.name()));
        }
        let lines = document.text.lines().count();
        if document.name() == "README.md" && lines > README_LINES {
            problems.push(format!("README.md has {lines} lines, {README_LINES} at most"));
        }
    }
    expect_none(&problems);
}

/// The words of a command as a shell sees them; quotes and comments are as far understood as documents use them.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (_, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (_, None) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The commands in a code block, each as its words.
fn commands(block: &str) -> Vec<Vec<String>> {
    let joined = block.replace("\\\n", " ");
    let mut commands = Vec::new();
    for line in joined.lines() {
        let line = line.trim().trim_start_matches("$ ");
        let mut command = Vec::new();
        for word in words(line).into_iter().chain(["&&".to_owned()]) {
            let ends = word.ends_with(';');
            if matches!(&*word, "&&" | "|" | "||" | ";" | ">" | "do" | "done") {
                commands.push(std::mem::take(&mut command));
            } else {
                command.push(word.trim_end_matches(';').to_owned());
                if ends {
                    commands.push(std::mem::take(&mut command));
                }
            }
        }
    }
    for command in &mut commands {
        if command.first().is_some_and(|first| first == "sudo") {
            command.remove(0);
        }
    }
    commands.retain(|command| !command.is_empty());
    commands
}

fn is_backupfs(word: &str) -> bool {
    word.rsplit('/').next() == Some("backupfs")
}

/// Options of `backupfs SUBCOMMAND`, those of all commands included; `None` if there is no such command.
fn options_of(subcommand: &str) -> Option<BTreeSet<String>> {
    let mut all = Cli::command();
    all.build();
    let command = all.find_subcommand(subcommand)?;
    // Of a command with commands of its own, those of all of them.
    let arguments = || command.get_subcommands().chain([command]).flat_map(clap::Command::get_arguments);
    let longs = arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?)));
    let shorts = arguments().filter_map(|argument| Some(format!("-{}", argument.get_short()?)));
    Some(longs.chain(shorts).collect())
}

fn subcommands() -> BTreeSet<String> {
    Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// What is wrong with `backupfs` and these words behind it, as far as can be told of a command that is only named.
fn wrong_in_named(rest: &[String]) -> Option<String> {
    let subcommand = rest.iter().find(|word| !word.starts_with('-'))?;
    let Some(options) = options_of(subcommand) else { return Some(format!("there is no command {subcommand}")) };
    let options_named = rest.iter().filter(|word| word.starts_with('-') && word.len() > 1);
    let mut names = options_named.map(|word| word.split('=').next().unwrap_or(word));
    names.find(|name| !options.contains(*name)).map(|name| format!("{subcommand} has no option {name}"))
}

/// What is wrong with a command that is shown in full.
fn wrong_in_full(command: &[String]) -> Option<String> {
    if command.iter().any(|word| word.starts_with('$')) {
        return wrong_in_named(&command[1..]);
    }
    match Cli::try_parse_from(command) {
        Ok(_) => None,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => None,
        Err(error) => Some(format!("{}: {error}", command.join(" "))),
    }
}

#[test]
fn every_command_that_is_shown_exists() {
    let (subcommands, mut checked, mut problems) = (subcommands(), 0, Vec::new());
    let known: BTreeSet<String> = subcommands.iter().filter_map(|name| options_of(name)).flatten().collect();
    for document in documents() {
        let parts = document.parts();
        let shown = parts.blocks.iter().flat_map(|(_, block)| commands(block));
        for command in shown.filter(|command| is_backupfs(&command[0])) {
            checked += 1;
            problems.extend(wrong_in_full(&command).map(|wrong| format!("{}: {wrong}", document.name())));
        }
        for span in &parts.spans {
            let words = words(span);
            let Some(first) = words.first() else { continue };
            let rest = match &**first {
                "backupfs" => &words[1..],
                _ if subcommands.contains(first) && words.iter().any(|word| word.starts_with('-')) => &words[..],
                _ => continue,
            };
            checked += 1;
            problems.extend(wrong_in_named(rest).map(|wrong| format!("{}: `{span}`: {wrong}", document.name())));
        }
        for span in parts.spans.iter().filter(|span| span.starts_with("--")) {
            let option = span.split([' ', '=']).next().unwrap_or_default();
            if !known.contains(option) && !FOREIGN_OPTIONS.contains(&option) && document.is_for_operators() {
                problems.push(format!("{}: no command has the option {option}", document.name()));
            }
        }
    }
    assert!(checked > 60, "{checked} commands");
    expect_none(&problems);
}

impl Document {
    /// The README and what is in `docs`.
    fn is_for_operators(&self) -> bool {
        self.name() == "README.md" || self.name().starts_with("docs/")
    }
}

#[test]
fn every_method_of_the_plugin_that_is_named_exists() {
    let methods = [BACKUP_STATUS, BackupLock::COMPACT_METHOD, BackupLock::COMPACT_METHOD_BESIDE];
    let (mut checked, mut problems) = (0, Vec::new());
    for document in documents() {
        let parts = document.parts();
        let in_blocks = parts.blocks.iter().flat_map(|(_, block)| commands(block));
        for command in in_blocks.chain(parts.spans.iter().map(|span| words(span))) {
            let method = match command.first().map(String::as_str) {
                Some("lightning-cli") => command[1..].iter().find(|word| !word.starts_with('-')),
                Some("backup-recorder") => continue,
                Some(first) if first.starts_with("backup-") || first.starts_with("backupfs-") => command.first(),
                _ => continue,
            };
            let Some(method) = method.filter(|method| method.starts_with("backup")) else { continue };
            checked += 1;
            if !methods.contains(&&**method) {
                problems.push(format!("{}: the plugin has no method {method}", document.name()));
            }
        }
    }
    assert!(checked > 10, "{checked} methods");
    expect_none(&problems);
}

fn collect_sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry")) {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            collect_sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).expect("a text"));
        }
    }
}

#[test]
fn every_knob_test_and_benchmark_that_is_named_exists() {
    let mut sources = String::new();
    for package in ["common", "offsite", "recorder", "mountfs", "tests", "bench"] {
        collect_sources(&workspace().join(package), &mut sources);
    }
    let main = fs::read_to_string(workspace().join("bench/src/main.rs")).expect("the benchmarks");
    let benchmark = |line: &str| {
        let variant = line.strip_prefix("    ")?.split_once('(')?.0;
        variant.chars().all(char::is_alphabetic).then(|| variant.to_lowercase())
    };
    let benchmarks: BTreeSet<String> = main.lines().filter_map(benchmark).collect();
    let mut problems = Vec::new();
    for document in documents() {
        let parts = document.parts();
        let in_blocks = parts.blocks.iter().flat_map(|(_, block)| commands(block));
        for command in in_blocks.chain(parts.spans.iter().map(|span| words(span))) {
            for word in &command {
                let name = word.split('=').next().unwrap_or_default();
                if name.starts_with("BACKUPFS_") && name != OF_NIGHTLY && !sources.contains(name) {
                    problems.push(format!("{}: nothing reads {name}", document.name()));
                }
            }
            for pair in command.windows(2).filter(|pair| pair[0] == "--test") {
                let test = workspace().join("tests/tests").join(&pair[1]);
                if !test.is_dir() && !test.with_extension("rs").is_file() {
                    problems.push(format!("{}: there is no test {}", document.name(), pair[1]));
                }
                // The tests are no default members.
                if !command.windows(2).any(|pair| pair == ["-p", "tests"]) {
                    problems.push(format!("{}: --test {} without -p tests", document.name(), pair[1]));
                }
            }
            for of in command.windows(3).filter(|of| of[0] == "--test" && of[1] == "e2e" && !of[2].starts_with('-')) {
                let module = workspace().join("tests/tests/e2e").join(of[2].trim_end_matches("::").replace("::", "/"));
                if !module.is_dir() && !module.with_extension("rs").is_file() {
                    problems.push(format!("{}: e2e has no module {}", document.name(), of[2]));
                }
            }
            if command.first().is_none_or(|first| first != "cargo") {
                continue;
            }
            if let Some(name) = command.iter().skip_while(|word| *word != "bench").nth(2)
                && !benchmarks.contains(name)
            {
                problems.push(format!("{}: there is no benchmark {name}", document.name()));
            }
        }
    }
    let nightly = fs::read_to_string(workspace().join(".ci/nightly")).expect("the campaigns");
    for word in nightly.split(|c: char| c != '_' && !c.is_ascii_uppercase()) {
        if word.starts_with("BACKUPFS_") && word != OF_NIGHTLY && !sources.contains(&format!("\"{word}\"")) {
            problems.push(format!(".ci/nightly: nothing reads {word}"));
        }
    }
    let of_e2e = nightly.lines().filter(|line| line.contains(" e2e ")).filter_map(|line| line.split(' ').next_back());
    for module in of_e2e.filter(|word| word.contains("::")) {
        if !workspace().join("tests/tests/e2e").join(module.replace("::", "/")).with_extension("rs").is_file() {
            problems.push(format!(".ci/nightly: e2e has no module {module}"));
        }
    }
    expect_none(&problems);
}

#[test]
fn anchors_are_those_of_github() {
    for (heading, anchor) in [
        ("Coming from the Python plugin, and going back", "coming-from-the-python-plugin-and-going-back"),
        ("A new backup, and `backup.lock`", "a-new-backup-and-backuplock"),
        ("When the backup's place cannot be reached", "when-the-backups-place-cannot-be-reached"),
        ("See [the format](format.md), part_2", "see-the-format-part_2"),
    ] {
        assert_eq!(slug(heading), anchor);
    }
}
