//! What is looked at before and after an image is placed: URLs, storages, volumes, tasks, VMIDs.

use serde::Deserialize;
use serde_json::Value;

use super::{
    Listed, NodeName, NodeStorage, PveError, Reader, SecretUrl, StorageName, TaskState, Upid, Vmid,
    Volid, limits::Scope, reply, scalar::scalar, task_log::Outcome,
};

/// `GET /nodes/{node}/query-url-metadata`: what a HEAD from that node brought.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct UrlMetadata {
    /// Bytes; `None` if the server does not say.
    #[serde(default, deserialize_with = "scalar")]
    pub size: Option<u64>,
    #[serde(default, deserialize_with = "scalar")]
    pub filename: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    pub mimetype: Option<String>,
}

/// A row of `GET /nodes/{node}/storage/{storage}/content`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct VolumeRow {
    pub volid: Volid,
    /// Bytes: the length of an import file, the virtual size of a disk.
    #[serde(default, deserialize_with = "scalar")]
    pub size: Option<u64>,
    /// Bytes that it takes on the storage.
    #[serde(default, deserialize_with = "scalar")]
    pub used: Option<u64>,
    /// `qcow2`, `raw`, `vmdk`, `ova`, …
    #[serde(default, deserialize_with = "scalar")]
    pub format: Option<String>,
    /// `import`, `images`, `iso`, …
    #[serde(default, deserialize_with = "scalar")]
    pub content: Option<String>,
    /// Whose disk it is.
    #[serde(default, deserialize_with = "scalar")]
    pub vmid: Option<u64>,
    /// What a linked clone's disk refers to.
    #[serde(default, deserialize_with = "scalar")]
    pub parent: Option<String>,
    /// Seconds since 1970.
    #[serde(default, deserialize_with = "scalar")]
    pub ctime: Option<u64>,
}

/// Which tasks of a node are asked for: running ones and ended ones, newest first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TaskFilter {
    pub vmid: Option<Vmid>,
    /// `download`, `qmconfig`, …
    pub kind: Option<String>,
    /// Seconds since 1970.
    pub since: Option<u64>,
    /// PVE's 50 without it.
    pub limit: Option<u32>,
}

/// A row of `GET /nodes/{node}/tasks`. Type, id and user are in its [`Upid`]; compare those and
/// not the row's own user, which running and ended tasks name differently.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TaskRow {
    pub upid: Upid,
    pub state: TaskState,
    /// Seconds since 1970.
    pub starttime: u64,
    pub endtime: Option<u64>,
}

impl Reader {
    /// Asks `url` from `node`, as a download would: through its proxy and with its certificates.
    ///
    /// # Errors
    ///
    /// 500 `invalid server response: '…'` with what the server or TLS said. 403 without
    /// Sys.AccessNetwork on the node.
    pub async fn query_url_metadata(
        &self,
        node: &NodeName,
        url: &SecretUrl,
        verify_certificates: bool,
    ) -> Result<UrlMetadata, PveError> {
        let pattern = "/nodes/{node}/query-url-metadata";
        let mut query = vec![("url", url.reveal())];
        if !verify_certificates {
            query.push(("verify-certificates", "0"));
        }
        let (name, body) = self.get(pattern, &[node.as_str()], &query, Scope::Node(node)).await?;
        reply::one(&name, &body)
    }

    /// The volumes of a storage that hold `content` (`import`, `images`, …), of one guest if `vmid`
    /// is given.
    ///
    /// # Errors
    ///
    /// While a disk is written, a list with it fails with `Failed to get shared "write" lock`; one
    /// of another guest or content does not.
    pub async fn storage_content(
        &self,
        node: &NodeName,
        storage: &StorageName,
        content: &str,
        vmid: Option<Vmid>,
    ) -> Result<Listed<VolumeRow>, PveError> {
        let pattern = "/nodes/{node}/storage/{storage}/content";
        let vmid = vmid.map(|vmid| vmid.to_string());
        let mut query = vec![("content", content)];
        query.extend(vmid.as_deref().map(|vmid| ("vmid", vmid)));
        let segments = [node.as_str(), storage.as_str()];
        let (name, body) = self.get(pattern, &segments, &query, Scope::Node(node)).await?;
        reply::list(&name, &body)
    }

    /// How a storage is on a node.
    ///
    /// # Errors
    ///
    /// 400 with `errors["storage"]` `No such storage.`; 403 without Datastore.Audit or
    /// Datastore.AllocateSpace.
    pub async fn storage_status(
        &self,
        node: &NodeName,
        storage: &StorageName,
    ) -> Result<NodeStorage, PveError> {
        let pattern = "/nodes/{node}/storage/{storage}/status";
        let segments = [node.as_str(), storage.as_str()];
        let (name, body) = self.get(pattern, &segments, &[], Scope::Node(node)).await?;
        let mut data: Value = reply::one(&name, &body)?;
        // Unlike the list, it does not say which one it is of.
        if let Value::Object(fields) = &mut data {
            fields.entry("storage").or_insert_with(|| storage.as_str().into());
        }
        serde_json::from_value(data).map_err(|error| reply::decode_error(&name, error.into()))
    }

    /// Tasks of a node. A token sees its own ones without a privilege, those of others with
    /// Sys.Audit.
    ///
    /// A task that was asked for a moment ago may not be there yet, and after a 596 not for as long
    /// as the node's pvedaemon is blocked: an empty list proves nothing then.
    pub async fn tasks(
        &self,
        node: &NodeName,
        filter: &TaskFilter,
    ) -> Result<Listed<TaskRow>, PveError> {
        let numbers = [
            ("vmid", filter.vmid.map(|it| it.to_string())),
            ("since", filter.since.map(|it| it.to_string())),
            ("limit", filter.limit.map(|it| it.to_string())),
        ];
        let mut query = vec![("source", "all")];
        query.extend(filter.kind.as_deref().map(|kind| ("typefilter", kind)));
        query.extend(numbers.iter().filter_map(|(key, it)| Some((*key, it.as_deref()?))));
        let pattern = "/nodes/{node}/tasks";
        let (name, body) = self.get(pattern, &[node.as_str()], &query, Scope::Node(node)).await?;
        let raw = reply::list::<RawTask>(&name, &body)?;
        let mut listed = Listed { rows: Vec::with_capacity(raw.rows.len()), skipped: raw.skipped };
        for row in raw.rows {
            match row.into_row() {
                Some(row) => listed.rows.push(row),
                None => listed.skipped += 1,
            }
        }
        Ok(listed)
    }

    /// The lowest VMID that is free, in the range that the datacenter's options give. Nothing
    /// reserves it.
    pub async fn next_vmid(&self) -> Result<Vmid, PveError> {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Number(#[serde(deserialize_with = "scalar")] Option<u64>);
        let (name, body) = self.get("/cluster/nextid", &[], &[], Scope::Cluster).await?;
        let Number(number) = reply::one(&name, &body)?;
        let number = number.and_then(|it| u32::try_from(it).ok());
        let vmid = number.and_then(|it| Vmid::new(it).ok());
        vmid.ok_or_else(|| reply::decode_error(&name, "data is not a VMID".into()))
    }

    /// Whether no guest of the cluster has this VMID, those that the token may not see included.
    pub async fn vmid_is_free(&self, vmid: Vmid) -> Result<bool, PveError> {
        let vmid = vmid.to_string();
        let query = [("vmid", vmid.as_str())];
        match self.get("/cluster/nextid", &[], &query, Scope::Cluster).await {
            Ok(_) => Ok(true),
            Err(PveError::Refused { status: 400, errors, .. })
                if errors.get("vmid").is_some_and(|words| words.contains("already exists")) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Running: `status` is `RUNNING` or missing, and there is no `endtime`. Ended: `status` is what
/// the state of a task calls `exitstatus`.
#[derive(Deserialize)]
struct RawTask {
    upid: String,
    #[serde(default, deserialize_with = "scalar")]
    status: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    starttime: Option<u64>,
    #[serde(default, deserialize_with = "scalar")]
    endtime: Option<u64>,
}

impl RawTask {
    fn into_row(self) -> Option<TaskRow> {
        let upid: Upid = self.upid.parse().ok()?;
        let state = match self.status.as_deref() {
            None | Some("" | "RUNNING") if self.endtime.is_none() => TaskState::Running,
            status => TaskState::Stopped(Outcome::of(status)),
        };
        let starttime = self.starttime.unwrap_or_else(|| upid.starttime().into());
        Some(TaskRow { upid, state, starttime, endtime: self.endtime })
    }
}
