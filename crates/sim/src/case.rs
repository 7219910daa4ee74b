//! A scenario as the table shows it: what is asked, what must hold, what was measured.

use fusewire_resilience::State;

/// What a measurement must be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Band {
    AtMost(f64),
    AtLeast(f64),
}

impl Band {
    pub fn holds(self, value: f64) -> bool {
        match self {
            Band::AtMost(most) => value <= most,
            Band::AtLeast(least) => value >= least,
        }
    }

    pub fn text(self) -> String {
        match self {
            Band::AtMost(most) => format!("<= {most}"),
            Band::AtLeast(least) => format!(">= {least}"),
        }
    }
}

/// What one run, or the mean of some, came to.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub value: f64,
    /// The same without what the scenario tests, for comparison.
    pub without: Option<f64>,
    pub track: Option<Track>,
}

impl Measured {
    pub fn of(value: f64) -> Measured {
        Measured { value, ..Measured::default() }
    }

    #[must_use]
    pub fn beside(mut self, without: f64) -> Measured {
        self.without = Some(without);
        self
    }

    #[must_use]
    pub fn drawn(mut self, track: Track) -> Measured {
        self.track = Some(track);
        self
    }
}

/// One run second by second, for a plot.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// Requests that began in each second, and those of them that failed.
    pub seconds: Vec<(u32, u32)>,
    /// The same without breakers.
    pub without: Vec<(u32, u32)>,
    /// Instances, and their circuits' transitions: second, instance, state.
    pub instances: usize,
    pub states: Vec<(f64, usize, State)>,
}

impl Track {
    pub fn count(seconds: &mut Vec<(u32, u32)>, second: f64, failed: Failed) {
        let second = second.max(0.0) as usize;
        if seconds.len() <= second {
            seconds.resize(second + 1, (0, 0));
        }
        seconds[second].0 += 1;
        seconds[second].1 += u32::from(failed == Failed::Yes);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    Yes,
    No,
}

/// One row of the table.
pub struct Case {
    pub name: String,
    pub asks: &'static str,
    pub band: Band,
    pub run: Box<dyn Fn() -> Measured + Send + Sync>,
    /// Why the band may be missed, for those that cannot be held. A run that holds it all the same is welcome.
    pub exception: Option<&'static str>,
}

impl Case {
    pub fn new(
        name: impl Into<String>,
        asks: &'static str,
        band: Band,
        run: impl Fn() -> Measured + Send + Sync + 'static,
    ) -> Case {
        Case { name: name.into(), asks, band, run: Box::new(run), exception: None }
    }

    #[must_use]
    pub fn except(mut self, reason: &'static str) -> Case {
        self.exception = Some(reason);
        self
    }
}
