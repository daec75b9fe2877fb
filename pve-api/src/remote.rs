//! Where a request comes from, when there may be proxies on its way.
//!
//! Anybody can write `X-Forwarded-For`. Each proxy appends whom it got the request from, so what a
//! trusted one appended is true, and what stands before the first stranger, seen from our end, is
//! that stranger's own words.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::HeaderMap;
use axum::http::header::{FORWARDED, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where the request at hand comes from, among its extensions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Remote(pub IpAddr);

/// The address of the caller: of the last hop that is no trusted proxy.
///
/// A proxy writes one of the two headers and may pass on the other as the caller wrote it, so where
/// they disagree neither is believed.
pub(crate) fn caller(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let plain = hops(headers, &X_FORWARDED_FOR, |hop| node(hop.trim()));
    let standard = hops(headers, &FORWARDED, forwarded_for);
    match (plain, standard) {
        (None, None) => peer,
        (Some(hops), None) | (None, Some(hops)) => last_stranger(peer, &hops, trusted),
        (Some(plain), Some(standard)) => {
            let one = last_stranger(peer, &plain, trusted);
            if one == last_stranger(peer, &standard, trusted) { one } else { peer }
        }
    }
}

/// What callers are counted by. Whoever has one address of IPv6 has the 2⁶⁴ around it too.
pub(crate) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(network).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Goes back along the way until there is somebody whose words count for nothing.
fn last_stranger(peer: IpAddr, hops: &[Option<IpAddr>], trusted: &[IpNet]) -> IpAddr {
    let mut last = peer;
    for hop in hops.iter().rev() {
        // A proxy that hides its caller stands for it.
        let Some(hop) = hop else { break };
        last = *hop;
        if !is_trusted(last, trusted) {
            break;
        }
    }
    last
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// What a header says of the way, in its order; none without the header.
fn hops(
    headers: &HeaderMap,
    name: &HeaderName,
    parse: fn(&str) -> Option<IpAddr>,
) -> Option<Vec<Option<IpAddr>>> {
    headers.contains_key(name).then(|| {
        let lines = headers.get_all(name).iter();
        lines.flat_map(|line| line.to_str().unwrap_or_default().split(',').map(parse)).collect()
    })
}

/// Of `for="[2001:db8::1]:4711";proto=https`.
fn forwarded_for(hop: &str) -> Option<IpAddr> {
    if hop.split(';').any(is_torn) {
        return None;
    }
    let mut pairs = hop.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    node(value.trim_matches('"'))
}

/// Whether it was cut within quotes: then it may be words of a stranger, which a proxy repeats.
fn is_torn(pair: &str) -> bool {
    // No address needs a backslash, and one may stand before a quote that is none.
    pair.contains('\\') || pair.matches('"').count() % 2 == 1
}

/// An address, perhaps with a port, and in brackets if it is of IPv6.
fn node(text: &str) -> Option<IpAddr> {
    let address = text.parse().ok().or_else(|| {
        let with_port: Option<std::net::SocketAddr> = text.parse().ok();
        with_port.map(|it| it.ip())
    });
    let bracketed =
        || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    address.or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn seen(peer: &str, headers: &[(&'static str, &'static str)]) -> IpAddr {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let trusted = ["10.0.0.0/8", "2001:db8:1::/48"].map(|it| it.parse().unwrap());
        caller(ip(peer), &headers, &trusted)
    }

    #[test]
    fn a_stranger_is_who_connects_whatever_it_writes() {
        let written = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1")];
        assert_eq!(seen("203.0.113.9", &written), ip("203.0.113.9"));
        assert_eq!(seen("::ffff:203.0.113.9", &written), ip("203.0.113.9"));
    }

    #[test]
    fn behind_trusted_proxies_it_is_the_last_stranger() {
        for (written, expected) in [
            ("203.0.113.9", "203.0.113.9"),
            ("203.0.113.9:4711", "203.0.113.9"),
            ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
            ("1.1.1.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
            ("2001:db8::7, 2001:db8:1::2", "2001:db8::7"),
            ("[2001:db8::7]:80", "2001:db8::7"),
            // All of them are ours: the one that is farthest away.
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            // Words that are no address are not looked behind.
            ("203.0.113.9, nonsense", "10.0.0.1"),
            ("203.0.113.9, unknown, 10.0.0.2", "10.0.0.2"),
            ("", "10.0.0.1"),
        ] {
            let seen = seen("10.0.0.1", &[("x-forwarded-for", written)]);
            assert_eq!(seen, ip(expected), "{written}");
        }
    }

    #[test]
    fn the_standard_header_says_the_same() {
        for (written, expected) in [
            ("for=203.0.113.9;proto=https;by=10.0.0.1", "203.0.113.9"),
            ("for=1.1.1.1, For=\"203.0.113.9:4711\"", "203.0.113.9"),
            ("proto=https;for=\"[2001:db8::7]\"", "2001:db8::7"),
            ("for=_hidden", "10.0.0.1"),
            // Nothing within quotes is a hop, and nothing behind a quote that is torn is believed.
            ("for=1.1.1.1, for=2.2.2.2;host=\"x, for=3.3.3.3, y\"", "10.0.0.1"),
            ("host=\"x;for=3.3.3.3;y\";for=2.2.2.2", "10.0.0.1"),
            ("host=\"\\\", for=3.3.3.3;y=\\\"\"", "10.0.0.1"),
            ("for=\"1.1.1.1, for=203.0.113.9", "203.0.113.9"),
            ("proto=https", "10.0.0.1"),
        ] {
            assert_eq!(seen("10.0.0.1", &[("forwarded", written)]), ip(expected), "{written}");
        }
    }

    #[test]
    fn headers_that_disagree_are_not_believed() {
        let written = [("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=1.1.1.1")];
        assert_eq!(seen("10.0.0.1", &written), ip("10.0.0.1"));
    }

    #[test]
    fn callers_of_ipv6_are_counted_by_their_network() {
        assert_eq!(counted_as(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
        assert_eq!(counted_as(ip("203.0.113.9")), ip("203.0.113.9"));
        assert_eq!(counted_as(ip("::ffff:203.0.113.9")), ip("203.0.113.9"));
    }
}
