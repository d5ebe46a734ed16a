//! `hugectl advise`: settings this machine should change.

use bookend_defrag::system::advice::{Advice, advice};
use bookend_defrag::system::survey::survey;
use clap::Args;

use super::{Context, Failure};
use crate::cli::{exit, output};

/// Says which settings this machine should change, why, and at what risk
///
/// Changes nothing. As root it also looks at what stands in the way.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the advice.
///
/// # Errors
/// [`Failure`].
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    let survey = survey(&context.files, context.base).ok();
    let found = advice(&context.files, context.base, survey.as_ref())?;
    let written = if options.json {
        output::json(&serde_json::json!({ "advice": found, "surveyed": survey.is_some() }))
    } else {
        output::line(text(&found, survey.is_some()))
    };
    written.map_err(Failure::Output)?;
    Ok(exit::SUCCESS)
}

fn text(found: &[Advice], surveyed: bool) -> String {
    let mut text = String::new();
    for Advice { setting, now, advised, why, risk } in found {
        text.push_str(&format!("{setting}: {now} → {advised}\n  why:  {why}\n  risk: {risk}\n"));
    }
    if found.is_empty() {
        text.push_str("Nothing speaks for changing a setting.\n");
    }
    if !surveyed {
        text.push_str("Who stands in the way was not looked at: only root may.\n");
    }
    text.pop();
    text
}
