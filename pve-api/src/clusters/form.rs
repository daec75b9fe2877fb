//! A cluster as callers write it, held against how the operator will read it.

use schema::cluster::ClusterWish;
use schema::cluster_access::{self, Mistake, TokenParts};
use schema::secret::Secret;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use crate::error::ApiError;
use crate::text::{line, text};

/// A whole cluster. A field that is left out, or null, has its default; `user_token` alone then
/// stays as it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterBody {
    /// Each name once.
    pub cluster_name: String,
    pub cluster_name_alias: Option<String>,
    pub env: Option<String>,
    pub datacenter: Option<String>,
    /// `https://HOST[:PORT]` of any node.
    pub api_url: String,
    /// `user@realm!tokenid`, or `user@realm` with `tokenid=secret` as the token.
    pub user_id: String,
    /// The token's secret; it goes in and never comes out.
    pub user_token: Option<WrittenSecret>,
    pub dns: Option<String>,
    pub describes: Option<String>,
    pub region: Option<String>,
    /// Whether guests may be placed here; true, if left out.
    pub is_schedulable: Option<bool>,
    /// Whether it is mirrored; true, if left out.
    pub is_enabled: Option<bool>,
    /// SHA-256 of the certificates to trust, separated by commas.
    pub tls_fingerprint: Option<String>,
    /// Certificates of the authority to trust, in PEM.
    pub tls_ca: Option<String>,
    /// Trusts any certificate; false, if left out.
    pub tls_insecure: Option<bool>,
}

/// Text that no error repeats, not even one about its type.
#[derive(Debug)]
pub(crate) struct WrittenSecret(pub Secret);

impl<'de> Deserialize<'de> for WrittenSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(Secret::new(text))),
            _ => Err(serde::de::Error::custom("user_token is not a string")),
        }
    }
}

impl JsonSchema for WrittenSecret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "WrittenSecret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "writeOnly": true, "minLength": 1})
    }
}

const NAME: usize = 255;
const WORD: usize = 64;
const URL: usize = 1024;

/// PVE's secrets have 36 characters.
const LONGEST_TOKEN: usize = 1024;

impl ClusterBody {
    /// The row that is asked for, its token aside.
    pub(super) fn wish(&self) -> Result<ClusterWish, ApiError> {
        let api_url = line("api_url", self.api_url.trim(), URL)?;
        cluster_access::api_url(&api_url).map_err(|mistake| refused(&mistake))?;
        let user_id = line("user_id", self.user_id.trim(), NAME)?;
        cluster_access::check_user_id(&user_id).map_err(|mistake| refused(&mistake))?;
        Ok(ClusterWish {
            cluster_name: name("cluster_name", &self.cluster_name)?,
            cluster_name_alias: some_line(
                "cluster_name_alias",
                self.cluster_name_alias.as_ref(),
                NAME,
            )?,
            env: some_line("env", self.env.as_ref(), WORD)?,
            datacenter: some_line("datacenter", self.datacenter.as_ref(), NAME)?,
            api_url,
            user_id,
            dns: some_line("dns", self.dns.as_ref(), NAME)?,
            describes: some_text("describes", self.describes.as_ref())?,
            region: some_line("region", self.region.as_ref(), NAME)?,
            is_schedulable: self.is_schedulable.unwrap_or(true).into(),
            is_enabled: self.is_enabled.unwrap_or(true).into(),
            tls_fingerprint: fingerprints(self.tls_fingerprint.as_ref())?,
            tls_ca: authority(self.tls_ca.as_ref())?,
            tls_insecure: self.tls_insecure.unwrap_or(false).into(),
        })
    }

    /// The token that is asked for, as it is to be used.
    pub(super) fn token(&self) -> Result<Option<Secret>, ApiError> {
        let Some(WrittenSecret(token)) = &self.user_token else { return Ok(None) };
        let token = Secret::new(token.expose().trim());
        let wrong = |message: String| Err(ApiError::invalid(TOKEN, message));
        if token.expose().len() > LONGEST_TOKEN {
            return wrong(format!("{TOKEN} has more than {LONGEST_TOKEN} characters"));
        }
        if token.is_sealed() {
            return wrong(format!("{TOKEN} is sealed; send it as PVE printed it"));
        }
        Ok(Some(token))
    }
}

pub(super) const TOKEN: &str = "user_token";

/// Whether the operator will take these two for a token.
pub(super) fn fit(user_id: &str, token: &Secret) -> Result<(), ApiError> {
    TokenParts::parse(user_id, token).map(drop).map_err(|mistake| refused(&mistake))
}

fn refused(mistake: &Mistake) -> ApiError {
    ApiError::invalid(mistake.column(), mistake.to_string())
}

/// A name that looks the same wherever it is shown, and is one name to all databases.
fn name(field: &'static str, text: &str) -> Result<String, ApiError> {
    if text.trim() != text {
        let message = format!("{field} begins or ends with a blank; leave it away");
        return Err(ApiError::invalid(field, message));
    }
    line(field, text, NAME)
}

fn some_line(
    field: &'static str,
    text: Option<&String>,
    longest: usize,
) -> Result<Option<String>, ApiError> {
    text.map(|text| line(field, text, longest)).transpose()
}

fn some_text(field: &'static str, written: Option<&String>) -> Result<Option<String>, ApiError> {
    written.map(|written| text(field, written)).transpose()
}

fn fingerprints(written: Option<&String>) -> Result<Option<String>, ApiError> {
    let Some(written) = written else { return Ok(None) };
    let field = "tls_fingerprint";
    if cluster_access::fingerprints(written).map_err(|mistake| refused(&mistake))?.is_empty() {
        let message = format!("{field} names no fingerprint; write null to trust none");
        return Err(ApiError::invalid(field, message));
    }
    text(field, written).map(Some)
}

fn authority(written: Option<&String>) -> Result<Option<String>, ApiError> {
    let Some(written) = written else { return Ok(None) };
    cluster_access::certificates(written).map_err(|mistake| refused(&mistake))?;
    text("tls_ca", written).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(change: &serde_json::Value) -> Result<ClusterBody, serde_json::Error> {
        let mut whole = serde_json::json!({
            "cluster_name": "lab", "api_url": "https://pve1:8006", "user_id": "api@pve!ci",
        });
        for (field, value) in change.as_object().expect("an object") {
            whole[field] = value.clone();
        }
        serde_json::from_value(whole)
    }

    fn message(field: &str, value: impl Into<serde_json::Value>) -> String {
        let body = body(&serde_json::json!({ field: value.into() })).unwrap();
        let error = body.wish().and_then(|_| body.token()).unwrap_err();
        assert!(matches!(&error, ApiError::Invalid { field: named, .. } if named == field));
        error.to_string()
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let wish = body(&serde_json::json!({"env": null})).unwrap().wish().unwrap();

        assert!(wish.is_enabled.0 && wish.is_schedulable.0 && !wish.tls_insecure.0);
        assert_eq!((wish.env, wish.tls_ca), (None, None));
    }

    #[test]
    fn each_field_is_held_against_what_the_operator_reads() {
        for (field, value, says) in [
            ("cluster_name", "", "is empty"),
            ("cluster_name", " lab", "blank"),
            ("cluster_name", &"x".repeat(256), "too long"),
            ("cluster_name", "a\u{7}", "control character"),
            ("env", &"x".repeat(65), "at most 64"),
            ("api_url", "http://pve1:8006", "use https://"),
            ("api_url", "pve1", "should look like"),
            ("user_id", "root", "user@realm!tokenid"),
            ("user_token", "v1:aa:bb", "as PVE printed it"),
            ("tls_fingerprint", "AA:BB", "64 hex digits"),
            ("tls_fingerprint", " , ", "null"),
            ("tls_ca", "no pem", "BEGIN CERTIFICATE"),
            ("describes", "a\0", "control character"),
        ] {
            let said = message(field, value);
            assert!(said.contains(says), "{field}: {said}");
        }
        assert!(body(&serde_json::json!({"describes": "a\n\tb"})).unwrap().wish().is_ok());
    }

    // C04
    #[test]
    fn a_token_of_another_type_is_not_told_back() {
        for wrong in [serde_json::json!(5_318_008), serde_json::json!({"secret": "hunter2"})] {
            let error = body(&serde_json::json!({"user_token": wrong})).unwrap_err().to_string();
            assert!(!error.contains("5318008") && !error.contains("hunter2"), "{error}");
        }
        let body = body(&serde_json::json!({"user_token": "hunter2"})).unwrap();
        assert!(!format!("{body:?}").contains("hunter2"));
    }
}
