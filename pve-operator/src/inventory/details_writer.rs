//! Brings what was read of guests into the tables, many guests at a time and only what differs.
//!
//! A transaction that changes guests holds up all others that do, of every cluster, from when it
//! raises their revision; so there are few of them. Nearly always nothing differs, and one look says
//! so.

use std::{collections::BTreeMap, time::Duration};

use informer::{Backoff, WorkQueue};
use schema::{
    ClusterId, Db, DbError,
    guest_details::{self, GuestRead, Seen, Standing},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// Guests per transaction.
const BATCH: usize = 100;

/// Guests that wait before no more are taken.
const MOST: usize = 5 * BATCH;

/// How long the first guest waits for company.
const LINGER: Duration = Duration::from_secs(1);

/// How long a guest's row may take to appear.
const ROW: Duration = Duration::from_secs(2);

/// The longest that one look at the tables may take.
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// What was read longer ago is read again instead: another guest may have the number by now.
const FRESH: Duration = Duration::from_mins(1);

/// The longest pause between two attempts while the database is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One cluster's writer of details.
pub(super) struct DetailsWriter {
    db: Db,
    cluster: ClusterId,
    /// Guests to be read again.
    again: WorkQueue<u32>,
    read: mpsc::Receiver<GuestRead>,
    /// By VMID, and of each guest the last, with the moment when it was read.
    pending: BTreeMap<i64, (Instant, GuestRead)>,
}

impl DetailsWriter {
    pub(super) fn new(
        db: Db,
        cluster: ClusterId,
        again: WorkQueue<u32>,
        read: mpsc::Receiver<GuestRead>,
    ) -> Self {
        Self { db, cluster, again, read, pending: BTreeMap::new() }
    }

    /// Writes until told to stop. What is not written by then is read again after the next start.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.write_all() => {}
        }
    }

    async fn write_all(&mut self) {
        let backoff = Backoff::new(Duration::from_millis(200), LONGEST_PAUSE);
        let mut failures = 0;
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                read = self.read.recv(), if self.pending.len() < MOST => {
                    let Some(read) = read else { return };
                    let now = Instant::now();
                    self.pending.insert(read.vmid, (now, read));
                    let full = failures == 0 && self.pending.len() >= BATCH;
                    due = if full { Some(now) } else { due.or(Some(now + LINGER)) };
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let pause = match self.write_batch().await {
                        Ok(()) => {
                            failures = 0;
                            Duration::ZERO
                        }
                        Err(error) => {
                            let error = &error as &dyn std::error::Error;
                            tracing::debug!(error, "Details are not written this time");
                            failures += 1;
                            backoff.pause(failures - 1, None)
                        }
                    };
                    due = (!self.pending.is_empty()).then(|| Instant::now() + pause);
                }
            }
        }
    }

    async fn write_batch(&mut self) -> Result<(), DbError> {
        let (since, batch) = self.take();
        let mut written = self.write(&batch).await;
        if let Err(error) = &written
            && is_of_a_guest(error)
        {
            written = self.write_each(&batch).await;
        }
        match written {
            Ok(without_row) => {
                for vmid in without_row {
                    self.again.add_after(vmid, ROW);
                }
                Ok(())
            }
            Err(error) => {
                for (at, read) in since.into_iter().zip(batch) {
                    self.pending.entry(read.vmid).or_insert((at, read));
                }
                Err(error)
            }
        }
    }

    /// What is next, and when each of them was read.
    fn take(&mut self) -> (Vec<Instant>, Vec<GuestRead>) {
        let (mut since, mut batch) = (Vec::new(), Vec::new());
        while batch.len() < BATCH
            && let Some((vmid, (at, read))) = self.pending.pop_first()
        {
            if at.elapsed() < FRESH {
                since.push(at);
                batch.push(read);
            } else if let Ok(vmid) = u32::try_from(vmid) {
                self.again.add(vmid);
            }
        }
        (since, batch)
    }

    /// Answers for which guests there is no row.
    async fn write(&self, batch: &[GuestRead]) -> Result<Vec<u32>, DbError> {
        let vmids: Vec<i64> = batch.iter().map(|read| read.vmid).collect();
        let look = async |conn: &mut _| guest_details::look(conn, self.cluster, &vmids).await;
        let seen = timeout(LONGEST_LOOK, self.db.ask(look))
            .await
            .unwrap_or_else(|_| Err(DbError::no_answer(self.db.url())))?;
        let (differing, without_row) = sorted(&seen, batch);
        if !differing.is_empty() {
            let write =
                async |conn: &mut _| guest_details::write(conn, self.cluster, &differing).await;
            self.db.write(write).await?;
        }
        Ok(without_row)
    }

    /// One guest must not hold up the others: what the database refuses of it is let go until it is
    /// read again.
    async fn write_each(&self, batch: &[GuestRead]) -> Result<Vec<u32>, DbError> {
        let mut without_row = Vec::new();
        for read in batch {
            match self.write(std::slice::from_ref(read)).await {
                Ok(missing) => without_row.extend(missing),
                Err(error) if is_of_a_guest(&error) => tracing::warn!(
                    vmid = read.vmid,
                    error = &error as &dyn std::error::Error,
                    "The database refuses the disks and addresses of a guest"
                ),
                Err(error) => return Err(error),
            }
        }
        Ok(without_row)
    }
}

/// Whether an error may be of what one guest tells, rather than of the database or the lease.
fn is_of_a_guest(error: &DbError) -> bool {
    matches!(error, DbError::Query(_) | DbError::Conflict { .. })
}

/// What has to be written, and the guests without a row. Pure.
fn sorted(seen: &Seen, batch: &[GuestRead]) -> (Vec<GuestRead>, Vec<u32>) {
    let (mut differing, mut without_row) = (Vec::new(), Vec::new());
    for read in batch {
        match seen.standing(read) {
            Standing::Differs => differing.push(read.clone()),
            Standing::NoRow => without_row.extend(u32::try_from(read.vmid)),
            Standing::Same => {}
        }
    }
    (differing, without_row)
}

#[cfg(test)]
mod tests {
    use schema::{
        guest::{self, GuestKind, SyncedGuest},
        guest_details::GuestDetails,
        testing::TestDatabase,
    };

    use super::*;

    const LAB: ClusterId = ClusterId(1);

    fn read(vmid: i64) -> GuestRead {
        let details = GuestDetails { storages: Some("local".to_owned()), storage_cfg: None };
        GuestRead { vmid, details, addresses: None }
    }

    fn a_guest(vmid: i64) -> SyncedGuest {
        SyncedGuest {
            vmid,
            vm_name: None,
            node_name: "pve1".to_owned(),
            kind: GuestKind::Qemu,
            status: "running".to_owned(),
            is_template: false.into(),
            cpu_num: None,
            memory_size: None,
            lock: None,
            tags: None,
            pool: None,
            ha_state: None,
            resource_hash: String::new(),
        }
    }

    async fn writer(database: &TestDatabase, vmids: &[i64]) -> DetailsWriter {
        let guests: Vec<_> = vmids.iter().map(|vmid| a_guest(*vmid)).collect();
        let write = async |conn: &mut _| guest::write(conn, LAB, &guests, &[]).await;
        database.db.write(write).await.unwrap();
        let (_, nothing) = mpsc::channel(1);
        DetailsWriter::new(database.db.clone(), LAB, WorkQueue::builder("again").build(), nothing)
    }

    fn now(vmids: impl IntoIterator<Item = i64>) -> BTreeMap<i64, (Instant, GuestRead)> {
        vmids.into_iter().map(|vmid| (vmid, (Instant::now(), read(vmid)))).collect()
    }

    async fn told(database: &TestDatabase) -> Vec<(i64, i64)> {
        let rows = guest::load(&mut database.db.conn().await.unwrap(), LAB).await.unwrap();
        let told = rows.iter().filter(|row| row.storages.as_deref() == Some("local"));
        told.map(|row| (row.synced.vmid, row.revision.0)).collect()
    }

    #[tokio::test]
    async fn a_guest_without_a_row_is_read_again_and_what_is_the_same_is_not_written() {
        let database = TestDatabase::sqlite("details_writer").await;
        let mut writer = writer(&database, &[100]).await;

        for _ in 0..2 {
            writer.pending = now([100, 999]);
            writer.write_batch().await.unwrap();
            assert_eq!(told(&database).await, [(100, 2)]);
        }

        assert!(writer.pending.is_empty());
        assert_eq!(writer.again.len(), 1, "only 999 waits to be read again");
    }

    #[tokio::test]
    async fn what_the_database_does_not_take_stays() {
        let database = TestDatabase::sqlite("details_refused").await;
        let mut writer = writer(&database, &[]).await;
        let more = BATCH + 1;
        writer.pending = now(1..=i64::try_from(more).unwrap());
        database.db.close();

        writer.write_batch().await.unwrap_err();

        assert_eq!(writer.pending.len(), more);
    }

    #[tokio::test]
    async fn a_guest_that_the_database_refuses_holds_up_no_other() {
        let database = TestDatabase::sqlite("details_one").await;
        let mut writer = writer(&database, &[100, 101, 102]).await;
        let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON pve_vm WHEN NEW.vmid = 101 \
                      BEGIN SELECT RAISE(ABORT, 'not this one'); END";
        database.db.conn().await.unwrap().execute_sql(refuse).await.unwrap();
        writer.pending = now([100, 101, 102]);

        writer.write_batch().await.unwrap();

        let vmids: Vec<_> = told(&database).await.into_iter().map(|(vmid, _)| vmid).collect();
        assert_eq!(vmids, [100, 102]);
        assert!(writer.pending.is_empty());
    }

    #[tokio::test]
    async fn what_was_read_long_ago_is_read_again() {
        let database = TestDatabase::sqlite("details_old").await;
        let mut writer = writer(&database, &[100, 101]).await;
        writer.pending = now([100, 101]);
        writer.pending.get_mut(&100).unwrap().0 = Instant::now().checked_sub(FRESH).unwrap();

        writer.write_batch().await.unwrap();

        assert_eq!(told(&database).await, [(101, 2)]);
        assert_eq!(writer.again.try_take().unwrap().key(), &100);
    }
}
