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
    time::{Instant, sleep_until},
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

/// The longest pause between two attempts while the database is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One cluster's writer of details.
pub(super) struct DetailsWriter {
    db: Db,
    cluster: ClusterId,
    /// Guests to be read again.
    again: WorkQueue<u32>,
    read: mpsc::Receiver<GuestRead>,
    /// By VMID, and of each guest the last.
    pending: BTreeMap<i64, GuestRead>,
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
                    self.pending.insert(read.vmid, read);
                    let full = failures == 0 && self.pending.len() >= BATCH;
                    let now = Instant::now();
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
        let mut batch = Vec::new();
        while let Some((_, read)) = self.pending.pop_first() {
            batch.push(read);
            if batch.len() == BATCH {
                break;
            }
        }
        match self.write(&batch).await {
            Ok(without_row) => {
                for vmid in without_row {
                    self.again.add_after(vmid, ROW);
                }
                Ok(())
            }
            Err(error) => {
                for read in batch {
                    self.pending.entry(read.vmid).or_insert(read);
                }
                Err(error)
            }
        }
    }

    /// Answers for which guests there is no row.
    async fn write(&self, batch: &[GuestRead]) -> Result<Vec<u32>, DbError> {
        let vmids: Vec<i64> = batch.iter().map(|read| read.vmid).collect();
        let look = async |conn: &mut _| guest_details::look(conn, self.cluster, &vmids).await;
        let (differing, without_row) = sorted(&self.db.ask(look).await?, batch);
        if !differing.is_empty() {
            let write =
                async |conn: &mut _| guest_details::write(conn, self.cluster, &differing).await;
            self.db.write(write).await?;
        }
        Ok(without_row)
    }
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

    async fn writer(database: &TestDatabase) -> DetailsWriter {
        let guests = [a_guest(100)];
        let write = async |conn: &mut _| guest::write(conn, LAB, &guests, &[]).await;
        database.db.write(write).await.unwrap();
        let (_, nothing) = mpsc::channel(1);
        DetailsWriter::new(database.db.clone(), LAB, WorkQueue::builder("again").build(), nothing)
    }

    #[tokio::test]
    async fn a_guest_without_a_row_is_read_again_and_what_is_the_same_is_not_written() {
        let database = TestDatabase::sqlite("details_writer").await;
        let mut writer = writer(&database).await;
        let mut seen = Vec::new();

        for _ in 0..2 {
            writer.pending = [(100, read(100)), (999, read(999))].into();
            writer.write_batch().await.unwrap();
            let rows = guest::load(&mut database.db.conn().await.unwrap(), LAB).await.unwrap();
            seen.push((rows[0].storages.clone(), rows[0].revision.0));
        }

        assert!(writer.pending.is_empty());
        assert_eq!(seen, vec![(Some("local".to_owned()), 2); 2]);
        assert_eq!(writer.again.len(), 1, "only 999 waits to be read again");
    }

    #[tokio::test]
    async fn what_the_database_does_not_take_stays() {
        let database = TestDatabase::sqlite("details_refused").await;
        let mut writer = writer(&database).await;
        let last = i64::try_from(BATCH).unwrap() + 1;
        writer.pending = (1..=last).map(|vmid| (vmid, read(vmid))).collect();
        database.db.close();

        writer.write_batch().await.unwrap_err();

        assert_eq!(writer.pending.len(), BATCH + 1);
    }
}
