//! What is wrong with a cluster, in words, and what to do about it.
//!
//! The poller, the guard and the details task note facts on a [`Board`]; one function turns
//! the facts into the condition that `pve_cluster_status` shows.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::guard::{Doubt, Quorum};
use crate::metrics::Kind;

/// Why the last poll brought no whole answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// Nothing vouches for the certificate; no token was sent.
    Untrusted { host: String, presented: Option<String>, why: String },
    /// PVE does not know the token.
    Unauthorized,
    /// `api_url` speaks plain HTTP, or is written with `http:`.
    NotHttps,
    /// No connection, or no answer.
    Unreachable(String),
    /// PVE answered something else.
    Other(String),
}

/// What is known about the connection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Connection {
    #[default]
    NotTried,
    Working,
    Failing(Trouble),
}

/// Everything that the condition is made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// A mistake in the row of `pve_cluster`; nothing is asked of PVE until it is mended.
    pub mistake: Option<String>,
    pub connection: Connection,
    pub quorum: Quorum,
    pub version: Option<String>,
    /// Privileges that the mirror could use and the token lacks, as `VM.Audit on /vms`.
    pub missing_privileges: Vec<String>,
    /// Per kind, why objects are held although lists lack them.
    pub doubts: [Option<Doubt>; 3],
    /// The cluster's certificate is not checked, on its row's own word.
    pub insecure: bool,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            mistake: None,
            connection: Connection::NotTried,
            quorum: Quorum::NotShown,
            version: None,
            missing_privileges: Vec::new(),
            doubts: [None; 3],
            insecure: false,
        }
    }
}

/// The facts of one cluster, shared by those who find and those who report them.
#[derive(Clone, Debug, Default)]
pub struct Board {
    facts: Arc<Mutex<Facts>>,
    changed: Arc<Notify>,
}

impl Board {
    /// Changes facts; whoever waits in [`changed`](Self::changed) hears of it if they differ.
    pub fn note(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts.lock();
        let before = facts.clone();
        change(&mut facts);
        if *facts != before {
            self.changed.notify_one();
        }
    }

    pub fn doubt(&self, kind: Kind, doubt: Option<Doubt>) {
        self.note(|facts| facts.doubts[kind as usize] = doubt);
    }

    pub fn facts(&self) -> Facts {
        self.facts.lock().clone()
    }

    /// Waits for the next difference. Safe to drop: a change meanwhile is not lost.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// The condition as the status table holds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Condition {
    /// One word, for programs.
    pub reason: &'static str,
    /// What is the matter and what to do, for people.
    pub message: String,
}

/// The most serious thing about a cluster. `id` is its row's, for statements to copy.
pub fn condition(facts: &Facts, id: i64) -> Condition {
    let (reason, message) = if let Some(mistake) = &facts.mistake {
        ("InvalidConfiguration", mistake.clone())
    } else {
        match &facts.connection {
            Connection::NotTried => ("Connecting", "No poll has finished yet.".to_owned()),
            Connection::Failing(trouble) => explain(trouble, id),
            Connection::Working => about_a_working_cluster(facts),
        }
    };
    let message = if facts.insecure {
        format!(
            "{message} Certificates are not verified (tls_insecure = 1): anyone on the way can read the token."
        )
    } else {
        message
    };
    Condition { reason, message }
}

fn explain(trouble: &Trouble, id: i64) -> (&'static str, String) {
    match trouble {
        Trouble::Untrusted { host, presented: Some(fingerprint), why } => (
            "CertificateNotTrusted",
            format!(
                "{host} presented a certificate that nothing vouches for ({why}); the token was not sent. If its SHA-256 \
                 fingerprint is the one that the node's console shows under Certificates, accept it with: \
                 UPDATE pve_cluster SET tls_fingerprint = '{fingerprint}' WHERE id = {id};"
            ),
        ),
        Trouble::Untrusted { host, presented: None, why } => (
            "CertificateNotTrusted",
            format!("No trusted TLS connection to {host} ({why}); the token was not sent."),
        ),
        Trouble::Unauthorized => (
            "Unauthorized",
            "PVE does not accept the token: it was revoked, has expired, or user_id and user_token do not belong together. \
             Create a token in PVE (Datacenter, Permissions, API Tokens) and write it to user_id and user_token."
                .to_owned(),
        ),
        Trouble::NotHttps => (
            "NotHttps",
            "api_url must start with https:// (PVE listens with TLS on port 8006); the token was not sent."
                .to_owned(),
        ),
        Trouble::Unreachable(why) => (
            "Unreachable",
            format!("No node of the cluster answers: {why}. The rows keep their last values. Check api_url and the network."),
        ),
        Trouble::Other(why) => ("Failing", format!("PVE gave no usable answer: {why}. The rows keep their last values.")),
    }
}

fn about_a_working_cluster(facts: &Facts) -> (&'static str, String) {
    let worst = Kind::ALL
        .into_iter()
        .filter_map(|kind| facts.doubts[kind as usize].map(|doubt| (doubt, kind)))
        .filter(|(doubt, _)| doubt.is_suspicious())
        .max_by_key(|(doubt, _)| *doubt);
    if let Some((doubt, kind)) = worst {
        return ("SuspiciousShrink", explain_shrink(doubt, kind));
    }
    if facts.quorum == Quorum::No {
        return (
            "NoQuorum",
            "The cluster has no quorum: what it shows may be old, and nothing is deleted from the tables until quorum is back."
                .to_owned(),
        );
    }
    if facts.missing_privileges.is_empty() {
        return ("Synced", "The tables show what PVE shows.".to_owned());
    }
    let missing = facts.missing_privileges.join(", ");
    (
        "MissingPrivileges",
        format!(
            "The token lacks {missing}. What it may not see is not in the tables; without Sys.Audit on / that is node addresses \
             and quorum. Grant it with pveum, see docs/privileges.md."
        ),
    )
}

fn explain_shrink(doubt: Doubt, kind: Kind) -> String {
    let what = match kind {
        Kind::Node => "nodes",
        Kind::Guest => "guests",
        Kind::Storage => "storages",
    };
    match doubt {
        Doubt::AuditMissing => {
            let (privilege, path) = match kind {
                Kind::Storage => ("Datastore.Audit", "/storage"),
                Kind::Guest | Kind::Node => ("VM.Audit", "/vms"),
            };
            format!(
                "PVE no longer lists some {what}, and the token no longer has {privilege} for them: their rows are kept. \
                 Grant {privilege} on {path} again. If it was taken away on purpose, disable the cluster, delete the rows, and enable it."
            )
        }
        Doubt::NoQuorum => format!(
            "PVE no longer lists some {what}, but has no quorum: their rows are kept until quorum is back."
        ),
        Doubt::Unreadable => format!(
            "PVE no longer lists some {what}, but its list has elements that could not be read and may be them: their rows are \
             kept. The operator's log names the PVE version; report it."
        ),
        Doubt::ListNotWhole => format!(
            "PVE's list lacks {what} together with nodes that are members of the cluster, so it is not whole: their rows are \
             kept. If a proxy stands before the cluster, look there; otherwise at pve-cluster on the node that is asked."
        ),
        Doubt::MassVanished | Doubt::OwnerSilent | Doubt::Waiting => format!(
            "Many {what} vanished from PVE's list at once; their rows are kept until one more list confirms it."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn working() -> Facts {
        Facts { connection: Connection::Working, quorum: Quorum::Yes, ..Facts::default() }
    }

    fn reason(facts: &Facts) -> &'static str {
        condition(facts, 7).reason
    }

    #[test]
    fn the_most_serious_fact_is_the_condition() {
        let mut facts = working();
        assert_eq!(reason(&facts), "Synced");
        facts.missing_privileges = vec!["Sys.Audit on /".to_owned()];
        assert_eq!(reason(&facts), "MissingPrivileges");
        facts.quorum = Quorum::No;
        assert_eq!(reason(&facts), "NoQuorum");
        facts.doubts[Kind::Guest as usize] = Some(Doubt::AuditMissing);
        assert_eq!(reason(&facts), "SuspiciousShrink");
        facts.connection = Connection::Failing(Trouble::Unauthorized);
        assert_eq!(reason(&facts), "Unauthorized");
        facts.mistake = Some("user_id is empty".to_owned());
        assert_eq!(reason(&facts), "InvalidConfiguration");
    }

    #[test]
    fn an_ordinary_delete_is_not_suspicious() {
        let mut facts = working();
        facts.doubts[Kind::Guest as usize] = Some(Doubt::Waiting);

        assert_eq!(reason(&facts), "Synced");
    }

    #[test]
    fn an_untrusted_certificate_comes_with_the_statement_that_accepts_it() {
        let trouble = Trouble::Untrusted {
            host: "pve1:8006".to_owned(),
            presented: Some("AB:CD".to_owned()),
            why: "self-signed".to_owned(),
        };
        let facts = Facts { connection: Connection::Failing(trouble), ..Facts::default() };

        let message = condition(&facts, 7).message;

        assert!(message.contains("UPDATE pve_cluster SET tls_fingerprint = 'AB:CD' WHERE id = 7;"));
        assert!(message.contains("token was not sent"));
    }

    #[test]
    fn insecure_clusters_always_say_so() {
        let facts = Facts { insecure: true, ..working() };

        assert!(condition(&facts, 7).message.contains("not verified"));
    }

    #[tokio::test]
    async fn only_differences_are_announced() {
        let board = Board::default();
        board.note(|facts| facts.connection = Connection::NotTried);
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(1), board.changed());
        assert!(nothing.await.is_err());

        board.note(|facts| facts.connection = Connection::Working);

        board.changed().await;
    }
}
