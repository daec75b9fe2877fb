//! A04: what people wrote survives whatever the mirror writes.

use schema::guest::SyncedGuest;
use schema::guest_details::{self, GuestDetails, GuestRead};
use schema::node::{NodeStatus, SyncedNode};
use schema::testing::TestDatabase;
use schema::{Flag, guest, node};

use crate::builders::{LAB, a_guest, a_node, run, texts};

const OURS: &str = "SELECT CONCAT(is_schedulable, '|', annotations, '|', vm_limit, '|', \
    gmt_create, '|', creator) AS t FROM pve_node";
const GUESTS: &str = "SELECT CONCAT(template_id, '|', appid, '|', descriptions, '|', vm_user, \
    '|', vm_password, '|', gmt_create, '|', creator, '|', modifier) AS t FROM pve_vm";

#[tokio::test]
async fn user_columns_survive_status_flips() {
    for database in TestDatabase::all("usercolumns").await {
        let (db, kind) = (&database.db, database.kind());
        write(db, a_node("n1"), a_guest(100)).await;
        run(
            db,
            "UPDATE pve_node SET is_schedulable = 0, annotations = 'rack 4', vm_limit = 30, \
             gmt_create = '2020-02-20 20:20:20.020', creator = 'ann'; \
             UPDATE pve_vm SET template_id = 7, appid = 'shop', descriptions = 'front', \
             vm_user = 'root', vm_password = 'v1:x', gmt_create = '2020-02-20 20:20:20.020', \
             creator = 'ann', modifier = 'bob'",
        )
        .await;
        let (nodes, guests) = (texts(db, OURS).await, texts(db, GUESTS).await);

        for status in [NodeStatus::Offline, NodeStatus::Online] {
            let node = SyncedNode { status, ip_address: None, ..a_node("n1") };
            let guest = SyncedGuest {
                status: status.as_str().to_owned(),
                is_template: Flag(true),
                ..a_guest(100)
            };
            write(db, node, guest).await;
        }
        db.write(async |conn| {
            node::remove(conn, LAB, &["n1".to_owned()]).await?;
            let details = GuestDetails { storages: Some("local".to_owned()), storage_cfg: None };
            let read = [GuestRead { vmid: 100, details, addresses: None }];
            guest_details::write(conn, LAB, &read).await
        })
        .await
        .unwrap();
        write(db, a_node("n1"), a_guest(100)).await;

        assert_eq!(texts(db, OURS).await, nodes, "{kind}");
        assert_eq!(texts(db, GUESTS).await, guests, "{kind}");
        assert!(guests[0].starts_with("7|shop|front|root|v1:x|2020-02-20 20:20:20.02"), "{kind}");
    }
}

async fn write(db: &schema::Db, node: SyncedNode, guest: SyncedGuest) {
    let (nodes, guests) = ([node], [guest]);
    db.write(async |conn| {
        node::write(conn, LAB, &nodes).await?;
        guest::write(conn, LAB, &guests, &[]).await
    })
    .await
    .unwrap();
}
