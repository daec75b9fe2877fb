//! The words of tus 1.0.0 (<https://tus.io/protocols/resumable-upload>): headers in, headers out.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use schema::Timestamp;

use crate::error::{ApiError, Refusal, printable};
use crate::templates::form::{FILE, Form};

pub(super) const VERSION: &str = "1.0.0";
pub(super) const EXTENSIONS: &str = "creation,creation-with-upload,checksum,termination,expiration";
pub(super) const CHECKSUMS: &str = "sha1,sha256";
pub(super) const BYTES: &str = "application/offset+octet-stream";

pub(super) const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(super) const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(super) const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
pub(super) const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
const TUS_CHECKSUMS: HeaderName = HeaderName::from_static("tus-checksum-algorithm");
const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// As much as fits beside a column's other rows; a description may be long.
const LONGEST_METADATA: usize = 64 * 1024;

/// An answer without a body.
pub(super) fn answer<const N: usize>(
    status: StatusCode,
    headers: [(HeaderName, String); N],
) -> Response {
    let mut response = status.into_response();
    for (name, value) in headers {
        // Numbers, times, base64 and paths of ours are visible ASCII.
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Adds what every answer says.
pub(super) fn speak(mut response: Response) -> Response {
    let refused_version = response.status() == StatusCode::PRECONDITION_FAILED;
    let headers = response.headers_mut();
    headers.insert(TUS_RESUMABLE, HeaderValue::from_static(VERSION));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if refused_version {
        headers.insert(TUS_VERSION, HeaderValue::from_static(VERSION));
    }
    response
}

/// What the server can do; the one answer that is not of a version.
pub(super) fn abilities(most: Option<u64>) -> Response {
    let mut response = answer(
        StatusCode::NO_CONTENT,
        [
            (TUS_VERSION, VERSION.to_owned()),
            (TUS_EXTENSION, EXTENSIONS.to_owned()),
            (TUS_CHECKSUMS, CHECKSUMS.to_owned()),
        ],
    );
    if let Some(most) = most {
        response.headers_mut().insert(TUS_MAX_SIZE, HeaderValue::from(most));
    }
    response
}

/// Whether client and server speak the same version.
pub(super) fn check_version(headers: &HeaderMap) -> Result<(), ApiError> {
    match text(headers, &TUS_RESUMABLE)? {
        Some(VERSION) => Ok(()),
        other => {
            let message = format!(
                "the header Tus-Resumable is `{}`; send `Tus-Resumable: {VERSION}`",
                printable(other.unwrap_or_default())
            );
            Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "tus_version", message).into())
        }
    }
}

/// What a POST to an upload is meant as, by clients that may send nothing but POST.
pub(super) fn method_override(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    text(headers, &METHOD_OVERRIDE)
}

/// How many bytes there will be.
pub(super) fn length(headers: &HeaderMap) -> Result<u64, ApiError> {
    if headers.contains_key(UPLOAD_DEFER_LENGTH) {
        let message = "the length has to be known from the beginning: send Upload-Length, and no \
                       Upload-Defer-Length";
        return Err(ApiError::invalid("upload-defer-length", message));
    }
    number(headers, &UPLOAD_LENGTH)
}

/// Where the bytes of a request begin.
pub(super) fn offset(headers: &HeaderMap) -> Result<u64, ApiError> {
    number(headers, &UPLOAD_OFFSET)
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<u64, ApiError> {
    let value = text(headers, name)?.unwrap_or_default();
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    // A column holds half as much.
    let number = value.parse().ok().filter(|number| digits && i64::try_from(*number).is_ok());
    number.ok_or_else(|| {
        let shown = printable(value);
        let message = format!("the header {name} is `{shown}`; write a whole number of bytes");
        ApiError::invalid(name.as_str(), message)
    })
}

/// Whether the body is bytes of an upload.
pub(super) fn brings_bytes(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(BYTES))
}

/// 415, unless the body is bytes of an upload.
pub(super) fn check_brings_bytes(headers: &HeaderMap) -> Result<(), ApiError> {
    if brings_bytes(headers) {
        return Ok(());
    }
    let message = format!("send the bytes with the header `Content-Type: {BYTES}`");
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message).into())
}

/// A digest that a request's bytes must have.
pub(super) struct Checksum {
    context: Context,
    expected: Vec<u8>,
}

impl Checksum {
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let Some(value) = text(headers, &UPLOAD_CHECKSUM)? else { return Ok(None) };
        let wrong = || {
            let shown = printable(value);
            let message = format!(
                "the header Upload-Checksum is `{shown}`; write one of {CHECKSUMS}, a space, and \
                 the digest of this request's bytes in base64"
            );
            ApiError::invalid(UPLOAD_CHECKSUM.as_str(), message)
        };
        let (algorithm, digest) = value.trim().split_once(' ').ok_or_else(wrong)?;
        let algorithm = match algorithm {
            "sha1" => &SHA1_FOR_LEGACY_USE_ONLY,
            "sha256" => &SHA256,
            _ => return Err(wrong()),
        };
        let expected = decode(digest.trim()).ok_or_else(wrong)?;
        if expected.len() != algorithm.output_len() {
            return Err(wrong());
        }
        Ok(Some(Self { context: Context::new(algorithm), expected }))
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// 460, unless these were the bytes.
    pub(super) fn check(self) -> Result<(), ApiError> {
        if self.context.finish().as_ref() == self.expected {
            return Ok(());
        }
        let status = StatusCode::from_u16(460).expect("a status has three digits");
        let message = "the bytes of this request are not those of its Upload-Checksum: they were \
                       damaged on their way; none were kept, so send them again";
        Err(Refusal::new(status, "checksum_mismatch", message).into())
    }
}

/// The header of a client's metadata, which is kept as it is.
pub(super) fn metadata(headers: &HeaderMap) -> Result<&str, ApiError> {
    let metadata = text(headers, &UPLOAD_METADATA)?.unwrap_or_default();
    if metadata.len() > LONGEST_METADATA {
        let message = format!("Upload-Metadata has more than {LONGEST_METADATA} bytes");
        return Err(ApiError::invalid(UPLOAD_METADATA.as_str(), message));
    }
    Ok(metadata)
}

/// The form that a client's metadata are. What no form has is passed over: clients add things of
/// their own.
pub(super) fn form(metadata: &str) -> Result<Form, ApiError> {
    let mut form = Form::default();
    let mut named = false;
    for pair in metadata.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let field = match key {
            "filename" | "file_name" => FILE,
            // A file is no text.
            FILE => continue,
            key if Form::knows(key) => key,
            _ => continue,
        };
        let field = form.begin(Some(field))?;
        let value = decode(value.trim()).and_then(|bytes| String::from_utf8(bytes).ok());
        let value = value.ok_or_else(|| {
            let message =
                format!("the value of {key} in Upload-Metadata is not UTF-8 text in base64");
            ApiError::invalid(key, message)
        })?;
        if field == FILE {
            form.file(Some(&value))?;
            named = true;
        } else {
            form.text(field, value)?;
        }
    }
    if !named {
        let message =
            "Upload-Metadata lacks filename: the file's name, as in disk.qcow2, in base64";
        return Err(ApiError::invalid("filename", message));
    }
    Ok(form)
}

/// As HTTP writes times.
pub(super) fn date(time: Timestamp) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Clients differ about padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&STANDARD, config).decode(text).ok()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| {
        let message = format!("the header {name} holds other than visible ASCII");
        ApiError::invalid(name.as_str(), message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    // dGVtcA== is temp, MQ== is 1, NQ== is 5, eC5xY293Mg== is x.qcow2
    const LEAST: &str =
        "template_name dGVtcA==,cluster_id MQ==,storage_id NQ==,filename eC5xY293Mg==";

    #[test]
    fn metadata_are_the_form_of_an_upload_and_whatever_a_client_adds() {
        let wanted = form(LEAST).unwrap().wanted().unwrap();
        assert_eq!((wanted.template_name.as_str(), wanted.file_name.as_str()), ("temp", "x.qcow2"));

        let more = format!("{LEAST}, filetype YXBwL3g=,is_confidential,relativePath ,description ");
        assert_eq!(form(&more).unwrap().wanted().unwrap().description, None);
        let other = LEAST.replace("filename", "file_name").replace("MQ==", "MQ");
        assert!(form(&other).unwrap().wanted().is_ok(), "padding may be missing");
    }

    #[test]
    fn metadata_that_can_not_be_are_refused_by_name() {
        for (metadata, says) in [
            ("", "lacks filename"),
            ("filename eC5xY293Mg==", "lacks template_name, cluster_id, storage_id"),
            ("filename !!!", "filename in Upload-Metadata"),
            ("template_name /w==", "template_name in Upload-Metadata"),
            ("cluster_id bGFi", "whole number"),
            ("cluster_id MQ==,cluster_id MQ==", "given twice"),
            ("filename eC5xY293Mg==,file_name eC5xY293Mg==", "given twice"),
        ] {
            let error = form(metadata).and_then(|form| form.wanted()).unwrap_err().to_string();
            assert!(error.contains(says), "{metadata}: {error}");
        }
    }

    #[test]
    fn numbers_are_whole_and_fit_a_column() {
        assert_eq!(offset(&headers("upload-offset", "0")).unwrap(), 0);
        for text in ["", "-1", "+1", "1.5", "x", "9223372036854775808"] {
            assert!(offset(&headers("upload-offset", text)).is_err(), "{text}");
        }
        length(&HeaderMap::new()).unwrap_err();
        let both = headers("upload-defer-length", "1");
        assert!(length(&both).unwrap_err().to_string().contains("no Upload-Defer-Length"));
    }

    #[test]
    fn a_checksum_is_of_a_known_kind_and_holds_or_not() {
        let checksum = |text: &'static str| Checksum::of(&headers("upload-checksum", text));

        // FIPS 180-1, appendix A.
        let mut right = checksum("sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=").unwrap().unwrap();
        right.take(b"a");
        right.take(b"bc");
        right.check().unwrap();
        let wrong = checksum("sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=").unwrap().unwrap();
        assert_eq!(wrong.check().unwrap_err().reason(), "checksum_mismatch");
        assert!(checksum("sha256 ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=").unwrap().is_some());
        for text in ["md5 qZk+NkcGgWq6PiVxeFDCbA==", "sha1", "sha1 ", "sha1 abc", "sha256 qZk+"] {
            assert!(checksum(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_written_as_http_does() {
        let time = chrono::DateTime::from_timestamp(1_403_712_000, 0).unwrap().naive_utc();
        assert_eq!(date(time), "Wed, 25 Jun 2014 16:00:00 GMT");
    }
}
