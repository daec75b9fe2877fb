//! What those who run the API look at: probes, metrics, request ids.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use tower::ServiceExt;

use crate::fixture::{LAB, TestApi, a_guest, send};

#[tokio::test]
async fn with_a_migrated_database_the_api_is_alive_and_ready() {
    for api in TestApi::all("probes").await {
        for path in ["/livez", "/readyz"] {
            let answer = send(&api.router, "GET", path).await;
            assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "ok\n"), "{path}");
        }
    }
}

#[tokio::test]
async fn requests_are_counted_by_route_and_never_by_what_callers_invent() {
    let api = &TestApi::all("metrics").await[0];
    api.guests(LAB, &[a_guest(100)]).await;
    for path in ["/api/v1/vms/1", "/api/v1/vms/2", "/api/v1/vms/3", "/api/v1/no/such", "/secret-7"]
    {
        send(&api.router, "GET", path).await;
    }
    send(&api.router, "BREW", "/api/v1/vms/1").await;

    let answer = send(&api.router, "GET", "/metrics").await;

    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    for line in [
        r#"http_requests_total{method="GET",route="/api/v1/vms/{id}",status="200"} 1"#,
        r#"http_requests_total{method="GET",route="/api/v1/vms/{id}",status="404"} 2"#,
        r#"http_requests_total{method="other",route="/api/v1/vms/{id}",status="405"} 1"#,
        r#"http_requests_total{method="GET",route="unmatched",status="404"} 2"#,
        r#"http_request_duration_seconds_count{method="GET",route="/api/v1/vms/{id}",status="404"} 2"#,
        // The one that asks.
        "http_requests_in_flight 1",
    ] {
        assert!(answer.text.lines().any(|there| there == line), "{line} in\n{}", answer.text);
    }
    for invented in ["secret-7", "BREW"] {
        assert!(!answer.text.contains(invented), "{}", answer.text);
    }
}

#[tokio::test]
async fn a_request_keeps_its_id_or_gets_one() {
    let api = &TestApi::all("request_id").await[0];
    let long = "x".repeat(65);
    for (given, kept) in
        [(Some("job-17"), true), (None, false), (Some("a b"), false), (Some(long.as_str()), false)]
    {
        let mut request = Request::builder().uri("/api/v1/no/such");
        if let Some(given) = given {
            request = request.header("x-request-id", given);
        }
        let request = request.body(Body::empty()).unwrap();

        let response = api.router.clone().oneshot(request).await.unwrap();

        let answered = response.headers()["x-request-id"].to_str().unwrap();
        if kept {
            assert_eq!(Some(answered), given);
        } else {
            assert_eq!(answered.len(), 16, "{answered}");
            assert_ne!(Some(answered), given);
        }
    }
}

#[tokio::test]
async fn head_is_answered_like_get_without_the_body() {
    let api = &TestApi::all("head").await[0];

    let answer = send(&api.router, "HEAD", "/api/v1/vms").await;

    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.text, "");
}
