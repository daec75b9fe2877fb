//! Writes how far an instance has come: its row, its task's and its upload's, in one transaction.

use schema::{
    Db, DbError,
    instance::{self, InstanceRow, InstanceStatus, Progress},
    reservation,
    sync_task::{self, TaskProgress, TaskStatus},
    upload::{self, ImportProgress, UploadStatus},
};

use super::plan::Act;

/// The `step` of an instance that was cancelled and of which nothing is left.
pub(super) const CANCELLED: &str = "cancelled";

/// The `step` of an instance whose staged file is another one.
pub(super) const REFETCH: &str = "refetch";

/// Who holds the VMIDs of an instance.
pub(super) fn holder(row: &InstanceRow) -> String {
    format!("instance {}", row.id)
}

/// Writes `told` where it differs from what the row says.
///
/// # Errors
///
/// [`DbError`]: nothing was written, or the answer to that is not known; it may be written again.
pub(super) async fn record(db: &Db, row: &InstanceRow, told: &Progress) -> Result<(), DbError> {
    if row.told == *told {
        return Ok(());
    }
    let released = match told.status {
        InstanceStatus::Deleted => Some(None),
        InstanceStatus::Available => Some(Some(told.vmid)),
        _ => None,
    };
    db.write(async |conn| {
        if row.is_primary.into() {
            let import = import_progress(told);
            if import_progress(&row.told) != import || told.status == InstanceStatus::Pending {
                upload::record(conn, row.upload_id, &import).await?;
            }
        }
        instance::record(conn, row.id, told).await?;
        if let Some(task) = row.sync_task_id {
            sync_task::record(conn, task, &task_progress(told)).await?;
        }
        if let Some(kept) = released {
            reservation::release(conn, row.cluster_id, &holder(row), kept).await?;
        }
        Ok(())
    })
    .await
}

fn import_progress(told: &Progress) -> ImportProgress {
    use InstanceStatus as I;
    ImportProgress {
        status: match told.status {
            I::Pending => UploadStatus::Uploaded,
            I::Syncing => UploadStatus::Importing,
            I::Available => UploadStatus::Imported,
            // What is being taken away had been imported, or not.
            I::Deleting | I::Deleted if told.progress == 100 => UploadStatus::Imported,
            I::Failed | I::Deleting | I::Deleted => UploadStatus::Failed,
        },
        import_progress: told.progress,
        error_message: told.error_message.clone(),
        attempt: told.attempt,
        observed_generation: told.observed_generation,
    }
}

fn task_progress(told: &Progress) -> TaskProgress {
    use InstanceStatus as I;
    let fetching = told.step.as_deref().and_then(Act::parse) == Some(Act::Fetch);
    TaskProgress {
        status: match told.status {
            I::Pending => TaskStatus::Pending,
            I::Syncing if fetching => TaskStatus::Syncing,
            I::Syncing => TaskStatus::Importing,
            I::Available => TaskStatus::Completed,
            I::Failed if told.step.as_deref() == Some(CANCELLED) => TaskStatus::Cancelled,
            I::Failed => TaskStatus::Failed,
            I::Deleting | I::Deleted if told.progress == 100 => TaskStatus::Completed,
            I::Deleting | I::Deleted => TaskStatus::Cancelled,
        },
        progress: told.progress,
        step: told.step.clone(),
        bytes_done: told.bytes_done,
        bytes_total: told.bytes_total,
        sync_start_time: told.started_at,
        sync_end_time: told.ended_at,
        error_message: told.error_message.clone().or_else(|| told.blocked_reason.clone()),
        attempt: told.attempt,
        observed_generation: told.observed_generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: InstanceStatus, step: Option<&str>) -> Progress {
        Progress {
            status,
            vmid: 9000,
            volume_id: None,
            error_message: None,
            blocked_reason: None,
            observed_generation: 1,
            attempt: 1,
            failures: 0,
            step: step.map(str::to_owned),
            progress: 10,
            bytes_done: 0,
            bytes_total: None,
            staging_storage: None,
            staged_file: None,
            upid: None,
            asked: None,
            asked_at: None,
            started_at: None,
            ended_at: None,
        }
    }

    #[test]
    fn a_task_says_what_its_instance_is_at() {
        use InstanceStatus as I;
        for (status, step, expected) in [
            (I::Pending, None, TaskStatus::Pending),
            (I::Syncing, Some("fetch"), TaskStatus::Syncing),
            (I::Syncing, Some("import"), TaskStatus::Importing),
            (I::Syncing, Some("template"), TaskStatus::Importing),
            (I::Available, None, TaskStatus::Completed),
            (I::Failed, Some("import"), TaskStatus::Failed),
            (I::Failed, Some(CANCELLED), TaskStatus::Cancelled),
            (I::Deleting, Some("destroy"), TaskStatus::Cancelled),
        ] {
            assert_eq!(task_progress(&told(status, step)).status, expected, "{status} {step:?}");
        }
        let done = Progress { progress: 100, ..told(I::Deleting, None) };
        assert_eq!(task_progress(&done).status, TaskStatus::Completed, "it had been completed");
    }
}
