//! Order and pages of lists, and the tags that guests are found by.

use schema::guest::{self, GuestFilter, SyncedGuest};
use schema::page::{Page, Sort, SortKey, Start};
use schema::testing::TestDatabase;
use schema::{Db, Flag, guest_tag, node};

use crate::builders::{ATTIC, LAB, a_guest, a_node, run, texts, two_clusters};

#[tokio::test]
async fn equal_values_are_in_the_order_of_their_ids_and_none_comes_before_any() {
    for database in TestDatabase::all("sortlist").await {
        let (db, kind) = (&database.db, database.kind());
        two_clusters(db).await;
        let named = |vmid, name: Option<&str>| SyncedGuest {
            vm_name: name.map(str::to_owned),
            ..a_guest(vmid)
        };
        let guests =
            [named(105, Some("b")), named(101, None), named(104, Some("a")), named(103, Some("b"))];
        db.write(async |conn| guest::write(conn, LAB, &guests, &[]).await).await.unwrap();
        let by = async |word: &str, descending| {
            let mut vmids = Vec::new();
            for page in 1..=2 {
                let sort = Sort { key: key(guest::SORTS, word), descending };
                let page = Page { start: Start::Number(page, sort), page_size: 3 };
                vmids.extend(listed(db, &GuestFilter::default(), page).await);
            }
            vmids
        };

        assert_eq!(by("name", false).await, [101, 104, 105, 103], "{kind}");
        assert_eq!(by("name", true).await, [103, 105, 104, 101], "{kind}");
        assert_eq!(by("vmid", false).await, [101, 103, 104, 105], "{kind}");
        assert_eq!(by("vmid", true).await, [105, 104, 103, 101], "{kind}");
        assert_eq!(by("id", false).await, [105, 101, 104, 103], "{kind}");
        let tagged = GuestFilter { tag: Some("x".into()), ..GuestFilter::default() };
        let sort = Sort { key: key(guest::SORTS, "name"), descending: false };
        let page = Page { start: Start::Number(1, sort), page_size: 3 };
        assert!(listed(db, &tagged, page).await.is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn a_cursor_walks_a_list_once_while_rows_come_and_go() {
    for database in TestDatabase::all("cursor").await {
        let (db, kind) = (&database.db, database.kind());
        two_clusters(db).await;
        let tagged = |vmid| SyncedGuest { tags: Some("web".into()), ..a_guest(vmid) };
        let guests: Vec<_> = (100..107).map(tagged).collect();
        db.write(async |conn| guest::write(conn, LAB, &guests, &[]).await).await.unwrap();
        let web = GuestFilter { tag: Some("web".into()), ..GuestFilter::default() };

        for filter in [GuestFilter::default(), web] {
            let first = db.read(async |conn| guest::list(conn, &filter, Page::number(1, 3)).await);
            let first = first.await.unwrap();
            let last = first.list[2].row.id.0;
            let more = [tagged(first.list[0].row.synced.vmid + 50)];
            let gone = [first.list[2].row.synced.vmid];
            db.write(async |conn| guest::write(conn, LAB, &more, &gone).await).await.unwrap();

            let page = Page::after(last, 3);
            let next = db.read(async |conn| guest::list(conn, &filter, page).await).await.unwrap();
            let ids: Vec<_> = next.list.iter().map(|it| it.row.id.0).collect();
            assert_eq!(next.total, None, "{kind}");
            assert_eq!(ids.len(), 3, "{kind}");
            assert!(ids.iter().all(|id| *id < last), "{kind}: {ids:?} after {last}");
            assert!(ids.is_sorted_by(|one, next| one > next), "{kind}: {ids:?}");
        }
        assert!(listed(db, &GuestFilter::default(), Page::after(1, 3)).await.is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn a_guest_is_found_by_the_tags_that_it_has_now() {
    for database in TestDatabase::all("tags").await {
        let (db, kind) = (&database.db, database.kind());
        two_clusters(db).await;
        db.write(async |conn| node::write(conn, LAB, &[a_node("n1")]).await).await.unwrap();
        let tagged =
            |tags: Option<&str>| SyncedGuest { tags: tags.map(str::to_owned), ..a_guest(100) };
        let found = async |tag: &str| {
            let filter = GuestFilter { tag: Some(tag.into()), ..GuestFilter::default() };
            let also = GuestFilter { is_template: Some(false), ..filter.clone() };
            let found = listed(db, &filter, Page::default()).await;
            assert_eq!(found, listed(db, &also, Page::default()).await, "{kind}: {tag}");
            found
        };
        let write = async |tags: Option<&str>, gone: &[i64]| {
            let guests = [tagged(tags)];
            db.write(async |conn| guest::write(conn, LAB, &guests, gone).await).await.unwrap();
        };

        write(Some("a;b;a"), &[]).await;
        assert_eq!((found("a").await, found("b").await), (vec![100], vec![100]), "{kind}");
        write(Some("b;c"), &[]).await;
        assert_eq!((found("a").await, found("c").await), (vec![], vec![100]), "{kind}");
        write(Some("d"), &[100]).await;
        assert_eq!((found("b").await, found("d").await), (vec![], vec![100]), "{kind}");
        write(None, &[]).await;
        assert_eq!(texts(db, "SELECT tag AS t FROM pve_vm_tag").await, [""; 0], "{kind}");
    }
}

#[tokio::test]
async fn tags_that_something_else_wrote_are_noted_by_the_migration_and_by_the_repair() {
    for database in TestDatabase::all("oldtags").await {
        let (db, kind) = (&database.db, database.kind());
        two_clusters(db).await;
        let guests = [100, 101].map(|vmid| SyncedGuest {
            tags: Some("old".into()),
            is_template: Flag(false),
            ..a_guest(vmid)
        });
        db.write(async |conn| guest::write(conn, LAB, &guests, &[]).await).await.unwrap();
        let noted = async || texts(db, "SELECT tag AS t FROM pve_vm_tag ORDER BY vm_id, tag").await;

        // What a program does that knows nothing of tags as rows.
        db.migrate_to(2).await.unwrap();
        let long = "x".repeat(300);
        run(db, &format!("UPDATE pve_vm SET tags = 'b; a;;b;{long}' WHERE vmid = 100")).await;
        db.migrate().await.unwrap();
        assert_eq!(noted().await, ["a", "b", "old"], "{kind}");

        run(db, "UPDATE pve_vm SET tags = NULL WHERE vmid = 100").await;
        run(db, "UPDATE pve_vm SET tags = 'old;new' WHERE vmid = 101").await;
        let repair = async |cluster| {
            db.write(async |conn| guest_tag::repair(conn, cluster).await).await.unwrap()
        };
        assert_eq!(repair(ATTIC).await, 0, "{kind}");
        assert_eq!(repair(LAB).await, 2, "{kind}");
        assert_eq!(noted().await, ["new", "old"], "{kind}");
        assert_eq!(repair(LAB).await, 0, "{kind}");
    }
}

fn key(keys: &[SortKey], word: &str) -> SortKey {
    *keys.iter().find(|key| key.word == word).unwrap()
}

async fn listed(db: &Db, filter: &GuestFilter, page: Page) -> Vec<i64> {
    let found = db.read(async |conn| guest::list(conn, filter, page).await).await.unwrap();
    found.list.iter().map(|item| item.row.synced.vmid).collect()
}
