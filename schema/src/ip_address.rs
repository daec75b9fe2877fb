//! `vm_ipaddress`: the addresses that guests tell, through their agent or PVE.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::batch::{self, CHUNK, Content, Row, Written, record};
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

#[derive(Clone, Debug, PartialEq)]
struct Told {
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
    type Key = (String, String);

    fn key(&self) -> Self::Key {
        (self.address.nic_name.clone(), self.address.ip_address.clone())
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }
}

impl GuestAddress {
    fn fitted(&self) -> Self {
        let mut address = self.clone();
        fit_in_place(&mut address.ip_address, WORD);
        fit_in_place(&mut address.nic_name, NAME);
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

/// Makes the guest's addresses be these, none of them stale. Equal rows are left alone; a guest
/// that is gone gets none.
///
/// Call it within [`crate::Db::write`].
pub async fn replace(
    conn: &mut Conn,
    cluster_id: ClusterId,
    guest: GuestId,
    addresses: &[GuestAddress],
) -> Result<Written, DbError> {
    let there: Vec<There<Told>> = of_guest(conn, guest)
        .await?
        .into_iter()
        .map(|row| There {
            id: row.id,
            content: Told { vm_id: guest, address: row.address, stale: row.stale },
        })
        .collect();
    let wanted: Vec<Told> = addresses
        .iter()
        .map(|address| Told { vm_id: guest, address: address.fitted(), stale: Flag(false) })
        .collect();
    let plan = batch::plan(&there, &wanted);
    let gone: Vec<i64> = there
        .iter()
        .filter(|row| wanted.iter().all(|told| told.key() != row.content.key()))
        .map(|row| row.id)
        .collect();
    let nothing = Written { unchanged: plan.unchanged, ..Written::default() };
    if plan.is_empty() && gone.is_empty() {
        return Ok(nothing);
    }
    // Holds the guest's row until we commit, so that whoever deletes it deletes these too.
    let row = pve_vm::table.filter(pve_vm::id.eq(guest)).filter(pve_vm::cluster_id.eq(cluster_id));
    let held =
        on!(conn, c => diesel::update(row).set(pve_vm::vmid.eq(pve_vm::vmid)).execute(c).await?);
    if held == 0 {
        return Ok(nothing);
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

/// Notes that the guest does not tell its addresses any more; says how many that changed.
pub async fn mark_stale(conn: &mut Conn, guest: GuestId) -> Result<u64, DbError> {
    let rows = vm_ipaddress::table
        .filter(vm_ipaddress::vm_id.eq(guest))
        .filter(vm_ipaddress::stale.eq(Flag(false)));
    Ok(on!(conn, c => diesel::update(rows)
        .set((vm_ipaddress::stale.eq(Flag(true)), vm_ipaddress::gmt_modified.eq(crate::now())))
        .execute(c)
        .await?) as u64)
}
