//! `GET /cluster/resources`: the whole inventory of a cluster in one body.
//!
//! The rows borrow from the body, so reading five thousand guests allocates three vectors.
//! One pass reads every element with the tolerance of [`super::scalar`]; an element that lacks
//! what it is identified by is counted and left out. Only when the JSON itself is broken inside
//! an element (a number like `1e999`, half an escape) is the list cut into elements first, so
//! that the broken one costs only itself.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use self_cell::self_cell;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{PveError, Vmid, elements, reply, scalar::Seed};

self_cell!(
    struct Parsed {
        owner: Bytes,
        #[covariant]
        dependent: Rows,
    }
);

/// One answer to `GET /cluster/resources`: the body and the rows in it.
pub struct Resources(Parsed);

#[derive(Default)]
struct Rows<'a> {
    nodes: Vec<NodeRow<'a>>,
    guests: Vec<GuestRow<'a>>,
    storages: Vec<StorageRow<'a>>,
    skipped: usize,
}

/// A row of type `node`.
///
/// Offline nodes lack the numbers, and without Sys.Audit on a node so do the others.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow<'a> {
    pub node: Cow<'a, str>,
    /// `online`, `offline` or `unknown`.
    pub status: Option<Cow<'a, str>>,
    pub hastate: Option<Cow<'a, str>>,
    /// Subscription level; empty for none.
    pub level: Option<Cow<'a, str>>,
    pub maxcpu: Option<f64>,
    /// Share of `maxcpu` in use, 0 to 1.
    pub cpu: Option<f64>,
    /// Bytes, as are `mem`, `maxdisk` and `disk`.
    pub maxmem: Option<u64>,
    pub mem: Option<u64>,
    pub maxdisk: Option<u64>,
    pub disk: Option<u64>,
    /// Seconds.
    pub uptime: Option<u64>,
}

/// What kind of guest a row is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum GuestKind {
    Qemu,
    Lxc,
}

impl GuestKind {
    /// PVE's word for it, in paths and types.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Lxc => "lxc",
        }
    }
}

/// A row of type `qemu` or `lxc`.
///
/// `name`, `template` and all numbers are missing while PVE has no fresh sample of the guest: for
/// up to 10 s after its creation, and from 5 min after its node went away. Missing is not empty.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestRow<'a> {
    pub kind: GuestKind,
    pub vmid: Vmid,
    pub node: Cow<'a, str>,
    pub name: Option<Cow<'a, str>>,
    /// QMP's word (`running`, `stopped`, `paused`, …) or `unknown`.
    pub status: Option<Cow<'a, str>>,
    pub template: Option<bool>,
    /// Separated by `;`, in no particular order.
    pub tags: Option<Cow<'a, str>>,
    pub pool: Option<Cow<'a, str>>,
    pub lock: Option<Cow<'a, str>>,
    pub hastate: Option<Cow<'a, str>>,
    pub maxcpu: Option<f64>,
    /// Share of `maxcpu` in use, 0 to 1 and a little more.
    pub cpu: Option<f64>,
    /// Bytes, as are all that follow but `uptime`.
    pub maxmem: Option<u64>,
    /// May exceed `maxmem`.
    pub mem: Option<u64>,
    pub memhost: Option<u64>,
    pub maxdisk: Option<u64>,
    pub disk: Option<u64>,
    pub netin: Option<u64>,
    pub netout: Option<u64>,
    pub diskread: Option<u64>,
    pub diskwrite: Option<u64>,
    /// Seconds.
    pub uptime: Option<u64>,
}

/// A row of type `storage`: one per node that sees it, also when it is shared.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageRow<'a> {
    pub node: Cow<'a, str>,
    pub storage: Cow<'a, str>,
    /// `available` or `unknown`.
    pub status: Option<Cow<'a, str>>,
    pub plugintype: Option<Cow<'a, str>>,
    /// Separated by `,`, in an order that changes from poll to poll: compare as a set.
    pub content: Option<Cow<'a, str>>,
    pub shared: Option<bool>,
    /// Bytes.
    pub maxdisk: Option<u64>,
    pub disk: Option<u64>,
}

impl Resources {
    /// Reads the body of an answer.
    ///
    /// # Errors
    ///
    /// [`PveError::Decode`] if there is no whole list in it: cut short, not JSON, `data` missing or
    /// not a list. Never for what single elements look like.
    pub fn parse(body: Bytes) -> Result<Self, PveError> {
        let body = match std::str::from_utf8(&body) {
            Ok(_) => body,
            Err(_) => Bytes::from(String::from_utf8_lossy(&body).into_owned()),
        };
        let parsed = Parsed::try_new(body, |body| {
            let text = std::str::from_utf8(body).map_err(|error| decode(error.into()))?;
            Rows::read(text)
        })?;
        Ok(Self(parsed))
    }

    pub fn nodes(&self) -> &[NodeRow<'_>] {
        &self.0.borrow_dependent().nodes
    }

    pub fn guests(&self) -> &[GuestRow<'_>] {
        &self.0.borrow_dependent().guests
    }

    pub fn storages(&self) -> &[StorageRow<'_>] {
        &self.0.borrow_dependent().storages
    }

    /// How many elements could not be read. Unless it is 0, absence from this list proves nothing.
    pub fn skipped(&self) -> usize {
        self.0.borrow_dependent().skipped
    }

    pub fn body_bytes(&self) -> usize {
        self.0.borrow_owner().len()
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.0.borrow_dependent();
        f.debug_struct("Resources")
            .field("nodes", &rows.nodes.len())
            .field("guests", &rows.guests.len())
            .field("storages", &rows.storages.len())
            .field("skipped", &rows.skipped)
            .finish()
    }
}

fn decode(source: Box<dyn std::error::Error + Send + Sync>) -> PveError {
    reply::decode_error("GET /cluster/resources", source)
}

impl<'a> Rows<'a> {
    fn read(text: &'a str) -> Result<Self, PveError> {
        let mut rows = Self::default();
        // PVE 9 writes 300 to 600 bytes per guest.
        rows.guests.reserve(text.len() / 512);
        let mut json = serde_json::Deserializer::from_str(text);
        match json.deserialize_map(Envelope(&mut rows)).and_then(|()| json.end()) {
            Ok(()) => Ok(rows),
            Err(error) => Self::read_apart(text).ok_or_else(|| decode(error.into())),
        }
    }

    /// Element by element; `None` if the list does not even come apart.
    fn read_apart(text: &'a str) -> Option<Self> {
        let mut rows = Self::default();
        for element in elements::of_data(text)? {
            let mut json = serde_json::Deserializer::from_str(element);
            let read = json.deserialize_any(Element).and_then(|row| json.end().map(|()| row));
            rows.push(read.unwrap_or(Row::Bad));
        }
        Some(rows)
    }

    fn push(&mut self, row: Row<'a>) {
        match row {
            Row::Node(row) => self.nodes.push(row),
            Row::Guest(row) => self.guests.push(row),
            Row::Storage(row) => self.storages.push(row),
            Row::Other => {}
            Row::Bad => self.skipped += 1,
        }
    }
}

/// Reads `{"data":[…], …}`.
struct Envelope<'r, 'a>(&'r mut Rows<'a>);

impl<'de> Visitor<'de> for Envelope<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list called data")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key_seed(Seed::<Option<Cow<'de, str>>>::new())? {
            if key.as_deref() == Some("data") && !seen {
                map.next_value_seed(List(self.0))?;
                seen = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if seen { Ok(()) } else { Err(de::Error::missing_field("data")) }
    }
}

struct List<'r, 'a>(&'r mut Rows<'a>);

impl<'de> DeserializeSeed<'de> for List<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(row) = seq.next_element_seed(Element)? {
            self.0.push(row);
        }
        Ok(())
    }
}

enum Row<'a> {
    Node(NodeRow<'a>),
    Guest(GuestRow<'a>),
    Storage(StorageRow<'a>),
    /// A type the mirror does not keep: pool, sdn, network, and what later versions bring.
    Other,
    Bad,
}

/// Reads one element, whatever it is.
struct Element;

impl<'de> DeserializeSeed<'de> for Element {
    type Value = Row<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Row<'de>, D::Error> {
        from.deserialize_any(self)
    }
}

/// Every field of every kind; `type` may come last, so all are kept until the end.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<Cow<'a, str>>,
    has_id: bool,
    node: Option<Cow<'a, str>>,
    storage: Option<Cow<'a, str>>,
    vmid: Option<u64>,
    name: Option<Cow<'a, str>>,
    status: Option<Cow<'a, str>>,
    template: Option<bool>,
    tags: Option<Cow<'a, str>>,
    pool: Option<Cow<'a, str>>,
    lock: Option<Cow<'a, str>>,
    hastate: Option<Cow<'a, str>>,
    level: Option<Cow<'a, str>>,
    plugintype: Option<Cow<'a, str>>,
    content: Option<Cow<'a, str>>,
    shared: Option<bool>,
    maxcpu: Option<f64>,
    cpu: Option<f64>,
    maxmem: Option<u64>,
    mem: Option<u64>,
    memhost: Option<u64>,
    maxdisk: Option<u64>,
    disk: Option<u64>,
    netin: Option<u64>,
    netout: Option<u64>,
    diskread: Option<u64>,
    diskwrite: Option<u64>,
    uptime: Option<u64>,
}

impl<'de> Visitor<'de> for Element {
    type Value = Row<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row<'de>, A::Error> {
        let mut it = Fields::default();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            match key {
                Key::Type => it.kind = map.next_value_seed(Seed::new())?,
                Key::Id => {
                    let id: Option<Cow<'de, str>> = map.next_value_seed(Seed::new())?;
                    it.has_id = id.is_some_and(|id| !id.is_empty());
                }
                Key::Node => it.node = map.next_value_seed(Seed::new())?,
                Key::Storage => it.storage = map.next_value_seed(Seed::new())?,
                Key::Vmid => it.vmid = map.next_value_seed(Seed::new())?,
                Key::Name => it.name = map.next_value_seed(Seed::new())?,
                Key::Status => it.status = map.next_value_seed(Seed::new())?,
                Key::Template => it.template = map.next_value_seed(Seed::new())?,
                Key::Tags => it.tags = map.next_value_seed(Seed::new())?,
                Key::Pool => it.pool = map.next_value_seed(Seed::new())?,
                Key::Lock => it.lock = map.next_value_seed(Seed::new())?,
                Key::Hastate => it.hastate = map.next_value_seed(Seed::new())?,
                Key::Level => it.level = map.next_value_seed(Seed::new())?,
                Key::Plugintype => it.plugintype = map.next_value_seed(Seed::new())?,
                Key::Content => it.content = map.next_value_seed(Seed::new())?,
                Key::Shared => it.shared = map.next_value_seed(Seed::new())?,
                Key::Maxcpu => it.maxcpu = map.next_value_seed(Seed::new())?,
                Key::Cpu => it.cpu = map.next_value_seed(Seed::new())?,
                Key::Maxmem => it.maxmem = map.next_value_seed(Seed::new())?,
                Key::Mem => it.mem = map.next_value_seed(Seed::new())?,
                Key::Memhost => it.memhost = map.next_value_seed(Seed::new())?,
                Key::Maxdisk => it.maxdisk = map.next_value_seed(Seed::new())?,
                Key::Disk => it.disk = map.next_value_seed(Seed::new())?,
                Key::Netin => it.netin = map.next_value_seed(Seed::new())?,
                Key::Netout => it.netout = map.next_value_seed(Seed::new())?,
                Key::Diskread => it.diskread = map.next_value_seed(Seed::new())?,
                Key::Diskwrite => it.diskwrite = map.next_value_seed(Seed::new())?,
                Key::Uptime => it.uptime = map.next_value_seed(Seed::new())?,
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(it.into_row())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Row<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Row::Bad)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Row<'de>, E> {
        Ok(Row::Bad)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Row<'de>, E> {
        Ok(Row::Bad)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Row<'de>, E> {
        Ok(Row::Bad)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Row<'de>, E> {
        Ok(Row::Bad)
    }

    fn visit_str<E>(self, _: &str) -> Result<Row<'de>, E> {
        Ok(Row::Bad)
    }

    fn visit_unit<E>(self) -> Result<Row<'de>, E> {
        Ok(Row::Bad)
    }
}

impl<'a> Fields<'a> {
    fn into_row(self) -> Row<'a> {
        let read = match self.kind.as_deref() {
            Some("qemu") => self.into_guest(GuestKind::Qemu),
            Some("lxc") => self.into_guest(GuestKind::Lxc),
            Some("storage") => self.into_storage(),
            Some("node") => self.into_node(),
            Some(_) => Some(Row::Other),
            None => None,
        };
        read.unwrap_or(Row::Bad)
    }

    fn into_guest(self, kind: GuestKind) -> Option<Row<'a>> {
        let vmid = self.vmid.and_then(|vmid| u32::try_from(vmid).ok());
        Some(Row::Guest(GuestRow {
            kind,
            vmid: Vmid::new(vmid.filter(|_| self.has_id)?).ok()?,
            node: self.node.filter(|node| !node.is_empty())?,
            name: self.name,
            status: self.status,
            template: self.template,
            tags: self.tags,
            pool: self.pool,
            lock: self.lock,
            hastate: self.hastate,
            maxcpu: self.maxcpu,
            cpu: self.cpu,
            maxmem: self.maxmem,
            mem: self.mem,
            memhost: self.memhost,
            maxdisk: self.maxdisk,
            disk: self.disk,
            netin: self.netin,
            netout: self.netout,
            diskread: self.diskread,
            diskwrite: self.diskwrite,
            uptime: self.uptime,
        }))
    }

    fn into_storage(self) -> Option<Row<'a>> {
        Some(Row::Storage(StorageRow {
            node: self.node.filter(|node| self.has_id && !node.is_empty())?,
            storage: self.storage.filter(|storage| !storage.is_empty())?,
            status: self.status,
            plugintype: self.plugintype,
            content: self.content,
            shared: self.shared,
            maxdisk: self.maxdisk,
            disk: self.disk,
        }))
    }

    fn into_node(self) -> Option<Row<'a>> {
        Some(Row::Node(NodeRow {
            node: self.node.filter(|node| self.has_id && !node.is_empty())?,
            status: self.status,
            hastate: self.hastate,
            level: self.level,
            maxcpu: self.maxcpu,
            cpu: self.cpu,
            maxmem: self.maxmem,
            mem: self.mem,
            maxdisk: self.maxdisk,
            disk: self.disk,
            uptime: self.uptime,
        }))
    }
}

#[derive(Clone, Copy)]
enum Key {
    Type,
    Id,
    Node,
    Storage,
    Vmid,
    Name,
    Status,
    Template,
    Tags,
    Pool,
    Lock,
    Hastate,
    Level,
    Plugintype,
    Content,
    Shared,
    Maxcpu,
    Cpu,
    Maxmem,
    Mem,
    Memhost,
    Maxdisk,
    Disk,
    Netin,
    Netout,
    Diskread,
    Diskwrite,
    Uptime,
    Other,
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Key, D::Error> {
        from.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match key.as_bytes() {
            b"type" => Key::Type,
            b"id" => Key::Id,
            b"node" => Key::Node,
            b"storage" => Key::Storage,
            b"vmid" => Key::Vmid,
            b"name" => Key::Name,
            b"status" => Key::Status,
            b"template" => Key::Template,
            b"tags" => Key::Tags,
            b"pool" => Key::Pool,
            b"lock" => Key::Lock,
            b"hastate" => Key::Hastate,
            b"level" => Key::Level,
            b"plugintype" => Key::Plugintype,
            b"content" => Key::Content,
            b"shared" => Key::Shared,
            b"maxcpu" => Key::Maxcpu,
            b"cpu" => Key::Cpu,
            b"maxmem" => Key::Maxmem,
            b"mem" => Key::Mem,
            b"memhost" => Key::Memhost,
            b"maxdisk" => Key::Maxdisk,
            b"disk" => Key::Disk,
            b"netin" => Key::Netin,
            b"netout" => Key::Netout,
            b"diskread" => Key::Diskread,
            b"diskwrite" => Key::Diskwrite,
            b"uptime" => Key::Uptime,
            _ => Key::Other,
        })
    }
}
