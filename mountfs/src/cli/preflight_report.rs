//! The report of `preflight`: a table for the terminal, and JSON.

use std::io::{self, Write};
use std::path::Path;

use common::Timestamp;
use common::preflight::finding::{Bearing, Finding};
use common::preflight::report::{Report, Verdict};
use common::preflight::revocations::{ChannelEvidence, Standing};
use format::units::Hex;
use serde_json::{Value, json};

/// The paragraph at the end of every report.
const CANNOT_BE_KNOWN: &str = "\
whether a lightningd with these keys runs on another machine, or in a container, cannot be seen from here. Two nodes on one set of
channels lose money: make sure that the old one can never run again";

/// The most channels and deadlines that are shown each. JSON has all.
const SHOWN_MAX: usize = 40;

/// The table.
pub(super) fn write_text(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let version = report.data_version.map_or_else(|| "not read".to_owned(), |version| format!("version {version}"));
    let node = report.node_id.map_or_else(String::new, |id| format!(" of node {}", Hex(&id)));
    writeln!(out, "{}: {version}{node}", report.database.display())?;
    if !report.channels.is_empty() {
        let width = report.channels.iter().map(|channel| state(channel).len()).max().unwrap_or(0).max("STATE".len());
        writeln!(
            out,
            "\n  {:64}  {:width$}  {:>11}  {:>9}",
            "CHANNEL: REVOCATIONS OF THE PEER", "STATE", "IN DATABASE", "IN WITNESS"
        )?;
        for channel in report.channels.iter().take(SHOWN_MAX) {
            let number = |number: Option<_>| number.map_or_else(|| "-".to_owned(), |it: u64| it.to_string());
            writeln!(
                out,
                "  {:64}  {:width$}  {:>11}  {:>10}  {}",
                Hex(&channel.channel_id).to_string(),
                state(channel),
                number(channel.database.map(|it| it.get())),
                number(channel.witness.map(|it| it.get())),
                standing(channel.standing)
            )?;
        }
        more(out, report.channels.len())?;
    }
    if !report.deadlines.is_empty() {
        writeln!(out, "\n  {:64}  {:>12}  {:>17}", "HTLCS THAT HAVE RUN OUT: CHANNEL", "AT BLOCK", "AMOUNT (MSAT)")?;
        for deadline in report.deadlines.iter().take(SHOWN_MAX) {
            let channel = Hex(&deadline.channel_id).to_string();
            writeln!(out, "  {channel:64}  {:>12}  {:>17}", deadline.cltv_expiry, deadline.amount_msat)?;
        }
        more(out, report.deadlines.len())?;
    }
    writeln!(out)?;
    for finding in by_gravity(report) {
        let mark = match finding.bearing() {
            Bearing::Stale => "NO",
            Bearing::Unknown => "?",
            Bearing::Note => "-",
        };
        paragraph(out, &format!("  {mark:2} "), &sentence(&finding.to_string()))?;
    }
    paragraph(out, "  -  ", &sentence(CANNOT_BE_KNOWN))?;
    writeln!(out)?;
    let verdict = match report.verdict() {
        Verdict::Current => "CURRENT, as far as this can be known: nothing speaks against a start.",
        Verdict::Stale if report.is_free_to_go_back() => {
            "STALE: newer versions are recorded. Restore the newest; or go back on purpose, in the steps of docs/preflight.md."
        }
        Verdict::Stale => "STALE: do not start lightningd on this database. Restore the newest version.",
        Verdict::Unknown => "COULD NOT TELL whether this database is current: the lines with a question mark say why.",
    };
    writeln!(out, "{verdict}")?;
    out.flush()
}

fn more(out: &mut impl Write, count: usize) -> io::Result<()> {
    match count.checked_sub(SHOWN_MAX) {
        Some(more) if more > 0 => writeln!(out, "  and {more} more; --json has all"),
        _ => Ok(()),
    }
}

/// The gravest first; equally grave ones in the order in which they were found.
fn by_gravity(report: &Report) -> Vec<&Finding> {
    let mut findings: Vec<_> = report.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.bearing()));
    findings
}

fn state(channel: &ChannelEvidence) -> String {
    channel.state.map_or_else(|| "-".to_owned(), |state| state.to_string())
}

fn standing(standing: Standing) -> String {
    match standing {
        Standing::Equal => "equal".to_owned(),
        Standing::Ahead { by } => format!("ahead by {by}"),
        Standing::Behind { by } => format!("BEHIND by {by}"),
        Standing::Closed => "closed: not compared".to_owned(),
        Standing::ClosedTooEarly => "closed, with fewer".to_owned(),
        Standing::NotInWitness => "not in the witness".to_owned(),
        Standing::NotCounted => "not counted".to_owned(),
        Standing::NotInDatabase => "NOT IN THE DATABASE".to_owned(),
    }
}

/// With a capital, unless it begins with the name of a file or program, and a full stop.
fn sentence(text: &str) -> String {
    let first = text.split_whitespace().next().unwrap_or_default();
    let is_name = first.contains(['/', '.', '_']) || first == "lightningd";
    let mut rest = text.chars();
    match rest.next() {
        Some(letter) if !is_name => format!("{}{}.", letter.to_uppercase(), rest.as_str()),
        _ => format!("{text}."),
    }
}

/// A text in lines of at most 116 characters, the later ones indented as the first one.
fn paragraph(out: &mut impl Write, lead: &str, text: &str) -> io::Result<()> {
    const WIDTH: usize = 116;
    let mut line = lead.to_owned();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(out, "{line}")?;
            line = " ".repeat(lead.len());
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    writeln!(out, "{line}")
}

/// One object.
pub(super) fn to_json(report: &Report) -> Value {
    let verdict = match report.verdict() {
        Verdict::Current => "current",
        Verdict::Stale => "stale",
        Verdict::Unknown => "unknown",
    };
    let hex = |bytes: &[u8]| Hex(bytes).to_string();
    let time = |time: Timestamp| time.to_string();
    // A path may have other bytes than UTF-8, which JSON does not have.
    let text = |path: &Path| path.display().to_string();
    let channel = |channel: &ChannelEvidence| {
        json!({
            "channel_id": hex(&channel.channel_id),
            "state": channel.state.map(|state| state.to_string()),
            "revocations_database": channel.database.map(|it| it.get()),
            "revocations_witness": channel.witness.map(|it| it.get()),
            "standing": standing_name(channel.standing),
        })
    };
    let backup = report.backup.as_ref().map(|backup| {
        let between = backup.between.as_ref().map(|between| {
            let revoked = between.revoked.iter();
            let revoked: Value = revoked
                .map(|it| json!({"channel_id": hex(&it.channel_id), "own": it.own, "peer": it.theirs}))
                .collect();
            json!({"revoked": revoked, "opened": between.opened, "funded": between.funded})
        });
        json!({
            "path": text(&backup.path),
            "newest_version": backup.newest.get(),
            "recorded_at": time(backup.recorded_at),
            "behind": backup.behind(),
            "same": backup.same,
            "between": between,
        })
    });
    json!({
        "verdict": verdict,
        "database": text(&report.database),
        "data_version": report.data_version.map(common::DataVersion::get),
        "node_id": report.node_id.map(|id| hex(&id)),
        "witnesses": report.witnesses.iter().map(|witness| json!({
            "path": text(&witness.path),
            "written_at": time(witness.written_at),
        })).collect::<Value>(),
        "channels": report.channels.iter().map(channel).collect::<Value>(),
        "last_block": report.last_block,
        "as_of": report.as_of.map(|as_of| time(as_of.time())),
        "deadlines": report.deadlines.iter().map(|deadline| json!({
            "channel_id": hex(&deadline.channel_id),
            "cltv_expiry": deadline.cltv_expiry,
            "amount_msat": deadline.amount_msat,
        })).collect::<Value>(),
        "backup": backup,
        "reasons": by_gravity(report).iter().map(|finding| sentence(&finding.to_string())).collect::<Value>(),
    })
}

fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Equal => "equal",
        Standing::Ahead { .. } => "ahead",
        Standing::Behind { .. } => "behind",
        Standing::Closed => "closed",
        Standing::ClosedTooEarly => "contradicts",
        Standing::NotInWitness => "not_in_witness",
        Standing::NotCounted => "not_counted",
        Standing::NotInDatabase => "not_in_database",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_has_a_capital_unless_it_begins_with_a_name() {
        assert_eq!(sentence("there is no x"), "There is no x.");
        assert_eq!(sentence("/a/hsm_secret is that"), "/a/hsm_secret is that.");
        assert_eq!(sentence("emergency.recover has"), "emergency.recover has.");
        assert_eq!(sentence("lightningd is running"), "lightningd is running.");
        assert_eq!(sentence(""), ".");
    }

    #[test]
    fn a_paragraph_is_wrapped_and_indented() {
        let mut out = Vec::new();
        paragraph(&mut out, "  NO ", &"word ".repeat(50)).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().count() == 3 && text.lines().all(|line| line.len() <= 116), "{text}");
        assert!(
            text.starts_with("  NO word") && text.lines().skip(1).all(|line| line.starts_with("     word")),
            "{text}"
        );
    }
}
