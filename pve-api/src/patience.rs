//! How long a handler may take until it answers.
//!
//! Only the beginning of an answer is meant: what is streamed after it (an image, a watch) may take
//! as long as its caller reads. A handler that is given up is dropped, which rolls back what it was
//! doing in the tables.

use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::routes::BASE;

/// More than one read of the tables may take, less than callers usually wait.
const LONGEST: Duration = Duration::from_secs(20);

/// Takes in files, which last as long as they last, and have a limit on silence of their own.
const FILES: [&str; 2] = ["/templates/upload", "/files"];

/// Answers 503 for a handler that takes too long.
pub(crate) async fn bound(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if path.is_some_and(takes_files) {
        return next.run(request).await;
    }
    match tokio::time::timeout(LONGEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::Slow.into_response(),
    }
}

fn takes_files(path: &str) -> bool {
    let path = path.strip_prefix(BASE).unwrap_or(path);
    FILES.iter().any(|files| {
        path.strip_prefix(files).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    // C07
    #[tokio::test(start_paused = true)]
    async fn a_handler_that_hangs_is_a_503_and_an_upload_may_take_its_time() {
        let hangs = get(async || tokio::time::sleep(Duration::from_hours(1)).await);
        let api = Router::new().route("/vms", hangs.clone()).route("/files/{id}", hangs);
        let api = Router::new().nest(BASE, api.layer(axum::middleware::from_fn(bound)));
        let ask = async |path: &str| {
            let request = Request::get(format!("{BASE}{path}")).body(Body::empty()).unwrap();
            api.clone().oneshot(request).await.unwrap()
        };

        let slow = ask("/vms").await;
        let file = ask("/files/7").await;

        assert_eq!(slow.status(), 503);
        assert!(slow.headers().contains_key("retry-after"));
        assert_eq!(file.status(), 200);
    }

    #[test]
    fn only_what_takes_files_is_exempt() {
        assert!(takes_files("/api/v1/templates/upload"));
        assert!(takes_files("/api/v1/files/{id}"));
        for path in ["/api/v1/vms", "/api/v1/templates/{id}/sync", "/api/v1/filesystems"] {
            assert!(!takes_files(path), "{path}");
        }
    }
}
