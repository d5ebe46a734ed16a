//! Where a report goes: standard output as text, JSON or CSV, and a plot.

use std::fmt::Display;
use std::io;

use bookend::units::Bytes;
use clap::Args;
use serde::Serialize;

use super::about::{Cost, Machine};
use super::plot::{self, Chart, PlotError, Target};
use crate::cli::{exit, output};

/// What every mode with a report has.
#[derive(Clone, Debug, Args)]
pub struct Sink {
    /// Print one JSON object; machine and settings go to standard error
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values; machine and settings go to standard error
    #[arg(long)]
    csv: bool,
    /// Draw it into a file
    #[arg(long, value_name = "FILE.svg|png")]
    plot: Option<Target>,
}

/// What can be reported. Its `Display` is a table.
pub trait Shown: Serialize + Display {
    /// Comma-separated values with a line of headings.
    fn csv(&self) -> String;

    /// For a plot.
    fn charts(&self) -> Vec<Chart>;
}

/// Why a report did not go out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// No plot.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// Standard output.
    #[error("cannot write the report")]
    Output(#[source] io::Error),
}

impl Sink {
    /// Whether it is for programs to read, so that remarks go elsewhere.
    pub fn is_plain(&self) -> bool {
        self.json || self.csv
    }

    /// Writes a report below the machine, the settings and what it took.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn write(&self, settings: &str, report: &impl Shown, cost: Cost) -> Result<(), SinkError> {
        let about = format!("{}\n{settings}", Machine::this());
        self.plot(settings, report)?;
        let written = if self.is_plain() {
            exit::remark(&format_args!("{about}\n{cost}"));
            if self.json { output::json(report) } else { output::line(report.csv()) }
        } else {
            output::line(format_args!("{about}\n\n{report}\n{cost}"))
        };
        written.map_err(SinkError::Output)
    }

    /// Draws the plot alone, if one is wanted.
    ///
    /// # Errors
    /// [`SinkError::Plot`].
    pub fn plot(&self, settings: &str, report: &impl Shown) -> Result<(), SinkError> {
        match &self.plot {
            Some(target) => Ok(plot::draw(target, settings, &report.charts())?),
            None => Ok(()),
        }
    }
}

/// A figure with so many decimals, or something else where there is none.
pub fn shown(figure: Option<f64>, decimals: usize, missing: &str) -> String {
    figure.map_or_else(|| missing.to_owned(), |figure| format!("{figure:.decimals$}"))
}

/// A cell of comma-separated values that may have commas in it.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A length as people read it.
pub fn bytes(bytes: u64) -> String {
    Bytes::new(bytes).to_string()
}
