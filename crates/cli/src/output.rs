//! How answers are shown: tables for people, JSON for programs; logs on standard error.

use clap::ValueEnum;
use std::io::IsTerminal;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: one document.
    Json,
}

/// Logs of a long-running process, to standard error. `RUST_LOG` narrows or widens them; the default is `info`.
pub(crate) fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Columns as wide as their widest cell, two spaces apart; the first row is the heading.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// For arguments such as `--ttl 1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = fusewire_model::yaml::parse_duration(text);
    parsed.ok_or_else(|| "write a number and its unit, such as 30s, 10m or 24h".into())
}

/// For arguments such as `--trace-memory 64MiB`: 1 MiB to 64 GiB.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let wrong = || "write a number and its unit, from 1MiB to 64GiB".to_owned();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let bytes = match unit {
        "MiB" => number.checked_mul(1 << 20),
        "GiB" => number.checked_mul(1 << 30),
        _ => None,
    };
    let bytes = bytes.filter(|bytes| (1 << 20..=64 << 30).contains(bytes)).ok_or_else(wrong)?;
    usize::try_from(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_and_bounds() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for wrong in ["", "64", "MiB", "0MiB", "65GiB", "99999999999999999999MiB", "1.5GiB", "64MB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
