//! Which pipelines to start, stop and sweep. Pure: rows in, acts out.

use std::collections::{BTreeMap, BTreeSet};

/// One thing to do about a cluster, by the id of its row.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Act {
    /// Stop the pipeline and wait until it has: its row is gone, disabled, or changed.
    Stop(i64),
    /// Say in its status that it is disabled, and so no longer followed.
    Disable(i64),
    /// Delete every row that still has this cluster's id.
    Sweep(i64),
    /// Start a pipeline with the row as it is now.
    Start(i64),
}

/// Compares what is wanted with what runs.
///
/// `wanted` has a configuration for each enabled cluster, `known` has every id of
/// `pve_cluster`, `unsaid` has the disabled ones whose status is not known to say so,
/// `leftovers` has the ids that other tables still hold. The acts come in an order in which they
/// can be done one by one: a cluster is stopped before its status is written by anybody else, and
/// before it is swept or started again.
pub fn plan<C: Eq>(
    wanted: &BTreeMap<i64, C>,
    known: &BTreeSet<i64>,
    unsaid: &BTreeSet<i64>,
    running: &BTreeMap<i64, C>,
    leftovers: &BTreeSet<i64>,
) -> Vec<Act> {
    let stops = running.iter().filter(|(id, config)| wanted.get(id) != Some(config));
    let sweeps = leftovers.iter().chain(running.keys()).filter(|id| !known.contains(id));
    let starts = wanted.iter().filter(|(id, config)| running.get(id) != Some(config));
    let sweeps: BTreeSet<i64> = sweeps.copied().collect();
    stops
        .map(|(id, _)| Act::Stop(*id))
        .chain(unsaid.iter().map(|id| Act::Disable(*id)))
        .chain(sweeps.into_iter().map(Act::Sweep))
        .chain(starts.map(|(id, _)| Act::Start(*id)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acts(
        wanted: &[(i64, &'static str)],
        known: &[i64],
        unsaid: &[i64],
        running: &[(i64, &'static str)],
        leftovers: &[i64],
    ) -> Vec<Act> {
        plan(
            &wanted.iter().copied().collect(),
            &known.iter().copied().collect(),
            &unsaid.iter().copied().collect(),
            &running.iter().copied().collect(),
            &leftovers.iter().copied().collect(),
        )
    }

    #[test]
    fn what_runs_as_wanted_is_left_alone() {
        assert_eq!(acts(&[(1, "a")], &[1], &[], &[(1, "a")], &[1]), []);
    }

    /// A16
    #[test]
    fn a_changed_row_restarts_its_pipeline() {
        assert_eq!(acts(&[(1, "b")], &[1], &[], &[(1, "a")], &[]), [Act::Stop(1), Act::Start(1)]);
    }

    /// A16
    #[test]
    fn a_disabled_cluster_is_stopped_and_keeps_its_rows() {
        assert_eq!(
            acts(&[], &[1], &[1], &[(1, "a")], &[1]),
            [Act::Stop(1), Act::Disable(1)],
            "its last status must not overwrite this one"
        );
        assert_eq!(acts(&[], &[1], &[1], &[], &[1]), [Act::Disable(1)], "while we were away");
        assert_eq!(acts(&[], &[1], &[], &[], &[1]), [], "said once");
    }

    /// A16
    #[test]
    fn a_deleted_cluster_is_stopped_and_then_swept() {
        assert_eq!(acts(&[], &[], &[], &[(1, "a")], &[1]), [Act::Stop(1), Act::Sweep(1)]);
        assert_eq!(acts(&[], &[], &[], &[], &[1]), [Act::Sweep(1)], "deleted while we were away");
        assert_eq!(
            acts(&[], &[], &[], &[(1, "a")], &[]),
            [Act::Stop(1), Act::Sweep(1)],
            "before its first row"
        );
    }
}
