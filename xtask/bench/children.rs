//! The processes that the bench started. None outlives it: each is killed when its owner is dropped, all when a signal
//! comes, and after that none can be started.

use anyhow::{Context as _, Result, bail};
use std::collections::HashMap;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Default)]
pub(crate) struct Children(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    ended: bool,
    running: HashMap<u32, Child>,
}

/// One of them.
///
/// # Drop behavior
/// Kills the process and waits for it.
pub(crate) struct Process {
    id: u32,
    children: Children,
}

impl Children {
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut inner = self.lock();
        if inner.ended {
            bail!("the bench is ending");
        }
        let child = command.spawn().with_context(|| format!("cannot start {program}; is it installed?"))?;
        let id = child.id();
        inner.running.insert(id, child);
        Ok(Process { id, children: self.clone() })
    }

    pub(crate) fn end_all(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        for (_, child) in inner.running.drain() {
            end(child);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// What it ended with, if it did.
    pub(crate) fn ended(&self) -> Result<Option<String>> {
        match self.children.lock().running.get_mut(&self.id) {
            Some(child) => Ok(child.try_wait().context("cannot ask for a child")?.map(|status| status.to_string())),
            None => bail!("the bench is ending"),
        }
    }

    /// Takes a pipe out of the child, to be read without holding up the others.
    pub(crate) fn pipe<T>(&self, take: impl FnOnce(&mut Child) -> Option<T>) -> Result<T> {
        self.children.lock().running.get_mut(&self.id).and_then(take).context("the child has no such pipe")
    }

    /// Waits for its end; whether it ended well.
    pub(crate) fn finish(self) -> Result<bool> {
        let child = self.children.lock().running.remove(&self.id);
        let status = child.context("the bench is ending")?.wait().context("cannot wait for a child")?;
        Ok(status.success())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = self.children.lock().running.remove(&self.id) {
            end(child);
        }
    }
}

/// Both may fail only because it has already ended.
fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}
