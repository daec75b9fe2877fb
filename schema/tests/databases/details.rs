//! A18: what is read of guests by themselves, written for many at once.

use schema::guest_details::{self, GuestDetails, GuestRead, Standing};
use schema::ip_address::{self, GuestAddress};
use schema::testing::TestDatabase;
use schema::{Db, Flag, Revision, Written, guest};

use crate::builders::{LAB, a_guest};

fn a_read(vmid: i64, ip: &str) -> GuestRead {
    GuestRead {
        vmid,
        details: GuestDetails {
            storages: Some("local-lvm".to_owned()),
            storage_cfg: Some(format!(r#"{{"scsi0":"local-lvm:vm-{vmid}-disk-0"}}"#)),
        },
        addresses: Some(vec![GuestAddress {
            ip_address: ip.to_owned(),
            nic_name: "eth0".to_owned(),
            network_id: None,
            mac_address: None,
        }]),
    }
}

#[tokio::test]
async fn details_are_written_once_and_only_to_a_guest_that_is_there() {
    for database in TestDatabase::all("details").await {
        let (db, kind) = (&database.db, database.kind());
        write_guests(db, &[100, 101, 102]).await;
        // The same address on two guests is two rows.
        let read = [a_read(100, "10.0.0.1"), a_read(102, "10.0.0.1"), a_read(999, "10.0.0.9")];

        assert_eq!(
            standings(db, &read).await,
            [Standing::Differs, Standing::Differs, Standing::NoRow]
        );
        let first = write(db, &read).await;
        let again = write(db, &read).await;

        assert_eq!((first.updated, first.inserted), (2, 2), "{kind}");
        assert_eq!(again.rows(), 0, "{kind}");
        assert_eq!(standings(db, &read).await, [Standing::Same, Standing::Same, Standing::NoRow]);
        let rows = guest::load(&mut db.conn().await.unwrap(), LAB).await.unwrap();
        let told: Vec<_> = rows.iter().map(|row| row.details_at.is_some()).collect();
        assert_eq!(told, [true, false, true], "{kind}");
        assert_eq!(rows[2].storage_cfg, read[1].details.storage_cfg, "{kind}");
        // One for all of them.
        assert_eq!(rows[0].revision, Revision(2), "{kind}");
        assert_eq!(rows[2].revision, Revision(2), "{kind}");
    }
}

#[tokio::test]
async fn of_many_guests_only_those_that_differ_are_touched() {
    for database in TestDatabase::all("differing").await {
        let (db, kind) = (&database.db, database.kind());
        write_guests(db, &[100, 101, 102]).await;
        let mut read = [a_read(100, "10.0.0.1"), a_read(101, "10.0.0.2"), a_read(102, "10.0.0.3")];
        write(db, &read).await;

        read[1].addresses = None;
        read[2].details.storages = None;

        assert_eq!(
            standings(db, &read).await,
            [Standing::Same, Standing::Differs, Standing::Differs]
        );
        let written = write(db, &read).await;
        let expected = Written { updated: 2, unchanged: 2, ..Written::default() };
        assert_eq!(written, expected, "{kind}");
        let conn = &mut db.conn().await.unwrap();
        let rows = ip_address::load(conn, LAB).await.unwrap();
        let stale: Vec<_> = [1, 2, 3].map(|id| rows[&schema::GuestId(id)][0].stale).into();
        assert_eq!(stale, [Flag(false), Flag(true), Flag(false)], "{kind}");
        let guests = guest::load(conn, LAB).await.unwrap();
        assert_eq!((guests[1].revision, guests[2].revision), (Revision(2), Revision(3)), "{kind}");
        assert_eq!(guests[2].storages, None, "{kind}");
    }
}

/// While somebody deletes a guest, its addresses must not be written after it.
#[tokio::test]
async fn addresses_of_a_guest_that_went_meanwhile_are_not_written() {
    for database in TestDatabase::all("went").await {
        let (db, kind) = (&database.db, database.kind());
        write_guests(db, &[100, 101]).await;
        let gone = [100];
        db.write(async |conn| guest::write(conn, LAB, &[], &gone).await).await.unwrap();
        let address = a_read(100, "10.0.0.1").addresses.unwrap();

        let tell =
            [(schema::GuestId(1), Some(&address[..])), (schema::GuestId(2), Some(&address[..]))];
        let tell = async |conn: &mut _| ip_address::write(conn, LAB, &tell).await;
        let written = db.write(tell).await.unwrap();

        assert_eq!(written.inserted, 1, "{kind}");
    }
}

async fn standings(db: &Db, read: &[GuestRead]) -> Vec<Standing> {
    let vmids: Vec<i64> = read.iter().map(|one| one.vmid).collect();
    let look = async |conn: &mut _| guest_details::look(conn, LAB, &vmids).await;
    let seen = db.ask(look).await.unwrap();
    read.iter().map(|one| seen.standing(one)).collect()
}

async fn write(db: &Db, read: &[GuestRead]) -> Written {
    db.write(async |conn| guest_details::write(conn, LAB, read).await).await.unwrap()
}

async fn write_guests(db: &Db, vmids: &[i64]) {
    let guests: Vec<_> = vmids.iter().map(|vmid| a_guest(*vmid)).collect();
    db.write(async |conn| guest::write(conn, LAB, &guests, &[]).await).await.unwrap();
}
