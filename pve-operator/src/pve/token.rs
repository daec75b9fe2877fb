//! The API token a cluster is asked with.

use std::fmt;

use reqwest::header::HeaderValue;

use super::PveError;

/// A PVE API token. Its secret leaves it only as the value of the `Authorization` header.
#[derive(Clone, Eq, PartialEq)]
pub struct ApiToken {
    /// `user@realm!tokenid`
    id: Box<str>,
    header: HeaderValue,
}

impl ApiToken {
    /// Accepts `user@realm!tokenid` + `secret`, and `user@realm` + `tokenid=secret`.
    ///
    /// # Errors
    ///
    /// [`PveError::Input`] for anything else; the sentence says which two forms there are and
    /// what was wrong, and never holds any part of `user_token`.
    pub fn parse(user_id: &str, user_token: &str) -> Result<Self, PveError> {
        let (user_id, user_token) = (user_id.trim(), user_token.trim());
        let (user, token_id, secret) = match (user_id.split_once('!'), user_token.split_once('=')) {
            (Some((user, id)), None) => (user, id, user_token),
            (None, Some((id, secret))) => (user_id, id, secret),
            (None, None) => {
                return Err(refused("neither of them names a token id"));
            }
            (Some(_), Some(_)) => return Err(refused("both of them name a token id")),
        };
        let Some((name, realm)) = user.rsplit_once('@') else {
            return Err(refused("user_id has no realm"));
        };
        if name.is_empty() || realm.is_empty() || !name.bytes().all(is_user) || !is_word(realm) {
            return Err(refused("user_id is not user@realm"));
        }
        // A token id has at least two characters (seen on PVE 9.2.11).
        if token_id.len() < 2 || !is_word(token_id) {
            return Err(refused("the token id is not a word of at least two characters"));
        }
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused("the secret is empty or holds blanks"));
        }
        let id: Box<str> = format!("{user}!{token_id}").into();
        let Ok(mut header) = HeaderValue::try_from(format!("PVEAPIToken={id}={secret}")) else {
            return Err(refused("the secret cannot stand in a header"));
        };
        header.set_sensitive(true);
        Ok(Self { id, header })
    }

    /// `user@realm!tokenid`, which is no secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiToken({} [secret])", self.id)
    }
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

fn refused(why: &str) -> PveError {
    PveError::Input {
        what: format!(
            "the API token must be user_id = 'user@realm!tokenid' with user_token = 'secret', or \
             user_id = 'user@realm' with user_token = 'tokenid=secret'; {why}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_make_the_same_header() {
        let one = ApiToken::parse("root@pam!ci", "aaaa-bbbb").unwrap();
        let two = ApiToken::parse("root@pam", "ci=aaaa-bbbb").unwrap();

        assert_eq!(one, two);
        assert_eq!(one.header(), "PVEAPIToken=root@pam!ci=aaaa-bbbb");
        assert!(one.header().is_sensitive());
    }

    #[test]
    fn anything_else_is_refused_with_both_forms_and_without_the_secret() {
        for (user, token, why) in [
            ("user@pve", "s3cret", "neither of them names a token id"),
            ("user@pve!ci", "ci=s3cret", "both of them"),
            ("user!ci", "s3cret", "no realm"),
            ("@pve!ci", "s3cret", "not user@realm"),
            ("us er@pve!ci", "s3cret", "not user@realm"),
            ("user@pve!c", "s3cret", "two characters"),
            ("user@pve", "c i=s3cret", "two characters"),
            ("user@pve!ci", "", "empty or holds blanks"),
            ("user@pve!ci", "s3cret\nX: y", "empty or holds blanks"),
        ] {
            let error = ApiToken::parse(user, token).unwrap_err().to_string();

            assert!(error.contains(why), "{error}");
            assert!(error.contains("user@realm!tokenid") && error.contains("tokenid=secret"));
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn debug_hides_the_secret() {
        let token = ApiToken::parse("root@pam!ci", "s3cret").unwrap();

        assert_eq!(format!("{token:?}"), "ApiToken(root@pam!ci [secret])");
        assert!(!format!("{:?}", token.header()).contains("s3cret"));
    }
}
