//! `vm_ipaddress`: the addresses that guests tell, through their agent or PVE.

use std::collections::{BTreeSet, HashMap, HashSet};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::batch::{self, CHUNK, Content, Plan, Row, Written, record};
use crate::db::on;
use crate::sql::{self, Sql, There};
use crate::tables::{pve_vm, vm_ipaddress};
use crate::text::{NAME, WORD, fit_in_place, fit_some};
use crate::{ClusterId, Conn, DbError, Flag, GuestId};

/// One address of a guest. The address and the interface are its key within the guest.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = vm_ipaddress)]
pub struct GuestAddress {
    /// As the guest gives it, an IPv6 zone included.
    pub ip_address: String,
    /// The guest's name of the interface; empty if unknown.
    pub nic_name: String,
    /// `net0`, or whatever else PVE calls the interface.
    pub network_id: Option<String>,
    pub mac_address: Option<String>,
}

/// One row.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = vm_ipaddress)]
pub struct AddressRow {
    pub id: i64,
    pub cluster_id: ClusterId,
    pub vm_id: GuestId,
    #[diesel(embed)]
    pub address: GuestAddress,
    /// The guest has stopped telling; this is the last that it said.
    pub stale: Flag,
}

/// What a row says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    vm_id: GuestId,
    address: GuestAddress,
    stale: Flag,
}

record!(
    Row<'_, Told>, vm_ipaddress,
    key [id = id],
    fixed [
        cluster_id = cluster_id, vm_id = content.vm_id, gmt_create = now,
        ip_address = content.address.ip_address, nic_name = content.address.nic_name,
    ],
    synced [
        network_id = content.address.network_id, mac_address = content.address.mac_address,
        stale = content.stale, gmt_modified = now,
    ],
);

impl Content for Told {
    type Key = (GuestId, String, String);

    fn key(&self) -> Self::Key {
        (self.vm_id, self.address.nic_name.clone(), self.address.ip_address.clone())
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }
}

impl AddressRow {
    fn told(&self) -> There<Told> {
        let content = Told { vm_id: self.vm_id, address: self.address.clone(), stale: self.stale };
        There { id: self.id, content }
    }
}

impl GuestAddress {
    fn fitted(&self) -> Self {
        let mut address = self.clone();
        fit_in_place(&mut address.ip_address, WORD);
        fit_in_place(&mut address.nic_name, NAME);
        // MariaDB takes two names that differ by spaces at their end for the same key.
        address.nic_name.truncate(address.nic_name.trim_end_matches(' ').len());
        fit_some(&mut address.network_id, NAME);
        fit_some(&mut address.mac_address, WORD);
        address
    }
}

/// The addresses of one guest, in the order in which they were first told.
pub async fn of_guest(conn: &mut Conn, guest: GuestId) -> Result<Vec<AddressRow>, DbError> {
    let rows = Sql::new("SELECT * FROM vm_ipaddress WHERE vm_id = ").bind(guest);
    sql::fetch(conn, &rows.push(" ORDER BY id")).await
}

/// Every address of a cluster, by guest.
pub async fn load(
    conn: &mut Conn,
    cluster_id: ClusterId,
) -> Result<HashMap<GuestId, Vec<AddressRow>>, DbError> {
    let rows = Sql::new("SELECT * FROM vm_ipaddress WHERE cluster_id = ").bind(cluster_id);
    let rows: Vec<AddressRow> = sql::fetch(conn, &rows.push(" ORDER BY id")).await?;
    let mut by_guest: HashMap<GuestId, Vec<AddressRow>> = HashMap::new();
    for row in rows {
        by_guest.entry(row.vm_id).or_default().push(row);
    }
    Ok(by_guest)
}

/// Every address of these guests.
///
/// Planned each time: a plan that PostgreSQL made while the table was empty reads all of it for ever.
pub(crate) async fn of_guests(
    conn: &mut Conn,
    guests: &[GuestId],
) -> Result<Vec<AddressRow>, DbError> {
    let mut rows = Vec::new();
    for part in guests.chunks(CHUNK) {
        let some = Sql::new("SELECT * FROM vm_ipaddress WHERE vm_id IN ");
        let some = some.list(part.iter().copied());
        rows.extend(sql::fetch::<AddressRow>(conn, &some).await?);
    }
    Ok(rows)
}

/// What a guest tells: `None` is silence, and what it told last stays, marked stale.
pub type Tells<'a> = (GuestId, Option<&'a [GuestAddress]>);

/// What has to be done so that the tables say what guests tell. Pure.
pub(crate) struct Change<'a> {
    plan: Plan<'a, Told>,
    gone: Vec<i64>,
    touched: BTreeSet<GuestId>,
}

/// The rows as they will be.
pub(crate) fn wanted(there: &[AddressRow], tell: &[Tells<'_>]) -> Vec<Told> {
    let mut wanted = Vec::new();
    for &(vm_id, addresses) in tell {
        let of = |address, stale| Told { vm_id, address, stale: Flag(stale) };
        if let Some(addresses) = addresses {
            wanted.extend(addresses.iter().map(|address| of(address.fitted(), false)));
        } else {
            let last = there.iter().filter(|row| row.vm_id == vm_id);
            wanted.extend(last.map(|row| of(row.address.clone(), true)));
        }
    }
    wanted
}

impl<'a> Change<'a> {
    /// `there` are all rows of the guests that `wanted` is about, and no others.
    pub(crate) fn between(there: &[AddressRow], wanted: &'a [Told]) -> Self {
        let there: Vec<There<Told>> = there.iter().map(AddressRow::told).collect();
        let plan = batch::plan(&there, wanted);
        let keys: HashSet<_> = wanted.iter().map(Told::key).collect();
        let gone = there.iter().filter(|row| !keys.contains(&row.content.key()));
        let gone: Vec<(i64, GuestId)> = gone.map(|row| (row.id, row.content.vm_id)).collect();
        let written = plan.insert.iter().chain(plan.update.iter().map(|(_, told)| told));
        let touched =
            written.map(|told| told.vm_id).chain(gone.iter().map(|(_, guest)| *guest)).collect();
        Self { gone: gone.into_iter().map(|(id, _)| id).collect(), touched, plan }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }
}

/// Makes the addresses of these guests be what they tell. Equal rows are left alone; a guest that is
/// gone gets none.
///
/// Call it within [`crate::Db::write`].
pub async fn write(
    conn: &mut Conn,
    cluster_id: ClusterId,
    tell: &[Tells<'_>],
) -> Result<Written, DbError> {
    let guests: Vec<GuestId> = tell.iter().map(|(guest, _)| *guest).collect();
    let there = of_guests(conn, &guests).await?;
    change(conn, cluster_id, tell, &there).await
}

/// [`write`], when all rows of these guests have been read.
pub(crate) async fn change(
    conn: &mut Conn,
    cluster_id: ClusterId,
    tell: &[Tells<'_>],
    there: &[AddressRow],
) -> Result<Written, DbError> {
    let wanted = wanted(there, tell);
    let Change { mut plan, gone, touched } = Change::between(there, &wanted);
    let touched: Vec<GuestId> = touched.into_iter().collect();
    for part in touched.chunks(CHUNK) {
        let held = hold(conn, cluster_id, part).await?;
        plan.insert.retain(|told| !part.contains(&told.vm_id) || held.contains(&told.vm_id));
    }
    let mut deleted = 0;
    for part in gone.chunks(CHUNK) {
        let rows = vm_ipaddress::table.filter(vm_ipaddress::id.eq_any(part));
        deleted += on!(conn, c => diesel::delete(rows).execute(c).await?) as u64;
    }
    // Addresses are read with their guest, so they have no revision of their own.
    let mut written = plan.act(conn, cluster_id, crate::Revision(0)).await?;
    written.deleted += deleted;
    Ok(written)
}

/// Holds the rows of guests until we commit, so that whoever deletes one deletes its addresses too;
/// answers which are there.
async fn hold(
    conn: &mut Conn,
    cluster_id: ClusterId,
    guests: &[GuestId],
) -> Result<HashSet<GuestId>, DbError> {
    let rows = || {
        pve_vm::table.filter(pve_vm::id.eq_any(guests)).filter(pve_vm::cluster_id.eq(cluster_id))
    };
    let held = on!(conn, c => diesel::update(rows())
        .set(pve_vm::vmid.eq(pve_vm::vmid))
        .execute(c)
        .await?);
    if held == guests.len() {
        return Ok(guests.iter().copied().collect());
    }
    let left = rows().select(pve_vm::id);
    Ok(on!(conn, c => left.load::<GuestId>(c).await?).into_iter().collect())
}
