//! Row ids as types of their own, so that a node's id cannot pass for a guest's.

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::BigInt;
use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize,
            AsExpression, FromSqlRow,
        )]
        #[diesel(sql_type = BigInt)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl<DB: Backend> FromSql<BigInt, DB> for $name
        where
            i64: FromSql<BigInt, DB>,
        {
            fn from_sql(bytes: DB::RawValue<'_>) -> deserialize::Result<Self> {
                i64::from_sql(bytes).map(Self)
            }
        }

        impl<DB: Backend> ToSql<BigInt, DB> for $name
        where
            i64: ToSql<BigInt, DB>,
        {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> serialize::Result {
                self.0.to_sql(out)
            }
        }
    )*};
}

ids! {
    /// `pve_cluster.id`.
    ClusterId;
    /// `pve_node.id`.
    NodeId;
    /// `pve_vm.id`; not the VMID, which is PVE's and unique in one cluster only.
    GuestId;
    /// `pve_storage.id`: one storage as one node sees it.
    StorageId;
    /// `vm_template.id`.
    TemplateId;
    /// `template_upload.id`: one image, that is one version of a template.
    UploadId;
    /// `template_instance.id`.
    InstanceId;
    /// `template_sync_task.id`.
    SyncTaskId;
    /// `template_clone.id`.
    CloneId;
    /// A moment in the life of one table; larger is later. See [`crate::revision`].
    Revision;
}
