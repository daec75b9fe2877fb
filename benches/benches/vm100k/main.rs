//! Workload `vm100k/v1`: 100,000 machines that are listed, changed a million times and listed
//! again; this crate and kube-runtime in one run, in turn. What the rows mean is in
//! `benches/README.md`.
//!
//! Each workload has a process of its own, which is this program again: what the one before it
//! left of the heap, in pieces and out of order, would be in the figures otherwise.
//!
//! ```text
//! cargo bench -p benches --bench vm100k                     all rows, five repetitions, 8 min
//! cargo bench -p benches --bench vm100k -- modify relist    the rows with these words in them
//! cargo bench -p benches --bench vm100k -- =ours.waves      one workload, in this process, once
//! VM100K_REPS=1 cargo bench -p benches --bench vm100k       fewer repetitions
//! ```

mod compact;
mod documents;
mod figures;
mod gauges;
mod kube_queue;
mod kube_side;
mod latency;
mod objects;
mod our_heap;
mod our_queue;
mod our_side;
mod rows;
mod runtimes;

use std::{
    env,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use figures::Figures;
use rows::Workload;

const REPETITIONS: usize = 5;

fn main() -> anyhow::Result<()> {
    documents::check();
    // What cargo itself says begins with a dash.
    let words: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if let Some(name) = words.first().and_then(|word| word.strip_prefix('=')) {
        let workload = rows::WORKLOADS.iter().find(|workload| workload.name == name);
        let mut figures = Figures::default();
        (workload.context("there is no workload of this name")?.run)(&mut figures);
        figures.print_samples();
        return Ok(());
    }
    let repetitions = match env::var("VM100K_REPS") {
        Ok(text) => text.parse()?,
        Err(_) => REPETITIONS,
    };
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let rows: Vec<_> = rows::ROWS.iter().filter(|row| wanted(row.name)).collect();

    let mut figures = Figures::default();
    for repetition in 0..repetitions {
        let mut workloads: Vec<_> = rows::WORKLOADS
            .iter()
            .filter(|workload| repetition < workload.repetitions)
            .filter(|workload| rows.iter().any(|row| workload.serves(row)))
            .collect();
        // There and back, so that neither side always runs after the other one.
        if repetition % 2 == 1 {
            workloads.reverse();
        }
        for workload in workloads {
            run_apart(workload, &mut figures)?;
        }
    }
    figures.print();
    for row in rows {
        row.print(&figures);
    }
    Ok(())
}

/// Runs a workload in a process of its own.
fn run_apart(workload: &Workload, figures: &mut Figures) -> anyhow::Result<()> {
    let name = workload.name;
    let mut program = Command::new(env::current_exe()?);
    let output = program.arg(format!("={name}")).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{name} ended with {}", output.status);
    for line in String::from_utf8(output.stdout)?.lines() {
        figures.push_sample(line).with_context(|| format!("{name} printed {line:?}"))?;
    }
    Ok(())
}
