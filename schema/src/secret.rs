//! Secrets: how they are held in memory and sealed in the tables.
//!
//! A sealed secret is `v1:KEY:TEXT`: AES-256-GCM under the key whose id is `KEY`, `TEXT` being
//! nonce and ciphertext in base64url. The purpose is authenticated too, so what was sealed for
//! one column cannot be opened for another. Whatever does not start with `v1:` is plain.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

/// What `pve_cluster.user_token` is sealed for.
pub const USER_TOKEN: &str = "pve_cluster.user_token";

const PREFIX: &str = "v1:";
const KEY_LEN: usize = 32;

/// Text that no log, error or `Debug` shows.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is a sealed secret, and not a plain one.
    pub fn is_sealed(&self) -> bool {
        self.0.starts_with(PREFIX)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The keys of `--secret-key-file`: the first seals, all of them open.
///
/// To rotate, put the new key before the old one; the old one may go when nothing sealed by it
/// is left.
#[derive(Clone)]
pub struct SecretKeys(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: String,
    aead: LessSafeKey,
}

/// Why a secret could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The table has a sealed secret and this program got no key.
    #[error("the secret is sealed: start with the --secret-key-file that it was sealed with")]
    NoKey,
    /// None of the keys of this program has sealed it.
    #[error("the secret was sealed with key {id}, which is not in the --secret-key-file")]
    UnknownKey { id: String },
    /// The sealed text was changed, cut, or sealed for something else.
    #[error("the sealed secret is damaged: write the plain one again")]
    Damaged,
    /// The key file holds no key.
    #[error(
        "the secret key file must hold 32 random bytes, raw or one key a line in hex or base64; \
         `openssl rand -hex 32` makes one"
    )]
    KeyFormat,
    #[error("read the secret key file {path}")]
    KeyFile { path: String, source: std::io::Error },
    /// The system gave no random bytes.
    #[error("no random bytes from the system")]
    Random,
}

impl SecretKeys {
    /// Reads a key file.
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let bytes = std::fs::read(path)
            .map_err(|source| SecretError::KeyFile { path: path.display().to_string(), source })?;
        Self::parse(&bytes)
    }

    /// Takes 32 raw bytes, or one key a line in hex or base64; empty lines and `#` comments are
    /// skipped.
    pub fn parse(file: &[u8]) -> Result<Self, SecretError> {
        // 32 raw bytes may be text by accident, but no 32 characters of text are a key.
        if let Ok(raw) = <&[u8; KEY_LEN]>::try_from(file) {
            return Ok(Self(vec![Key::new(raw)]));
        }
        let text = std::str::from_utf8(file).map_err(|_| SecretError::KeyFormat)?;
        let keys = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| key_bytes(line).map(|bytes| Key::new(&bytes)).ok_or(SecretError::KeyFormat))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(SecretError::KeyFormat) } else { Ok(Self(keys)) }
    }

    /// Seals with the first key; twice gives two different texts.
    pub fn seal(&self, purpose: &str, secret: &Secret) -> Result<String, SecretError> {
        // `parse` accepts no empty list.
        let key = self.0.first().ok_or(SecretError::NoKey)?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SecretError::Random)?;
        let mut text = secret.expose().as_bytes().to_vec();
        key.aead
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(purpose.as_bytes()),
                &mut text,
            )
            .map_err(|_| SecretError::Damaged)?;
        let sealed = [&nonce[..], &text].concat();
        Ok(format!("{PREFIX}{}:{}", key.id, URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// Opens what [`seal`](Self::seal) gave for the same purpose.
    pub fn open(&self, purpose: &str, sealed: &Secret) -> Result<Secret, SecretError> {
        let rest = sealed.0.strip_prefix(PREFIX).ok_or(SecretError::Damaged)?;
        let (id, text) = rest.split_once(':').ok_or(SecretError::Damaged)?;
        let Some(key) = self.0.iter().find(|key| key.id == id) else {
            // Whatever stands there, only what looks like an id is repeated.
            let known = id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit());
            return Err(if known {
                SecretError::UnknownKey { id: id.to_owned() }
            } else {
                SecretError::Damaged
            });
        };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SecretError::Damaged)?;
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN).ok_or(SecretError::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretError::Damaged)?;
        let mut text = text.to_vec();
        let plain = key
            .aead
            .open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut text)
            .map_err(|_| SecretError::Damaged)?;
        let plain = std::str::from_utf8(plain).map_err(|_| SecretError::Damaged)?;
        Ok(Secret::new(plain))
    }

    /// Whether `stored` is sealed with the key that seals today.
    pub fn is_current(&self, stored: &Secret) -> bool {
        self.0.first().is_some_and(|key| {
            stored
                .0
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.strip_prefix(key.id.as_str()))
                .is_some_and(|rest| rest.starts_with(':'))
        })
    }
}

/// The secret that a column holds, plain or sealed.
///
/// # Errors
///
/// Those of [`SecretKeys::open`]; [`SecretError::NoKey`] if it is sealed and there are no keys.
pub fn reveal(
    keys: Option<&SecretKeys>,
    purpose: &str,
    stored: &Secret,
) -> Result<Secret, SecretError> {
    match keys {
        _ if !stored.is_sealed() => Ok(stored.clone()),
        Some(keys) => keys.open(purpose, stored),
        None => Err(SecretError::NoKey),
    }
}

impl Key {
    fn new(bytes: &[u8; KEY_LEN]) -> Self {
        let id = digest(&SHA256, bytes).as_ref().iter().take(4).fold(
            String::with_capacity(8),
            |mut id, byte| {
                for nibble in [byte >> 4, byte & 15] {
                    id.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
                }
                id
            },
        );
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256 takes 32 bytes");
        Self { id, aead: LessSafeKey::new(key) }
    }
}

fn key_bytes(line: &str) -> Option<[u8; KEY_LEN]> {
    if line.len() == 2 * KEY_LEN && line.bytes().all(|b| b.is_ascii_hexdigit()) {
        let mut key = [0; KEY_LEN];
        for (byte, pair) in key.iter_mut().zip(line.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        return Some(key);
    }
    [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|base64| base64.decode(line).ok()?.try_into().ok())
}

impl fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const OTHER: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn keys(file: &str) -> SecretKeys {
        SecretKeys::parse(file.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_sealed_can_be_opened_for_the_same_purpose_only() {
        let (keys, token) = (keys(HEX), Secret::new("mirror=1234-abcd"));

        let sealed = Secret::new(keys.seal(USER_TOKEN, &token).unwrap());

        assert!(sealed.is_sealed() && !sealed.expose().contains("1234"));
        assert_eq!(keys.open(USER_TOKEN, &sealed).unwrap(), token);
        assert!(matches!(keys.open("pve_vm.vm_password", &sealed), Err(SecretError::Damaged)));
        assert_ne!(keys.seal(USER_TOKEN, &token).unwrap(), sealed.expose());
    }

    #[test]
    fn a_changed_or_cut_secret_is_refused_and_not_shown() {
        let keys = keys(HEX);
        let sealed = keys.seal(USER_TOKEN, &Secret::new("s3cret")).unwrap();

        for broken in [&sealed[..sealed.len() - 2], "v1:", "v1:00:x", "v1:hunter2:aaaa"] {
            let error = keys.open(USER_TOKEN, &Secret::new(broken)).unwrap_err();
            assert!(matches!(error, SecretError::Damaged), "{broken}: {error}");
        }
        let last = if sealed.ends_with('A') { 'Q' } else { 'A' };
        let changed = format!("{}{last}", &sealed[..sealed.len() - 1]);
        assert!(keys.open(USER_TOKEN, &Secret::new(changed)).is_err());
    }

    #[test]
    fn a_rotated_key_seals_anew_and_opens_the_old() {
        let old = keys(HEX);
        let sealed = Secret::new(old.seal(USER_TOKEN, &Secret::new("t")).unwrap());

        let both = keys(&format!("# new\n{OTHER}\n\n{HEX}\n"));

        assert_eq!(both.open(USER_TOKEN, &sealed).unwrap().expose(), "t");
        assert!(old.is_current(&sealed) && !both.is_current(&sealed));
        let error = keys(OTHER).open(USER_TOKEN, &sealed).unwrap_err();
        assert!(matches!(error, SecretError::UnknownKey { .. }), "{error}");
    }

    #[test]
    fn a_key_may_be_raw_hex_or_base64() {
        let raw: Vec<u8> = (0..32).collect();
        let sealed = Secret::new(keys(HEX).seal("x", &Secret::new("t")).unwrap());

        for file in [raw.clone(), STANDARD.encode(&raw).into(), URL_SAFE_NO_PAD.encode(&raw).into()]
        {
            let keys = SecretKeys::parse(&file).unwrap();
            assert_eq!(keys.open("x", &sealed).unwrap().expose(), "t");
        }
        for wrong in ["", "short", "# nothing\n"] {
            assert!(matches!(SecretKeys::parse(wrong.as_bytes()), Err(SecretError::KeyFormat)));
        }
    }

    #[test]
    fn plain_secrets_are_revealed_without_a_key_and_sealed_ones_are_not() {
        let plain = Secret::new("mirror=1234");
        let sealed = Secret::new(keys(HEX).seal(USER_TOKEN, &plain).unwrap());

        assert_eq!(reveal(None, USER_TOKEN, &plain).unwrap(), plain);
        assert_eq!(reveal(Some(&keys(HEX)), USER_TOKEN, &sealed).unwrap(), plain);
        assert!(matches!(reveal(None, USER_TOKEN, &sealed), Err(SecretError::NoKey)));
        assert_eq!(format!("{plain:?} {:?}", keys(HEX)), "[secret] [\"630dcd29\"]");
    }
}
