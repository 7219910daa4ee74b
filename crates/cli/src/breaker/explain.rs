//! `fusewire breaker explain`: the state of a circuit, and what it follows from.
//!
//! It decides what an operator would ask next: why, until when, and what it takes to change it. It deliberately counts
//! nothing itself: every number is the sidecar's.

use super::words::{evidence, ground, number, percent, some, span, trip, word};
use super::{Asked, Name, closed};
use crate::output::Output;
use anyhow::Result;
use clap::Args;
use serde_json::Value;
use std::process::ExitCode;

/// Say why a circuit is in the state it is in, and what it takes to open or close it.
///
/// Exit code 0: what is explained is closed; 1: it is not; 2: there is no such circuit, or nobody answered.
#[derive(Args)]
pub(super) struct Explain {
    /// SERVICE or SERVICE/INSTANCE, as `fusewire breaker list` shows them.
    name: Name,
    #[command(flatten)]
    asked: Asked,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn run(explain: &Explain) -> Result<ExitCode> {
    let answer = explain.asked.get(&explain.name.path())?;
    if explain.output == Output::Json {
        println!("{answer:#}");
    }
    let circuits = match &explain.name.instance {
        Some(_) => std::slice::from_ref(&answer),
        None => answer["breakers"].as_array().map_or(&[][..], Vec::as_slice),
    };
    if explain.output == Output::Table {
        if explain.name.instance.is_none() {
            print!("{}{}", service(&answer), super::list::as_a_whole(std::slice::from_ref(&answer["own"])));
        }
        for circuit in circuits {
            print!("{}", told(circuit));
        }
    }
    Ok(closed(circuits))
}

/// The head of a service: how many of its instances take requests.
pub(super) fn service(answer: &Value) -> String {
    let all = answer["breakers"].as_array().map_or(&[][..], Vec::as_slice);
    let ready = all.iter().filter(|b| b["takes_requests"] == true).count();
    let mut text = format!(
        "{}: {ready} of {} requests",
        word(&answer["service"]),
        if all.len() == 1 { "1 instance takes".to_owned() } else { format!("{} instances take", all.len()) },
    );
    if ready == 0 && !all.is_empty() {
        text += ": its callers get 503 circuit-open with the time to come back";
    }
    let resting = answer["resting"].as_array().map_or(0, Vec::len) as u64;
    if resting > 0 {
        text += &format!("; {} down by health check", some(resting, "more instance"));
    }
    if answer["all_down"] == true {
        text += "; all are down by health check, and so are asked all the same";
    }
    text + "\n"
}

/// One circuit: a heading, and a line for each question.
pub(super) fn told(b: &Value) -> String {
    let takes = if b["takes_requests"] == true { "takes requests" } else { "takes no requests" };
    let name = format!("{}/{}", word(&b["service"]), word(&b["instance"]));
    let mut text = format!("{name} ({}): circuit {}, {takes}\n", word(&b["address"]), word(&b["circuit"]));
    let mut line = |head: &str, said: String| text += &format!("  {head:<11}{said}\n");
    if let Some(mode) = mode(b) {
        line("mode", mode);
    }
    if b["override"].is_object() {
        line("held", held(b));
    } else if let Some(why) = why(b) {
        line("why", why);
    }
    if let Some(next) = next(b) {
        line("next", next);
    }
    line("now", evidence(&b["window"], &b["settings"]));
    for (head, trigger) in triggers(b) {
        line(head, trigger);
    }
    line("peers", peers(&b["peers"]));
    line("load", load(b));
    let last = &b["last_trip"];
    if last.is_object() && b["circuit"] == "closed" {
        let happened = format!("opened on {}: {}", trip(word(&last["reason"])), evidence(last, last));
        line("last trip", format!("{}, {happened}", word(&last["time"])));
    }
    text
}

fn mode(b: &Value) -> Option<String> {
    match word(&b["mode"]) {
        "observe" => Some(format!(
            "observe: nothing is refused, the circuit only shows what it would do ({} would have been refused)",
            some(number(&b["would_reject"]), "request")
        )),
        "disabled" => Some("disabled: every request passes and nothing is recorded".into()),
        _ => None,
    }
}

fn held(b: &Value) -> String {
    let over = &b["override"];
    let end = match over["remaining_ms"].as_u64() {
        Some(ms) => format!("ends in {}, and the circuit then starts from scratch", span(ms)),
        None => "holds until somebody resets it".into(),
    };
    let by = if over["by"] == "configuration" { " in the configuration" } else { "" };
    format!("{} by {}{by}: {:?}; {end}", word(&over["to"]), word(&over["owner"]), word(&over["reason"]))
}

fn why(b: &Value) -> Option<String> {
    let reason = b["reason"].as_str()?;
    let mut text = format!("opened on {} ({reason}): {}", trip(reason), evidence(&b["at_trip"], &b["settings"]));
    if let Some(because) = b["ground"].as_str().and_then(ground) {
        text += &format!("; {because}");
    }
    let k = number(&b["openings_in_a_row"]);
    if k > 1 {
        text += &format!("; {k} openings in a row, each longer than the one before");
    }
    Some(text)
}

/// When it is tested, and what that takes.
fn next(b: &Value) -> Option<String> {
    let (probes, held) = (&b["probes"], b["override"].is_object());
    let (needed, ok) = (number(&probes["needed"]), number(&probes["ok"]));
    match word(&b["circuit"]) {
        _ if held => None,
        "open" => {
            let due = match number(&b["open_remaining_ms"]) {
                0 => "now, with the next request that may be repeated".to_owned(),
                ms => format!("in {}", span(ms)),
            };
            Some(format!("a probe is due {due}; {} close the circuit, failed ones open it for longer", clean(needed)))
        }
        "half-open" => Some(format!(
            "probing: {ok} of {} so far, {} failed, {} in flight; failed ones open it for longer",
            clean(needed),
            number(&probes["failed"]),
            number(&probes["in_flight"])
        )),
        _ => None,
    }
}

fn clean(probes: u64) -> String {
    if probes == 1 { "1 clean probe".into() } else { format!("{probes} clean probes") }
}

/// What would open it, each with how far away it is.
fn triggers(b: &Value) -> Vec<(&'static str, String)> {
    if b["circuit"] != "closed" || b["override"].is_object() || b["mode"] == "disabled" {
        return Vec::new();
    }
    let (set, window) = (&b["settings"], &b["window"]);
    let (total, hard) = (number(&window["total"]), number(&window["hard"]));
    let mut all = Vec::new();
    let limit = number(&set["consecutive"]);
    if limit > 0 {
        let run = number(&b["failures_in_a_row"]);
        all.push(format!("{limit} hard failures in a row: {run} now, {} to go", limit.saturating_sub(run)));
    }
    let (rate, least) = (number(&set["failure_rate"]), number(&set["min_calls"]));
    let far = match total {
        0 => "no calls now".to_owned(),
        n if n < least => format!("{} now, of {n}, {} to go", percent(hard, n), some(least - n, "call")),
        n => format!("{} now, of {n}", percent(hard, n)),
    };
    all.push(format!("{rate} % hard failures of {least} calls or more: {far}"));
    let timeouts = number(&set["unresponsive"]["timeouts"]);
    if timeouts > 0 {
        let (now, over) = (number(&b["timeouts_in_a_row"]), span(number(&set["unresponsive"]["span_ms"])));
        all.push(format!("{timeouts} timeouts in a row over {over} while peers answer: {now} now"));
    }
    if set["slow"].is_object() {
        let (over, rate) = (span(number(&set["slow"]["over_ms"])), number(&set["slow"]["rate"]));
        let slow = percent(number(&window["slow"]), total);
        all.push(format!("{rate} % of calls slower than {over}: {slow} now"));
    }
    let delta = number(&set["peer"]["delta"]);
    if delta > 0 {
        let bad = percent(hard + number(&window["soft"]), total);
        let median = b["peers"]["median_failing_percent"].as_f64();
        let median = median.map_or("no peer has enough calls".to_owned(), |m| format!("the median peer {m:.0} %"));
        all.push(format!("failing {delta} points more than the median peer, of 20 calls or more: {bad} now, {median}"));
    }
    let heads = std::iter::once("opens at").chain(std::iter::repeat("or at"));
    heads.zip(all).collect()
}

fn peers(peers: &Value) -> String {
    let (closed, open, half) = (number(&peers["closed"]), number(&peers["open"]), number(&peers["half_open"]));
    if closed + open + half == 0 {
        return "none: it is the only instance, and is judged by itself".into();
    }
    let mut text = format!("{closed} closed, {open} open, {half} half-open");
    if let Some(median) = peers["median_failing_percent"].as_f64() {
        text += &format!("; of {} with enough calls the median fails {median:.0} %", number(&peers["with_calls"]));
    }
    text
}

fn load(b: &Value) -> String {
    let latency = b["latency_us"].as_u64();
    let latency = latency.map_or("latency not measured yet".into(), |us| format!("latency {:.1}ms", us as f64 / 1e3));
    let mut text = format!("{latency}, {} in flight, weight {}", number(&b["in_flight"]), number(&b["weight"]));
    text += &format!(", {:.0} % of the service's weight", 100.0 * b["share"].as_f64().unwrap_or(0.0));
    let ramp = b["slow_start"].as_f64().unwrap_or(1.0);
    if ramp < 1.0 {
        let whole = span(number(&b["settings"]["slow_start_ms"]));
        text += &format!("; slow start: {:.0} % of its share, all of it {whole} after it began", 100.0 * ramp);
    }
    text
}
