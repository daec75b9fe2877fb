//! Renews what is ours, takes what is free and gives back what others should have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rand::Rng;
use schema::lease::{self, Fence, Holder, Seen, Sole};
use schema::{ClusterId, Db, DbError};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::metrics::{Metrics, Transition};
use super::share::{share, unheld};
use super::{Lease, Leases};

/// Between two looks at the leases: what another operator gave back is taken within this.
const TURN: Duration = Duration::from_secs(1);

/// Between two looks, where nobody else can be.
const ALONE: Duration = Duration::from_secs(30);

/// Leases of an operator that is alone end with its process; this is only what others would read.
const TTL_ALONE: Duration = Duration::from_hours(1);

/// For how long it is tried to give everything back at the end. What is not given back expires.
pub const LEAVE: Duration = Duration::from_secs(5);

/// Keeps the leases of this process.
#[derive(Debug)]
pub struct Keeper {
    db: Db,
    holder: Holder,
    leases: Leases,
    metrics: Metrics,
    next_renewal: Instant,
    failures: u32,
    /// Held for as long as this operator may work.
    _sole: Option<Sole>,
}

impl Keeper {
    /// `identity` is how people know this process; what identifies it to other operators has
    /// something random in it, so that two of one name, or one that comes back, are two.
    ///
    /// # Errors
    ///
    /// [`DbError::InUse`] if another operator works with this SQLite file.
    pub fn new(db: Db, identity: &str, ttl: Duration, registry: &Registry) -> anyhow::Result<Self> {
        let sole = lease::sole(&db)?;
        let alone = sole.is_some();
        let process: u32 = rand::rng().random();
        let known: String = identity.chars().take(200).collect();
        let holder = Holder {
            name: format!("{known}/{process:08x}").into(),
            ttl: if alone { TTL_ALONE } else { ttl },
            alone,
        };
        Ok(Self {
            db,
            holder,
            leases: Leases::default(),
            metrics: Metrics::new(registry)?,
            next_renewal: Instant::now(),
            failures: 0,
            _sole: sole,
        })
    }

    /// What the keeper is told of, and tells.
    pub fn leases(&self) -> Leases {
        self.leases.clone()
    }

    /// As other operators know this one.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.holder.name)
    }

    /// Keeps them until told to stop, then gives all of them back: so stop it last.
    pub async fn run(mut self, stop: CancellationToken) {
        let pause = if self.holder.alone { ALONE } else { TURN.min(self.holder.ttl / 5) };
        loop {
            // An answer that takes longer is of no use: by then the leases are over.
            let longest = (self.holder.ttl / 3).max(TURN);
            let outcome = timeout(longest, self.turn())
                .await
                .unwrap_or_else(|_| Err(DbError::no_answer("the leases")));
            let again = if outcome.is_ok() { pause } else { pause.min(TURN) };
            self.told(outcome);
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(again) => {}
                () = self.leases.asked.notified() => {}
            }
        }
        for lease in std::mem::take(&mut self.leases.state.lock().held).values() {
            lease.end();
        }
        let leave = self.db.write(async |conn| lease::leave(conn, &self.holder).await);
        if !matches!(timeout(LEAVE, leave).await, Ok(Ok(()))) {
            tracing::warn!("The leases could not be given back; others wait until they expire");
        }
    }

    /// Looks, decides, acts.
    async fn turn(&mut self) -> Result<(), DbError> {
        let (began, holder) = (Instant::now(), &self.holder);
        let (wanted, said) = {
            let state = self.leases.state.lock();
            (state.wanted.clone(), state.said)
        };
        if !holder.alone && said.is_some_and(|said| said.elapsed() > silence(holder.ttl)) {
            return Err(nobody_follows());
        }
        let seen = if began >= self.next_renewal {
            let write = self.db.write(async |conn| {
                lease::renew(conn, holder).await?;
                lease::look(conn).await
            });
            let seen = write.await?;
            self.next_renewal = began + holder.ttl / 3;
            seen
        } else {
            self.db.read(lease::look).await?
        };
        self.take_in(began, &seen);
        let share = share(&holder.name, holder.alone, &wanted, &seen);
        let back = self.leases.set_surplus(share.surplus);
        let mut seen = seen;
        if !share.take.is_empty() || !back.is_empty() {
            let began = Instant::now();
            let (take, back) = (&share.take, &back);
            let write = self.db.write(async |conn| {
                lease::release(conn, holder, back.iter().copied()).await?;
                lease::take(conn, holder, take).await?;
                lease::look(conn).await
            });
            seen = write.await?;
            self.take_in(began, &seen);
        }
        self.metrics.unheld.set(gauge(unheld(&wanted, &seen)));
        Ok(())
    }

    /// Makes what is held what was seen, by a look that began at `began`.
    fn take_in(&self, began: Instant, seen: &Seen) {
        let holder = &self.holder;
        let mut state = self.leases.state.lock();
        let ours = |id: i64| {
            let lease = seen.leases.get(&id)?;
            (*lease.holder == *holder.name && !lease.left.is_zero()).then_some(lease)
        };
        let mut gone = Vec::new();
        state.held.retain(|id, held| {
            let kept =
                ours(*id).is_some_and(|it| it.epoch == held.fence().epoch) && !held.is_over();
            if !kept {
                held.end();
                gone.push(*id);
            }
            kept
        });
        let (given, lost): (Vec<i64>, Vec<i64>) =
            gone.into_iter().partition(|id| state.given_back.remove(id));
        let mut acquired = Vec::new();
        for id in seen.leases.keys().copied() {
            let Some(row) = ours(id) else { continue };
            // However long the database says: its clock may have been set back.
            let left = row.left.min(holder.ttl).saturating_sub(margin(holder.ttl));
            let until = (!holder.alone).then(|| began + left);
            if let Some(held) = state.held.get(&id) {
                held.extend(until);
                continue;
            }
            let fence = Fence {
                cluster_id: ClusterId(id),
                holder: Arc::clone(&holder.name),
                epoch: row.epoch,
            };
            let lease = Lease::new(fence, until);
            // One that ends this soon is renewed before it is used.
            if !lease.is_over() {
                state.held.insert(id, lease);
                acquired.push(id);
            }
        }
        self.metrics.held.set(gauge(state.held.len()));
        drop(state);
        for (transition, clusters) in [
            (Transition::Acquired, &acquired),
            (Transition::Released, &given),
            (Transition::Lost, &lost),
        ] {
            self.metrics.count(transition, clusters.len());
        }
        if !acquired.is_empty() {
            tracing::info!(clusters = ?acquired, "Got the leases of clusters");
        }
        if !lost.is_empty() {
            tracing::warn!(clusters = ?lost, "Lost the leases of clusters: nothing more is done there");
        }
        if !acquired.is_empty() || !lost.is_empty() || !given.is_empty() {
            self.leases.changed.notify_one();
        }
    }

    fn told(&mut self, outcome: Result<(), DbError>) {
        match outcome {
            Ok(()) => self.failures = 0,
            Err(error) => {
                self.metrics.renew_errors.inc();
                let held = self.leases.held().len();
                self.metrics.held.set(gauge(held));
                if self.failures == 0 {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "Leases cannot be renewed; work goes on until they are over"
                    );
                }
                self.failures += 1;
            }
        }
    }
}

impl Leases {
    /// Says what is to be given back; answers of which of it nothing runs any more.
    fn set_surplus(&self, surplus: BTreeSet<i64>) -> BTreeSet<i64> {
        let mut state = self.state.lock();
        // Of those that are to be kept after all, something may run again.
        state.given_back.retain(|id| surplus.contains(id));
        if state.surplus != surplus {
            state.surplus = surplus;
            self.changed.notify_one();
        }
        state.given_back.clone()
    }
}

/// By how much we stop before the database lets others begin.
fn margin(ttl: Duration) -> Duration {
    ttl / 5
}

/// How long the supervisor may say nothing before its clusters are left to others.
fn silence(ttl: Duration) -> Duration {
    (ttl * 2).max(Duration::from_mins(1))
}

fn nobody_follows() -> DbError {
    DbError::Unavailable {
        target: "the leases".to_owned(),
        source: "clusters are not followed: the check of pve_cluster does not end".into(),
    }
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
