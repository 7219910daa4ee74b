//! `fusewire demo`: a whole mesh on this machine, made ill in two ways, and what its client saw of that.
//!
//! It decides what is shown and when an instance falls ill. It deliberately takes no short cut through the mesh: the
//! control plane, the sidecars and the applications are real processes that speak mTLS with each other, and every
//! number is one that the client or an application measured. No failure is retried here or left out of the count.
//!
//! Invariant: whatever ends it, nothing stays behind. Children end with their standard input (`process`), and the
//! folder goes with [`process::Scratch`], or with the last application when this process was killed.

pub(crate) mod app;
mod events;
mod http1;
mod load;
mod plan;
pub(crate) mod process;
mod schedule;
mod screen;
mod summary;
mod town;

use anyhow::Result;
use clap::Args;
use events::Events;
use load::Load;
use schedule::{Act, Schedule};
use screen::Screen;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use summary::Summary;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use town::Town;

/// Watch circuit breakers at work: a small shop of six programs on this machine, two of which fall ill.
///
/// A client calls web, which calls catalog, which calls one of four inventory instances; all through sidecars, over
/// mTLS, on loopback. One inventory instance begins to fail half of its requests, later another one hangs. It prints
/// where a browser finds traces and the service map. Needs neither root nor network, and leaves nothing behind. Runs
/// until Ctrl-C, and then says what the client saw.
#[derive(Args)]
pub(crate) struct Arguments {
    /// End by itself after this many seconds of traffic. Below 34, both faults are fitted into them.
    #[arg(long, value_parser = clap::value_parser!(u32).range(12..=86_400))]
    seconds: Option<u32>,
    /// Print nothing on standard output but the summary, as one line of JSON.
    #[arg(long)]
    json: bool,
    /// The same with `breaker: off` for every service, to compare.
    #[arg(long)]
    without_breakers: bool,
    /// Requests each second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=2_000))]
    rate: u32,
    /// Keep the folder with the configuration and everybody's logs, and say where it is.
    #[arg(long)]
    keep: bool,
}

const TICK: Duration = Duration::from_millis(100);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(play(arguments)))
}

async fn play(arguments: &Arguments) -> Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let mut screen = Screen::new(arguments.json);
    screen.say("starting a control plane, six applications and a sidecar beside each")?;
    let town = tokio::select! {
        town = Town::start(!arguments.without_breakers, arguments.keep) => town?,
        () = stop.asked() => return Ok(ExitCode::from(130)),
    };
    screen.say(&format!("traces and service map: http://{}/", town.plan.page))?;
    screen.say(&format!(
        "{} requests/s: client -> web -> catalog -> inventory-1..4, all between sidecars over mTLS{}",
        arguments.rate,
        if arguments.without_breakers { ", WITHOUT circuit breakers" } else { "" },
    ))?;
    let mut load = Load::start(town.plan.web(), arguments.rate)?;
    let length = arguments.seconds.map(|s| Duration::from_secs(s.into()));
    let mut show = Show {
        schedule: Schedule::new(length),
        events: Events::new(town.socket(town::WATCHED)),
        started: Instant::now(),
        town: &town,
        load: &load,
        screen: &mut screen,
        drawn: None,
    };
    show.run(length, &mut stop).await?;
    let elapsed = show.started.elapsed();
    let Show { mut schedule, events, .. } = show;
    load.stop().await;
    schedule.blame(&load.take_failures());
    let summary = Summary {
        seen: load.seen(),
        schedule,
        transitions: events.transitions,
        openings: events.openings,
        sidecar_memory_kib: town.sidecar_memory_kib(),
        breakers: !arguments.without_breakers,
        elapsed,
    };
    let kept = town.end();
    screen.summary(&summary)?;
    if let Some(folder) = kept {
        screen.say(&format!("configuration and logs are kept in {}", folder.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The run itself: everything that happens while requests flow.
struct Show<'a> {
    schedule: Schedule,
    events: Events,
    started: Instant,
    town: &'a Town,
    load: &'a Load,
    screen: &'a mut Screen,
    drawn: Option<Instant>,
}

impl Show<'_> {
    async fn run(&mut self, length: Option<Duration>, stop: &mut Stop) -> Result<()> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.asked() => return Ok(()),
            }
            if length.is_some_and(|length| self.started.elapsed() >= length) {
                return Ok(());
            }
            self.town.check()?;
            self.act().await?;
            self.schedule.blame(&self.load.take_failures());
            for line in self.events.poll().await {
                self.screen.event(self.started.elapsed(), &line)?;
            }
            if self.drawn.is_none_or(|at| at.elapsed() >= self.screen.period()) {
                self.drawn = Some(Instant::now());
                let rows = self.town.look().await;
                self.screen.table(&rows, self.load.recent(), self.started.elapsed())?;
            }
        }
    }

    async fn act(&mut self) -> Result<()> {
        let Some(act) = self.schedule.due(self.started.elapsed()) else { return Ok(()) };
        match act {
            Act::Begin(fault) => {
                self.schedule.begins(fault);
                self.town.inject(fault.instance, Some(fault.kind)).await?;
                let said = format!("fault: {} {}", town::inventory(fault.instance), fault.kind.words());
                self.screen.event(self.started.elapsed(), &said)
            }
            Act::Heal(instance) => {
                self.town.inject(instance, None).await?;
                self.schedule.healed();
                let said = format!("healed: {} works again", town::inventory(instance));
                self.screen.event(self.started.elapsed(), &said)
            }
        }
    }
}

/// Ctrl-C, SIGTERM, or the terminal that went away.
struct Stop([Signal; 3]);

impl Stop {
    fn listen() -> Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    async fn asked(&mut self) {
        let [int, term, hup] = &mut self.0;
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
            _ = hup.recv() => {}
        }
    }
}
