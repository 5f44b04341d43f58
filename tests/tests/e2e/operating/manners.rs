//! How the command line behaves, whatever it is asked for: help, completions, manual pages, colours, pipes.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};

use tests::binaries;
use tests::cli::{self, Ran};
use tests::skip::skipped;
use tests::small_node::SmallNode;

fn backupfs(arguments: &[&str]) -> Ran {
    cli::backupfs(arguments)
}

/// The commands that the help lists.
fn commands() -> Vec<String> {
    let help = backupfs(&["--help"]).expect_done("help").stdout;
    let listed = help.split_once("Commands:\n").expect("a list").1.lines().take_while(|line| !line.is_empty());
    // Longer descriptions go on in lines that begin further right.
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.map(|line| line.split_whitespace().next().expect("a name").to_owned()).collect()
}

#[test]
fn every_command_has_a_short_help_and_a_long_one_with_an_example() {
    let commands = commands();
    assert!(commands.len() > 8, "{commands:?}");
    for command in &commands {
        let short = backupfs(&[command, "-h"]).expect_done("short help").stdout;
        let long = backupfs(&[command, "--help"]).expect_done("long help").stdout;
        assert!(long.contains("Example") && long.contains(&format!("backupfs {command}")), "{long}");
        assert!(long.contains("--quiet") && short.contains("--quiet"), "{command}");
    }
    let help = backupfs(&["--help"]).expect_done("help").stdout;
    for needle in ["Exit codes", "NO_COLOR", "BACKUPFS_LOG", "Examples"] {
        assert!(help.contains(needle), "{needle} is not in {help}");
    }
}

/// A regression: the long descriptions were hidden, `--help` had the same line as `-h`.
#[test]
fn the_long_help_of_a_command_has_its_whole_description() {
    let describe = |arguments: &[&str]| {
        let help = backupfs(arguments).expect_done("help").stdout;
        let description = help.split_once("Usage:").expect("a usage").0;
        description.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for command in commands().iter().filter(|command| !matches!(command.as_str(), "completions" | "man")) {
        let (short, long) = (describe(&[command, "-h"]), describe(&[command, "--help"]));
        assert!(long.starts_with(&short) && long.len() > short.len() + 50, "{command}: {long}");
    }
    for (command, sentence) in [
        ("init", "Stop the node first: it would go on without being recorded."),
        ("attach", "the database must not be an old state. The backup is not changed."),
        ("diff", "Values may be secrets, such as preimages."),
        ("seal", "The newest log stays as it is, and the next recorder continues it."),
        ("restore", "Existing files are not overwritten."),
        ("verify", "It takes no lock and changes nothing, so it works beside a recorder that writes."),
    ] {
        assert!(describe(&[command, "--help"]).contains(sentence), "{command}");
        assert!(!describe(&[command, "-h"]).contains(sentence), "{command}");
    }
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = backupfs(&["completions", shell]).expect_done("completions").stdout;
        for command in commands() {
            assert!(script.contains(&command), "{command} is not completed by {shell}");
        }
        assert!(script.contains("accept-stale-state"), "{shell}");
        if shell != "bash" {
            continue;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), script).unwrap();
        cli::run(Command::new("bash").arg("-n").arg(file.path())).expect_done("bash understands it");
    }
    backupfs(&["completions", "tcsh"]).expect_refused(2, &["tcsh", "bash"]);
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man/man1");
    backupfs(&["man", pages.to_str().unwrap()]).expect_done("man");
    for command in commands() {
        let page = fs::read_to_string(pages.join(format!("backupfs-{command}.1"))).expect("a page");
        assert!(page.contains(".TH") && page.contains(".SH SYNOPSIS"), "{page}");
    }
    let whole = fs::read_to_string(pages.join("backupfs.1")).expect("a page");
    assert!(whole.contains("Exit codes"), "{whole}");
}

#[test]
fn quiet_and_verbose_go_anywhere_but_not_together() {
    let node = SmallNode::created();
    let backup = node.home.backup();
    let backup = backup.to_str().unwrap();
    for arguments in [&["-q", "versions", backup][..], &["versions", "-q", backup], &["versions", backup, "-vv"]] {
        backupfs(arguments).expect_done("versions");
    }
    backupfs(&["-q", "-v", "versions", backup]).expect_refused(2, &["cannot be used with"]);
}

#[test]
fn every_field_of_json_is_on_its_page() {
    let page = fs::read_to_string(binaries::workspace().join("docs/json.md")).unwrap();
    let mut node = SmallNode::created();
    node.commit();
    node.stop();
    let (backup, database) = (node.home.backup(), node.home.database());
    let (backup, database) = (backup.to_str().unwrap(), database.to_str().unwrap());
    for (section, arguments) in [
        ("status", &["status", backup][..]),
        ("versions", &["versions", backup]),
        ("versions", &["versions", "--graph", backup]),
        ("show", &["show", backup, "2"]),
        ("diff", &["diff", backup, "1", "2"]),
        ("find", &["find", backup, "--table", "vars", "--where", "intval > 0"]),
        ("compact", &["compact", backup, "--keep-within", "1d", "--dry-run"]),
        ("verify", &["verify", backup]),
        ("verify", &["verify", backup, "--against", database]),
    ] {
        let text = page.split_once(&format!("\n## {section}\n")).expect("a section").1;
        let mut text = text.split("\n## ").next().unwrap().to_owned();
        if section == "show" {
            text += page.split_once("\n## versions\n").unwrap().1.split("\n## ").next().unwrap();
        }
        let printed = backupfs(&[arguments, &["--json"]].concat()).expect_done(section).json_lines();
        assert!(!printed.is_empty(), "{arguments:?}");
        for field in printed.iter().flat_map(|object| object.as_object().expect("an object").keys()) {
            assert!(text.contains(&format!("`{field}`")), "{field} of {arguments:?} is not described");
        }
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut node = SmallNode::created();
    for _ in 0..40 {
        node.commit();
    }
    node.stop();
    for command in ["versions", "status", "verify", "completions"] {
        let argument = if command == "completions" { "bash".into() } else { node.home.backup().into_os_string() };
        let mut child = Command::new(binaries::backupfs())
            .arg(command)
            .arg(argument)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success() && said.is_empty(), "{command}: {status}, {said}");
    }
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let escape = '\u{1b}';
    assert!(!backupfs(&["--help"]).expect_done("help").stdout.contains(escape), "a pipe is no terminal");
    if Command::new("script").arg("--version").output().is_err() {
        skipped("script is not installed, what a terminal sees is not tested");
        return;
    }
    let on_terminal = |no_color: Option<&str>| {
        let mut command = Command::new("script");
        command.arg("-qec").arg(format!("{} --help", binaries::backupfs().display())).arg("/dev/null");
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").stdin(Stdio::null());
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        cli::run(&mut command).expect_done("help on a terminal").stdout
    };
    assert!(on_terminal(None).contains(escape));
    assert!(!on_terminal(Some("1")).contains(escape));
}
