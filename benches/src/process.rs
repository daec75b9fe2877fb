//! Child processes that do not outlive the bench, and what Linux says about them.

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};

/// Killed and waited for when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: &'static str,
}

impl Process {
    /// Its output to stderr goes to `log`.
    pub fn start(name: &'static str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let log = File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { child, name })
    }

    /// The child's output; `None` the second time, and if it was not piped.
    pub fn stdout(&mut self) -> Option<impl io::Read + use<>> {
        self.child.stdout.take()
    }

    /// # Errors
    ///
    /// If it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}", self.name),
        }
    }

    /// Time on CPUs so far, in user and kernel mode.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        cpu_of(&stat).with_context(|| format!("cannot read {stat}"))
    }

    /// `VmRSS` or `VmHWM` (the most that VmRSS ever was) in MiB.
    pub fn memory_mib(&self, which: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        memory_of(&status, which).with_context(|| format!("no {which} in {status}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let killed = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = killed {
            eprintln!("{}: {error}", self.name);
        }
    }
}

/// `USER_HZ`: 100 on every architecture that is in use.
const TICK: Duration = Duration::from_millis(10);

fn cpu_of(stat: &str) -> Option<Duration> {
    // The name in parentheses may hold spaces; the state follows it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let kernel: u32 = fields.next()?.parse().ok()?;
    Some(TICK * (user + kernel))
}

fn memory_of(status: &str, which: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024.0)
}

/// A program of this workspace, built with the same profile as the bench.
///
/// # Errors
///
/// If it was not built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let bench = env::current_exe()?;
    let folder = bench.ancestors().nth(2).context("a bench is in target/release/deps")?;
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is missing: cargo build --release --bins", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_also_when_the_name_has_spaces() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 500 0 0 0 250 50 0 0 20 0 4 0 100 1 1";

        assert_eq!(cpu_of(stat), Some(Duration::from_secs(3)));
        assert_eq!(memory_of("VmHWM:\t 2048 kB\nVmRSS:\t 1024 kB\n", "VmRSS"), Some(1.0));
    }
}
