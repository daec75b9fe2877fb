//! Images that come in: what is taken, what is refused, and what stays of either.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::fixture::call;
use crate::templates::{FORM, File, Lab, Part, Text, form, qcow2, refused};

/// The least fields but those that are given.
fn with<'a>(given: &[Part<'a>], image: &'a [u8]) -> Vec<Part<'a>> {
    let least = [
        Text("template_name", "web"),
        Text("cluster_id", "1"),
        Text("storage_id", "5"),
        File("disk.qcow2", image),
    ];
    let name = |part: &Part<'_>| match *part {
        Text(name, _) => name.to_owned(),
        File(..) => "file".to_owned(),
    };
    let mut parts: Vec<_> =
        least.into_iter().filter(|part| given.iter().all(|it| name(it) != name(part))).collect();
    // Before the file, so that what is wrong is found before the bytes.
    let at = parts.iter().position(|part| matches!(part, File(..))).unwrap_or(parts.len());
    parts.splice(at..at, given.iter().copied());
    parts
}

/// Nothing is in the tables, nothing is in the store.
async fn nothing_stays(lab: &Lab) {
    for table in ["vm_template", "template_upload", "template_instance", "template_sync_task"] {
        let rows = lab.texts(&format!("SELECT CONCAT(count(*), '') AS t FROM {table}")).await;
        assert_eq!(rows, ["0"], "{table}");
    }
    assert_eq!(lab.files(), Vec::<std::path::PathBuf>::new());
}

// B13
#[tokio::test]
async fn names_that_are_no_dns_names_are_kept_as_they_are() {
    for lab in Lab::all("b13").await {
        let long = "x".repeat(80);
        for name in ["CentOS 7 基础", "a_b", &long] {
            let id = lab.template(name, 5, "").await;
            let detail = lab.get(&format!("/templates/{id}/detail")).await;
            assert_eq!(detail["template_name"], json!(name), "{}", lab.api.database.kind());
        }
    }
}

#[tokio::test]
async fn fields_may_come_after_the_file() {
    for lab in Lab::all("after").await {
        let image = qcow2();
        let mut parts = vec![File("disk.qcow2", &image)];
        parts.extend([
            Text("template_name", "web"),
            Text("cluster_id", "1"),
            Text("storage_id", "5"),
            Text("sync_node_ids", "2"),
            Text("cores", "2"),
            Text("os_type", "l26"),
            Text("bridge", "vmbr0"),
            Text("memory_mb", "2048"),
        ]);

        let answer = lab.upload(&parts).await;

        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let kept = "SELECT CONCAT(cores, ' ', os_type, ' ', bridge, ' ', memory_mb) AS t FROM \
                    template_upload";
        assert_eq!(lab.texts(kept).await, ["2 l26 vmbr0 2048"]);

        // What is wrong is found as well, and the bytes go.
        parts[1] = Text("template_name", "other");
        parts[3] = Text("storage_id", "41");
        let mut other = image.clone();
        other.push(0);
        parts[0] = File("disk.qcow2", &other);
        assert_eq!(refused(&lab.upload(&parts).await).1, "unknown_storage");
        assert_eq!(lab.files().len(), 1);
    }
}

// B02
#[tokio::test]
async fn what_is_no_image_is_refused_with_the_reason_and_leaves_nothing() {
    for lab in Lab::all("b02").await {
        let good = qcow2();
        let mut backed = qcow2();
        backed[8..16].copy_from_slice(&200_u64.to_be_bytes());
        backed[16..20].copy_from_slice(&9_u32.to_be_bytes());
        let garbage = vec![7; 4096];
        let cut = &good[..60];
        for (name, bytes, status, says) in [
            ("../../x.qcow2", &good[..], 400, "without folders"),
            ("..\\x.qcow2", &good, 400, "without folders"),
            ("x.iso", &good, 415, ".qcow2"),
            ("x.qcow2", &garbage, 415, "qcow2"),
            ("x.qcow2", &backed, 415, "backing"),
            ("x.vmdk", &good, 415, "vmdk"),
            ("x.ova", &garbage, 415, "ova"),
            ("x.qcow2", cut, 415, ""),
            ("x.qcow2", b"", 415, "empty"),
            ("x.raw", &good, 415, "qcow2"),
        ] {
            let answer = lab.upload(&with(&[File(name, bytes)], &good)).await;
            let (code, _, field, message) = refused(&answer);
            assert_eq!((code, field), (status, json!("file")), "{name}: {message}");
            assert!(message.contains(says), "{name}: {message}");
            nothing_stays(&lab).await;
        }
    }
}

#[tokio::test]
async fn an_image_that_is_refused_does_not_take_another_ones_content_with_it() {
    for lab in Lab::all("same_content").await {
        let image = vec![0; 4096];
        let parts = with(&[File("good.raw", &image)], &image);
        assert_eq!(lab.upload(&parts).await.status, StatusCode::OK);

        let again =
            lab.upload_owned(with(&[Text("template_name", "b"), File("b.qcow2", &image)], &image));
        let refusal = again.await;

        assert_eq!(refusal.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(lab.files().len(), 1, "{}", lab.api.database.kind());
    }
}

#[tokio::test]
async fn a_form_that_can_not_be_read_is_a_400_that_says_why() {
    let lab = Lab::one("forms", |_| {}).await;
    let image = qcow2();
    for (given, says) in [
        (vec![Text("cluster_id", "lab")], "whole number"),
        (vec![Text("colour", "red")], "it takes template_name, cluster_id"),
        (vec![Text("version", "1"), Text("version", "2")], "version is given twice"),
        (vec![Text("sha256", "abc")], "sha256sum"),
        (vec![Text("sync_node_ids", "2;3")], "separated by commas"),
        (vec![Text("description", "a\0b")], "NUL"),
    ] {
        let answer = lab.upload(&with(&given, &image)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert!(refused(&answer).3.contains(says), "{}", answer.text);
    }
    let answer = lab.upload(&[File("disk.qcow2", &image), Text("template_name", "web")]).await;
    assert_eq!(refused(&answer).3, "the upload lacks cluster_id, storage_id");
    let text_as_file = lab.upload(&with(&[Text("file", "x")], &image)).await;
    assert!(refused(&text_as_file).3.contains("file=@"), "{}", text_as_file.text);

    let whole = form(&with(&[], &image));
    let path = "/api/v1/templates/upload";
    let cut = whole[..whole.len() - 10].to_vec();
    let long = format!("------a-boundary-of-ours\r\nx: {}", "y".repeat(8 << 20)).into_bytes();
    for (headers, body, says) in [
        (&[FORM][..], cut, "cut off"),
        (&[FORM], Vec::new(), "cut off"),
        (&[FORM], b"nonsense".to_vec(), "cut off"),
        (&[FORM], long, "too long"),
        (&[], whole.clone(), "multipart/form-data"),
        (&[("content-type", "application/json")], b"{}".to_vec(), "multipart/form-data"),
    ] {
        // As a body that comes in pieces.
        let pieces: Vec<_> =
            body.chunks(64 * 1024).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        let body = axum::body::Body::from_stream(futures::stream::iter(pieces));
        let answer = call(&lab.router, "POST", path, headers, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert!(refused(&answer).3.contains(says), "{says}: {}", answer.text);
    }
    nothing_stays(&lab).await;
}

#[tokio::test]
async fn the_digest_of_the_file_is_checked() {
    for lab in Lab::all("digest").await {
        let image = qcow2();
        let wrong = "0".repeat(64);
        let answer = lab.upload(&with(&[Text("sha256", &wrong)], &image)).await;
        let (status, reason, _, message) = refused(&answer);
        assert_eq!((status, reason.as_str()), (400, "sha256_mismatch"));
        nothing_stays(&lab).await;

        let right = message.split(' ').find(|word| word.len() >= 64).unwrap().trim_end_matches(',');
        let upper = right.to_ascii_uppercase();
        let answer = lab.upload(&with(&[Text("sha256", &upper)], &image)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let kept = lab.get("/templates/1/detail").await["upload_info"]["sha256"].clone();
        assert_eq!(kept, json!(right));
    }
}

#[tokio::test]
async fn a_name_is_taken_until_there_is_a_new_version_of_it() {
    for lab in Lab::all("versions").await {
        let image = qcow2();
        let upload = async |version: &[Part<'_>]| lab.upload(&with(version, &image)).await;
        assert_eq!(upload(&[]).await.status, StatusCode::OK);

        let taken = upload(&[]).await;
        let same = upload(&[Text("version", "1")]).await;
        let next = upload(&[Text("version", "2"), Text("sync_node_ids", "2")]).await;

        let (status, reason, field, message) = refused(&taken);
        assert_eq!((status, reason.as_str(), field), (409, "name_taken", json!("template_name")));
        assert!(message.contains("version=2"), "{message}");
        assert_eq!(refused(&same).1, "version_taken");
        let next = next.json()["data"].clone();
        assert_eq!((&next["template_id"], &next["upload_id"]), (&json!(1), &json!(2)));
        let instances = lab.get("/templates/1/instances").await;
        let versions: Vec<_> = instances["instances"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| (it["version"].as_i64().unwrap(), it["node_id"].as_i64().unwrap()))
            .collect();
        assert_eq!(versions, [(2, 1), (2, 2), (1, 1)]);
        // Elsewhere the name is free.
        assert_eq!(refused(&upload(&[Text("cluster_id", "2")]).await).1, "foreign_storage");
    }
}

#[tokio::test]
async fn of_two_that_want_one_name_at_once_one_gets_it() {
    for lab in Lab::all("race").await {
        let image = qcow2();
        let upload = || lab.upload_owned(with(&[], &image));

        let (a, b, c) = tokio::join!(upload(), upload(), upload());

        let mut codes = [a, b, c].map(|answer| answer.status.as_u16());
        codes.sort_unstable();
        assert_eq!(codes, [200, 409, 409], "{}", lab.api.database.kind());
        assert_eq!(lab.get("/templates").await["total"], json!(1));
        assert_eq!(lab.files().len(), 1);
    }
}

// B15, and whatever else can be known before the bytes
#[tokio::test]
async fn what_can_not_be_imported_is_refused_before_the_bytes() {
    for lab in Lab::all("b15").await {
        let image = qcow2();
        let upload = async |given: &[Part<'_>]| -> (u16, String, Value, String) {
            refused(&lab.upload(&with(given, &image)).await)
        };
        let refusal = async |given: &[Part<'_>]| -> (u16, String) {
            let (status, reason, ..) = upload(given).await;
            (status, reason)
        };

        let unknown = upload(&[Text("cluster_id", "41")]).await;
        assert_eq!(
            (unknown.0, unknown.1.as_str(), unknown.2),
            (422, "unknown_cluster", json!("cluster_id"))
        );
        assert_eq!(refusal(&[Text("storage_id", "41")]).await, (422, "unknown_storage".to_owned()));
        assert_eq!(refusal(&[Text("storage_id", "11")]).await, (422, "foreign_storage".to_owned()));
        assert_eq!(refusal(&[Text("storage_id", "8")]).await, (422, "node_offline".to_owned()));
        assert_eq!(refusal(&[Text("storage_id", "1")]).await, (422, "storage_content".to_owned()));
        for field in ["sync_node_ids", "auto_sync"] {
            let value = if field == "auto_sync" { "true" } else { "2" };
            let (status, reason, of, _) =
                upload(&[Text("storage_id", "9"), Text(field, value)]).await;
            assert_eq!((status, reason.as_str(), of), (422, "shared_storage", json!(field)));
        }
        let (status, _, field, message) = upload(&[Text("sync_node_ids", "2,4,5,99")]).await;
        assert_eq!((status, field), (422, json!("sync_node_ids")));
        for named in ["node 4 (pve-node4)", "node 5", "node 99"] {
            assert!(message.contains(named), "{message}");
        }

        lab.status(|status| status.pve_version = Some("8.3.0".to_owned())).await;
        let (status, reason, _, message) = upload(&[]).await;
        assert_eq!((status, reason.as_str()), (422, "pve_version"));
        assert!(message.contains("8.3.0") && message.contains("8.4"), "{message}");
        lab.status(|status| status.quorate = Some(schema::Flag(false))).await;
        assert_eq!(refusal(&[]).await, (409, "no_quorum".to_owned()));
        lab.status(|_| {}).await;
        lab.sql(
            "UPDATE pve_cluster_status SET missing_template_privileges = 'Sys.AccessNetwork on /nodes/pve-node1'",
        )
        .await;
        let (status, reason, _, message) = upload(&[]).await;
        assert_eq!((status, reason.as_str()), (422, "missing_privileges"));
        assert!(message.contains("Sys.AccessNetwork on /nodes/pve-node1"), "{message}");
        lab.sql("UPDATE pve_cluster_status SET missing_template_privileges = ''").await;
        lab.sql("UPDATE pve_storage SET content = 'iso' WHERE storage_name = 'local'").await;
        let (status, reason, _, message) = upload(&[]).await;
        assert_eq!((status, reason.as_str()), (422, "no_import_storage"));
        assert!(message.contains("pvesm set local --content iso,import"), "{message}");
        lab.sql("UPDATE pve_cluster SET is_enabled = 0").await;
        assert_eq!(refusal(&[]).await, (409, "cluster_disabled".to_owned()));
        nothing_stays(&lab).await;
        let recorded = "SELECT DISTINCT result AS t FROM audit_event WHERE action = 'template.upload' \
                        AND result = 'no_quorum'";
        assert_eq!(lab.texts(recorded).await, ["no_quorum"]);
    }
}

#[tokio::test]
async fn everywhere_means_every_node_that_is_online_and_has_the_storage() {
    for lab in Lab::all("auto_sync").await {
        let answer = lab.upload(&with(&[Text("auto_sync", "true")], &qcow2())).await;

        let tasks = answer.json()["data"]["sync_tasks"].clone();
        let targets: Vec<_> = tasks
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["target_node_id"].as_i64().unwrap())
            .collect();
        assert_eq!(targets, [2, 3]);
    }
}

#[tokio::test]
async fn uploads_are_counted_by_how_they_ended() {
    let lab = Lab::one("upload_metrics", |_| {}).await;
    let image = qcow2();
    lab.upload(&with(&[], &image)).await;
    lab.upload(&with(&[], &image)).await;

    let metrics = call(&lab.router, "GET", "/metrics", &[], "").await.text;

    for line in [
        "pve_api_uploads_total{result=\"done\"} 1".to_owned(),
        "pve_api_uploads_total{result=\"refused\"} 1".to_owned(),
        "pve_api_uploads_total{result=\"hung_up\"} 0".to_owned(),
        "pve_api_uploads_in_progress 0".to_owned(),
        // The second was refused before its bytes.
        format!("pve_api_upload_bytes_total {}", image.len()),
    ] {
        assert!(metrics.lines().any(|there| there == line), "{line} in\n{metrics}");
    }
}
