//! A request that carries a form with a file, and how the description of its route tells its fields.

use axum::extract::{FromRequest, Request};
use serde_json::{Map, Value, json};

use super::form::{FIELDS, FILE, NEEDED, OS_TYPES};
use crate::error::ApiError;
use crate::openapi::{Input, Operation};

/// A request whose body is read by the handler, a part at a time.
#[derive(Debug)]
pub(crate) struct FormRequest(pub Request);

impl<S: Send + Sync> FromRequest<S> for FormRequest {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        Ok(Self(request))
    }
}

impl Input for FormRequest {
    fn describe(operation: &mut Operation) {
        let properties: Map<String, Value> =
            FIELDS.iter().map(|field| ((*field).to_owned(), schema(field))).collect();
        operation.body(
            "multipart/form-data",
            &json!({
                "type": "object",
                "properties": properties,
                "required": FIELDS[..NEEDED],
                "additionalProperties": false,
            }),
        );
        operation.explain(
            "Fields may come in any order; what can be refused for the fields before the file is \
             refused before the file is read.",
        );
        for status in [408, 413, 415] {
            operation.refuses(status);
        }
    }
}

/// What each field takes. A test sees that none is forgotten.
fn schema(field: &str) -> Value {
    let id = |description: &str| json!({"type": "integer", "format": "int64", "minimum": 1, "description": description});
    let count = |most: i32, description: &str| json!({"type": "integer", "minimum": 1, "maximum": most, "description": description});
    match field {
        "template_name" => {
            json!({"type": "string", "minLength": 1, "maxLength": 255, "description": "Any name; that of the guest is derived from it."})
        }
        "cluster_id" => id("The cluster that gets the template."),
        "storage_id" => id("The storage for its disk: a row of `GET /api/v1/storages`."),
        FILE => {
            json!({"type": "string", "format": "binary", "contentMediaType": "application/octet-stream", "description": "A qcow2, raw, vmdk or ova file."})
        }
        "description" => json!({"type": "string", "description": "For people."}),
        "auto_sync" => {
            json!({"type": "string", "enum": ["true", "false", "1", "0"], "description": "Whether every other node that is online and has a storage of this name gets it too (local storage only)."})
        }
        "sync_node_ids" => {
            json!({"type": "string", "pattern": "^[0-9]+( *, *[0-9]+)*$", "description": "Further nodes that get it, as in `2,3` (local storage only)."})
        }
        "version" => count(i32::MAX, "A version of the template that there is not yet."),
        "sha256" => {
            json!({"type": "string", "pattern": "^[0-9A-Fa-f]{64}$", "description": "What the file's SHA-256 must be."})
        }
        "os_type" => json!({"type": "string", "enum": OS_TYPES, "description": "PVE's `ostype`."}),
        "cores" => count(i32::MAX, "Of the guest."),
        "memory_mb" => count(i32::MAX, "MiB, of the guest."),
        "bridge" => {
            json!({"type": "string", "description": "The bridge of its network card, as in `vmbr0`."})
        }
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_form_is_described() {
        for field in FIELDS {
            assert!(schema(field)["description"].is_string(), "{field}");
        }
    }
}
