//! How the demo is shown: redrawn in place on a terminal, line by line elsewhere, on standard error beside JSON.
//!
//! On a terminal one block of at most 18 lines of 79 columns is redrawn, so that it fits the smallest usual window;
//! elsewhere there are no escape codes.

use super::load::Recent;
use super::summary::Summary;
use super::town::Row;
use anyhow::Result;
use std::collections::VecDeque;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::Duration;

/// Of a line; what is longer is cut, since a line that wraps would spoil the redrawing.
const WIDTH: usize = 79;
/// Lines under the table.
const EVENTS: usize = 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// In place.
    Live {
        colours: bool,
    },
    Lines,
    /// Standard output belongs to the JSON.
    Aside,
}

pub(crate) struct Screen {
    how: How,
    events: VecDeque<String>,
    table: Vec<String>,
    /// Lines of the block on the terminal.
    drawn: usize,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|t| t == "dumb");
        let how = match (json, stdout().is_terminal() && !dumb) {
            (true, _) => How::Aside,
            (false, true) => How::Live { colours: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) },
            (false, false) => How::Lines,
        };
        Self { how, events: VecDeque::new(), table: Vec::new(), drawn: 0 }
    }

    /// Between two tables.
    pub(crate) fn period(&self) -> Duration {
        match self.how {
            How::Live { .. } => Duration::from_millis(250),
            How::Lines | How::Aside => Duration::from_secs(2),
        }
    }

    /// A line that is no event, before or after the run.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        self.out(&format!("{line}\n"))
    }

    pub(crate) fn event(&mut self, at: Duration, text: &str) -> Result<()> {
        let line = format!("{:5.1}s  {text}", at.as_secs_f64());
        if !matches!(self.how, How::Live { .. }) {
            return self.say(&line);
        }
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(line);
        self.draw()
    }

    pub(crate) fn table(&mut self, rows: &[Row], client: Recent, at: Duration) -> Result<()> {
        let heading = "INSTANCE     CIRCUIT    REQ/S  SUCCESS      P50      P99";
        let mut lines = vec![heading.to_owned()];
        for row in rows {
            let s = row.stats.unwrap_or_default();
            let circuit = self.coloured(&format!("{:<9}", row.circuit), &row.circuit);
            let figures = figures(s.ended as usize, s.ok as usize, s.p50_us, s.p99_us);
            lines.push(format!("{:<11}  {circuit}  {figures}", row.instance));
        }
        let seen = figures(client.ended, client.ok, client.p50_us, client.p99_us);
        lines.push(format!("{:<11}  {:<9}  {seen}  {} failed so far", "client", "", client.failed_so_far));
        match self.how {
            How::Aside => Ok(()),
            How::Lines => {
                let second = at.as_secs_f64();
                lines[0] += &format!("   at {second:.0}s, of the second before, measured by the apps and the client");
                self.say(&lines.join("\n"))
            }
            How::Live { .. } => {
                let second = at.as_secs_f64();
                lines.insert(
                    0,
                    format!("{second:.0}s; the last second, as the applications and the client measured it"),
                );
                self.table = lines;
                self.draw()
            }
        }
    }

    fn coloured(&self, cell: &str, circuit: &str) -> String {
        let colour = match circuit {
            "closed" => 32,
            "open" => 31,
            "half-open" => 33,
            _ => 0,
        };
        match self.how {
            How::Live { colours: true } => format!("\x1b[{colour}m{cell}\x1b[0m"),
            _ => cell.to_owned(),
        }
    }

    fn draw(&mut self) -> Result<()> {
        let cut = |line: &String| line.chars().take(WIDTH).collect::<String>();
        let mut block = if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
        // table lines are shorter than the width, and their escape codes take no room
        let events = self.events.iter().map(cut);
        let lines: Vec<String> = self.table.iter().cloned().chain([String::new()]).chain(events).collect();
        self.drawn = lines.len();
        block += &lines.join("\n");
        self.out(&(block + "\n"))
    }

    pub(crate) fn summary(&mut self, summary: &Summary) -> Result<()> {
        match self.how {
            How::Aside => {
                let mut out = stdout().lock();
                writeln!(out, "{}", summary.json())?;
                Ok(out.flush()?)
            }
            How::Live { .. } | How::Lines => self.out(&format!("\n{}", summary.text())),
        }
    }

    fn out(&self, text: &str) -> Result<()> {
        let written = match self.how {
            How::Aside => stderr().lock().write_all(text.as_bytes()),
            How::Live { .. } | How::Lines => {
                let mut out = stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
        };
        Ok(written?)
    }
}

/// Requests a second, success, and two percentiles.
fn figures(ended: usize, ok: usize, p50_us: u64, p99_us: u64) -> String {
    if ended == 0 {
        return format!("{:>5}  {:>7}  {:>7}  {:>7}", 0, "-", "-", "-");
    }
    let success = format!("{:.1}%", 100.0 * ok as f64 / ended as f64);
    let ms = |us: u64| format!("{:.1}ms", us as f64 / 1e3);
    format!("{ended:>5}  {success:>7}  {:>7}  {:>7}", ms(p50_us), ms(p99_us))
}
