//! What a failed exchange means: as an error, as somebody's fault, and for the next address.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Cause, PveError,
    breaker::Severity,
    client::Call,
    error::{TimedOut, find_cause},
    failover::Endpoint,
    limits::Scope,
    tls::tls_error_in,
    upload::BodyFault,
};

/// What reqwest's error means here.
pub(crate) fn failed(
    endpoint: &Endpoint,
    call: &Call<'_>,
    started: Instant,
    error: reqwest::Error,
) -> PveError {
    if let Some(fault) = find_cause::<BodyFault>(&error) {
        return fault.clone().into_error(call.name());
    }
    let host = endpoint.authority().to_owned();
    let found = tls_error_in(&error)
        .map(|(tls, distrust)| (distrust.map(|it| it.presented), tls.clone(), distrust.cloned()));
    match found {
        // After the handshake an alert is just a connection that broke.
        Some((presented, tls, distrust)) if error.is_connect() => {
            let source: Cause = match distrust {
                Some(distrust) => Arc::new(distrust),
                None => Arc::new(tls),
            };
            PveError::Tls { host, presented, source }
        }
        _ if error.is_connect() => {
            PveError::Connect { host, source: Arc::new(error.without_url()) }
        }
        _ if error.is_decode() && find_cause::<hyper::Error>(&error).is_none() => {
            PveError::Decode { request: call.name(), source: Arc::new(error.without_url()) }
        }
        _ => PveError::NoAnswer {
            request: call.name(),
            host,
            waited: started.elapsed(),
            source: Arc::new(error.without_url()),
        },
    }
}

/// Whose fault an error is, and whether another address may do better.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) blame: Blame,
    pub(crate) try_another: bool,
}

#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Blame {
    /// It answered; what it said is for the caller.
    Nobody,
    /// The address we asked at.
    Entry(Severity),
    /// The node the request was for.
    Target(Severity),
    /// The address is not believed.
    Trust,
}

pub(crate) fn judge(error: &PveError, scope: Scope<'_>, elapsed: Duration) -> Verdict {
    let verdict = |blame, try_another| Verdict { blame, try_another };
    match error {
        PveError::Connect { .. } => verdict(Blame::Entry(Severity::Gone), true),
        PveError::Tls { .. } | PveError::NotHttps { .. } => verdict(Blame::Trust, true),
        PveError::NoAnswer { source, .. } => {
            let again = elapsed < SOON && !source.is::<TimedOut>();
            verdict(Blame::Entry(Severity::Shaky), again)
        }
        PveError::Refused { status: status @ 595..=599, .. } => {
            let severity = if *status == 595 { Severity::Gone } else { Severity::Shaky };
            match scope.node() {
                Some(_) => verdict(Blame::Target(severity), false),
                // pveproxy is there and its pvedaemon is not.
                None => verdict(Blame::Entry(severity), elapsed < SOON),
            }
        }
        // A reverse proxy speaks, not PVE.
        PveError::Refused { status: 502..=504, .. } => verdict(Blame::Entry(Severity::Shaky), true),
        _ => verdict(Blame::Nobody, false),
    }
}

/// A connection that breaks this soon was most likely one that PVE had closed meanwhile, or a
/// node going down; a later one is a node in trouble, and its successor would inherit it.
const SOON: Duration = Duration::from_secs(3);
