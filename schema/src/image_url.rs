//! Signed addresses at which one node fetches one image, once for each attempt.
//!
//! PVE's `download-url` takes an address and nothing else, so what a node may fetch stands in the
//! address: a [`Grant`] and its signature. A grant opens one file for the attempt of one instance
//! and then expires. It may be used again within that time, because a node that lost its connection
//! asks again with the same address. It shows in PVE's task log and in `ps`, so there is no secret
//! in it, and whoever serves the image asks the tables whether the attempt is still the one that is
//! wanted.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hkdf, hmac};
use url::Url;

use crate::{ClusterId, Conn, DbError, InstanceId, UploadId, installation};

/// What signs the addresses of images, the same for every replica.
#[derive(Clone)]
pub struct ImageUrlKey(hmac::Key);

/// What an address allows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    pub upload_id: UploadId,
    /// On whose behalf it is fetched.
    pub instance_id: InstanceId,
    pub cluster_id: ClusterId,
    /// The attempt of that instance; a later one gets an address of its own.
    pub attempt: i32,
    /// PVE's name of the node.
    pub node: String,
    /// The last part of the address, which is the name that the node gives the file.
    pub file: String,
    /// Seconds since 1970; must outlast the slowest fetch.
    pub expires: i64,
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denied {
    #[error("this is no token of an image")]
    Malformed,
    #[error("the token was not signed with the key of this installation")]
    WrongSignature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is for another file")]
    WrongFile,
}

impl ImageUrlKey {
    /// The key that follows from a secret: the bytes of the `--secret-key-file`.
    pub fn derive(secret: &[u8]) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT);
        let key = salt.extract(secret);
        let key = key.expand(&[PURPOSE], hmac::HMAC_SHA256).expect("HKDF gives that many bytes");
        Self(hmac::Key::from(key))
    }

    /// The key of an installation: from its secret file where there is one, else from a random key
    /// that the database keeps for all replicas.
    ///
    /// Call it within [`crate::Db::write`].
    pub async fn of_installation(
        conn: &mut Conn,
        secret_file: Option<&[u8]>,
    ) -> Result<Self, DbError> {
        Ok(match secret_file {
            Some(secret) => Self::derive(secret),
            None => Self::derive(installation::signing_key(conn).await?.as_bytes()),
        })
    }

    /// The token of a grant, fit for a query string as it is.
    pub fn sign(&self, grant: &Grant) -> String {
        let mut bytes = grant.encoded();
        let signature = hmac::sign(&self.0, &bytes);
        bytes.extend_from_slice(signature.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a token allows, if it is ours and opens `file` at `now` (seconds since 1970).
    ///
    /// # Errors
    ///
    /// [`Denied`]. Nothing of a token is looked at before its signature is known to be right, and
    /// that comparison takes the same time wherever it fails.
    pub fn verify(&self, token: &str, file: &str, now: i64) -> Result<Grant, Denied> {
        if token.len() > LONGEST_TOKEN {
            return Err(Denied::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| Denied::Malformed)?;
        let length = bytes.len().checked_sub(SIGNATURE_BYTES).ok_or(Denied::Malformed)?;
        let (signed, signature) = bytes.split_at(length);
        hmac::verify(&self.0, signed, signature).map_err(|_| Denied::WrongSignature)?;
        let grant = Grant::decoded(signed).ok_or(Denied::Malformed)?;
        if grant.file != file {
            return Err(Denied::WrongFile);
        }
        if grant.expires <= now {
            return Err(Denied::Expired);
        }
        Ok(grant)
    }
}

/// `{base}/images/{first 16 of sha512}/{file}?t={token}`, for a `base` that may have a path.
pub fn image_url(base: &Url, sha512: &str, file: &str, token: &str) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["images", url_prefix(sha512), file]);
    }
    url.query_pairs_mut().append_pair("t", token);
    url
}

/// The part of an image's address that changes with its content.
pub fn url_prefix(sha512: &str) -> &str {
    sha512.get(..16).unwrap_or(sha512)
}

const SALT: &[u8] = b"pve-operator";
const PURPOSE: &[u8] = b"image url v1";
const SIGNATURE_BYTES: usize = 32;
const LAYOUT: u8 = 1;

/// Twice what the longest names need; whoever sends more is not asking for an image.
const LONGEST_TOKEN: usize = 2048;

impl Grant {
    /// One layout byte, five numbers, the lengths and bytes of two names: no two grants look alike.
    fn encoded(&self) -> Vec<u8> {
        let mut bytes = vec![LAYOUT];
        for number in [
            self.upload_id.0,
            self.instance_id.0,
            self.cluster_id.0,
            self.attempt.into(),
            self.expires,
        ] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        for name in [&self.node, &self.file] {
            bytes.extend_from_slice(&(name.len() as u64).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes
    }

    fn decoded(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        if rest.take(1)? != [LAYOUT] {
            return None;
        }
        let grant = Self {
            upload_id: UploadId(rest.number()?),
            instance_id: InstanceId(rest.number()?),
            cluster_id: ClusterId(rest.number()?),
            attempt: rest.number()?.try_into().ok()?,
            expires: rest.number()?,
            node: rest.name()?,
            file: rest.name()?,
        };
        rest.0.is_empty().then_some(grant)
    }
}

/// What is still to be read of a token.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<i64> {
        self.take(8)?.try_into().ok().map(i64::from_be_bytes)
    }

    fn name(&mut self) -> Option<String> {
        let length = self.number()?.try_into().ok()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

impl fmt::Debug for ImageUrlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ImageUrlKey([secret])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn a_grant() -> Grant {
        Grant {
            upload_id: UploadId(3),
            instance_id: InstanceId(7),
            cluster_id: ClusterId(1),
            attempt: 2,
            node: "pve-node1".to_owned(),
            file: "pvet-3-v1.qcow2".to_owned(),
            expires: NOW + 60,
        }
    }

    fn key() -> ImageUrlKey {
        ImageUrlKey::derive(b"a secret")
    }

    #[test]
    fn a_grant_comes_back_from_its_token_and_fits_a_query_string() {
        let grant = a_grant();

        let token = key().sign(&grant);

        assert_eq!(key().verify(&token, &grant.file, NOW), Ok(grant));
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert!(token.len() < 250, "{}", token.len());
    }

    // B16
    #[test]
    fn a_token_that_is_late_foreign_or_for_another_file_opens_nothing() {
        let grant = a_grant();
        let token = key().sign(&grant);
        let foreign = ImageUrlKey::derive(b"another secret").sign(&grant);

        let verify = |token: &str, file: &str, now| key().verify(token, file, now).unwrap_err();
        assert_eq!(verify(&token, &grant.file, grant.expires), Denied::Expired);
        assert_eq!(verify(&token, "other.qcow2", NOW), Denied::WrongFile);
        assert_eq!(verify(&foreign, &grant.file, NOW), Denied::WrongSignature);
        for nonsense in ["", "x", "%00", &"A".repeat(42), &"A".repeat(LONGEST_TOKEN + 1)] {
            assert_eq!(verify(nonsense, &grant.file, NOW), Denied::Malformed, "{nonsense}");
        }
    }

    // B16
    #[test]
    fn no_token_survives_the_change_of_a_bit() {
        let token = URL_SAFE_NO_PAD.decode(key().sign(&a_grant())).unwrap();
        for index in 0..token.len() {
            let mut changed = token.clone();
            changed[index] ^= 1;
            let changed = URL_SAFE_NO_PAD.encode(changed);
            let denied = key().verify(&changed, &a_grant().file, NOW);
            assert_eq!(denied, Err(Denied::WrongSignature), "byte {index}");
        }
    }

    #[test]
    fn what_is_signed_but_not_a_grant_is_malformed() {
        let whole = a_grant().encoded();
        let mut other_layout = whole.clone();
        other_layout[0] = 2;
        for bytes in [&whole[..whole.len() - 1], &[&whole[..], b"x"].concat(), &other_layout, &[]] {
            let signature = hmac::sign(&key().0, bytes);
            let token = URL_SAFE_NO_PAD.encode([bytes, signature.as_ref()].concat());
            assert_eq!(key().verify(&token, &a_grant().file, NOW), Err(Denied::Malformed));
        }
    }

    #[test]
    fn the_address_names_content_and_file_below_any_base() {
        let sha512 = "0123456789abcdef0123";
        for (base, expected) in [
            ("http://api:8080", "http://api:8080/images/0123456789abcdef/a%20b.qcow2?t=T"),
            ("https://h/pve/?x=1#y", "https://h/pve/images/0123456789abcdef/a%20b.qcow2?t=T"),
        ] {
            let url = image_url(&base.parse().unwrap(), sha512, "a b.qcow2", "T");
            assert_eq!(url.as_str(), expected);
        }
    }

    #[test]
    fn debug_output_does_not_show_the_key() {
        assert_eq!(format!("{:?}", key()), "ImageUrlKey([secret])");
    }
}
