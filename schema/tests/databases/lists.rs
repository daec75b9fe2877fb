//! What the API lists.

use schema::guest::{GuestFilter, GuestKind, SyncedGuest};
use schema::node::{NodeFilter, NodeStatus};
use schema::page::Page;
use schema::storage::{StorageFilter, SyncedStorage};
use schema::testing::TestDatabase;
use schema::{ClusterId, Db, Flag, GuestId, NodeId, StorageId, guest, node, storage};

use crate::builders::{ATTIC, LAB, a_guest, a_node, a_storage, run, two_clusters};

#[tokio::test]
async fn guests_are_found_by_every_filter() {
    for database in TestDatabase::all("guestlist").await {
        let (db, kind) = (&database.db, database.kind());
        fill(db).await;
        let by = |change: fn(&mut GuestFilter)| {
            let mut filter = GuestFilter::default();
            change(&mut filter);
            filter
        };
        let cases: Vec<(&str, GuestFilter, &[i64])> = vec![
            ("all", GuestFilter::default(), &[200, 102, 101, 100]),
            ("cluster", by(|f| f.cluster_id = Some(LAB)), &[102, 101, 100]),
            ("cluster name", by(|f| f.cluster_name = Some("attic".into())), &[200]),
            ("node id", by(|f| f.node_id = Some(NodeId(2))), &[101]),
            ("node name", by(|f| f.node_name = Some("n2".into())), &[101]),
            ("status", by(|f| f.status = Some("stopped".into())), &[102]),
            ("name", by(|f| f.name = Some("sync-gateway".into())), &[101]),
            ("half a name", by(|f| f.name = Some("sync".into())), &[]),
            ("vmid", by(|f| f.vmid = Some(200)), &[200]),
            ("only tag", by(|f| f.tag = Some("web".into())), &[102, 101, 100]),
            ("last tag", by(|f| f.tag = Some("x_y".into())), &[100]),
            ("middle tag", by(|f| f.tag = Some("100%".into())), &[101]),
            ("half a tag", by(|f| f.tag = Some("we".into())), &[]),
            ("wildcard", by(|f| f.tag = Some("%".into())), &[]),
            ("other case", by(|f| f.tag = Some("WEB".into())), &[]),
            ("pool", by(|f| f.pool = Some("prod".into())), &[102]),
            ("templates", by(|f| f.is_template = Some(true)), &[102]),
            ("kind", by(|f| f.kind = Some(GuestKind::Lxc)), &[101]),
            (
                "two at once",
                by(|f| {
                    f.tag = Some("web".into());
                    f.kind = Some(GuestKind::Qemu);
                }),
                &[102, 100],
            ),
        ];

        for (name, filter, expected) in cases {
            let page = Page::number(1, 10);
            let found = db.read(async |conn| guest::list(conn, &filter, page).await).await.unwrap();
            let vmids: Vec<_> = found.list.iter().map(|item| item.row.synced.vmid).collect();
            assert_eq!(vmids, expected, "{kind}: {name}");
            assert_eq!(found.total, i64::try_from(expected.len()).ok(), "{kind}: {name}");
        }
        let one = guest::get(&mut db.conn().await.unwrap(), GuestId(4)).await.unwrap().unwrap();
        assert_eq!((one.row.synced.vmid, one.cluster_name.as_str()), (200, "attic"), "{kind}");
    }
}

#[tokio::test]
async fn pages_count_all_and_show_the_newest_first() {
    for database in TestDatabase::all("pagelist").await {
        let (db, kind) = (&database.db, database.kind());
        fill(db).await;
        let filter = GuestFilter::default();
        let mut pages = Vec::new();

        for page in 1..=3 {
            let page = Page::number(page, 2);
            let found = db.read(async |conn| guest::list(conn, &filter, page).await).await.unwrap();
            assert_eq!(found.total, Some(4), "{kind}");
            pages.push(found.list.iter().map(|item| item.row.id.0).collect::<Vec<_>>());
        }

        assert_eq!(pages, [vec![4, 3], vec![2, 1], vec![]], "{kind}");
    }
}

#[tokio::test]
async fn removed_nodes_are_listed_only_when_asked_for() {
    for database in TestDatabase::all("nodelist").await {
        let (db, kind) = (&database.db, database.kind());
        fill(db).await;
        let names = async |filter: NodeFilter| {
            let page = Page::default();
            let found = db.read(async |conn| node::list(conn, &filter, page).await).await.unwrap();
            found.list.into_iter().map(|item| item.row.synced.node_name).collect::<Vec<_>>()
        };

        let default = names(NodeFilter::default()).await;
        let removed =
            names(NodeFilter { status: Some(NodeStatus::Removed), ..NodeFilter::default() });
        let removed = removed.await;
        let second =
            names(NodeFilter { node_name: Some("n2".into()), ..NodeFilter::default() }).await;
        let one = names(NodeFilter {
            cluster_id: Some(ATTIC),
            cluster_name: Some("attic".into()),
            node_id: Some(NodeId(4)),
            ..NodeFilter::default()
        });

        assert_eq!(default, ["n1", "n2", "n1"], "{kind}");
        assert_eq!(removed, ["n3"], "{kind}");
        assert_eq!(second, ["n2"], "{kind}");
        assert_eq!(one.await, ["n1"], "{kind}");
        let conn = &mut db.conn().await.unwrap();
        assert!(node::get(conn, NodeId(3)).await.unwrap().is_some(), "{kind}");
        assert!(node::get(conn, NodeId(99)).await.unwrap().is_none(), "{kind}");
    }
}

#[tokio::test]
async fn storages_are_found_by_every_filter() {
    for database in TestDatabase::all("storagelist").await {
        let (db, kind) = (&database.db, database.kind());
        fill(db).await;
        let by = |change: fn(&mut StorageFilter)| {
            let mut filter = StorageFilter::default();
            change(&mut filter);
            filter
        };
        let cases: Vec<(StorageFilter, &[i64])> = vec![
            (StorageFilter::default(), &[3, 2, 1]),
            (by(|f| f.cluster_id = Some(LAB)), &[2, 1]),
            (by(|f| f.cluster_name = Some("attic".into())), &[3]),
            (by(|f| f.node_id = Some(NodeId(1))), &[1]),
            (by(|f| f.node_id = Some(NodeId(99))), &[]),
            (by(|f| f.node_name = Some("n1".into())), &[3, 1]),
            (by(|f| f.name = Some("ceph".into())), &[2]),
            (by(|f| f.kind = Some("rbd".into())), &[2]),
            (by(|f| f.active = Some(false)), &[2]),
            (by(|f| f.shared = Some(true)), &[2]),
        ];

        for (filter, expected) in cases {
            let page = Page::default();
            let found =
                db.read(async |conn| storage::list(conn, &filter, page).await).await.unwrap();
            let ids: Vec<_> = found.list.iter().map(|item| item.row.id.0).collect();
            assert_eq!(ids, expected, "{kind}: {filter:?}");
        }
        let one = storage::get(&mut db.conn().await.unwrap(), StorageId(2)).await.unwrap().unwrap();
        assert_eq!(one.row.synced.kind, "rbd", "{kind}");
    }
}

#[tokio::test]
async fn rows_of_a_cluster_that_is_gone_are_not_listed() {
    for database in TestDatabase::all("orphanlist").await {
        let (db, kind) = (&database.db, database.kind());
        fill(db).await;
        run(db, "DELETE FROM pve_cluster WHERE cluster_name = 'lab'").await;

        let (filter, page) = (GuestFilter::default(), Page::default());
        let found = db.read(async |conn| guest::list(conn, &filter, page).await).await.unwrap();

        assert_eq!((found.total, found.list.len()), (Some(1), 1), "{kind}");
    }
}

pub(crate) async fn fill(db: &Db) {
    two_clusters(db).await;
    let nodes = [a_node("n1"), a_node("n2"), a_node("n3")];
    let guests = [
        SyncedGuest { tags: Some("web;x_y".into()), ..a_guest(100) },
        // A20: a name means nothing, and a container is a guest.
        SyncedGuest {
            vm_name: Some("sync-gateway".into()),
            node_name: "n2".into(),
            kind: GuestKind::Lxc,
            tags: Some("a;100%;web".into()),
            ..a_guest(101)
        },
        SyncedGuest {
            status: "stopped".into(),
            tags: Some("web".into()),
            pool: Some("prod".into()),
            is_template: Flag(true),
            ..a_guest(102)
        },
    ];
    let storages = [
        a_storage("n1", "local"),
        SyncedStorage {
            kind: "rbd".into(),
            active: Flag(false),
            shared: Flag(true),
            ..a_storage("n2", "ceph")
        },
    ];
    write(db, LAB, &nodes, &guests, &storages).await;
    let gone = ["n3".to_owned()];
    db.write(async |conn| node::remove(conn, LAB, &gone).await).await.unwrap();
    let tagged = [SyncedGuest { tags: Some("webby;xzy".into()), ..a_guest(200) }];
    write(db, ATTIC, &nodes[..1], &tagged, &storages[..1]).await;
}

async fn write(
    db: &Db,
    cluster: ClusterId,
    nodes: &[schema::node::SyncedNode],
    guests: &[SyncedGuest],
    storages: &[SyncedStorage],
) {
    db.write(async |conn| {
        node::write(conn, cluster, nodes).await?;
        guest::write(conn, cluster, guests, &[]).await?;
        storage::write(conn, cluster, storages, &[]).await
    })
    .await
    .unwrap();
}
