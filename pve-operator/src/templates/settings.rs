//! What can be chosen about the template flow.

use std::{ops::Range, time::Duration};

use informer::Backoff;
use schema::{image_url::ImageUrlKey, images::ImageStore};
use url::Url;

use super::slots::Limits;

/// The same for every cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where images are read from when a node cannot fetch them by itself.
    pub images: Option<ImageStore>,
    /// Where nodes fetch images; without it they are sent every image.
    pub image_address: Option<ImageAddress>,
    /// VMIDs of templates and of the guests cloned from them.
    pub vmids: Range<i64>,
    pub transfers: Limits,
    /// Between two looks at a task that runs.
    pub look: Duration,
    /// For how long work may still begin whose answer was lost. PVE's own proxy gives up after 30 s
    /// and the work starts later (seen on PVE 9.2: more than 6 s later).
    pub patience: Duration,
    /// Pauses between tries.
    pub backoff: Backoff,
    /// How often an attempt may fail before it is given up.
    pub tries: u32,
}

/// How nodes reach the images.
#[derive(Clone, Debug)]
pub struct ImageAddress {
    /// As nodes reach it, for example `https://images.example.net`.
    pub base: Url,
    /// What signs addresses; None takes the key that the database keeps.
    pub key: Option<ImageUrlKey>,
    /// Off where nodes do not know the certificate's issuer; the sum still guards the content.
    pub verify_certificates: bool,
    /// For how long an address is good: longer than the slowest transfer.
    pub lifetime: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            images: None,
            image_address: None,
            vmids: 9_000..100_000,
            transfers: Limits::default(),
            look: Duration::from_secs(2),
            patience: Duration::from_mins(1),
            backoff: Backoff::new(Duration::from_secs(30), Duration::from_mins(30)),
            tries: 5,
        }
    }
}
