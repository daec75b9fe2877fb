//! Workload `vm100k/v1`: 100,000 machines that are listed, changed a million times and listed
//! again; this crate and kube-runtime in one process, in turn. What the rows mean is in
//! `benches/README.md`.
//!
//! ```text
//! cargo bench -p benches --bench vm100k                     all rows, five repetitions, 8 min
//! cargo bench -p benches --bench vm100k -- modify relist    the rows with these words in them
//! cargo bench -p benches --bench vm100k -- =ours.waves     one workload, to be profiled
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

use std::env;

use figures::Figures;

const REPETITIONS: usize = 5;

fn main() -> anyhow::Result<()> {
    documents::check();
    let repetitions = match env::var("VM100K_REPS") {
        Ok(text) => text.parse()?,
        Err(_) => REPETITIONS,
    };
    // What cargo itself says begins with a dash.
    let words: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let rows: Vec<_> = rows::ROWS.iter().filter(|row| wanted(row.name)).collect();

    let mut figures = Figures::default();
    for repetition in 0..repetitions {
        let mut workloads: Vec<_> = rows::WORKLOADS
            .iter()
            .filter(|workload| repetition < workload.repetitions)
            .filter(|workload| {
                rows.iter().any(|row| workload.serves(row))
                    || words.iter().any(|word| word.strip_prefix('=') == Some(workload.name))
            })
            .collect();
        // Whoever comes later finds the heap as the other one left it; so both do in turn.
        if repetition % 2 == 1 {
            workloads.reverse();
        }
        for workload in workloads {
            (workload.run)(&mut figures);
        }
    }
    figures.print();
    for row in rows {
        row.print(&figures);
    }
    Ok(())
}
