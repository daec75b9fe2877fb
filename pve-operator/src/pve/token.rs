//! The API token a cluster is asked with.

use std::fmt;

use reqwest::header::HeaderValue;
use schema::cluster_access::TokenParts;
use schema::secret::Secret;

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
        let parts = TokenParts::parse(user_id, &Secret::new(user_token))?;
        let id: Box<str> = parts.id.into();
        let secret = parts.secret.expose();
        let Ok(mut header) = HeaderValue::try_from(format!("PVEAPIToken={id}={secret}")) else {
            return Err(PveError::Input {
                what: "user_token: the secret cannot stand in a header".to_owned(),
            });
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
