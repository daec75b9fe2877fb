//! What is read of each guest by itself: its disks, and the addresses that it tells. Looked at and
//! written for many guests at once.

use std::collections::HashMap;

use diesel::prelude::*;

use crate::batch::{self, CHUNK, Row, Written, record};
use crate::ip_address::{self, AddressRow, Change, GuestAddress};
use crate::revision::{self, Table};
use crate::sql::{self, Sql};
use crate::tables::pve_vm;
use crate::text::fit_some;
use crate::{ClusterId, Conn, DbError, GuestId, Timestamp};

/// What only the guest's configuration tells.
#[derive(Clone, Debug, Default, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = pve_vm)]
pub struct GuestDetails {
    /// Names of the storages of its disks, separated by commas.
    pub storages: Option<String>,
    /// The disks as JSON.
    pub storage_cfg: Option<String>,
}

/// What was read of one guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuestRead {
    pub vmid: i64,
    pub details: GuestDetails,
    /// `None` if it does not tell them: what it told last stays, marked stale.
    pub addresses: Option<Vec<GuestAddress>>,
}

/// What the tables say of some guests.
#[derive(Debug)]
pub struct Seen {
    guests: HashMap<i64, DetailsRow>,
    addresses: HashMap<GuestId, Vec<AddressRow>>,
}

/// How the tables stand to what was read of a guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// They do not have the guest, not yet or not any more.
    NoRow,
    Same,
    Differs,
}

#[derive(Debug, QueryableByName)]
#[diesel(table_name = pve_vm)]
struct DetailsRow {
    id: GuestId,
    vmid: i64,
    #[diesel(embed)]
    details: GuestDetails,
    details_at: Option<Timestamp>,
}

record!(
    Row<'_, GuestDetails>, pve_vm,
    key [id = id],
    fixed [],
    synced [
        storages = content.storages, storage_cfg = content.storage_cfg, details_at = now,
        gmt_modified = now, revision = revision,
    ],
);

impl GuestDetails {
    fn fitted(&self) -> Self {
        let mut details = self.clone();
        fit_some(&mut details.storages, usize::MAX);
        fit_some(&mut details.storage_cfg, usize::MAX);
        details
    }
}

impl DetailsRow {
    fn says(&self, details: &GuestDetails) -> bool {
        self.details_at.is_some() && self.details == details.fitted()
    }
}

impl Seen {
    /// Pure.
    pub fn standing(&self, read: &GuestRead) -> Standing {
        let Some(row) = self.guests.get(&read.vmid) else { return Standing::NoRow };
        let there = self.addresses.get(&row.id).map_or(&[][..], Vec::as_slice);
        let wanted = ip_address::wanted(there, &[(row.id, read.addresses.as_deref())]);
        if row.says(&read.details) && Change::between(there, &wanted).is_empty() {
            Standing::Same
        } else {
            Standing::Differs
        }
    }
}

/// What the tables say of these guests. Two statements: for deciding whether to write, which looks
/// again, they need not be of one moment.
pub async fn look(conn: &mut Conn, cluster_id: ClusterId, vmids: &[i64]) -> Result<Seen, DbError> {
    let guests = rows(conn, cluster_id, vmids).await?;
    let ids: Vec<GuestId> = guests.values().map(|row| row.id).collect();
    let mut addresses: HashMap<GuestId, Vec<AddressRow>> = HashMap::new();
    for row in ip_address::of_guests(conn, &ids).await? {
        addresses.entry(row.vm_id).or_default().push(row);
    }
    Ok(Seen { guests, addresses })
}

/// Writes what was read of guests where it differs; of a guest that is gone nothing.
///
/// Call it within [`crate::Db::write`].
pub async fn write(
    conn: &mut Conn,
    cluster_id: ClusterId,
    read: &[GuestRead],
) -> Result<Written, DbError> {
    let vmids: Vec<i64> = read.iter().map(|one| one.vmid).collect();
    // All is read before the revision is raised, which everybody who changes guests waits for.
    let Seen { guests, addresses } = look(conn, cluster_id, &vmids).await?;
    let found: Vec<(&DetailsRow, &GuestRead)> =
        read.iter().filter_map(|one| Some((guests.get(&one.vmid)?, one))).collect();
    let differing = found.iter().filter(|(row, one)| !row.says(&one.details));
    let details: Vec<_> = differing.map(|(row, one)| (row.id.0, one.details.fitted())).collect();
    let mut written = Written::default();
    if !details.is_empty() {
        let revision = revision::raise(conn, Table::Guest).await?;
        let now = crate::now();
        let row = |id: i64, content| Row { id, cluster_id, content, revision, now };
        let changed: Vec<_> = details.iter().map(|(id, content)| row(*id, content)).collect();
        written.updated = batch::update(conn, &changed).await?;
    }
    let tell: Vec<_> = found.iter().map(|(row, one)| (row.id, one.addresses.as_deref())).collect();
    let there: Vec<AddressRow> = addresses.into_values().flatten().collect();
    written += ip_address::change(conn, cluster_id, &tell, &there).await?;
    Ok(written)
}

/// Planned each time, as the addresses are.
async fn rows(
    conn: &mut Conn,
    cluster_id: ClusterId,
    vmids: &[i64],
) -> Result<HashMap<i64, DetailsRow>, DbError> {
    let mut rows = HashMap::new();
    for part in vmids.chunks(CHUNK) {
        let some = Sql::new(
            "SELECT id, vmid, storages, storage_cfg, details_at FROM pve_vm WHERE cluster_id = ",
        );
        let some = some.bind(cluster_id).push(" AND vmid IN ").list(part.iter().copied());
        let some: Vec<DetailsRow> = sql::fetch(conn, &some).await?;
        rows.extend(some.into_iter().map(|row| (row.vmid, row)));
    }
    Ok(rows)
}
