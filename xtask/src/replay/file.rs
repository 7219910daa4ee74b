//! The file of sequences, read into what can be played.
//!
//! A key, a step or a value that this build does not know makes its sequence unreadable, and an unreadable sequence has
//! failed: one that was half understood would pass or fail for the wrong reason.

use anyhow::{Context as _, Result, anyhow, bail};
use fusewire_resilience::AfterWait;
use fusewire_resilience::compat::{OpenWait, Resilience4j, Resilience4jState, Sliding, ToHalfOpen};
use serde_json::{Map, Value};
use std::time::Duration;

const COLUMNS: usize = 13;

pub(super) struct Sequence {
    pub(super) properties: Resilience4j,
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    Acquire,
    Success,
    Failure,
    Ignored,
    Release,
    Advance,
    Reset,
    To(Resilience4jState),
    OpenFor,
}

pub(super) struct Step {
    pub(super) op: Op,
    pub(super) word: String,
    pub(super) span: Duration,
    pub(super) expected: Shown,
}

/// What is compared after each step.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Shown {
    pub(super) time_ms: u64,
    pub(super) state: String,
    pub(super) result: Option<String>,
    pub(super) counts: [u64; 5],
    pub(super) failure_rate: Option<f32>,
    pub(super) slow_rate: Option<f32>,
    pub(super) events: Vec<String>,
}

/// Each sequence's name, and what it says if it can be read.
pub(super) fn sequences(text: &str) -> Result<Vec<(String, Result<Sequence>)>> {
    let root: Value = serde_json::from_str(text).context("not JSON")?;
    let section = root.get("resilience4j").unwrap_or(&root);
    let list = section.get("vectors").and_then(Value::as_array).context("no `vectors` in it")?;
    if list.is_empty() {
        bail!("no sequence in it");
    }
    let nothing = Map::new();
    let defaults = section.get("defaults").and_then(Value::as_object).unwrap_or(&nothing);
    let named = list.iter().enumerate().map(|(at, vector)| {
        let name = vector.get("name").and_then(Value::as_str).map_or_else(|| format!("#{}", at + 1), str::to_owned);
        (name, sequence(vector, defaults))
    });
    Ok(named.collect())
}

fn sequence(vector: &Value, defaults: &Map<String, Value>) -> Result<Sequence> {
    let own = vector.get("config").and_then(Value::as_object).context("no `config`")?;
    let mut properties = Resilience4j::default();
    let mut settings = defaults.clone();
    settings.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
    apply(&mut properties, &settings)?;
    let rows = vector.get("steps").and_then(Value::as_array).context("no `steps`")?.iter().enumerate();
    let steps = rows.map(|(at, row)| step(row).with_context(|| format!("step {}", at + 1)));
    Ok(Sequence { properties, steps: steps.collect::<Result<_>>()? })
}

fn apply(to: &mut Resilience4j, settings: &Map<String, Value>) -> Result<()> {
    let size: u16 = settings.get("window_size").map_or(Ok(100), |value| number(value).context("window_size"))?;
    for (key, value) in settings {
        let mut one = || -> Result<()> {
            match key.as_str() {
                "window" => {
                    to.sliding_window = match word(value)?.as_str() {
                        "count" => Sliding::Calls(size),
                        "time" => Sliding::Seconds(size),
                        other => bail!("`{other}` is neither count nor time"),
                    }
                }
                "window_size" if settings.contains_key("window") => {}
                "window_size" => to.sliding_window = Sliding::Calls(size),
                "failure_rate_pct" => to.failure_rate = number(value)?,
                "slow_rate_pct" => to.slow_call_rate = number(value)?,
                "slow_ms" => to.slow_call_duration = Duration::from_millis(number(value)?),
                // An exponential wait, where there is one, is what holds.
                "open_ms" if settings.contains_key("open_backoff_ms") => {}
                "open_ms" => to.wait_in_open = OpenWait::Fixed(Duration::from_millis(number(value)?)),
                "open_backoff_ms" => to.wait_in_open = backoff(&word(value)?)?,
                "half_open_permits" => to.permitted_in_half_open = number(value)?,
                "min_calls" => to.minimum_calls = number(value)?,
                "max_half_open_ms" => {
                    let wait = Duration::from_millis(number(value)?);
                    to.max_wait_in_half_open = Some(wait).filter(|wait| !wait.is_zero());
                }
                "after_max_half_open" => {
                    to.after_max_wait = match state(&word(value)?)? {
                        Resilience4jState::Open => AfterWait::Open,
                        Resilience4jState::Closed => AfterWait::Closed,
                        other => bail!("{} cannot follow", other.as_str()),
                    }
                }
                "automatic_half_open" => {
                    to.to_half_open = match word(value)?.as_str() {
                        "true" => ToHalfOpen::OnTime,
                        "false" => ToHalfOpen::OnCall,
                        other => bail!("`{other}` is neither true nor false"),
                    }
                }
                "initial_state" => to.initial_state = state(&word(value)?)?,
                _ => bail!("no such setting"),
            }
            Ok(())
        };
        one().with_context(|| format!("config {key}"))?;
    }
    Ok(())
}

/// `initial,factor[,max]`.
fn backoff(text: &str) -> Result<OpenWait> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let ms = |text: &str| Ok::<_, anyhow::Error>(Duration::from_millis(text.parse().context("not a number")?));
    let (initial, factor, max) = match parts[..] {
        [initial, factor] => (initial, factor, None),
        [initial, factor, max] => (initial, factor, Some(ms(max)?)),
        _ => bail!("`{text}` is not initial,factor or initial,factor,max"),
    };
    let factor: f64 = factor.parse().context("not a number")?;
    Ok(OpenWait::Exponential { initial: ms(initial)?, factor: (factor * 1000.0).round() as u16, max })
}

fn step(row: &Value) -> Result<Step> {
    let row = row.as_array().context("not a row")?;
    let cell = |column: usize| row.get(column).filter(|value| !value.is_null());
    let op_word = cell(0).and_then(Value::as_str).context("no op")?.to_owned();
    let op = match op_word.as_str() {
        "acquire" => Op::Acquire,
        // An exception that is not recorded is a success.
        "success" | "unrecorded_error" => Op::Success,
        "failure" => Op::Failure,
        "ignored" => Op::Ignored,
        "release" => Op::Release,
        "advance" => Op::Advance,
        "reset" => Op::Reset,
        "to_open_for" => Op::OpenFor,
        other => match other.strip_prefix("to_") {
            Some(to) => Op::To(state(&to.to_uppercase())?),
            None => bail!("no such step as `{other}`"),
        },
    };
    if row.len() != COLUMNS {
        bail!("{} columns, not {COLUMNS}", row.len());
    }
    let count = |column: usize| cell(column).map_or(Ok(0), number);
    let rate = |column: usize| cell(column).map(|value| value.as_f64().map(|rate| rate as f32).context("not a rate"));
    let events = cell(12).map_or(&[][..], |value| value.as_array().map_or(&[][..], Vec::as_slice));
    let expected = Shown {
        time_ms: count(2)?,
        state: cell(3).map_or(Ok(String::new()), word)?,
        result: cell(4).map(word).transpose()?,
        counts: [count(5)?, count(6)?, count(7)?, count(8)?, count(9)?],
        failure_rate: rate(10).transpose()?,
        slow_rate: rate(11).transpose()?,
        events: events.iter().map(word).collect::<Result<_>>()?,
    };
    Ok(Step { op, word: op_word, span: Duration::from_millis(count(1)?), expected })
}

fn state(name: &str) -> Result<Resilience4jState> {
    use Resilience4jState as S;
    let all = [S::Closed, S::Open, S::HalfOpen, S::ForcedOpen, S::Disabled, S::MetricsOnly];
    all.into_iter().find(|state| state.as_str() == name).ok_or_else(|| anyhow!("no such state as {name}"))
}

/// A word, also where the file has a bare truth value or number.
fn word(value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        _ => bail!("{value} is not a word"),
    }
}

/// A whole number, also where the file has it as a word.
fn number<T: TryFrom<u64>>(value: &Value) -> Result<T> {
    let text = word(value)?;
    let whole = text.strip_suffix(".0").unwrap_or(&text);
    let number: u64 = whole.parse().with_context(|| format!("{value} is not a whole number"))?;
    T::try_from(number).map_err(|_| anyhow!("{number} is out of range"))
}
