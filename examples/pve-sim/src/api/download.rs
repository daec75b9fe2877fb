//! `download-url` and `query-url-metadata`: a node fetches from a URL.

use hyper::Method;
use serde_json::{Map, Value};
use url::Url;

use super::answer::{Body, Refusal};
use super::call::{Call, Later};
use crate::work::Work;
use crate::work::download::{Download, METADATA_PATIENCE};
use crate::work::wget::{NoAnswer, Trust, ask, authority};

/// `POST …/download-url`: begins to fetch.
pub(super) fn start(call: &mut Call<'_>) -> Result<Body, Refusal> {
    may_connect(call)?;
    let url_text = call.param("url").unwrap_or_default().to_owned();
    let url = parsed(&url_text)?;
    let content = call.param("content").unwrap_or_default().to_owned();
    known_content(call, &content)?;
    let checksum = checksum(call)?;
    let name = file_name(call, &content)?;
    let storage = call.part("storage").to_owned();
    let found = call.storage_here(&storage)?;
    if !found.has_files() || !found.content.contains(&content) {
        return Err(Refusal::error(format!(
            "storage '{storage}' is not configured for content-type '{content}'"
        )));
    }
    let work = Download {
        url,
        url_text,
        storage,
        content,
        name: name.clone(),
        checksum,
        verify_certificates: call.flag("verify-certificates") != Some(false),
    };
    Ok(call.begin("download", &name, None, Work::Download(work)))
}

/// Either privilege lets a node connect to anywhere.
fn may_connect(call: &Call<'_>) -> Result<(), Refusal> {
    let node = format!("/nodes/{}", call.node());
    let all = call.may("/", "Sys.Audit") && call.may("/", "Sys.Modify");
    if all || call.may(&node, "Sys.AccessNetwork") {
        return Ok(());
    }
    Err(Refusal::new(403, "Permission check failed"))
}

fn parsed(text: &str) -> Result<Url, Refusal> {
    let web = text.starts_with("http://") || text.starts_with("https://");
    match Url::parse(text) {
        Ok(url) if web && url.has_host() => Ok(url),
        _ => Err(Refusal::parameter("url", "value does not match the regex pattern")),
    }
}

/// The contents that can be put on a storage by name; `import` came with PVE 8.3.
pub(crate) fn known_content(call: &Call<'_>, content: &str) -> Result<(), Refusal> {
    let known: &[&str] =
        if call.release() < (8, 3) { &["iso", "vztmpl"] } else { &["iso", "vztmpl", "import"] };
    if known.contains(&content) {
        return Ok(());
    }
    let all = ["iso", "vztmpl", "import", "images", "rootdir", "backup", "snippets", "none"];
    if !all.contains(&content) {
        let text = format!("invalid format - invalid content type '{content}'\n");
        return Err(Refusal::parameter("content", text));
    }
    let text = format!(
        "value '{content}' does not have a value in the enumeration '{}'",
        known.join(", ")
    );
    Err(Refusal::parameter("content", text))
}

/// Algorithm and sum, which need each other.
pub(crate) fn checksum(call: &Call<'_>) -> Result<Option<(String, String)>, Refusal> {
    match (call.param("checksum-algorithm"), call.param("checksum")) {
        (Some(algorithm), Some(sum)) => Ok(Some((algorithm.to_owned(), sum.to_owned()))),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err(Refusal::parameter("checksum-algorithm", "missing property required by 'checksum'"))
        }
        (Some(_), None) => {
            Err(Refusal::parameter("checksum", "missing property required by 'checksum-algorithm'"))
        }
    }
}

/// The name as it will lie on the storage.
pub(crate) fn file_name(call: &Call<'_>, content: &str) -> Result<String, Refusal> {
    let given = call.param("filename").unwrap_or_default();
    let bare = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    // PVE counts bytes: a letter of two bytes becomes two lines.
    let name: String = bare
        .chars()
        .flat_map(|c| std::iter::repeat_n(if plain(c) { c } else { '_' }, c.len_utf8()))
        .collect();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let good = match content {
        "iso" => ends(&[".iso", ".img"]),
        "vztmpl" => ends(&[".tar", ".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2"]),
        _ if call.release() < (8, 4) => ends(&[".ova"]),
        _ => ends(&[".ova", ".qcow2", ".raw", ".vmdk"]),
    };
    if good {
        return Ok(name);
    }
    let text = match content {
        "import" => "invalid filename or wrong extension",
        _ => "wrong file extension",
    };
    Err(Refusal::parameter("filename", text))
}

/// `query-url-metadata`: what a HEAD tells.
pub(super) fn metadata(call: &mut Call<'_>) -> Result<Body, Refusal> {
    may_connect(call)?;
    let Some(text) = call.param("url") else {
        return Err(Refusal::parameter("url", "property is missing and it is not optional"));
    };
    let url = parsed(text)?;
    let verify = call.flag("verify-certificates") != Some(false);
    call.later = Some(Later::Metadata { url, verify });
    Ok(Body::of(&Value::Null))
}

/// Asks for it.
pub(crate) async fn ask_metadata(
    url: &Url,
    verify: bool,
    trusted: &[String],
) -> Result<Body, Refusal> {
    let trust = if verify { Trust::Only(trusted.to_vec()) } else { Trust::Anybody };
    let refused = |how: &str| Refusal::error(format!("invalid server response: '{how}'"));
    let whom = authority(url);
    let asked = ask(Method::HEAD, url, 0, &trust);
    let fetched = match tokio::time::timeout(METADATA_PATIENCE, asked).await {
        Ok(Ok(fetched)) => fetched,
        Ok(Err(error)) => {
            let why = match error {
                NoAnswer::Unresolved => "Name or service not known".to_owned(),
                NoAnswer::Refused(how) | NoAnswer::Broken(how) => how,
                NoAnswer::Untrusted => "certificate verify failed".to_owned(),
            };
            return Err(refused(&format!("500 Can't connect to {whom} ({why})")));
        }
        Err(_) => return Err(refused("500 read timeout")),
    };
    if fetched.response.status().as_u16() != 200 {
        return Err(refused(&fetched.status_text()));
    }
    let mut found = Map::new();
    let name = url.path().rsplit('/').next().unwrap_or_default();
    found.insert("filename".to_owned(), name.into());
    if let Some(size) = fetched.length() {
        found.insert("size".to_owned(), size.into());
    }
    let kind = fetched.kind().split(';').next().unwrap_or_default().trim();
    found.insert("mimetype".to_owned(), kind.into());
    Ok(Body::of(&found))
}
