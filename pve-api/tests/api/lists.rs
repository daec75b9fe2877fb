//! Lists: their order, their pages, their filters.

use axum::http::StatusCode;
use schema::Flag;
use schema::guest::{GuestKind, SyncedGuest};
use schema::node::{self, NodeStatus, SyncedNode};
use schema::storage::SyncedStorage;
use serde_json::{Value, json};

use crate::fixture::{ATTIC, LAB, TestApi, a_guest, a_node, a_storage, send};

// C01: byte for byte.
#[tokio::test]
async fn an_empty_list_is_an_empty_list() {
    for api in TestApi::all("empty_list").await {
        for path in ["/api/v1/nodes", "/api/v1/vms", "/api/v1/storages"] {
            let answer = send(&api.router, "GET", path).await;

            let expected = r#"{"code":200,"message":"success","data":{"total":0,"list":[]}}"#;
            assert_eq!(answer.text, expected);
            assert_eq!(answer.headers["content-type"], "application/json");
        }
    }
}

#[tokio::test]
async fn lists_come_in_pages_newest_first() {
    for api in TestApi::all("pages").await {
        let guests: Vec<_> = (100..225).map(a_guest).collect();
        api.guests(LAB, &guests).await;
        let page = async |query: &str| {
            let (status, body) = api.get(&format!("/api/v1/vms{query}")).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            assert_eq!(body["data"]["total"], json!(125), "{query}");
            let rows = body["data"]["list"].as_array().unwrap().clone();
            rows.iter().map(|row| row["vmid"].as_i64().unwrap()).collect::<Vec<_>>()
        };

        let newest_first = |from: i64, to: i64| (from..=to).rev().collect::<Vec<_>>();
        assert_eq!(page("").await, newest_first(215, 224));
        assert_eq!(page("?page=2").await, newest_first(205, 214));
        assert_eq!(page("?page_size=100").await, newest_first(125, 224));
        assert_eq!(page("?page=2&page_size=100").await, newest_first(100, 124));
        assert!(page("?page=3&page_size=100").await.is_empty());
        assert!(page("?page=4294967295&page_size=100").await.is_empty());
    }
}

#[tokio::test]
async fn guests_are_filtered_by_every_filter_and_by_all_at_once() {
    for api in TestApi::all("guest_filters").await {
        api.nodes(LAB, &[a_node("n1"), a_node("n2")]).await;
        api.nodes(ATTIC, &[a_node("n1")]).await;
        let special = SyncedGuest {
            vm_name: Some("Web 1 基".to_owned()),
            node_name: "n2".to_owned(),
            kind: GuestKind::Lxc,
            status: "stopped".to_owned(),
            is_template: Flag(true),
            tags: Some("a;web_1;z".to_owned()),
            pool: Some("gold".to_owned()),
            ..a_guest(101)
        };
        let similar = SyncedGuest {
            vm_name: Some("web 1 基".to_owned()),
            tags: Some("webx1;web_12".to_owned()),
            ..a_guest(102)
        };
        api.guests(LAB, &[a_guest(100), special, similar]).await;
        api.guests(ATTIC, &[a_guest(100)]).await;

        let vms = async |query: &str| -> Vec<Value> {
            let rows = api.list(&format!("/api/v1/vms?{query}")).await;
            rows.iter().map(|row| json!([row["cluster_id"], row["vmid"]])).collect()
        };
        let lab = [json!([1, 102]), json!([1, 101]), json!([1, 100])];
        assert_eq!(vms("cluster_id=1").await, lab);
        assert_eq!(vms("cluster_name=lab").await, lab);
        assert_eq!(vms("vmid=100").await, [json!([2, 100]), json!([1, 100])]);
        for only_special in [
            "node_id=2",
            "node_name=n2",
            "status=stopped",
            "name=Web+1%20%E5%9F%BA",
            "tag=web_1",
            "tag=a",
            "tag=z",
            "pool=gold",
            "is_template=true",
            "is_template=1",
            "kind=lxc",
            "vmid=101",
            "cluster_id=1&cluster_name=lab&node_id=2&node_name=n2&status=stopped&vmid=101&tag=a\
             &pool=gold&is_template=true&kind=lxc&page=1&page_size=1",
        ] {
            assert_eq!(vms(only_special).await, [json!([1, 101])], "{only_special}");
        }
        for nothing in
            ["cluster_id=3", "cluster_name=Lab", "node_id=9", "tag=web", "tag=%25", "pool=gol"]
        {
            assert!(vms(nothing).await.is_empty(), "{nothing}");
        }
        assert_eq!(vms("is_template=false").await.len(), 3);
    }
}

#[tokio::test]
async fn nodes_are_filtered_by_every_filter() {
    for api in TestApi::all("node_filters").await {
        let offline = SyncedNode { status: NodeStatus::Offline, ..a_node("n2") };
        api.nodes(LAB, &[a_node("n1"), offline]).await;
        api.nodes(ATTIC, &[a_node("n1")]).await;

        let nodes = async |query: &str| api.column(&format!("/api/v1/nodes?{query}"), "id").await;
        assert_eq!(nodes("cluster_id=1").await, [json!(2), json!(1)]);
        assert_eq!(nodes("cluster_name=attic").await, [json!(3)]);
        assert_eq!(nodes("node_id=2").await, [json!(2)]);
        assert_eq!(nodes("node_name=n1").await, [json!(3), json!(1)]);
        assert_eq!(nodes("name=n1").await, [json!(3), json!(1)]);
        assert_eq!(nodes("status=offline").await, [json!(2)]);
        assert_eq!(nodes("status=online&cluster_id=1").await, [json!(1)]);
    }
}

// A10: a node that left keeps its row, out of the way.
#[tokio::test]
async fn a_node_that_left_its_cluster_is_listed_only_when_asked_for() {
    for api in TestApi::all("removed_node").await {
        api.nodes(LAB, &[a_node("n1"), a_node("n2")]).await;
        let gone = ["n1".to_owned()];
        let leave = async |conn: &mut schema::Conn| node::remove(conn, LAB, &gone).await;
        assert_eq!(api.database.db.write(leave).await.unwrap().updated, 1);

        assert_eq!(api.column("/api/v1/nodes", "id").await, [json!(2)]);
        assert_eq!(api.column("/api/v1/nodes?status=removed", "id").await, [json!(1)]);
        let (status, body) = api.get("/api/v1/nodes/1").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body["data"]["status"], json!("removed"));
    }
}

#[tokio::test]
async fn storages_are_filtered_by_every_filter() {
    for api in TestApi::all("storage_filters").await {
        api.nodes(LAB, &[a_node("n1"), a_node("n2")]).await;
        let ceph = SyncedStorage {
            kind: "cephfs".to_owned(),
            shared: Flag(true),
            active: Flag(false),
            ..a_storage("n2", "ceph")
        };
        api.storages(LAB, &[a_storage("n1", "local"), ceph]).await;
        api.storages(ATTIC, &[a_storage("n1", "local")]).await;

        let storages =
            async |query: &str| api.column(&format!("/api/v1/storages?{query}"), "id").await;
        assert_eq!(storages("cluster_id=1").await, [json!(2), json!(1)]);
        assert_eq!(storages("cluster_name=attic").await, [json!(3)]);
        assert_eq!(storages("node_id=1").await, [json!(1)]);
        assert_eq!(storages("node_name=n1").await, [json!(3), json!(1)]);
        assert_eq!(storages("name=ceph").await, [json!(2)]);
        assert_eq!(storages("type=cephfs").await, [json!(2)]);
        assert_eq!(storages("status=inactive").await, [json!(2)]);
        assert_eq!(storages("status=active").await, [json!(3), json!(1)]);
        assert_eq!(storages("shared=true").await, [json!(2)]);
    }
}

// A03: what is equal in two clusters is two things.
#[tokio::test]
async fn each_row_says_which_cluster_it_is_of() {
    for api in TestApi::all("two_clusters").await {
        for cluster in [LAB, ATTIC] {
            api.nodes(cluster, &[a_node("pve")]).await;
            let guest = SyncedGuest { node_name: "pve".to_owned(), ..a_guest(100) };
            api.guests(cluster, &[guest]).await;
            api.storages(cluster, &[a_storage("pve", "local")]).await;
        }

        for path in ["/api/v1/nodes", "/api/v1/vms", "/api/v1/storages"] {
            let names = api.column(path, "cluster_name").await;
            assert_eq!(names, [json!("attic"), json!("lab")], "{path}");
        }
    }
}

#[tokio::test]
async fn lists_are_sorted_by_what_they_have_and_say_what_that_is() {
    for api in TestApi::all("sorted_lists").await {
        api.nodes(LAB, &[a_node("n2"), a_node("n1")]).await;
        api.nodes(ATTIC, &[a_node("n1")]).await;
        let nodes = async |query: &str| -> Vec<Value> {
            let rows = api.list(&format!("/api/v1/nodes?{query}")).await;
            rows.iter().map(|row| row["id"].clone()).collect()
        };

        assert_eq!(nodes("sort=-id").await, [json!(3), json!(2), json!(1)]);
        assert_eq!(nodes("sort=id").await, [json!(1), json!(2), json!(3)]);
        assert_eq!(nodes("sort=name").await, [json!(2), json!(3), json!(1)]);
        assert_eq!(nodes("sort=-name&page_size=2").await, [json!(1), json!(3)]);
        assert_eq!(nodes("sort=-name&page_size=2&page=2").await, [json!(2)]);
        for (path, known) in [
            ("/api/v1/nodes", "id, -id, name, -name"),
            ("/api/v1/vms", "id, -id, name, -name, vmid, -vmid"),
            ("/api/v1/storages", "id, -id, name, -name"),
            ("/api/v1/templates", "id, -id, name, -name"),
            ("/api/v1/templates/sync-tasks", "id, -id"),
        ] {
            let (status, body) = api.get(&format!("{path}?sort=colour")).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
            let said = format!("sort is `colour`; write one of {known}");
            assert_eq!(body["message"], json!(said), "{path}");
        }
    }
}

#[tokio::test]
async fn a_cursor_walks_every_list_to_its_end_and_counts_nothing() {
    for api in TestApi::all("cursors").await {
        let nodes: Vec<_> = (1..=7).map(|n| a_node(&format!("n{n}"))).collect();
        api.nodes(LAB, &nodes).await;
        api.guests(LAB, &(100..107).map(a_guest).collect::<Vec<_>>()).await;
        let storages: Vec<_> = (1..=7).map(|n| a_storage(&format!("n{n}"), "local")).collect();
        api.storages(LAB, &storages).await;
        for path in ["/api/v1/nodes", "/api/v1/vms", "/api/v1/storages"] {
            let mut ids = Vec::new();
            let mut from = "?page_size=3".to_owned();
            loop {
                let (status, body) = api.get(&format!("{path}{from}")).await;
                assert_eq!(status, StatusCode::OK, "{body}");
                let data = &body["data"];
                assert_eq!(data["total"], if ids.is_empty() { json!(7) } else { Value::Null });
                let rows = data["list"].as_array().unwrap();
                ids.extend(rows.iter().map(|row| row["id"].as_i64().unwrap()));
                let Some(last) = rows.last() else { break };
                from = format!("?page_size=3&after={}", last["id"]);
            }
            assert_eq!(ids, [7, 6, 5, 4, 3, 2, 1], "{path}");
        }
        for (query, said) in [
            ("after=3&page=2", "after goes on from a row and page counts from the start"),
            ("after=3&sort=name", "after goes on by id, newest first"),
            ("after=-1", "after is `-1`; write a whole number"),
        ] {
            let (status, body) = api.get(&format!("/api/v1/vms?{query}")).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
            assert_eq!(body["data"]["field"], json!("after"), "{query}");
            assert!(body["message"].as_str().unwrap().starts_with(said), "{body}");
        }
    }
}
