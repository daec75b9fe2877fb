//! What the mirror writes: nodes, guests, storages.

use schema::testing::TestDatabase;
use schema::{Written, guest, node, storage};

use crate::builders::{LAB, a_guest, a_key, a_node, a_storage};

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
        assert_eq!(
            loaded.iter().map(|row| row.synced.clone()).collect::<Vec<_>>(),
            nodes,
            "{kind}"
        );
        let ids: Vec<_> = loaded.iter().map(|row| row.id.0).collect();
        assert_eq!(ids, [1, 2], "{kind}");
        let loaded = guest::load(conn, LAB).await.unwrap();
        assert_eq!(
            loaded.iter().map(|row| row.synced.clone()).collect::<Vec<_>>(),
            guests,
            "{kind}"
        );
        assert!(loaded.iter().all(|row| row.node_id.is_some_and(|id| id.0 == 1)), "{kind}");
        assert!(loaded.iter().all(|row| row.node_ip.as_deref() == Some("10.0.0.1")), "{kind}");
        let loaded = storage::load(conn, LAB).await.unwrap();
        let synced: Vec<_> = loaded.into_iter().map(|row| row.synced).collect();
        assert_eq!(synced, storages, "{kind}");
    }
}
