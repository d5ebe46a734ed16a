//! What was done, told to people (`--explain`) and to programs (`--json`).

use std::path::PathBuf;
use std::time::Duration;

use bookend::units::Bytes;
use serde::Serialize;

use super::engine::{Buffers, EngineName};
use super::plan::Skipped;
use super::quote::quote;
use crate::cli::format;

/// What became of one file.
#[derive(Clone, PartialEq, Debug)]
pub struct FileReport {
    /// From.
    pub source: PathBuf,
    /// To.
    pub target: PathBuf,
    /// How it ended.
    pub outcome: Outcome,
    /// From opening the source to the target's name.
    pub time: Duration,
}

/// How a copy ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// The target is a copy of the source.
    Copied(Copied),
    /// The target was left as it was, as asked for.
    Left(String),
    /// Not copied, for this reason.
    Failed(String),
}

/// A copy that was made.
#[derive(Clone, PartialEq, Debug)]
pub struct Copied {
    /// The engine that ran.
    pub engine: EngineName,
    /// Why that one.
    pub why: &'static str,
    /// Why not the others.
    pub skipped: Vec<Skipped>,
    /// Length in bytes.
    pub bytes: u64,
    /// What it went through.
    pub buffers: Option<Buffers>,
    /// What the engine has to say.
    pub notes: Vec<String>,
    /// Read again and compared.
    pub verified: bool,
    /// Made durable.
    pub durable: bool,
    /// Bytes that an earlier run had copied, with `--resume`.
    pub resumed: Option<u64>,
}

impl FileReport {
    /// What `--explain` prints, over several lines.
    pub fn explain(&self) -> String {
        let mut text = format!("{} -> {}: ", quote(&self.source), quote(&self.target));
        match &self.outcome {
            Outcome::Left(why) => text.push_str(&format!("left as it was: {why}")),
            Outcome::Failed(why) => text.push_str(&format!("not copied: {why}")),
            Outcome::Copied(copied) => {
                let bytes = Bytes::new(copied.bytes);
                text.push_str(&format!(
                    "{bytes} in {}, {}",
                    format::duration(self.time),
                    format::rate(bytes, self.time)
                ));
                for (done, word) in [(copied.verified, "verified"), (copied.durable, "durable")] {
                    if done {
                        text.push_str(&format!(", {word}"));
                    }
                }
                if let Some(resumed) = copied.resumed.filter(|&bytes| bytes > 0) {
                    let there = Bytes::new(resumed);
                    text.push_str(&format!("\n  {there} of it were there, compared and kept"));
                }
                text.push_str(&format!("\n  {}: {}", copied.engine, copied.why));
                for note in &copied.notes {
                    text.push_str(&format!("\n    {note}"));
                }
                if let Some(buffers) = &copied.buffers {
                    let size = Bytes::new(buffers.bytes);
                    text.push_str(&format!("\n    {size} of buffers in {} pages", buffers.pages));
                }
                for skipped in &copied.skipped {
                    text.push_str(&format!("\n  not {}: {}", skipped.engine, skipped.why));
                }
            }
        }
        text
    }
}

/// The object that `--json` prints, and each entry of its `files`.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    engine: Option<EngineName>,
    bytes: u64,
    seconds: f64,
    bytes_per_second: u64,
    verified: bool,
    durable: bool,
    buffers: Option<&'a Buffers>,
    skipped: &'a [Skipped],
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<Summary<'a>>,
}

/// One file's report as `--json` prints it, or those of several: totals, what they have in common
/// (`null` where they differ), and each under `files`.
pub fn json(files: &[FileReport], time: Duration) -> impl Serialize {
    match files {
        [only] => summary_of(only),
        _ => summary_of_all(files, time),
    }
}

fn summary_of(file: &FileReport) -> Summary<'_> {
    let mut summary = nothing(file.time);
    match &file.outcome {
        Outcome::Copied(copied) => {
            summary.engine = Some(copied.engine);
            summary.bytes = copied.bytes;
            summary.bytes_per_second = per_second(copied.bytes, file.time);
            summary.verified = copied.verified;
            summary.durable = copied.durable;
            summary.buffers = copied.buffers.as_ref();
            summary.skipped = &copied.skipped;
            summary.resumed = copied.resumed;
        }
        Outcome::Left(why) => summary.left = Some(why),
        Outcome::Failed(why) => summary.error = Some(why),
    }
    summary
}

fn summary_of_all(files: &[FileReport], time: Duration) -> Summary<'_> {
    let mut summary = nothing(time);
    let copied: Vec<&Copied> = files
        .iter()
        .filter_map(|file| match &file.outcome {
            Outcome::Copied(copied) => Some(copied),
            Outcome::Left(_) | Outcome::Failed(_) => None,
        })
        .collect();
    summary.bytes = copied.iter().map(|copied| copied.bytes).sum();
    summary.bytes_per_second = per_second(summary.bytes, time);
    if let Some((first, rest)) = copied.split_first() {
        let failed = files.iter().any(|file| matches!(file.outcome, Outcome::Failed(_)));
        summary.verified = !failed && copied.iter().all(|copied| copied.verified);
        summary.durable = !failed && copied.iter().all(|copied| copied.durable);
        if rest.iter().all(|other| other.engine == first.engine) {
            summary.engine = Some(first.engine);
        }
        if rest.iter().all(|other| other.buffers == first.buffers) {
            summary.buffers = first.buffers.as_ref();
        }
        if rest.iter().all(|other| other.skipped == first.skipped) {
            summary.skipped = &first.skipped;
        }
    }
    summary.files = files
        .iter()
        .map(|file| Summary {
            source: Some(file.source.to_string_lossy().into_owned()),
            target: Some(file.target.to_string_lossy().into_owned()),
            ..summary_of(file)
        })
        .collect();
    summary
}

fn nothing<'a>(time: Duration) -> Summary<'a> {
    Summary {
        source: None,
        target: None,
        engine: None,
        bytes: 0,
        seconds: (time.as_secs_f64() * 1e6).round() / 1e6,
        bytes_per_second: 0,
        verified: false,
        durable: false,
        buffers: None,
        skipped: &[],
        resumed: None,
        left: None,
        error: None,
        files: Vec::new(),
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { (bytes as f64 / seconds) as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(engine: EngineName) -> FileReport {
        FileReport {
            source: "a".into(),
            target: "d/a".into(),
            outcome: Outcome::Copied(Copied {
                engine,
                why: "it is the best",
                skipped: vec![Skipped { engine: EngineName::Reflink, why: "ext4".into() }],
                bytes: 3 << 20,
                buffers: Some(Buffers { pages: "2M", bytes: 2 << 20 }),
                notes: vec!["both sides direct".into()],
                verified: false,
                durable: true,
                resumed: None,
            }),
            time: Duration::from_millis(1500),
        }
    }

    fn text(files: &[FileReport]) -> String {
        serde_json::to_string(&json(files, Duration::from_secs(3))).unwrap()
    }

    #[test]
    fn one_file_is_exactly_the_promised_object() {
        assert_eq!(
            text(&[copied(EngineName::Direct)]),
            r#"{"engine":"direct","bytes":3145728,"seconds":1.5,"bytes_per_second":2097152,"#
                .to_owned()
                + r#""verified":false,"durable":true,"buffers":{"pages":"2M","bytes":2097152},"#
                + r#""skipped":[{"engine":"reflink","why":"ext4"}]}"#
        );
    }

    #[test]
    fn several_files_have_totals_and_what_they_share() {
        let failed =
            FileReport { outcome: Outcome::Failed("gone".into()), ..copied(EngineName::Direct) };
        let files = [copied(EngineName::Direct), copied(EngineName::Buffered), failed];
        let value: serde_json::Value = serde_json::from_str(&text(&files)).unwrap();
        assert_eq!(value["bytes"], 6 << 20);
        assert_eq!(value["engine"], serde_json::Value::Null);
        assert_eq!(value["durable"], false, "one of them failed");
        assert_eq!(value["buffers"]["pages"], "2M");
        assert_eq!(value["files"][2]["error"], "gone");
        assert_eq!(value["files"][1]["target"], "d/a");
    }

    #[test]
    fn an_explanation_has_a_reason_for_every_engine() {
        let text = copied(EngineName::Direct).explain();
        assert_eq!(
            text,
            "'a' -> 'd/a': 3 MiB in 1.50 s, 2 MiB/s, durable\n  direct: it is the best\n    \
             both sides direct\n    2 MiB of buffers in 2M pages\n  not reflink: ext4"
        );
    }
}
