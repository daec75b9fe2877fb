//! What callers get wrong: a 4xx that says what to write instead, and never a 5xx (C02).

use axum::http::StatusCode;
use serde_json::json;

use crate::fixture::{LAB, TestApi, a_guest, send};

const LISTS: [&str; 3] = ["/api/v1/nodes", "/api/v1/vms", "/api/v1/storages"];

#[tokio::test]
async fn an_unknown_guest_is_a_404_that_says_so() {
    for api in TestApi::all("unknown_guest").await {
        let (status, body) = api.get("/api/v1/vms/41").await;

        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(
            body,
            json!({
                "code": 404,
                "message": "no guest with id 41; this is the row's id, not the VMID",
                "data": {"reason": "not_found", "field": null},
            })
        );
    }
}

#[tokio::test]
async fn a_parameter_that_cannot_be_read_is_named_with_what_to_write() {
    let api = &TestApi::all("bad_parameters").await[0];
    let long = format!("/api/v1/vms?name={}", "x".repeat(256));
    let table = [
        ("/api/v1/vms?page=0", "page", "page is `0`; write a whole number from 1 to 4294967295"),
        (
            "/api/v1/vms?page_size=101",
            "page_size",
            "page_size is `101`; write a whole number from 1 to 100",
        ),
        ("/api/v1/vms?page_size=1e1", "page_size", "write a whole number from 1 to 100"),
        ("/api/v1/vms?cluster_id=lab", "cluster_id", "cluster_id is `lab`; write a whole number"),
        ("/api/v1/vms?vmid=-5", "vmid", "vmid is `-5`; write a whole number from 1"),
        ("/api/v1/vms?vmid=99999999999999999999", "vmid", "to 9223372036854775807"),
        ("/api/v1/vms?is_template=yes", "is_template", "write one of true, false, 1, 0"),
        ("/api/v1/vms?kind=vm", "kind", "kind is `vm`; write one of qemu, lxc"),
        ("/api/v1/vms?name=a%00b", "name", "name holds a control character"),
        ("/api/v1/vms?name=%ff", "name", "name is not UTF-8"),
        ("/api/v1/vms?name=", "name", "name is empty; give a value or leave name out"),
        ("/api/v1/vms?name=a&name=b", "name", "name is given twice"),
        (&long, "name", "name is too long; names have at most 255 characters"),
        (
            "/api/v1/nodes?status=up",
            "status",
            "status is `up`; write one of online, offline, unknown, removed",
        ),
        ("/api/v1/nodes?name=a&node_name=b", "name", "give one of them"),
        ("/api/v1/storages?status=on", "status", "write one of active, inactive"),
        ("/api/v1/vms/x", "id", "id is `x`; write a whole number from 1"),
        ("/api/v1/vms/0", "id", "id is `0`"),
        ("/api/v1/vms/1%2F2", "id", "id is `1/2`"),
        ("/api/v1/vms/%00", "id", "id is `\u{fffd}`"),
        ("/api/v1/vms/%ff", "id", "id is not UTF-8"),
        ("/api/v1/nodes/99999999999999999999", "id", "to 9223372036854775807"),
        ("/api/v1/storages/-1", "id", "id is `-1`"),
        ("/api/v1/vms/x/ips", "id", "id is `x`"),
        ("/api/v1/clusters/lab/status", "id", "id is `lab`"),
    ];

    for (path, field, says) in table {
        let (status, body) = api.get(path).await;

        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(body["code"], json!(400), "{path}");
        let detail = json!({"reason": "invalid_parameter", "field": field});
        assert_eq!(body["data"], detail, "{path}: {body}");
        let message = body["message"].as_str().unwrap();
        assert!(message.contains(says), "{path}: {message}");
    }
}

#[tokio::test]
async fn a_parameter_that_nobody_knows_is_named_with_those_that_there_are() {
    let api = &TestApi::all("unknown_parameters").await[0];
    for (path, field) in [
        ("/api/v1/vms?vm_name=web", "vm_name"),
        ("/api/v1/vms?Status=running", "Status"),
        ("/api/v1/nodes?vmid=100", "vmid"),
        ("/api/v1/storages?pool=gold", "pool"),
        ("/api/v1/vms/1?verbose", "verbose"),
        ("/api/v1/nodes/1?page=1", "page"),
        ("/api/v1/storages/1?x=1", "x"),
        ("/api/v1/vms/1/ips?name=x", "name"),
        ("/api/v1/clusters/1/status?x=%ff", "x"),
    ] {
        let (status, body) = api.get(path).await;

        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        let detail = json!({"reason": "unknown_parameter", "field": field});
        assert_eq!(body["data"], detail, "{path}: {body}");
    }

    let (_, body) = api.get("/api/v1/nodes?vmid=100").await;
    assert_eq!(
        body["message"],
        json!(
            "this path has no parameter `vmid`; it takes page, page_size, sort, after, \
             cluster_id, cluster_name, node_id, node_name, name, status"
        )
    );
}

#[tokio::test]
async fn whatever_a_filter_holds_the_answer_is_a_list_or_a_400() {
    let filters = [
        "cluster_id",
        "cluster_name",
        "node_id",
        "node_name",
        "status",
        "name",
        "vmid",
        "tag",
        "pool",
        "is_template",
        "kind",
        "type",
        "shared",
        "page",
        "page_size",
        "sort",
        "after",
    ];
    let long = "x".repeat(60_000);
    let values = [
        "1",
        "0",
        "-1",
        "9223372036854775807",
        "9223372036854775808",
        "1e400",
        "NaN",
        "true",
        "null",
        "%00",
        "%0d%0a",
        "%ff%fe",
        "%ed%a0%80",
        "%F0%9F%92%A9",
        "%",
        "%25",
        "%5C",
        "_%25!",
        "'%20OR%20'1'='1",
        "..%2f..%2fetc",
        "[]=&x",
        &long,
    ];
    for api in TestApi::all("any_value").await {
        api.guests(LAB, &[a_guest(100)]).await;
        for list in LISTS {
            for filter in filters {
                for value in values {
                    let answer =
                        send(&api.router, "GET", &format!("{list}?{filter}={value}")).await;
                    let shown = value.get(..20).unwrap_or(value);
                    assert!(
                        matches!(answer.status, StatusCode::OK | StatusCode::BAD_REQUEST),
                        "{list}?{filter}={shown} on {}: {}",
                        api.database.kind(),
                        answer.text
                    );
                    let code = answer.json()["code"].clone();
                    assert_eq!(code, json!(answer.status.as_u16()));
                }
            }
        }
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_in_the_same_shape() {
    let api = &TestApi::all("no_such_path").await[0];
    for path in ["/", "/api/v1", "/api/v1/vms/", "/api/v1/guests", "/api/v1/vms/1/ips/2", "/%00"] {
        let (status, body) = api.get(path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(body["code"], json!(404), "{path}");
        assert_eq!(body["data"], json!({"reason": "not_found", "field": null}), "{path}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "BREW"] {
        for path in ["/api/v1/vms", "/api/v1/vms/1", "/livez"] {
            let answer = send(&api.router, method, path).await;
            if (method, path) == ("PATCH", "/api/v1/vms/1") {
                assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
                continue;
            }
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            let detail = json!({"reason": "method_not_allowed", "field": null});
            assert_eq!(answer.json()["data"], detail, "{method} {path}");
            let allowed = if path == "/api/v1/vms/1" { "GET,HEAD,PATCH" } else { "GET,HEAD" };
            assert_eq!(answer.headers["allow"], allowed, "{method} {path}");
        }
    }
}
