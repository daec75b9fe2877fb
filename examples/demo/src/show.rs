//! Prints what is in the tables.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::bail;
use schema::{ClusterId, Db, guest, guest::GuestRow, node, storage};

/// Guests that the first table shows.
const FIRST: usize = 12;

/// The three tables, as they are.
pub(crate) async fn tables(db: &Db, id: ClusterId) -> anyhow::Result<()> {
    let mut conn = db.conn().await?;
    let (mut nodes, mut guests, mut storages) = (
        node::load(&mut conn, id).await?,
        guest::load(&mut conn, id).await?,
        storage::load(&mut conn, id).await?,
    );
    drop(conn);
    nodes.sort_by(|a, b| a.synced.node_name.cmp(&b.synced.node_name));
    guests.sort_by_key(|row| row.synced.vmid);
    storages.sort_by(|a, b| a.synced.key.cmp(&b.synced.key));

    println!(
        "pve_node ({})\n  {:>4}  {:<10} {:<9} {:<15} {:>4} {:>10}",
        nodes.len(),
        "id",
        "node_name",
        "status",
        "ip_address",
        "cpu",
        "memory"
    );
    for row in &nodes {
        let node = &row.synced;
        println!(
            "  {:>4}  {:<10} {:<9} {:<15} {:>4} {:>6} MiB",
            row.id,
            node.node_name,
            node.status.as_str(),
            or_dash(node.ip_address.as_deref()),
            node.cpu_num.unwrap_or(0),
            node.memory_size.unwrap_or(0),
        );
    }
    println!(
        "\npve_vm ({})\n  {:>4}  {:>5} {:<22} {:<5} {:<8} {:<8} {:>4} {:>10}  tags",
        guests.len(),
        "id",
        "vmid",
        "vm_name",
        "kind",
        "status",
        "node",
        "cpu",
        "memory"
    );
    for row in guests.iter().take(FIRST) {
        line(row);
    }
    if guests.len() > FIRST {
        println!("  … and {} more", guests.len() - FIRST);
    }
    println!(
        "\npve_storage ({})\n  {:>4}  {:<8} {:<12} {:<8} {:>6} {:>12}  content",
        storages.len(),
        "id",
        "node",
        "storage",
        "type",
        "shared",
        "total"
    );
    for row in &storages {
        let storage = &row.synced;
        let gib = storage.usage.total.unwrap_or(0) >> 30;
        println!(
            "  {:>4}  {:<8} {:<12} {:<8} {:>6} {:>8} GiB  {}",
            row.id,
            storage.key.node_name,
            storage.key.storage_name,
            storage.kind,
            i32::from(storage.shared.0),
            gib,
            or_dash(storage.content.as_deref()),
        );
    }
    Ok(())
}

/// Waits until a guest's row is as expected, and says how long that took.
pub(crate) async fn until(
    db: &Db,
    id: ClusterId,
    vmid: u32,
    expected: impl Fn(Option<&GuestRow>) -> bool,
) -> anyhow::Result<()> {
    let started = SystemTime::now();
    for _ in 0..600 {
        let rows = guest::load(&mut db.conn().await?, id).await?;
        let row = rows.iter().find(|row| row.synced.vmid == i64::from(vmid));
        if expected(row) {
            let took = started.elapsed().unwrap_or_default();
            match row {
                Some(row) => line(row),
                None => println!(
                    "  no row {vmid} any more: absent from two lists, and the token may still see it"
                ),
            }
            println!("  after {:.1} s", took.as_secs_f64());
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the row of {vmid} is not as expected after 30 s")
}

/// Prints guests as they come, change and go, for ever.
pub(crate) async fn changes(db: &Db, id: ClusterId) -> anyhow::Result<()> {
    let mut known: Option<BTreeMap<i64, GuestRow>> = None;
    loop {
        let rows = guest::load(&mut db.conn().await?, id).await?;
        let rows: BTreeMap<i64, GuestRow> =
            rows.into_iter().map(|row| (row.synced.vmid, row)).collect();
        if let Some(known) = &known {
            for (vmid, row) in &rows {
                if known.get(vmid).is_none_or(|before| before.synced != row.synced) {
                    line(row);
                }
            }
            for vmid in known.keys().filter(|vmid| !rows.contains_key(vmid)) {
                println!("  no row {vmid} any more");
            }
        }
        known = Some(rows);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn line(row: &GuestRow) {
    let guest = &row.synced;
    println!(
        "  {:>4}  {:>5} {:<22} {:<5} {:<8} {:<8} {:>4} {:>6} MiB  {}",
        row.id,
        guest.vmid,
        or_dash(guest.vm_name.as_deref()),
        guest.kind.as_str(),
        guest.status,
        guest.node_name,
        guest.cpu_num.unwrap_or(0),
        guest.memory_size.unwrap_or(0),
        or_dash(guest.tags.as_deref()),
    );
}

fn or_dash(text: Option<&str>) -> &str {
    text.unwrap_or("-")
}
