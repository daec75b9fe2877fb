//! A18, as far as the tables are concerned: addresses of guests.

use schema::ip_address::{self, GuestAddress};
use schema::testing::TestDatabase;
use schema::{Db, Flag, GuestId, Written, guest};

use crate::builders::{LAB, a_guest};

fn an_address(nic: &str, ip: &str) -> GuestAddress {
    GuestAddress {
        ip_address: ip.to_owned(),
        nic_name: nic.to_owned(),
        network_id: Some("net0".to_owned()),
        mac_address: None,
    }
}

#[tokio::test]
async fn equal_addresses_are_left_alone() {
    for database in TestDatabase::all("addresses").await {
        let (db, kind) = (&database.db, database.kind());
        let guests = [a_guest(100)];
        db.write(async |conn| guest::write(conn, LAB, &guests, &[]).await).await.unwrap();
        let guest = GuestId(1);
        let before = [an_address("eth0", "10.0.0.1"), an_address("以太网", "fe80::1%eth0")];
        // To MariaDB the name of another one, with a space at its end, is the same name.
        let twice = [before.as_slice(), &[an_address("eth0 ", "10.0.0.1")]].concat();
        let after = [
            GuestAddress { mac_address: Some("bc:24:11:00:00:01".to_owned()), ..before[0].clone() },
            before[1].clone(),
            an_address("", "10.0.0.2"),
        ];

        assert_eq!(replace(db, guest, &before).await.inserted, 2, "{kind}");
        assert_eq!(replace(db, guest, &before).await.rows(), 0, "{kind}");
        assert_eq!(replace(db, guest, &twice).await.rows(), 0, "{kind}");
        let changed = replace(db, guest, &after).await;
        let fewer = replace(db, guest, &after[1..]).await;

        let expected = Written { inserted: 1, updated: 1, unchanged: 1, ..Written::default() };
        assert_eq!(changed, expected, "{kind}");
        assert_eq!((fewer.deleted, fewer.unchanged), (1, 2), "{kind}");
        let conn = &mut db.conn().await.unwrap();
        let rows = ip_address::of_guest(conn, guest).await.unwrap();
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids, [2, 3], "{kind}");
        assert_eq!(ip_address::load(conn, LAB).await.unwrap()[&guest], rows, "{kind}");
    }
}

#[tokio::test]
async fn a_silent_agent_leaves_the_last_addresses_marked_stale() {
    for database in TestDatabase::all("stale").await {
        let (db, kind) = (&database.db, database.kind());
        let (guests, told) = ([a_guest(100)], [an_address("eth0", "10.0.0.1")]);
        db.write(async |conn| guest::write(conn, LAB, &guests, &[]).await).await.unwrap();
        replace(db, GuestId(1), &told).await;
        let conn = &mut db.conn().await.unwrap();

        assert_eq!(tell(db, GuestId(1), None).await.updated, 1, "{kind}");
        assert_eq!(tell(db, GuestId(1), None).await.rows(), 0, "{kind}");
        let rows = ip_address::of_guest(conn, GuestId(1)).await.unwrap();
        assert_eq!((rows.len(), rows[0].stale), (1, Flag(true)), "{kind}");

        assert_eq!(replace(db, GuestId(1), &told).await.updated, 1, "{kind}");
        let rows = ip_address::of_guest(conn, GuestId(1)).await.unwrap();
        assert_eq!(rows[0].stale, Flag(false), "{kind}");
    }
}

#[tokio::test]
async fn addresses_go_with_their_guest_and_none_come_after_it() {
    for database in TestDatabase::all("gone").await {
        let (db, kind) = (&database.db, database.kind());
        let (guests, told) = ([a_guest(100)], [an_address("eth0", "10.0.0.1")]);
        db.write(async |conn| guest::write(conn, LAB, &guests, &[]).await).await.unwrap();
        replace(db, GuestId(1), &told).await;

        let gone = db.write(async |conn| guest::write(conn, LAB, &[], &[100]).await).await.unwrap();
        let late = replace(db, GuestId(1), &told).await;

        assert_eq!((gone.deleted, gone.followed, late.rows()), (1, 1, 0), "{kind}");
        let conn = &mut db.conn().await.unwrap();
        assert!(ip_address::of_guest(conn, GuestId(1)).await.unwrap().is_empty(), "{kind}");
    }
}

async fn replace(db: &Db, guest: GuestId, addresses: &[GuestAddress]) -> Written {
    tell(db, guest, Some(addresses)).await
}

async fn tell(db: &Db, guest: GuestId, addresses: Option<&[GuestAddress]>) -> Written {
    let tell = [(guest, addresses)];
    db.write(async |conn| ip_address::write(conn, LAB, &tell).await).await.unwrap()
}
