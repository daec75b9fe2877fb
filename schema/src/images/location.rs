//! Where images are kept, as one URL says it.

use std::path::PathBuf;

use url::Url;

use super::ImageError;

/// A parsed image store URL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Location {
    /// `file:///var/lib/pve/images`
    Folder(PathBuf),
    /// `s3://bucket/prefix?endpoint=http://…&region=…`
    Bucket(BucketUrl),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct BucketUrl {
    pub(super) bucket: String,
    /// Without slashes at its ends; may be empty.
    pub(super) prefix: String,
    /// Where S3 is spoken, if not at Amazon.
    pub(super) endpoint: Option<Url>,
    pub(super) region: Option<String>,
}

impl Location {
    /// # Errors
    ///
    /// [`ImageError::Url`] with what to write instead. It never repeats a user or a password.
    pub(super) fn parse(text: &str) -> Result<Self, ImageError> {
        let url = Url::parse(text).map_err(|_| wrong(FORMS))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "credentials do not belong into the URL; set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY",
            ));
        }
        if url.fragment().is_some() {
            return Err(wrong("`#` has no meaning in it; write %23 if it is part of a name"));
        }
        match url.scheme() {
            "file" => folder(&url),
            "s3" => bucket(&url),
            other => Err(wrong(format!("the scheme {other}:// is not known; {FORMS}"))),
        }
    }
}

const FORMS: &str = "use file:///var/lib/pve/images or \
                     s3://bucket/prefix?endpoint=https://…&region=…";

fn folder(url: &Url) -> Result<Location, ImageError> {
    if url.query().is_some() {
        return Err(wrong("file:// takes no `?` parameters"));
    }
    match url.to_file_path() {
        Ok(path) if path.parent().is_some() => Ok(Location::Folder(path)),
        Ok(_) => Err(wrong("images need a folder of their own, not /")),
        Err(()) => Err(wrong(
            "file:// takes a whole path and so three slashes, as in file:///var/lib/pve/images",
        )),
    }
}

fn bucket(url: &Url) -> Result<Location, ImageError> {
    let Some(bucket) = url.host_str().filter(|name| !name.is_empty()) else {
        return Err(wrong("the bucket is missing, as in s3://bucket/prefix"));
    };
    if url.port().is_some() {
        return Err(wrong("after s3:// comes the bucket; the server's address is ?endpoint=…"));
    }
    let prefix = url.path().trim_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !prefix.chars().all(plain) || prefix.split('/').any(|part| part == "." || part == "..") {
        return Err(wrong("the prefix may have letters, digits and - _ . / only"));
    }
    let (mut endpoint, mut region) = (None, None);
    for (key, value) in url.query_pairs() {
        match &*key {
            "endpoint" => endpoint = Some(self::endpoint(&value)?),
            "region" if !value.is_empty() => region = Some(value.into_owned()),
            "region" => return Err(wrong("the region is empty, as in region=eu-central-1")),
            other => {
                return Err(wrong(format!("s3:// knows endpoint= and region=, not {other}=")));
            }
        }
    }
    Ok(Location::Bucket(BucketUrl {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint,
        region,
    }))
}

fn endpoint(text: &str) -> Result<Url, ImageError> {
    let says =
        || wrong("endpoint= takes an address, as in endpoint=https://minio.example.com:9000");
    let url = Url::parse(text).map_err(|_| says())?;
    let clean = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !clean {
        return Err(says());
    }
    Ok(url)
}

fn wrong(text: impl Into<String>) -> ImageError {
    ImageError::Url(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_whole_path() {
        let parsed = Location::parse("file:///var/lib/pve%20images").unwrap();

        assert_eq!(parsed, Location::Folder("/var/lib/pve images".into()));
    }

    #[test]
    fn a_bucket_has_a_prefix_and_may_be_anywhere() {
        let url = "s3://images/pve/lab/?endpoint=http://10.0.0.1:9000&region=lab";

        let parsed = Location::parse(url).unwrap();

        assert_eq!(
            parsed,
            Location::Bucket(BucketUrl {
                bucket: "images".to_owned(),
                prefix: "pve/lab".to_owned(),
                endpoint: Some(Url::parse("http://10.0.0.1:9000").unwrap()),
                region: Some("lab".to_owned()),
            })
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_write() {
        for (url, words) in [
            ("/var/lib/pve", "use file:///var/lib/pve/images"),
            ("ftp://host/images", "ftp:// is not known"),
            ("file://images", "three slashes"),
            ("file:///", "folder of their own"),
            ("file:///images?x=1", "no `?`"),
            ("s3:///prefix", "bucket is missing"),
            ("s3://bucket:9000/x", "?endpoint="),
            ("s3://bucket/a%2fb", "letters, digits"),
            ("s3://bucket/x?endpoint=minio:9000", "endpoint=https://"),
            ("s3://bucket/x?region=", "region is empty"),
            ("s3://bucket/x?regoin=eu", "not regoin="),
            ("s3://bucket/x#y", "`#`"),
        ] {
            let error = Location::parse(url).unwrap_err().to_string();

            assert!(error.contains(words), "{url}: {error}");
        }
    }

    #[test]
    fn credentials_in_the_url_are_refused_and_not_repeated() {
        for url in ["s3://AKIA123:hunter2@bucket/x", "s3://b/x?endpoint=http://me:hunter2@host"] {
            let error = Location::parse(url).unwrap_err().to_string();

            assert!(!error.contains("hunter2") && !error.contains("AKIA123"), "{error}");
        }
    }
}
