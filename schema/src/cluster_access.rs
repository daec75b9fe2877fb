//! How the columns of `pve_cluster` that lead to a cluster are written: address, token, certificates.
//!
//! Whoever takes such a row from a person and whoever connects with it read it by these functions,
//! so what was taken can be used.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use crate::secret::Secret;

/// Why a column can not be used. What it says never holds any part of a token.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Mistake {
    /// `api_url` is plain HTTP.
    #[error("{url} is not PVE's API itself: {PLAIN_HTTP}; use https://HOST:8006")]
    NotHttps { url: String },
    #[error("{what}")]
    Other { column: &'static str, what: String },
}

/// Why nothing is sent to an address that is plain HTTP.
pub const PLAIN_HTTP: &str =
    "PVE answers plain HTTP with a redirect only, and a token must not travel unencrypted";

impl Mistake {
    /// The column that is to be mended.
    pub fn column(&self) -> &'static str {
        match self {
            Self::NotHttps { .. } => API_URL,
            Self::Other { column, .. } => column,
        }
    }
}

const API_URL: &str = "api_url";
const USER_ID: &str = "user_id";
const USER_TOKEN: &str = "user_token";

/// Reads an `api_url`: `https://HOST[:PORT]`, with or without `/api2/json`, which is taken off.
///
/// # Errors
///
/// [`Mistake::NotHttps`] for `http://`, [`Mistake::Other`] for anything else that is no address.
pub fn api_url(text: &str) -> Result<Url, Mistake> {
    let text = text.trim();
    // A password in it, which none belongs in, is not repeated.
    let shown: String = text.chars().take(200).collect();
    let shown = if shown.contains('@') { "it".to_owned() } else { format!("{shown:?}") };
    let bad = |why: &str| Mistake::Other {
        column: API_URL,
        what: format!("api_url {shown} {why}; it should look like https://pve1.example.com:8006"),
    };
    let mut url = Url::parse(text).map_err(|error| bad(&format!("is no URL ({error})")))?;
    if !url.username().is_empty() || url.password().is_some() {
        let what = "api_url holds a user or password; they belong into user_id and user_token";
        return Err(Mistake::Other { column: API_URL, what: what.to_owned() });
    }
    match url.scheme() {
        "https" => {}
        "http" => return Err(Mistake::NotHttps { url: text.chars().take(200).collect() }),
        _ => return Err(bad("does not start with https://")),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("has no host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("has a query"));
    }
    let path = url.path().trim_end_matches('/').trim_end_matches("/api2/json").to_owned();
    url.set_path(path.trim_end_matches('/'));
    Ok(url)
}

/// An `api_url` as it may be shown, whatever somebody wrote into it: without user and password.
pub fn without_user(api_url: &str) -> String {
    let (scheme, rest) = api_url.split_once("://").unwrap_or(("", api_url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if scheme.is_empty() { format!("{host}{path}") } else { format!("{scheme}://{host}{path}") }
}

/// The parts of an API token of PVE.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenParts {
    /// `user@realm!tokenid`, which is no secret.
    pub id: String,
    pub secret: Secret,
}

impl TokenParts {
    /// Reads `user@realm!tokenid` + `secret`, or `user@realm` + `tokenid=secret`.
    ///
    /// # Errors
    ///
    /// [`Mistake::Other`] for anything else; it says which two forms there are and what was wrong.
    pub fn parse(user_id: &str, user_token: &Secret) -> Result<Self, Mistake> {
        let (user_id, user_token) = (user_id.trim(), user_token.expose().trim());
        let (user, token_id, secret, named_in) =
            match (user_id.split_once('!'), user_token.split_once('=')) {
                (Some((user, id)), None) => (user, id, user_token, USER_ID),
                (None, Some((id, secret))) => (user_id, id, secret, USER_TOKEN),
                (None, None) => return Err(refused(USER_ID, "neither of them names a token id")),
                (Some(_), Some(_)) => return Err(refused(USER_ID, "both of them name a token id")),
            };
        check_user(user)?;
        check_token_id(token_id, named_in)?;
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused(USER_TOKEN, "the secret is empty or holds blanks"));
        }
        Ok(Self { id: format!("{user}!{token_id}"), secret: Secret::new(secret) })
    }
}

/// As far as a `user_id` can be judged without its token, which is sealed.
///
/// # Errors
///
/// As [`TokenParts::parse`].
pub fn check_user_id(user_id: &str) -> Result<(), Mistake> {
    match user_id.trim().split_once('!') {
        None => check_user(user_id.trim()),
        Some((user, token_id)) => check_user(user).and_then(|()| check_token_id(token_id, USER_ID)),
    }
}

fn check_user(user: &str) -> Result<(), Mistake> {
    let Some((name, realm)) = user.rsplit_once('@') else {
        return Err(refused(USER_ID, "user_id has no realm"));
    };
    if name.is_empty() || realm.is_empty() || !name.bytes().all(is_user) || !is_word(realm) {
        return Err(refused(USER_ID, "user_id is not user@realm"));
    }
    Ok(())
}

/// A token id has at least two characters (seen on PVE 9.2.11).
fn check_token_id(token_id: &str, named_in: &'static str) -> Result<(), Mistake> {
    if token_id.len() < 2 || !is_word(token_id) {
        return Err(refused(named_in, "the token id is not a word of at least two characters"));
    }
    Ok(())
}

/// pve-access-control: `src/PVE/Auth/Plugin.pm`, `verify_username`: no blanks, `:` or `/`.
fn is_user(byte: u8) -> bool {
    (byte.is_ascii_graphic() || byte >= 0x80) && !b":/".contains(&byte)
}

/// pve-access-control: `src/PVE/AccessControl.pm`, `token_subid_regex` and realm names.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn refused(column: &'static str, why: &str) -> Mistake {
    Mistake::Other {
        column,
        what: format!(
            "the API token must be user_id = 'user@realm!tokenid' with user_token = 'secret', or \
             user_id = 'user@realm' with user_token = 'tokenid=secret'; {why}"
        ),
    }
}

/// Reads a `tls_fingerprint`: SHA-256 of certificates, separated by commas; none from an empty text.
///
/// # Errors
///
/// [`Mistake::Other`] names the first that is none.
pub fn fingerprints(text: &str) -> Result<Vec<[u8; 32]>, Mistake> {
    text.split(',').map(str::trim).filter(|it| !it.is_empty()).map(fingerprint).collect()
}

/// Reads one SHA-256; colons and case do not matter.
///
/// # Errors
///
/// [`Mistake::Other`] if it is none.
pub fn fingerprint(text: &str) -> Result<[u8; 32], Mistake> {
    let digits: Vec<u8> = text.trim().bytes().filter(|byte| *byte != b':').collect();
    let mut bytes = [0; 32];
    let whole = digits.len() == 64
        && bytes.iter_mut().zip(digits.chunks(2)).all(|(byte, pair)| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'));
            let value = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
            value.map(|value| *byte = value).is_some()
        });
    if whole {
        return Ok(bytes);
    }
    let shown: String = text.chars().take(100).collect();
    let what = format!("{shown:?} is not a SHA-256 fingerprint: it has 32 bytes, as 64 hex digits");
    Err(Mistake::Other { column: "tls_fingerprint", what })
}

/// Reads a `tls_ca`: certificates in PEM, each of which can be trusted.
///
/// # Errors
///
/// [`Mistake::Other`] if there is none, or one that is no certificate.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Mistake> {
    let bad = |why: String| Mistake::Other {
        column: "tls_ca",
        what: format!("tls_ca is not a PEM certificate: {why}"),
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|error| bad(error.to_string()))?;
    if found.is_empty() {
        return Err(bad("there is no BEGIN CERTIFICATE in it".to_owned()));
    }
    for der in &found {
        RootCertStore::empty().add(der.clone()).map_err(|error| bad(error.to_string()))?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_and_a_host() {
        for (text, url) in [
            ("https://pve1:8006", "https://pve1:8006/"),
            (" https://10.0.0.1:8006/api2/json/ ", "https://10.0.0.1:8006/"),
            ("https://[fd00::1]:8006", "https://[fd00::1]:8006/"),
            ("https://pve.example.com/lab/api2/json", "https://pve.example.com/lab"),
        ] {
            assert_eq!(api_url(text).unwrap().as_str(), url);
        }
        let plain = api_url("http://pve1:8006").unwrap_err();
        assert!(matches!(plain, Mistake::NotHttps { .. }), "{plain}");
    }

    #[test]
    fn a_password_in_an_address_is_never_told_back() {
        for text in [
            "https://root:s3cret@pve1:8006",
            "http://root:s3cret@pve1:8006",
            "ftp://root:s3cret@pve1",
            "root:s3cret@pve1",
            "https://root:s3cret@",
        ] {
            let said = api_url(text).unwrap_err();
            assert_eq!(said.column(), "api_url");
            assert!(!said.to_string().contains("s3cret"), "{said}");
            assert!(!without_user(text).contains("s3cret"), "{text}");
        }
        assert_eq!(without_user("https://root:a@pve1:8006/x@y"), "https://pve1:8006/x@y");
        assert_eq!(without_user("https://pve1:8006"), "https://pve1:8006");
    }

    #[test]
    fn a_token_has_two_forms() {
        let parts = |user, token| TokenParts::parse(user, &Secret::new(token));

        let one = parts("root@pam!ci", "aaaa-bbbb").unwrap();
        assert_eq!(one, parts(" root@pam", "ci=aaaa-bbbb\n").unwrap());
        assert_eq!((one.id.as_str(), one.secret.expose()), ("root@pam!ci", "aaaa-bbbb"));
        for (user, token, column) in [
            ("user@pve", "s3cret", "user_id"),
            ("user@pve!ci", "ci=s3cret", "user_id"),
            ("us er@pve!ci", "s3cret", "user_id"),
            ("user@pve!c", "s3cret", "user_id"),
            ("user@pve", "c i=s3cret", "user_token"),
            ("user@pve!ci", "s3 cret", "user_token"),
        ] {
            let said = parts(user, token).unwrap_err();
            assert_eq!(said.column(), column, "{said}");
            assert!(!said.to_string().contains("s3"), "{said}");
        }
        assert!(check_user_id("root@pam!ci").is_ok() && check_user_id("root@pam").is_ok());
        assert!(check_user_id("root").is_err() && check_user_id("root@pam!c i").is_err());
    }

    #[test]
    fn a_fingerprint_has_32_bytes() {
        let colons = format!("{}AA", "AA:".repeat(31));
        assert_eq!(fingerprints(&format!("{colons}, {}", "bb".repeat(32))).unwrap().len(), 2);
        assert_eq!(fingerprints(" ").unwrap(), <[[u8; 32]; 0]>::default());
        for wrong in ["AA:BB", &"zz".repeat(32), &"+1".repeat(32)] {
            assert_eq!(fingerprints(wrong).unwrap_err().column(), "tls_fingerprint");
        }
        assert_eq!(certificates("no pem").unwrap_err().column(), "tls_ca");
    }
}
