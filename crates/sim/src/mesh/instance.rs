//! An instance's side: its sidecar's guard, the queue, and the workers.

use std::time::Duration;

use fusewire_resilience::Happening;
use fusewire_resilience::limit::Admission;
use fusewire_resilience::retry::Mark;

use super::{Engine, Event, Job, Mesh, NOT_TAKEN, OVERLOADED, QUICK, REFUSED, WORKERS};

impl Mesh<'_> {
    pub(super) fn reach(&mut self, frame: usize, attempt: u32, instance: usize) {
        if (self.plan.dead)(instance, self.second()) {
            return self.at(QUICK, Event::Ended(frame, attempt, REFUSED));
        }
        if self.plan.engine == Engine::Naive {
            return self.dispatch(instance, Job { frame, attempt, ticket: None });
        }
        let now = self.time();
        let left = self.frames[frame].deadline.map(|deadline| Duration::from_nanos(deadline.saturating_sub(self.now)));
        match self.applications[instance].guard.ask(left, now) {
            Admission::Dispatch(ticket) => self.dispatch(instance, Job { frame, attempt, ticket: Some(ticket) }),
            Admission::Wait { at_most } => {
                self.applications[instance].waiting.push_back((frame, attempt));
                self.at(at_most.as_nanos() as u64, Event::LeaveQueue(instance, frame, attempt));
            }
            Admission::Shed => self.at(QUICK, Event::Ended(frame, attempt, OVERLOADED)),
        }
        self.wake(instance);
    }

    pub(super) fn wake(&mut self, instance: usize) {
        let now = self.time();
        while !self.applications[instance].waiting.is_empty() {
            let Some(ticket) = self.applications[instance].guard.wake(now) else { return };
            let Some((frame, attempt)) = self.applications[instance].waiting.pop_front() else { return };
            self.dispatch(instance, Job { frame, attempt, ticket: Some(ticket) });
        }
    }

    pub(super) fn remove_waiting(&mut self, instance: usize, frame: usize, attempt: u32) -> bool {
        let now = self.time();
        let application = &mut self.applications[instance];
        let Some(at) = application.waiting.iter().position(|one| *one == (frame, attempt)) else { return false };
        application.waiting.remove(at);
        application.guard.gave_up(now);
        self.wake(instance);
        true
    }

    pub(super) fn dispatch(&mut self, instance: usize, job: Job) {
        if self.applications[instance].backlog.len() >= self.plan.backlog {
            let job = self.keep(job);
            return self.at(NOT_TAKEN, Event::Dropped(instance, job));
        }
        self.applications[instance].backlog.push_back(job);
        self.work(instance);
    }

    pub(super) fn keep(&mut self, job: Job) -> usize {
        match self.free_jobs.pop() {
            Some(place) => {
                self.jobs[place] = Some(job);
                place
            }
            None => {
                self.jobs.push(Some(job));
                self.jobs.len() - 1
            }
        }
    }

    pub(super) fn work(&mut self, instance: usize) {
        while self.applications[instance].busy < WORKERS {
            let Some(job) = self.applications[instance].backlog.pop_front() else { return };
            self.applications[instance].busy += 1;
            let mean = (self.plan.work)(self.second());
            let after = (self.random.erlang4(mean) * 1e9) as u64;
            let job = self.keep(job);
            self.at(after, Event::Done(instance, job));
        }
    }

    pub(super) fn take(&mut self, job: usize) -> Option<Job> {
        self.free_jobs.push(job);
        self.jobs[job].take()
    }

    pub(super) fn done(&mut self, instance: usize, job: usize) {
        let now = self.time();
        self.applications[instance].busy -= 1;
        if let Some(Job { frame, attempt, ticket }) = self.take(job) {
            if let Some(ticket) = ticket {
                let guard = &mut self.applications[instance].guard;
                match self.frames[frame].live == Some(attempt) {
                    true => guard.answered(ticket, now),
                    false => guard.answered_in_vain(ticket, now),
                }
            }
            let dead = (self.plan.dead)(instance, self.second());
            self.ended(frame, attempt, if dead { Happening::Reset } else { Happening::Complete }, Mark::None);
        }
        self.work(instance);
        self.wake(instance);
    }

    pub(super) fn dropped(&mut self, instance: usize, job: usize) {
        let now = self.time();
        if let Some(Job { frame, attempt, ticket }) = self.take(job) {
            // With a guard the sidecar in front says that it is overloaded; without one the caller finds nobody.
            let happening = match ticket {
                Some(ticket) => {
                    self.applications[instance].guard.connect_timed_out(ticket, now);
                    Happening::Overloaded
                }
                None => Happening::ConnectTimeout,
            };
            self.ended(frame, attempt, happening, Mark::None);
        }
        self.wake(instance);
    }
}
