//! Images in a bucket of S3, or of what speaks as S3 does.
//!
//! ```text
//! PREFIX/uploads/ID       images; there once the last part was acknowledged
//! PREFIX/unfinished/ID    the S3 id of an upload that is under way, so that any process can end it
//! PREFIX/resumable/ID/…   pieces of uploads that come in several goes
//! PREFIX/check            written to see whether the bucket takes objects
//! ```
//!
//! Names are random: S3 can not rename, and a copy of 50 GB is no rename.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::signer::{Method, Signer as _};
use object_store::{
    ClientOptions, GetOptions, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, RetryConfig,
};
use tokio_util::task::TaskTracker;
use url::Url;

use super::location::BucketUrl;
use super::name::{BY_UPLOAD, random_id};
use super::parts::Parts;
use super::{ImageError, ObjectName, Stored};

const UNFINISHED: &str = "unfinished";

/// S3's own limit.
const LONGEST_SIGNED: Duration = Duration::from_hours(7 * 24);

/// A bucket that does not answer a small question by then is not ready.
const CHECK_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Bucket {
    pub(super) s3: AmazonS3,
    /// For messages: `s3://bucket/prefix`.
    shown: String,
    prefix: Path,
    writable: bool,
    /// Uploads of this process that are under way.
    live: Mutex<HashSet<String>>,
    /// What is still to be told to the bucket of uploads that were dropped.
    pub(super) farewells: TaskTracker,
}

impl Bucket {
    /// Asks the bucket nothing.
    pub(super) fn open(
        url: &BucketUrl,
        env: impl Fn(&str) -> Option<String>,
        writable: bool,
    ) -> Result<Self, ImageError> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        if !CREDENTIALS.iter().any(|name| env(name).is_some()) {
            return Err(ImageError::Url(
                "s3:// needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".into(),
            ));
        }
        if env("AWS_ACCESS_KEY_ID").is_some() != env("AWS_SECRET_ACCESS_KEY").is_some() {
            return Err(ImageError::Url(
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together, and one of them is \
                 missing"
                    .into(),
            ));
        }
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Somebody else may just have been faster, with the same one.
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let mut builder = AmazonS3Builder::new();
        for name in CREDENTIALS.iter().chain(&SETTINGS) {
            if let (Some(value), Ok(key)) =
                (env(name), name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>())
            {
                builder = builder.with_config(key, value);
            }
        }
        if let Some(region) = &url.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &url.endpoint {
            builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
        }
        let plain = url.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http");
        let s3 = builder
            .with_bucket_name(&url.bucket)
            .with_client_options(client_options().with_allow_http(plain))
            .with_retry(retries())
            .build()
            .map_err(|error| ImageError::Url(flat(&error)))?;
        Ok(Self {
            s3,
            shown: format!("s3://{}/{}", url.bucket, url.prefix),
            prefix: Path::from(url.prefix.as_str()),
            writable,
            live: Mutex::default(),
            farewells: TaskTracker::new(),
        })
    }

    pub(super) async fn check(&self) -> Result<(), ImageError> {
        let asked = async {
            if self.writable {
                let text = "written to see whether the bucket takes objects\n";
                self.s3.put(&self.prefix.clone().join("check"), text.into()).await.map(drop)
            } else {
                self.s3.list(Some(&self.prefix)).next().await.transpose().map(drop)
            }
        };
        match tokio::time::timeout(CHECK_WITHIN, asked).await {
            Ok(answer) => answer.map_err(|error| self.error("use", &error)),
            Err(late) => {
                Err(ImageError::Unavailable { doing: self.doing("use"), source: late.into() })
            }
        }
    }

    pub(super) async fn create(self: &Arc<Self>) -> Result<Parts, ImageError> {
        self.may_write()?;
        self.begin(random_id()).await
    }

    /// [`create`](Self::create), under a name that somebody who crashed may have begun before.
    pub(super) async fn create_as(self: &Arc<Self>, id: String) -> Result<Parts, ImageError> {
        self.may_write()?;
        self.end_marked(&id).await?;
        self.begin(id).await
    }

    async fn begin(self: &Arc<Self>, id: String) -> Result<Parts, ImageError> {
        let name = ObjectName::of_upload(&id)?;
        let upload = self
            .s3
            .create_multipart(&self.key(&name))
            .await
            .map_err(|error| self.error("start an upload in", &error))?;
        self.live().insert(id.clone());
        // From here on, dropping it ends the upload.
        let mut parts = Parts::new(Arc::clone(self), id, name, upload);
        parts.mark().await?;
        Ok(parts)
    }

    pub(super) async fn stat(&self, object: &ObjectName) -> Result<Option<u64>, ImageError> {
        match self.s3.head(&self.key(object)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error("look into", &error)),
        }
    }

    pub(super) async fn read(
        self: &Arc<Self>,
        object: &ObjectName,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, ImageError>>, ImageError> {
        if range.is_empty() {
            self.holds(object, &range).await?;
            return Ok(stream::empty().boxed());
        }
        let options = GetOptions::new().with_range(Some(range.clone()));
        match self.s3.get_opts(&self.key(object), options).await {
            Ok(answer) => {
                // S3 shortens a range that is too long, and that is not what was asked for.
                super::within(object, answer.meta.size, &range)?;
                let bucket = Arc::clone(self);
                Ok(answer.into_stream().map_err(move |error| bucket.error("read", &error)).boxed())
            }
            Err(object_store::Error::NotFound { .. }) => {
                Err(ImageError::NotFound { object: object.clone() })
            }
            Err(error) => {
                let error = self.error("read", &error);
                // A range that starts behind the end is an error in words of the server's own.
                if error.is_transient() {
                    self.holds(object, &range).await?;
                }
                Err(error)
            }
        }
    }

    async fn holds(&self, object: &ObjectName, range: &Range<u64>) -> Result<(), ImageError> {
        match self.stat(object).await? {
            Some(bytes) => super::within(object, bytes, range),
            None => Err(ImageError::NotFound { object: object.clone() }),
        }
    }

    pub(super) async fn signed_url(
        &self,
        object: &ObjectName,
        ttl: Duration,
    ) -> Result<Url, ImageError> {
        self.s3
            .signed_url(Method::GET, &self.key(object), ttl.min(LONGEST_SIGNED))
            .await
            .map_err(|error| self.error("sign a URL of", &error))
    }

    pub(super) async fn delete(&self, object: &ObjectName) -> Result<(), ImageError> {
        self.may_write()?;
        self.remove(&self.key(object)).await
    }

    pub(super) async fn remove(&self, key: &Path) -> Result<(), ImageError> {
        match self.s3.delete(key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("delete from", &error)),
        }
    }

    pub(super) async fn list(&self) -> Result<Vec<Stored>, ImageError> {
        let mut images = Vec::new();
        for meta in self.objects(&self.folder(BY_UPLOAD)).await? {
            let id = meta.location.filename().unwrap_or_default();
            // Somebody else's objects stay out of the list, and so are never collected.
            let Ok(name) = ObjectName::of_upload(id) else { continue };
            images.push(Stored { name, bytes: meta.size, modified: meta.last_modified.into() });
        }
        Ok(images)
    }

    /// Ends uploads of other processes that were last heard of longer than `age` ago.
    pub(super) async fn sweep_unfinished(&self, age: Duration) -> Result<usize, ImageError> {
        self.may_write()?;
        let mut ended = 0;
        for meta in self.objects(&self.folder(UNFINISHED)).await? {
            let id = meta.location.filename().unwrap_or_default().to_owned();
            let heard_of = SystemTime::from(meta.last_modified);
            // The bucket's clock may be ahead of ours.
            let old = heard_of.elapsed().unwrap_or_default() >= age;
            if old && !self.live().contains(&id) && self.end_marked(&id).await? {
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// Ends the upload that a note tells of, if there is one.
    async fn end_marked(&self, id: &str) -> Result<bool, ImageError> {
        let Ok(name) = ObjectName::of_upload(id) else { return Ok(false) };
        let marker = match self.s3.get(&self.marker(id)).await {
            Ok(marker) => marker.bytes().await,
            Err(error) => Err(error),
        };
        let upload = match marker {
            Ok(upload) => String::from_utf8_lossy(&upload).into_owned(),
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(self.error("read", &error)),
        };
        self.end(&name, id, upload).await?;
        Ok(true)
    }

    /// Throws away an upload's parts, then the note of it; one that is finished stays.
    pub(super) async fn end(
        &self,
        name: &ObjectName,
        id: &str,
        upload: String,
    ) -> Result<(), ImageError> {
        match self.s3.abort_multipart(&self.key(name), &upload).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(self.error("end an upload in", &error)),
        }
        self.remove(&self.marker(id)).await
    }

    pub(super) fn forget(&self, id: &str) {
        self.live().remove(id);
    }

    pub(super) fn key(&self, object: &ObjectName) -> Path {
        object.as_str().split('/').fold(self.prefix.clone(), Path::join)
    }

    pub(super) fn marker(&self, id: &str) -> Path {
        self.prefix.clone().join(UNFINISHED).join(id)
    }

    /// Sorts what S3 says, and says where.
    pub(super) fn error(&self, doing: &str, error: &object_store::Error) -> ImageError {
        let doing = self.doing(doing);
        let said = flat(error);
        let full = ["507 ", "StorageFull", "QuotaExceeded", "InsufficientStorage"];
        let source = said.clone().into();
        match error {
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => ImageError::Denied { doing, source },
            _ if full.iter().any(|word| said.contains(word)) => ImageError::Full { doing, source },
            _ => ImageError::Unavailable { doing, source },
        }
    }

    fn doing(&self, doing: &str) -> String {
        format!("{doing} {}", self.shown)
    }

    pub(super) fn may_write(&self) -> Result<(), ImageError> {
        if self.writable { Ok(()) } else { Err(ImageError::ReadOnly) }
    }

    pub(super) fn folder(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    pub(super) async fn objects(&self, below: &Path) -> Result<Vec<ObjectMeta>, ImageError> {
        let objects = self.s3.list(Some(below)).try_collect().await;
        objects.map_err(|error| self.error("list", &error))
    }

    fn live(&self) -> MutexGuard<'_, HashSet<String>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without the client, whose `Debug` knows credentials.
impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("url", &self.shown).finish_non_exhaustive()
    }
}

/// One of these says where credentials come from: keys, or what Kubernetes and ECS give a pod.
const CREDENTIALS: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

const SETTINGS: [&str; 7] = [
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

fn client_options() -> ClientOptions {
    ClientOptions::new()
        // The whole of an answer may take hours: an image is one.
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(5))
        // Also the time for one part to go up, so not too short for slow lines.
        .with_read_timeout(Duration::from_mins(2))
}

/// What a person who waits for an upload bears; the upload is lost after that.
fn retries() -> RetryConfig {
    RetryConfig { max_retries: 8, retry_timeout: Duration::from_mins(1), ..RetryConfig::default() }
}

/// An error and its causes in one line.
///
/// Of what S3 answered only code and message: the rest repeats the request that was signed, and
/// with it a session token.
fn flat(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let Some(body) = text.find("<?xml").or_else(|| text.find("<Error>")) else { return text };
    let between = |tag: &str| {
        let (_, rest) = text[body..].split_once(&format!("<{tag}>"))?;
        rest.split_once(&format!("</{tag}>")).map(|(inner, _)| inner.to_owned())
    };
    let said = [between("Code"), between("Message")].into_iter().flatten();
    format!("{}{}", &text[..body], said.collect::<Vec<_>>().join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> BucketUrl {
        BucketUrl {
            bucket: "images".to_owned(),
            prefix: "lab".to_owned(),
            endpoint: None,
            region: None,
        }
    }

    fn open(env: &[(&str, &str)]) -> Result<Bucket, ImageError> {
        let find = |name: &str| env.iter().find(|(key, _)| *key == name);
        Bucket::open(&url(), |name| find(name).map(|(_, value)| (*value).to_owned()), true)
    }

    #[test]
    fn credentials_come_from_the_environment_and_show_nowhere() {
        let bucket = open(&[
            ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("AWS_SESSION_TOKEN", "hunter3"),
        ])
        .unwrap();

        assert_eq!(format!("{bucket:?}"), r#"Bucket { url: "s3://images/lab", .. }"#);
    }

    #[test]
    fn missing_credentials_are_said_by_name() {
        for env in [&[][..], &[("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")]] {
            let error = open(env).unwrap_err().to_string();
            assert!(error.contains("AWS_SECRET_ACCESS_KEY"), "{error}");
        }
    }

    #[test]
    fn what_s3_repeats_of_a_request_is_left_out() {
        let source = "403 Forbidden: <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code>\
                      <Message>No match.</Message><CanonicalRequest>x-amz-security-token:hunter3\
                      </CanonicalRequest></Error>";
        let error =
            object_store::Error::Unauthenticated { path: "x".to_owned(), source: source.into() };

        let said = flat(&error);

        assert!(said.ends_with("403 Forbidden: SignatureDoesNotMatch: No match."), "{said}");
        assert!(!said.contains("hunter3"), "{said}");
    }
}
