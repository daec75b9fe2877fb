//! What the mirror writes: nodes, guests, storages.

use schema::guest::SyncedGuest;
use schema::node::{NodeStatus, SyncedNode};
use schema::revision::{self, Table};
use schema::storage::StorageUsage;
use schema::testing::TestDatabase;
use schema::{Db, NodeId, Revision, Written, guest, node, now, storage};

use crate::builders::{ATTIC, LAB, a_guest, a_key, a_node, a_storage, run, texts};

#[tokio::test]
async fn what_is_written_is_loaded() {
    for database in TestDatabase::all("loaded").await {
        let (db, kind) = (&database.db, database.kind());
        let nodes = [a_node("n1"), a_node("n2")];
        let guests = [a_guest(100), a_guest(101)];
        let storages = [a_storage("n1", "local"), a_storage("n2", "local")];

        let written = db
            .write(async |conn| {
                let mut written = node::write(conn, LAB, &nodes).await?;
                written += guest::write(conn, LAB, &guests, &[]).await?;
                written += storage::write(conn, LAB, &storages, &[a_key("n1", "gone")]).await?;
                Ok(written)
            })
            .await
            .expect(kind);

        assert_eq!(written, Written { inserted: 6, ..Written::default() }, "{kind}");
        let conn = &mut db.conn().await.unwrap();
        let loaded = node::load(conn, LAB).await.unwrap();
        assert_eq!(loaded.iter().map(|row| row.synced.clone()).collect::<Vec<_>>(), nodes);
        assert_eq!(loaded.iter().map(|row| row.id.0).collect::<Vec<_>>(), [1, 2], "{kind}");
        let loaded = guest::load(conn, LAB).await.unwrap();
        assert_eq!(loaded.iter().map(|row| row.synced.clone()).collect::<Vec<_>>(), guests);
        assert!(loaded.iter().all(|row| row.node_id == Some(NodeId(1))), "{kind}");
        assert!(loaded.iter().all(|row| row.node_ip.as_deref() == Some("10.0.0.1")), "{kind}");
        assert!(loaded.iter().all(|row| row.last_seen.is_some()), "{kind}");
        let loaded = storage::load(conn, LAB).await.unwrap();
        assert_eq!(loaded.into_iter().map(|row| row.synced).collect::<Vec<_>>(), storages);
    }
}

/// A07, as far as the tables are concerned.
#[tokio::test]
async fn an_unchanged_list_writes_nothing_and_one_change_writes_one_row() {
    for database in TestDatabase::all("unchanged").await {
        let (db, kind) = (&database.db, database.kind());
        let mut guests: Vec<_> = (100..1_300).map(a_guest).collect();
        assert_eq!(write_guests(db, &guests).await.inserted, 1_200, "{kind}");
        let before = revision_of(db, Table::Guest).await;
        guests.reverse();

        let written = write_guests(db, &guests).await;

        assert_eq!((written.rows(), written.unchanged), (0, 1_200), "{kind}");
        assert_eq!(revision_of(db, Table::Guest).await, before, "{kind}");

        guests[7].status = "stopped".to_owned();
        let written = write_guests(db, &guests).await;
        assert_eq!((written.rows(), written.updated), (1, 1), "{kind}");
        let changed =
            format!("SELECT CAST(vmid AS CHAR(9)) AS t FROM pve_vm WHERE revision > {before}");
        let changed: Vec<_> =
            texts(db, &changed).await.iter().map(|t| t.trim().to_owned()).collect();
        assert_eq!(changed, [guests[7].vmid.to_string()], "{kind}");

        for guest in &mut guests {
            guest.status = "paused".to_owned();
        }
        assert_eq!(write_guests(db, &guests).await.updated, 1_200, "{kind}");
        assert_eq!(load_guests(db).await.iter().filter(|g| g.status == "paused").count(), 1_200);
    }
}

#[tokio::test]
async fn ids_do_not_burn() {
    for database in TestDatabase::all("ids").await {
        let (db, kind) = (&database.db, database.kind());
        for round in 0..50 {
            let guests: Vec<_> = (100..110)
                .map(|vmid| SyncedGuest { cpu_num: Some(round), ..a_guest(vmid) })
                .collect();
            write_guests(db, &guests).await;
        }

        write_guests(db, &[a_guest(200)]).await;

        let rows = guest::load(&mut db.conn().await.unwrap(), LAB).await.unwrap();
        let ids: Vec<_> = rows.iter().map(|row| row.id.0).collect();
        assert_eq!(ids, (1..=11).collect::<Vec<_>>(), "{kind}");
    }
}

/// A11: the same row throughout, never zero or two.
#[tokio::test]
async fn a_migrated_guest_keeps_its_id_and_follows_its_node() {
    for database in TestDatabase::all("migrated").await {
        let (db, kind) = (&database.db, database.kind());
        let there = SyncedNode { ip_address: Some("10.0.0.2".to_owned()), ..a_node("n2") };
        let nodes = [a_node("n1"), there];
        db.write(async |conn| node::write(conn, LAB, &nodes).await).await.unwrap();
        write_guests(db, &[a_guest(100)]).await;

        let moved = SyncedGuest { node_name: "n2".to_owned(), ..a_guest(100) };
        assert_eq!(write_guests(db, &[moved]).await.updated, 1, "{kind}");

        let rows = guest::load(&mut db.conn().await.unwrap(), LAB).await.unwrap();
        assert_eq!(rows.len(), 1, "{kind}");
        assert_eq!((rows[0].id.0, rows[0].node_id), (1, Some(NodeId(2))), "{kind}");
        assert_eq!(rows[0].node_ip.as_deref(), Some("10.0.0.2"), "{kind}");
    }
}

#[tokio::test]
async fn guests_follow_a_node_that_comes_later_or_moves_to_another_address() {
    for database in TestDatabase::all("relinked").await {
        let (db, kind) = (&database.db, database.kind());
        write_guests(db, &[a_guest(100)]).await;
        let mut node = [a_node("n1")];

        let first = db.write(async |conn| node::write(conn, LAB, &node).await).await.unwrap();
        node[0].ip_address = Some("10.0.0.9".to_owned());
        let moved = db.write(async |conn| node::write(conn, LAB, &node).await).await.unwrap();
        node[0].cpu_num = Some(64);
        let grown = db.write(async |conn| node::write(conn, LAB, &node).await).await.unwrap();

        assert_eq!((first.inserted, first.followed), (1, 1), "{kind}");
        assert_eq!((moved.updated, moved.followed), (1, 1), "{kind}");
        assert_eq!((grown.updated, grown.followed), (1, 0), "{kind}");
        let rows = guest::load(&mut db.conn().await.unwrap(), LAB).await.unwrap();
        assert_eq!(rows[0].node_id, Some(NodeId(1)), "{kind}");
        assert_eq!(rows[0].node_ip.as_deref(), Some("10.0.0.9"), "{kind}");
    }
}

/// A10: a node that left and returns is the same row.
#[tokio::test]
async fn a_node_that_left_keeps_its_row_and_gets_it_back() {
    for database in TestDatabase::all("left").await {
        let (db, kind) = (&database.db, database.kind());
        let (nodes, gone) = ([a_node("n1"), a_node("n2")], ["n2".to_owned(), "n9".to_owned()]);
        db.write(async |conn| node::write(conn, LAB, &nodes).await).await.unwrap();

        let left = db.write(async |conn| node::remove(conn, LAB, &gone).await).await.unwrap();
        let again = db.write(async |conn| node::remove(conn, LAB, &gone).await).await.unwrap();

        assert_eq!((left.updated, left.rows()), (1, 1), "{kind}");
        assert_eq!(again.rows(), 0, "{kind}");
        let rows = node::load(&mut db.conn().await.unwrap(), LAB).await.unwrap();
        assert_eq!(rows[1].synced.status, NodeStatus::Removed, "{kind}");
        let back = db.write(async |conn| node::write(conn, LAB, &nodes).await).await.unwrap();
        assert_eq!((back.inserted, back.updated, back.unchanged), (0, 1, 1), "{kind}");
    }
}

/// A03: equal names and numbers in two clusters are different things.
#[tokio::test]
async fn a_delete_reaches_one_cluster_only() {
    for database in TestDatabase::all("twins").await {
        let (db, kind) = (&database.db, database.kind());
        let (guests, storages) = ([a_guest(100)], [a_storage("n1", "local")]);
        let keys = [a_key("n1", "local")];
        for cluster in [LAB, ATTIC] {
            db.write(async |conn| {
                guest::write(conn, cluster, &guests, &[]).await?;
                storage::write(conn, cluster, &storages, &[]).await
            })
            .await
            .unwrap();
        }

        let gone = db
            .write(async |conn| {
                let mut gone = guest::write(conn, LAB, &[], &[100, 999]).await?;
                gone += storage::write(conn, LAB, &[], &keys).await?;
                Ok(gone)
            })
            .await
            .unwrap();

        assert_eq!((gone.deleted, gone.rows()), (2, 2), "{kind}");
        let conn = &mut db.conn().await.unwrap();
        assert!(guest::load(conn, LAB).await.unwrap().is_empty(), "{kind}");
        assert_eq!(guest::load(conn, ATTIC).await.unwrap().len(), 1, "{kind}");
        assert_eq!(storage::load(conn, ATTIC).await.unwrap().len(), 1, "{kind}");
    }
}

#[tokio::test]
async fn another_guest_under_an_old_number_is_another_row() {
    for database in TestDatabase::all("reborn").await {
        let (db, kind) = (&database.db, database.kind());
        write_guests(db, &[a_guest(100)]).await;
        run(db, "UPDATE pve_vm SET appid = 'shop'").await;
        let reborn = [a_guest(100)];

        let written = db.write(async |conn| guest::write(conn, LAB, &reborn, &[100]).await).await;

        assert_eq!((written.as_ref().unwrap().deleted, written.unwrap().inserted), (1, 1));
        let rows = guest::load(&mut db.conn().await.unwrap(), LAB).await.unwrap();
        assert_eq!((rows.len(), rows[0].id.0, rows[0].appid.as_deref()), (1, 2, None), "{kind}");
    }
}

/// One bad element must not hold up the rest: the answer of PVE goes in as a whole or not.
#[tokio::test]
async fn doubled_keys_overlong_names_and_nuls_do_not_hold_up_the_rest() {
    for database in TestDatabase::all("hostile").await {
        let (db, kind) = (&database.db, database.kind());
        let long = SyncedGuest {
            vm_name: Some("ü".repeat(300)),
            tags: Some("a\0b".to_owned()),
            status: "s".repeat(99),
            ..a_guest(100)
        };
        let guests = [a_guest(101), long, SyncedGuest { cpu_num: Some(2), ..a_guest(101) }];

        assert_eq!(write_guests(db, &guests).await.inserted, 2, "{kind}");
        assert_eq!(write_guests(db, &guests).await.rows(), 0, "{kind}");

        let rows = load_guests(db).await;
        let (doubled, long) =
            (rows.iter().find(|g| g.vmid == 101), rows.iter().find(|g| g.vmid == 100));
        assert_eq!(doubled.unwrap().cpu_num, Some(2), "{kind}");
        assert_eq!(long.unwrap().vm_name, Some("ü".repeat(255)), "{kind}");
        assert_eq!(long.unwrap().tags.as_deref(), Some("ab"), "{kind}");
    }
}

#[tokio::test]
async fn the_usage_batch_raises_no_revision() {
    for database in TestDatabase::all("usage").await {
        let (db, kind) = (&database.db, database.kind());
        let (nodes, guests) = ([a_node("n1")], [a_guest(100), a_guest(101)]);
        let storages = [a_storage("n1", "local"), a_storage("n1", "big")];
        db.write(async |conn| {
            node::write(conn, LAB, &nodes).await?;
            guest::write(conn, LAB, &guests, &[]).await?;
            storage::write(conn, LAB, &storages, &[]).await
        })
        .await
        .unwrap();
        let at = now() + chrono::Duration::seconds(60);
        let full =
            StorageUsage { avail: Some(0), used: None, total: Some(100), used_fraction: Some(1.0) };
        let usage = [(a_key("n1", "big"), full), (a_key("n1", "gone"), full)];

        let touched = db
            .write(async |conn| {
                Ok([
                    node::touch(conn, LAB, &["n1".to_owned()], at).await?,
                    guest::touch(conn, LAB, &[100, 101, 102], at).await?,
                    storage::touch(conn, LAB, &usage, at).await?,
                ])
            })
            .await
            .unwrap();

        assert_eq!(touched, [1, 2, 1], "{kind}");
        let conn = &mut db.conn().await.unwrap();
        let rows = storage::load(conn, LAB).await.unwrap();
        assert_eq!((rows[1].synced.usage, rows[1].last_seen), (full, Some(at)), "{kind}");
        assert_ne!(rows[0].last_seen, Some(at), "{kind}");
        assert!(guest::load(conn, LAB).await.unwrap().iter().all(|row| row.last_seen == Some(at)));
        for table in [Table::Node, Table::Guest, Table::Storage] {
            assert_eq!(revision::current(conn, table).await.unwrap(), Revision(1), "{kind}");
        }
        // How full it is never is a reason to write.
        let written = db.write(async |conn| storage::write(conn, LAB, &storages, &[]).await).await;
        assert_eq!(written.unwrap().rows(), 0, "{kind}");
    }
}

async fn write_guests(db: &Db, guests: &[SyncedGuest]) -> Written {
    db.write(async |conn| guest::write(conn, LAB, guests, &[]).await).await.unwrap()
}

async fn load_guests(db: &Db) -> Vec<SyncedGuest> {
    let rows = guest::load(&mut db.conn().await.unwrap(), LAB).await.unwrap();
    rows.into_iter().map(|row| row.synced).collect()
}

async fn revision_of(db: &Db, table: Table) -> Revision {
    revision::current(&mut db.conn().await.unwrap(), table).await.unwrap()
}
