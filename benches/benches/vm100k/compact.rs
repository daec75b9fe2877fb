//! What becomes of the documents when memory matters: a projection to the fields that somebody
//! reads, with one copy of each word that many objects share. This is how the mirror of a PVE
//! cluster keeps its guests.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use informer::Object;

use crate::objects::{Decode, Machine, Vm};

/// The fields of `pve_operator::inventory::objects::Guest`, from the same 25.
#[derive(Debug)]
#[expect(dead_code, reason = "they are there to be kept")]
pub(crate) struct Compact {
    vmid: u32,
    is_container: bool,
    template: bool,
    node: Arc<str>,
    name: Option<Box<str>>,
    status: Arc<str>,
    tags: Option<Arc<str>>,
    pool: Option<Arc<str>>,
    lock: Option<Arc<str>>,
    ha_state: Option<Arc<str>>,
    cpus: Option<u32>,
    memory_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    fingerprint: u64,
}

impl Decode for Compact {
    fn decode(i: u64, g: u64) -> Self {
        let Vm { metadata, spec } = Vm::decode(i, g);
        Self {
            vmid: spec.vmid,
            is_container: spec.kind == "lxc",
            template: spec.template,
            node: word(&spec.node),
            name: metadata.name.map(String::into_boxed_str),
            status: word(&spec.status),
            tags: Some(word(&spec.tags)),
            pool: Some(word(&spec.pool)),
            lock: (!spec.lock.is_empty()).then(|| word(&spec.lock)),
            ha_state: Some(word(&spec.hastate)),
            cpus: Some(spec.maxcpu),
            memory_bytes: Some(spec.maxmem),
            disk_bytes: Some(spec.maxdisk),
            fingerprint: g,
        }
    }
}

impl Object for Compact {
    type Key = u32;

    fn key(&self) -> u32 {
        self.vmid
    }

    fn version(&self) -> u64 {
        self.fingerprint
    }
}

impl Machine for Compact {
    fn node(&self) -> &str {
        &self.node
    }

    fn mem(&self) -> u64 {
        self.memory_bytes.unwrap_or_default()
    }
}

/// The one copy of a word.
fn word(text: &str) -> Arc<str> {
    static WORDS: Mutex<Option<HashSet<Arc<str>>>> = Mutex::new(None);
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    let words = words.get_or_insert_default();
    if let Some(known) = words.get(text) {
        return known.clone();
    }
    let word = Arc::from(text);
    words.insert(Arc::clone(&word));
    word
}
