//! Who should have which cluster. Pure: what was seen in, what to do out.
//!
//! Every operator that lives has a quota: all clusters divided evenly, with one more for the oldest
//! ones where that leaves a rest. Who has more gives back, who has less takes what is free. All of
//! them count alike, so nobody has to be asked.

use std::collections::{BTreeMap, BTreeSet};

use schema::lease::{Lease, Seen};

/// What to do about the leases.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Share {
    /// To be taken, each with the epoch that it was seen with.
    pub take: BTreeMap<i64, Option<i64>>,
    /// Ours, and to be given back.
    pub surplus: BTreeSet<i64>,
}

/// `alone`: leases of others are void.
pub(super) fn share(me: &str, alone: bool, wanted: &BTreeSet<i64>, seen: &Seen) -> Share {
    let alive = |lease: &Lease| !lease.left.is_zero() && (!alone || lease.holder == me);
    let ours: BTreeSet<i64> = seen
        .leases
        .iter()
        .filter(|(_, lease)| lease.holder == me && alive(lease))
        .map(|(id, _)| *id)
        .collect();
    let quota = if alone { wanted.len() } else { quota(me, &seen.replicas, wanted.len()) };
    let kept: Vec<i64> = ours.intersection(wanted).copied().collect();
    let mut surplus: BTreeSet<i64> = ours.difference(wanted).copied().collect();
    surplus.extend(kept.iter().skip(quota));
    let free: Vec<i64> = wanted
        .iter()
        .copied()
        .filter(|id| seen.leases.get(id).is_none_or(|lease| !alive(lease)))
        .collect();
    // Operators that start together begin at different ends, so that few try for the same ones.
    let index = seen.replicas.iter().position(|name| name == me).unwrap_or(0);
    let from = free.len() * index / seen.replicas.len().max(1);
    let take = free.iter().cycle().skip(from).take(free.len());
    let take = take.take(quota.saturating_sub(kept.len()));
    Share {
        take: take.map(|id| (*id, seen.leases.get(id).map(|lease| lease.epoch))).collect(),
        surplus,
    }
}

/// How many of the clusters wanted are held by nobody who lives.
pub(super) fn unheld(wanted: &BTreeSet<i64>, seen: &Seen) -> usize {
    let free = |id: &&i64| seen.leases.get(id).is_none_or(|lease| lease.left.is_zero());
    wanted.iter().filter(free).count()
}

/// None for who is not known to live yet.
fn quota(me: &str, replicas: &[String], clusters: usize) -> usize {
    let Some(index) = replicas.iter().position(|name| name == me) else { return 0 };
    clusters / replicas.len() + usize::from(index < clusters % replicas.len())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::rngs::SmallRng;
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn lease(holder: &str, left_s: u64) -> Lease {
        Lease { holder: holder.to_owned(), epoch: 7, left: Duration::from_secs(left_s) }
    }

    fn seen(replicas: &[&str], leases: &[(i64, Lease)]) -> Seen {
        Seen {
            leases: leases.iter().cloned().collect(),
            replicas: replicas.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn the_only_operator_takes_all_that_is_free() {
        let wanted = BTreeSet::from([1, 2, 3]);
        let seen = seen(&["a"], &[(2, lease("dead", 0)), (3, lease("a", 9))]);

        let share = share("a", false, &wanted, &seen);

        assert_eq!(share.take, BTreeMap::from([(1, None), (2, Some(7))]));
        assert_eq!(share.surplus, BTreeSet::new());
    }

    #[test]
    fn what_somebody_has_who_may_live_is_left_alone() {
        let wanted = BTreeSet::from([1, 2]);
        let seen = seen(&["a"], &[(1, lease("b", 1)), (2, lease("", 0))]);

        assert_eq!(share("a", false, &wanted, &seen).take, BTreeMap::from([(2, Some(7))]));
        let alone = share("a", true, &wanted, &seen);
        assert_eq!(alone.take.len(), 2, "nobody else can live");
    }

    #[test]
    fn a_newcomer_gets_its_part() {
        let wanted = BTreeSet::from([1, 2, 3, 4, 5]);
        let all: Vec<_> = (1..=5).map(|id| (id, lease("a", 9))).collect();
        let seen = seen(&["a", "b"], &all);

        assert_eq!(share("a", false, &wanted, &seen).surplus, BTreeSet::from([4, 5]));
        assert_eq!(share("b", false, &wanted, &seen), Share::default(), "nothing is free yet");
    }

    #[test]
    fn what_nobody_wants_any_more_is_given_back() {
        let seen = seen(&["a"], &[(1, lease("a", 9)), (2, lease("b", 9))]);

        let share = share("a", false, &BTreeSet::from([2]), &seen);

        assert_eq!(share.surplus, BTreeSet::from([1]));
    }

    #[test]
    fn who_is_not_known_to_live_takes_nothing() {
        let wanted = BTreeSet::from([1]);
        assert_eq!(share("a", false, &wanted, &seen(&["b"], &[])), Share::default());
    }

    /// Whoever comes and goes: after a few turns everyone has its part, nothing is free, and then
    /// nothing moves any more.
    #[test]
    fn all_are_shared_evenly_whoever_comes_and_goes() {
        for seed in 0..200 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let wanted: BTreeSet<i64> = (0..rng.random_range(0..40)).collect();
            let mut seen = Seen::default();
            for newcomer in 0..12 {
                if seen.replicas.is_empty() || rng.random_bool(0.6) {
                    seen.replicas.push(format!("r{newcomer}"));
                } else if let Some(dead) = seen.replicas.choose(&mut rng).cloned() {
                    seen.replicas.retain(|name| *name != dead);
                    seen.leases.values_mut().filter(|it| it.holder == dead).for_each(|it| {
                        it.left = Duration::ZERO;
                    });
                }
                if seen.replicas.is_empty() {
                    continue;
                }
                let mut moves = 0;
                for _ in 0..4 {
                    for me in seen.replicas.clone() {
                        let share = share(&me, false, &wanted, &seen);
                        moves = share.take.len() + share.surplus.len();
                        for id in share.surplus {
                            seen.leases.get_mut(&id).unwrap().left = Duration::ZERO;
                        }
                        for (id, epoch) in share.take {
                            let epoch = epoch.unwrap_or(0) + 1;
                            let left = Duration::from_secs(9);
                            seen.leases.insert(id, Lease { holder: me.clone(), epoch, left });
                        }
                    }
                }
                assert_eq!(moves, 0, "seed {seed}: the last turn moved something");
                assert_eq!(unheld(&wanted, &seen), 0, "seed {seed}");
                let held =
                    |name: &String| seen.leases.values().filter(|it| it.holder == *name).count();
                let counts: Vec<usize> = seen.replicas.iter().map(held).collect();
                let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
                assert!(spread <= 1, "seed {seed}: {counts:?}");
            }
        }
    }
}
