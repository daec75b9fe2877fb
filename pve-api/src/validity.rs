//! Until when a certificate is valid: the one field of X.509 that we want to show.
//!
//! ```text
//! Certificate { TBSCertificate { [0] version?, serial, algorithm, issuer, Validity { from, until } …
//! ```

use chrono::NaiveDateTime;

/// In seconds since 1970; none if it can not be read.
pub(crate) fn ends(certificate: &[u8]) -> Option<i64> {
    let mut certificate = Der(certificate).inside(SEQUENCE)?;
    let mut body = certificate.inside(SEQUENCE)?;
    if body.0.first() == Some(&VERSION) {
        body.next()?;
    }
    let (_serial, _algorithm, _issuer) = (body.next()?, body.next()?, body.next()?);
    let mut validity = body.inside(SEQUENCE)?;
    let _from = validity.next()?;
    let (tag, until) = validity.next()?;
    let until = std::str::from_utf8(until).ok()?;
    let until = match tag {
        // Two digits of a year are of 1950 to 2049 (RFC 5280, 4.1.2.5.1).
        UTC_TIME => {
            let century = if until.get(..2)? < "50" { "20" } else { "19" };
            format!("{century}{until}")
        }
        GENERALIZED_TIME => until.to_owned(),
        _ => return None,
    };
    let until = NaiveDateTime::parse_from_str(&until, "%Y%m%d%H%M%SZ").ok()?;
    Some(until.and_utc().timestamp())
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// What has not been read yet.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: its tag and what is in it.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let digit = |length: usize, &digit: &u8| {
                length.checked_mul(256).map(|length| length + usize::from(digit))
            };
            length = digits.iter().try_fold(0, digit)?;
            rest = after;
        }
        let (inside, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, inside))
    }

    /// The inside of the next element, if it is of this kind.
    fn inside(&mut self, tag: u8) -> Option<Self> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, inside)| Self(inside))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn until(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(1999, 1, 1);
        params.not_after = date_time_ymd(year, 3, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_before_and_after_2050() {
        assert_eq!(ends(&until(2027)), Some(1_803_859_200));
        assert_eq!(ends(&until(2060)), Some(2_845_324_800));
    }

    #[test]
    fn what_is_cut_off_has_no_end() {
        let whole = until(2027);
        for length in 0..whole.len() {
            assert_eq!(ends(&whole[..length]), None, "{length}");
        }
    }
}
