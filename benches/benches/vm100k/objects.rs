//! What the documents are decoded into, on either side.

use std::{borrow::Cow, sync::Arc};

use informer::Object;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube_core::Resource;
use serde::Deserialize;

use crate::documents::document;

/// The 25 fields, each text an allocation of its own.
#[derive(Clone, Debug, Deserialize)]
#[expect(dead_code, reason = "they are there to be kept")]
pub(crate) struct Spec {
    pub(crate) vmid: u32,
    pub(crate) node: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) pool: String,
    pub(crate) tags: String,
    cpu: f64,
    pub(crate) maxcpu: u32,
    pub(crate) mem: u64,
    pub(crate) maxmem: u64,
    disk: u64,
    pub(crate) maxdisk: u64,
    netin: u64,
    netout: u64,
    diskread: u64,
    diskwrite: u64,
    uptime: u64,
    pub(crate) template: bool,
    pub(crate) lock: String,
    pub(crate) hastate: String,
    pid: u32,
    qmpstatus: String,
    running_machine: String,
    description: String,
    digest: String,
}

/// As kube-rs keeps it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Vm {
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: Spec,
}

impl Resource for Vm {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Vm".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "bench.example".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "vms".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Something that is made of a document; that is never measured.
pub(crate) trait Decode: Sized {
    fn decode(i: u64, g: u64) -> Self;
}

impl Decode for Vm {
    fn decode(i: u64, g: u64) -> Self {
        serde_json::from_str(&document(i, g)).expect("a document is JSON of this shape")
    }
}

/// What the informer keeps in this bench: it has a node to be indexed by and a number to be read.
pub(crate) trait Machine: Object + Decode {
    fn node(&self) -> &str;
    fn mem(&self) -> u64;
}

/// The same fields as plain texts. Of the metadata, what a user of this crate keeps: the key
/// (`namespace/name`), the uid and the resource version as the number that it is.
#[derive(Debug)]
pub(crate) struct Plain {
    key: Arc<str>,
    version: u64,
    #[expect(dead_code, reason = "it is there to be kept")]
    uid: String,
    spec: Spec,
}

impl Decode for Plain {
    fn decode(i: u64, g: u64) -> Self {
        let Vm { metadata, spec } = Vm::decode(i, g);
        let (key, version) = identity(&metadata);
        Self { key, version, uid: metadata.uid.unwrap_or_default(), spec }
    }
}

impl Object for Plain {
    type Key = Arc<str>;

    fn key(&self) -> Arc<str> {
        self.key.clone()
    }

    fn version(&self) -> u64 {
        self.version
    }
}

impl Machine for Plain {
    fn node(&self) -> &str {
        &self.spec.node
    }

    fn mem(&self) -> u64 {
        self.spec.mem
    }
}

/// The very type of the other side, metadata and all, with the key beside it.
#[derive(Debug)]
pub(crate) struct SameType {
    key: Arc<str>,
    version: u64,
    vm: Vm,
}

impl Decode for SameType {
    fn decode(i: u64, g: u64) -> Self {
        let vm = Vm::decode(i, g);
        let (key, version) = identity(&vm.metadata);
        Self { key, version, vm }
    }
}

impl Object for SameType {
    type Key = Arc<str>;

    fn key(&self) -> Arc<str> {
        self.key.clone()
    }

    fn version(&self) -> u64 {
        self.version
    }
}

impl Machine for SameType {
    fn node(&self) -> &str {
        &self.vm.spec.node
    }

    fn mem(&self) -> u64 {
        self.vm.spec.mem
    }
}

fn identity(metadata: &ObjectMeta) -> (Arc<str>, u64) {
    let [namespace, name, version] =
        [&metadata.namespace, &metadata.name, &metadata.resource_version]
            .map(|text| text.as_deref().unwrap_or_default());
    let version = version.parse().expect("the resource versions here are numbers");
    (format!("{namespace}/{name}").into(), version)
}
