//! What is printed: the machine, then a table per scenario.

use crate::contender::Contender;
use crate::cpu;
use crate::figures::{Sample, limit, median_and_best};
use crate::scenario::Shape;
use anyhow::Result;

pub(crate) fn machine(workers: u32, rounds: u32, requests: u64) -> Result<()> {
    println!("{}", cpu::machine()?);
    println!(
        "{workers} request thread(s) each, {rounds} rounds of {requests} requests after {} to warm up",
        requests / 5
    );
    println!("CPU: microseconds of all the proxies' threads per request, kernel time included; median (best)");
    Ok(())
}

pub(crate) fn scenario(shape: &Shape, samples: &[(Contender, Vec<Sample>)], workers: u32) {
    println!("\n{}: {}", shape.name, shape.about);
    println!("  {:<10} {:>16} {:>16} {:>8}   cores used: proxy, backend, load", "", "CPU us", "requests/s", "errors");
    for (contender, taken) in samples {
        line(*contender, taken, workers * shape.hops);
    }
    let of = |wanted: Contender| {
        let found = samples.iter().find(|(contender, _)| *contender == wanted);
        found.and_then(|(_, taken)| median_and_best(taken.iter().map(Sample::cost)))
    };
    if let (Some(floor), Some(ours)) = (of(Contender::Floor), of(Contender::Fusewire)) {
        let hops = f64::from(shape.hops);
        println!(
            "  fusewire costs {:.2} ({:.2}) times the bare loop, {:+.1} ({:+.1}) us a hop",
            ours.0 / floor.0,
            ours.1 / floor.1,
            (ours.0 - floor.0) / hops,
            (ours.1 - floor.1) / hops,
        );
    }
}

fn line(contender: Contender, taken: &[Sample], threads: u32) {
    let Some(cost) = median_and_best(taken.iter().map(Sample::cost)) else { return };
    let rates = median_and_best(taken.iter().map(|sample| -sample.rate)).unwrap_or_default();
    let errors: u64 = taken.iter().map(|sample| sample.errors).sum();
    let cores = |of: fn(&Sample) -> u64| {
        median_and_best(taken.iter().map(|sample| sample.cores(of(sample)))).map_or(0.0, |(median, _)| median)
    };
    println!(
        "  {:<10} {:>16} {:>16} {errors:>8}   {:.2}, {:.2}, {:.2}",
        contender.name(),
        format!("{:.1} ({:.1})", cost.0, cost.1),
        format!("{:.0} ({:.0})", -rates.0, -rates.1),
        cores(|sample| sample.proxy_ns),
        cores(|sample| sample.backend_ns),
        cores(|sample| sample.load_ns),
    );
    let limits: Vec<&str> = taken.iter().filter_map(|sample| limit(sample, threads)).collect();
    if let Some(who) = limits.first() {
        println!(
            "  {:<10} the {who} was the limit in {} of {} rounds: the rate says nothing of the proxy",
            "",
            limits.len(),
            taken.len()
        );
    }
    if errors > 0 {
        println!("  {:<10} errors: these rounds measure something else than requests served", "");
    }
}
