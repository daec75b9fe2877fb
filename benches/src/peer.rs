//! What somebody writes who needs the same fields and nothing else: a derive, no tolerance.
//!
//! One flat struct for all types. An enum tagged by `type` would have serde buffer each element
//! and be slower.

use serde::Deserialize;

/// With `String` every text is a copy; with `&str` it is a slice of the body, and an escape in it
/// is an error.
#[derive(Debug, Deserialize)]
pub struct Answer<T> {
    pub data: Vec<Row<T>>,
}

/// One element.
#[derive(Debug, Deserialize)]
pub struct Row<T> {
    pub id: T,
    #[serde(rename = "type")]
    pub kind: T,
    pub node: Option<T>,
    pub storage: Option<T>,
    pub vmid: Option<u64>,
    pub name: Option<T>,
    pub status: Option<T>,
    pub template: Option<u64>,
    pub tags: Option<T>,
    pub pool: Option<T>,
    pub lock: Option<T>,
    pub hastate: Option<T>,
    pub level: Option<T>,
    pub plugintype: Option<T>,
    pub content: Option<T>,
    pub shared: Option<u64>,
    pub maxcpu: Option<f64>,
    pub cpu: Option<f64>,
    pub maxmem: Option<u64>,
    pub mem: Option<u64>,
    pub memhost: Option<u64>,
    pub maxdisk: Option<u64>,
    pub disk: Option<u64>,
    pub netin: Option<u64>,
    pub netout: Option<u64>,
    pub diskread: Option<u64>,
    pub diskwrite: Option<u64>,
    pub uptime: Option<u64>,
}
