//! Images that go out, to nodes that were told to fetch them (B16, the API's side).

use axum::http::StatusCode;
use schema::image_url::{Grant, ImageUrlKey, image_url};
use schema::{ClusterId, Conn, InstanceId, UploadId};

use crate::fixture::{Answer, call};
use crate::templates::{Lab, qcow2};

const FILE: &str = "pvet-1-v1.qcow2";

/// A lab with one template, and the key that its addresses are signed with.
async fn lab(lab: Lab) -> (Lab, ImageUrlKey) {
    lab.template("web", 5, "2").await;
    lab.sql("UPDATE template_instance SET attempt = 3").await;
    let key = async |conn: &mut Conn| ImageUrlKey::of_installation(conn, None).await;
    let key = lab.api.database.db.write(key).await.unwrap();
    (lab, key)
}

fn a_grant() -> Grant {
    Grant {
        upload_id: UploadId(1),
        instance_id: InstanceId(2),
        cluster_id: ClusterId(1),
        attempt: 3,
        node: "pve-node2".to_owned(),
        file: FILE.to_owned(),
        expires: schema::now().and_utc().timestamp() + 60,
    }
}

/// The path and query of an address.
async fn address(lab: &Lab, key: &ImageUrlKey, grant: &Grant) -> String {
    let sha512 = lab.texts("SELECT sha512 AS t FROM template_upload").await.swap_remove(0);
    let url = image_url(&"http://api".parse().unwrap(), &sha512, &grant.file, &key.sign(grant));
    format!("{}?{}", url.path(), url.query().unwrap())
}

async fn fetch(lab: &Lab, path: &str, range: Option<&str>) -> (Answer, Vec<u8>) {
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    let mut request = axum::http::Request::get(path);
    if let Some(range) = range {
        request = request.header("range", range);
    }
    let request = request.body(axum::body::Body::empty()).unwrap();
    let (head, body) = lab.router.clone().oneshot(request).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes().to_vec();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (Answer { status: head.status, headers: head.headers, text }, bytes)
}

#[tokio::test]
async fn a_node_gets_the_image_whole_or_from_where_it_stopped() {
    for it in Lab::all("fetch").await {
        let (lab, key) = lab(it).await;
        let (path, image) = (address(&lab, &key, &a_grant()).await, qcow2());

        let (whole, bytes) = fetch(&lab, &path, None).await;

        assert_eq!((whole.status, &bytes), (StatusCode::OK, &image));
        assert_eq!(whole.headers["content-length"], image.len().to_string());
        assert_eq!(whole.headers["accept-ranges"], "bytes");
        let sha256 = lab.texts("SELECT sha256 AS t FROM template_upload").await.swap_remove(0);
        assert_eq!(whole.headers["etag"], format!("\"{sha256}\""));

        let (rest, bytes) = fetch(&lab, &path, Some("bytes=1000-")).await;
        assert_eq!((rest.status, &bytes[..]), (StatusCode::PARTIAL_CONTENT, &image[1000..]));
        assert_eq!(rest.headers["content-range"], format!("bytes 1000-2559/{}", image.len()));
        assert_eq!(rest.headers["content-length"], "1560");
        let (_, bytes) = fetch(&lab, &path, Some("bytes=0-3")).await;
        assert_eq!(bytes, b"QFI\xfb");
        let (_, bytes) = fetch(&lab, &path, Some("bytes=-60")).await;
        assert_eq!(bytes, image[2500..]);
        let (beyond, bytes) = fetch(&lab, &path, Some("bytes=2560-")).await;
        assert_eq!((beyond.status, bytes.len()), (StatusCode::RANGE_NOT_SATISFIABLE, 0));
        assert_eq!(beyond.headers["content-range"], "bytes */2560");

        let headers = [("range", "bytes=5-"), ("if-range", "\"another\"")];
        let other = call(&lab.router, "GET", &path, &headers, "").await;
        assert_eq!(other.status, StatusCode::OK);

        let head = call(&lab.router, "HEAD", &path, &[], "").await;
        assert_eq!((head.status, head.text.as_str()), (StatusCode::OK, ""));
        assert_eq!(head.headers["content-length"], "2560");

        let metrics = call(&lab.router, "GET", "/metrics", &[], "").await.text;
        for line in [
            "pve_api_image_requests_total{result=\"whole\"} 3",
            "pve_api_image_requests_total{result=\"part\"} 3",
            "pve_api_image_requests_total{result=\"beyond\"} 1",
        ] {
            assert!(metrics.lines().any(|there| there == line), "{line} in\n{metrics}");
        }
        assert!(!metrics.contains("pve_api_image_bytes_total 0\n"));
        // Tokens are secrets, if short-lived ones.
        assert!(!metrics.contains(path.split("t=").nth(1).unwrap()));
    }
}

#[tokio::test]
async fn whatever_does_not_fit_the_attempt_that_is_wanted_is_a_403() {
    for it in Lab::all("denied").await {
        let (lab, key) = lab(it).await;
        let good = address(&lab, &key, &a_grant()).await;
        assert_eq!(fetch(&lab, &good, None).await.0.status, StatusCode::OK);
        let foreign = ImageUrlKey::derive(b"another installation");
        let mut denied = vec![
            address(&lab, &foreign, &a_grant()).await,
            good.replace(FILE, "other.qcow2"),
            good.replace("/images/", "/images/x"),
            format!("{good}x"),
            good.split('?').next().unwrap().to_owned(),
            format!("{}?t=", good.split('?').next().unwrap()),
            format!("{}?t=%ff", good.split('?').next().unwrap()),
        ];
        for change in [
            |grant: &mut Grant| grant.expires -= 61,
            |grant: &mut Grant| grant.attempt = 2,
            |grant: &mut Grant| grant.attempt = 4,
            |grant: &mut Grant| grant.node = "pve-node1".to_owned(),
            |grant: &mut Grant| grant.cluster_id = ClusterId(2),
            |grant: &mut Grant| grant.instance_id = InstanceId(41),
            |grant: &mut Grant| grant.upload_id = UploadId(41),
        ] {
            let mut grant = a_grant();
            change(&mut grant);
            denied.push(address(&lab, &key, &grant).await);
        }

        for path in denied {
            let (answer, _) = fetch(&lab, &path, None).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
            assert_eq!(answer.json()["data"]["reason"], "image_denied", "{path}");
        }
        for change in [
            "UPDATE template_instance SET desired = 'cancelled'",
            "UPDATE template_instance SET desired = 'available', attempt = 4",
            "UPDATE template_instance SET attempt = 3, deleted_id = id",
        ] {
            lab.sql(change).await;
            let (answer, _) = fetch(&lab, &good, None).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{change}");
        }
    }
}
