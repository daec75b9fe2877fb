//! What is shown of templates: the guide's fields in the guide's order, then ours.

use schema::SyncTaskId;
use schema::instance::InstanceStatus;
use schema::sync_task::TaskStatus;
use schema::template::TemplateStatus;
use schema::template_clone::CloneRow;
use schema::template_clone::CloneStatus;
use schema::template_view::{self, TemplateView};
use schema::template_wish::Place;
use schema::upload::UploadRow;
use schema::upload::UploadStatus;
use schemars::JsonSchema;
use serde::Serialize;

use crate::view::{Time, time, words};

/// A node of a template.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "NodeOfTemplate")]
pub(crate) struct NodeView {
    pub node_id: i64,
    pub node_name: String,
}

/// A node that gets a copy.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TargetView {
    /// Null for the node that imported it: that is no task.
    task_id: Option<i64>,
    target_node_id: i64,
    target_node_name: String,
    #[schemars(extend("enum" = words(TaskStatus::ALL, TaskStatus::as_str)))]
    status: &'static str,
}

impl TargetView {
    pub(super) fn pending(place: &Place, task: SyncTaskId) -> Self {
        Self {
            task_id: Some(task.0),
            target_node_id: place.node_id.0,
            target_node_name: place.node_name.clone(),
            status: TaskStatus::Pending.as_str(),
        }
    }

    pub(super) fn of_task(view: template_view::TaskView) -> Self {
        Self {
            task_id: Some(view.task.id.0),
            target_node_id: view.task.target_node_id.0,
            target_node_name: view.task.target_node_name,
            status: view.task.told.status.as_str(),
        }
    }

    /// In the words of tasks, which the others in the list have.
    pub(super) fn of_primary(instance: &template_view::InstanceView) -> Self {
        let status = match instance.row.told.status {
            InstanceStatus::Pending => TaskStatus::Pending,
            InstanceStatus::Syncing => TaskStatus::Syncing,
            InstanceStatus::Available => TaskStatus::Completed,
            InstanceStatus::Failed => TaskStatus::Failed,
            InstanceStatus::Deleting | InstanceStatus::Deleted => TaskStatus::Cancelled,
        };
        Self {
            task_id: None,
            target_node_id: instance.row.node_id.0,
            target_node_name: instance.row.node_name.clone(),
            status: status.as_str(),
        }
    }
}

/// `GET /templates/{id}/detail`
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DetailView {
    id: i64,
    template_name: String,
    cluster_id: i64,
    cluster_name: String,
    description: Option<String>,
    upload_info: Option<UploadInfo>,
    /// Null unless they were asked for.
    instances: Option<Vec<InstanceView>>,
    /// `active` or `deleting`.
    #[schemars(extend("enum" = words(TemplateStatus::ALL, TemplateStatus::as_str)))]
    status: &'static str,
    /// What holds a delete up.
    blocked_reason: Option<String>,
    gmt_create: Time,
    gmt_modified: Time,
    creator: Option<String>,
    modifier: Option<String>,
}

/// The newest version.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UploadInfo {
    upload_id: i64,
    storage_name: String,
    is_shared: bool,
    file_name: String,
    /// Bytes, as is `virtual_size`.
    file_size: i64,
    #[schemars(extend("enum" = words(UploadStatus::ALL, UploadStatus::as_str)))]
    status: &'static str,
    version: i32,
    storage_type: Option<String>,
    file_format: Option<String>,
    virtual_size: Option<i64>,
    sha256: Option<String>,
    import_node: Option<NodeView>,
    /// 0 to 100.
    import_progress: i32,
    error_message: Option<String>,
    attempt: i32,
}

impl UploadInfo {
    fn new(row: UploadRow) -> Self {
        let node = row.upload_node_id.zip(row.upload_node_name);
        Self {
            upload_id: row.id.0,
            storage_name: row.storage_name,
            is_shared: row.is_shared.0,
            file_name: row.file_name,
            file_size: row.file_size,
            status: row.told.status.as_str(),
            version: row.version,
            storage_type: row.storage_type,
            file_format: row.file_format,
            virtual_size: row.virtual_size,
            sha256: row.sha256,
            import_node: node.map(|(id, node_name)| NodeView { node_id: id.0, node_name }),
            import_progress: row.told.import_progress,
            error_message: row.told.error_message,
            attempt: row.told.attempt,
        }
    }
}

impl DetailView {
    pub(super) fn new(
        view: TemplateView,
        instances: Option<Vec<template_view::InstanceView>>,
    ) -> Self {
        let template = view.template;
        Self {
            id: template.id.0,
            template_name: template.template_name,
            cluster_id: template.cluster_id.0,
            cluster_name: view.cluster_name,
            description: template.description,
            upload_info: view.upload.map(UploadInfo::new),
            instances: instances.map(|all| all.into_iter().map(InstanceView::new).collect()),
            status: template.status.as_str(),
            blocked_reason: template.blocked_reason,
            gmt_create: Time(template.gmt_create),
            gmt_modified: Time(template.gmt_modified),
            creator: template.creator,
            modifier: template.modifier,
        }
    }
}

/// A template on one node.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct InstanceView {
    instance_id: i64,
    node_id: i64,
    node_name: String,
    /// Null until one is reserved.
    vmid: Option<i64>,
    storage_name: String,
    #[schemars(extend("enum" = words(InstanceStatus::ALL, InstanceStatus::as_str)))]
    status: &'static str,
    is_primary: bool,
    /// 0 to 100; null without a task.
    sync_progress: Option<i32>,
    version: i32,
    task_id: Option<i64>,
    volume_id: Option<String>,
    error_message: Option<String>,
    /// What holds it until somebody does something.
    blocked_reason: Option<String>,
    step: Option<String>,
}

impl InstanceView {
    pub(super) fn new(view: template_view::InstanceView) -> Self {
        let row = view.row;
        Self {
            instance_id: row.id.0,
            node_id: row.node_id.0,
            node_name: row.node_name,
            vmid: Some(row.told.vmid).filter(|vmid| *vmid > 0),
            storage_name: row.storage_name,
            status: row.told.status.as_str(),
            is_primary: row.is_primary.0,
            sync_progress: row.sync_task_id.map(|_| row.told.progress),
            version: view.version,
            task_id: row.sync_task_id.map(|task| task.0),
            volume_id: row.told.volume_id,
            error_message: row.told.error_message,
            blocked_reason: row.told.blocked_reason,
            step: row.told.step,
        }
    }
}

/// `GET /templates/{id}/instances`
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct InstancesView {
    pub template_id: i64,
    pub template_name: String,
    pub total: usize,
    pub instances: Vec<InstanceView>,
}

/// One of `GET /templates`
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ListedView {
    id: i64,
    template_name: String,
    cluster_id: i64,
    cluster_name: String,
    description: Option<String>,
    #[schemars(extend("enum" = words(TemplateStatus::ALL, TemplateStatus::as_str)))]
    status: &'static str,
    blocked_reason: Option<String>,
    /// The newest version.
    upload_info: Option<UploadInfo>,
    instance_count: i64,
    available_count: i64,
    gmt_create: Time,
    gmt_modified: Time,
    creator: Option<String>,
    modifier: Option<String>,
}

impl ListedView {
    pub(super) fn new(view: TemplateView) -> Self {
        let template = view.template;
        Self {
            id: template.id.0,
            template_name: template.template_name,
            cluster_id: template.cluster_id.0,
            cluster_name: view.cluster_name,
            description: template.description,
            status: template.status.as_str(),
            blocked_reason: template.blocked_reason,
            upload_info: view.upload.map(UploadInfo::new),
            instance_count: view.instances.all,
            available_count: view.instances.available,
            gmt_create: Time(template.gmt_create),
            gmt_modified: Time(template.gmt_modified),
            creator: template.creator,
            modifier: template.modifier,
        }
    }
}

/// `GET /templates/sync-tasks/{task_id}`
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TaskView {
    task_id: i64,
    template_id: i64,
    template_name: Option<String>,
    source_node: Option<NodeView>,
    target_node: NodeView,
    storage_name: String,
    #[schemars(extend("enum" = words(TaskStatus::ALL, TaskStatus::as_str)))]
    status: &'static str,
    /// 0 to 100.
    progress: i32,
    sync_start_time: Option<Time>,
    error_message: Option<String>,
    sync_end_time: Option<Time>,
    attempt: i32,
    bytes_done: i64,
    bytes_total: Option<i64>,
    step: Option<String>,
    cluster_id: i64,
    upload_id: i64,
    gmt_create: Time,
    gmt_modified: Time,
    creator: Option<String>,
}

impl TaskView {
    pub(crate) fn new(view: template_view::TaskView) -> Self {
        let task = view.task;
        let source = task.source_node_id.zip(task.source_node_name);
        Self {
            task_id: task.id.0,
            template_id: task.template_id.0,
            template_name: view.template_name,
            source_node: source.map(|(id, node_name)| NodeView { node_id: id.0, node_name }),
            target_node: NodeView {
                node_id: task.target_node_id.0,
                node_name: task.target_node_name,
            },
            storage_name: task.storage_name,
            status: task.told.status.as_str(),
            progress: task.told.progress,
            sync_start_time: time(task.told.sync_start_time),
            error_message: task.told.error_message,
            sync_end_time: time(task.told.sync_end_time),
            attempt: task.told.attempt,
            bytes_done: task.told.bytes_done,
            bytes_total: task.told.bytes_total,
            step: task.told.step,
            cluster_id: task.cluster_id.0,
            upload_id: task.upload_id.0,
            gmt_create: Time(task.gmt_create),
            gmt_modified: Time(task.gmt_modified),
            creator: task.creator,
        }
    }
}

/// `GET /templates/clones/{id}`
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CloneView {
    clone_id: i64,
    template_id: i64,
    upload_id: i64,
    cluster_id: i64,
    node_id: i64,
    node_name: String,
    name: String,
    full: bool,
    storage: Option<String>,
    cores: Option<i32>,
    memory_mb: Option<i32>,
    start: bool,
    /// Null until one is reserved.
    vmid: Option<i64>,
    #[schemars(extend("enum" = words(CloneStatus::ALL, CloneStatus::as_str)))]
    status: &'static str,
    step: Option<String>,
    error_message: Option<String>,
    gmt_create: Time,
    gmt_modified: Time,
    creator: Option<String>,
}

impl CloneView {
    pub(super) fn new(row: CloneRow) -> Self {
        Self {
            clone_id: row.id.0,
            template_id: row.template_id.0,
            upload_id: row.upload_id.0,
            cluster_id: row.cluster_id.0,
            node_id: row.node_id.0,
            node_name: row.node_name,
            name: row.guest_name,
            full: row.is_full.0,
            storage: row.storage_name,
            cores: row.cores,
            memory_mb: row.memory_mb,
            start: row.is_started.0,
            vmid: Some(row.told.vmid).filter(|vmid| *vmid > 0),
            status: row.told.status.as_str(),
            step: row.told.step,
            error_message: row.told.error_message,
            gmt_create: Time(row.gmt_create),
            gmt_modified: Time(row.gmt_modified),
            creator: row.creator,
        }
    }
}
