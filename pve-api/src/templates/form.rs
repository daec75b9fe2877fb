//! The fields of an upload, each parsed as it comes, before or after the file.

use schema::image_format::Format;
use schema::{ClusterId, NodeId, StorageId};

use super::placement::{Copies, Kind};
use crate::error::{ApiError, printable};
use crate::query::positive;

/// What came so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Form {
    came: Vec<&'static str>,
    template_name: Option<String>,
    cluster_id: Option<ClusterId>,
    storage_id: Option<StorageId>,
    description: Option<String>,
    auto_sync: bool,
    sync_node_ids: Option<Vec<NodeId>>,
    version: Option<i32>,
    sha256: Option<String>,
    os_type: Option<String>,
    cores: Option<i32>,
    memory_mb: Option<i32>,
    bridge: Option<String>,
    file_name: Option<String>,
}

/// All that an upload asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub template_name: String,
    pub cluster_id: ClusterId,
    pub storage_id: StorageId,
    pub description: Option<String>,
    pub copies: Copies,
    pub version: Option<i32>,
    pub sha256: Option<String>,
    pub os_type: Option<String>,
    pub cores: Option<i32>,
    pub memory_mb: Option<i32>,
    pub bridge: Option<String>,
    pub file_name: String,
    pub kind: Kind,
}

pub(super) const FILE: &str = "file";

/// Those that must come are first.
pub(super) const FIELDS: [&str; 13] = [
    "template_name",
    "cluster_id",
    "storage_id",
    FILE,
    "description",
    "auto_sync",
    "sync_node_ids",
    "version",
    "sha256",
    "os_type",
    "cores",
    "memory_mb",
    "bridge",
];
pub(super) const NEEDED: usize = 4;

/// PVE's words for what runs in a guest (qemu-server: src/PVE/QemuServer.pm, `ostype`).
pub(super) const OS_TYPES: [&str; 13] = [
    "other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24",
    "l26", "solaris",
];

/// As wide as the column.
const LONGEST_NAME: usize = 255;
const MOST_NODES: usize = 1000;

impl Form {
    /// Whether there is such a field.
    pub(super) fn knows(name: &str) -> bool {
        FIELDS.contains(&name)
    }

    /// Which of the fields this is; each may come once.
    pub(super) fn begin(&mut self, name: Option<&str>) -> Result<&'static str, ApiError> {
        let known = FIELDS.iter().find(|field| Some(**field) == name);
        let Some(&known) = known else {
            let field = printable(name.unwrap_or_default());
            let message =
                format!("an upload has no field `{field}`; it takes {}", FIELDS.join(", "));
            return Err(ApiError::Unknown { field, message });
        };
        if self.came.contains(&known) {
            return Err(ApiError::invalid(known, format!("{known} is given twice")));
        }
        self.came.push(known);
        Ok(known)
    }

    /// Whether everything came that a decision needs; then it can be made before the bytes.
    pub(super) fn is_complete(&self) -> bool {
        FIELDS[..NEEDED].iter().all(|field| self.came.contains(field))
    }

    /// Takes a field other than the file.
    pub(super) fn text(&mut self, field: &'static str, text: String) -> Result<(), ApiError> {
        if text.contains('\0') {
            return Err(ApiError::invalid(field, format!("{field} holds a NUL character")));
        }
        match field {
            "template_name" => self.template_name = Some(template_name(text)?),
            "cluster_id" => self.cluster_id = Some(ClusterId(positive(field, &text)?)),
            "storage_id" => self.storage_id = Some(StorageId(positive(field, &text)?)),
            // Forms send fields that nobody filled in.
            _ if text.is_empty() => {}
            "description" => self.description = Some(text),
            "auto_sync" => self.auto_sync = flag(field, &text)?,
            "sync_node_ids" => self.sync_node_ids = Some(ids(field, &text)?),
            "version" => self.version = Some(number(field, &text, 1, i32::MAX)?),
            "sha256" => self.sha256 = Some(sha256(&text)?),
            "os_type" => self.os_type = Some(os_type(text)?),
            "cores" => self.cores = Some(cores(&text)?),
            "memory_mb" => self.memory_mb = Some(memory_mb(&text)?),
            "bridge" => self.bridge = Some(bridge(text)?),
            // `begin` gives no others.
            _ => {}
        }
        Ok(())
    }

    /// Takes the name of the file.
    pub(super) fn file(&mut self, name: Option<&str>) -> Result<(), ApiError> {
        let Some(name) = name else {
            let message = "file is no file; send it as one, with curl: -F \"file=@disk.qcow2\"";
            return Err(ApiError::invalid(FILE, message));
        };
        let outside = name.contains(['/', '\\']) || name.chars().any(char::is_control);
        if outside || name.starts_with('.') || name.chars().count() > LONGEST_NAME {
            let message = format!(
                "the file is called `{}`; send a plain name of at most {LONGEST_NAME} characters, \
                 without folders, as in disk.qcow2",
                printable(name)
            );
            return Err(ApiError::invalid(FILE, message));
        }
        Format::check_file_name(name).map_err(super::keep::wrong_image)?;
        self.file_name = Some(name.to_owned());
        Ok(())
    }

    /// All of it.
    ///
    /// # Errors
    ///
    /// Names what has not come.
    pub(super) fn wanted(&self) -> Result<Wanted, ApiError> {
        let (Some(template_name), Some(cluster_id), Some(storage_id), Some(file_name)) =
            (&self.template_name, self.cluster_id, self.storage_id, &self.file_name)
        else {
            let missing: Vec<_> = FIELDS[..NEEDED]
                .iter()
                .copied()
                .filter(|field| !self.came.contains(field))
                .collect();
            let first = missing.first().copied().unwrap_or_default();
            let message = format!("the upload lacks {}", missing.join(", "));
            return Err(ApiError::invalid(first, message));
        };
        let ova = file_name.to_ascii_lowercase().ends_with(".ova");
        Ok(Wanted {
            template_name: template_name.clone(),
            cluster_id,
            storage_id,
            description: self.description.clone(),
            copies: match &self.sync_node_ids {
                Some(ids) => Copies::Nodes(ids.clone()),
                None if self.auto_sync => Copies::Online,
                None => Copies::None,
            },
            version: self.version,
            sha256: self.sha256.clone(),
            os_type: self.os_type.clone(),
            cores: self.cores,
            memory_mb: self.memory_mb,
            bridge: self.bridge.clone(),
            file_name: file_name.clone(),
            kind: if ova { Kind::Ova } else { Kind::Disk },
        })
    }

    /// The name of the template, if it came, for the record.
    pub(super) fn template_name(&self) -> Option<&str> {
        self.template_name.as_deref()
    }
}

/// Any name that a column can hold: what PVE takes is made of it for the guest.
fn template_name(text: String) -> Result<String, ApiError> {
    let wrong = |what: &str| {
        let message = format!(
            "template_name {what}; write 1 to {LONGEST_NAME} characters, as in centos7-template"
        );
        Err(ApiError::invalid("template_name", message))
    };
    if text.trim().is_empty() {
        return wrong("is empty");
    }
    if text.chars().any(char::is_control) {
        return wrong("holds a control character");
    }
    if text.chars().count() > LONGEST_NAME {
        return wrong("is too long");
    }
    Ok(text)
}

fn flag(field: &'static str, text: &str) -> Result<bool, ApiError> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => {
            let message =
                format!("{field} is `{}`; write one of true, false, 1, 0", printable(text));
            Err(ApiError::invalid(field, message))
        }
    }
}

fn ids(field: &'static str, text: &str) -> Result<Vec<NodeId>, ApiError> {
    let ids: Vec<_> = text
        .split(',')
        .map(|id| positive(field, id.trim()).map(NodeId))
        .collect::<Result<_, _>>()
        .map_err(|_| {
            let message = format!(
                "{field} is `{}`; write the ids of nodes, separated by commas, as in 2,3",
                printable(text)
            );
            ApiError::invalid(field, message)
        })?;
    if ids.len() > MOST_NODES {
        let message = format!("{field} names more than {MOST_NODES} nodes");
        return Err(ApiError::invalid(field, message));
    }
    Ok(ids)
}

fn number(field: &'static str, text: &str, least: i32, most: i32) -> Result<i32, ApiError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (least..=most).contains(number));
    number.ok_or_else(|| {
        let text = printable(text);
        let message = format!("{field} is `{text}`; write a whole number from {least} to {most}");
        ApiError::invalid(field, message)
    })
}

/// How many cores a guest may have; shared with clones.
pub(super) fn cores(text: &str) -> Result<i32, ApiError> {
    number("cores", text, 1, 1024)
}

/// PVE's least is 16 MiB; shared with clones.
pub(super) fn memory_mb(text: &str) -> Result<i32, ApiError> {
    number("memory_mb", text, 16, 16 * 1024 * 1024)
}

fn sha256(text: &str) -> Result<String, ApiError> {
    let text = text.trim().to_ascii_lowercase();
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text);
    }
    let message = "sha256 has 64 hexadecimal digits, as `sha256sum FILE` prints them";
    Err(ApiError::invalid("sha256", message))
}

fn os_type(text: String) -> Result<String, ApiError> {
    if OS_TYPES.contains(&text.as_str()) {
        return Ok(text);
    }
    let message =
        format!("os_type is `{}`; write one of {}", printable(&text), OS_TYPES.join(", "));
    Err(ApiError::invalid("os_type", message))
}

fn bridge(text: String) -> Result<String, ApiError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if text.len() <= 32 && text.bytes().all(plain) {
        return Ok(text);
    }
    let message =
        format!("bridge is `{}`; write the name of a bridge, as in vmbr0", printable(&text));
    Err(ApiError::invalid("bridge", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &[(&'static str, &str)]) -> Result<Form, ApiError> {
        let mut form = Form::default();
        for (name, text) in fields {
            let field = form.begin(Some(name))?;
            if field == FILE {
                form.file(Some(text))?;
            } else {
                form.text(field, (*text).to_owned())?;
            }
        }
        Ok(form)
    }

    const LEAST: [(&str, &str); 4] =
        [("file", "x.qcow2"), ("template_name", "t"), ("cluster_id", "1"), ("storage_id", "20")];

    fn message(fields: &[(&'static str, &str)]) -> String {
        let all: Vec<_> = LEAST
            .iter()
            .filter(|(name, _)| fields.iter().all(|(other, _)| other != name))
            .chain(fields)
            .copied()
            .collect();
        form(&all).unwrap_err().to_string()
    }

    #[test]
    fn the_least_that_an_upload_needs() {
        let form = form(&LEAST).unwrap();

        assert!(form.is_complete());
        let wanted = form.wanted().unwrap();
        assert_eq!((wanted.copies, wanted.kind), (Copies::None, Kind::Disk));
        assert_eq!((wanted.version, wanted.sha256, wanted.description), (None, None, None));
    }

    #[test]
    fn what_did_not_come_is_named() {
        let form = form(&[("template_name", "t"), ("description", "d")]).unwrap();

        assert!(!form.is_complete());
        let error = form.wanted().unwrap_err();
        assert_eq!(error.to_string(), "the upload lacks cluster_id, storage_id, file");
    }

    #[test]
    fn doubled_and_unknown_fields_are_refused() {
        assert_eq!(
            form(&[("cluster_id", "1"), ("cluster_id", "1")]).unwrap_err().to_string(),
            "cluster_id is given twice"
        );
        let error = Form::default().begin(Some("storage")).unwrap_err().to_string();
        assert!(error.starts_with("an upload has no field `storage`; it takes template_name, "));
        Form::default().begin(None).unwrap_err();
    }

    // B13
    #[test]
    fn a_template_may_be_called_anything_that_people_write() {
        let long = "x".repeat(80);
        for name in ["CentOS 7 基础", "a_b", &long, "-", "ubuntu-22.04", "É"] {
            let form = form(&[("template_name", name)]).unwrap();
            assert_eq!(form.template_name(), Some(name));
        }
        for (name, says) in [
            ("", "is empty"),
            (" \u{3000}", "is empty"),
            ("a\nb", "control character"),
            (&"x".repeat(256), "too long"),
            ("a\0", "NUL"),
        ] {
            assert!(message(&[("template_name", name)]).contains(says), "{name:?}");
        }
    }

    // B02
    #[test]
    fn a_file_has_a_plain_name_and_a_known_kind() {
        for name in ["../../x.qcow2", "/etc/x.qcow2", "..\\x.qcow2", ".qcow2", "a\nb.qcow2", ""] {
            assert!(form(&[("file", name)]).is_err(), "{name:?}");
        }
        assert!(message(&[("file", "x.iso")]).contains(".ova"));
        assert!(Form::default().file(None).unwrap_err().to_string().contains("file=@"));
    }

    #[test]
    fn copies_are_where_they_are_named_or_everywhere() {
        let copies = |fields: &[(&'static str, &str)]| {
            let fields: Vec<_> = LEAST.iter().chain(fields).copied().collect();
            form(&fields).unwrap().wanted().unwrap().copies
        };

        let named = Copies::Nodes(vec![NodeId(2), NodeId(3)]);
        assert_eq!(copies(&[("sync_node_ids", "2, 3")]), named);
        assert_eq!(copies(&[("sync_node_ids", "2,3"), ("auto_sync", "true")]), named);
        assert_eq!(copies(&[("auto_sync", "true"), ("sync_node_ids", "")]), Copies::Online);
        assert_eq!(copies(&[("auto_sync", "false")]), Copies::None);
        for wrong in ["2,x", "2,,3", "0", "-1", "2;3"] {
            assert!(message(&[("sync_node_ids", wrong)]).contains("as in 2,3"), "{wrong}");
        }
    }

    #[test]
    fn values_that_can_not_be_are_refused_with_what_can() {
        for (field, value, says) in [
            ("cluster_id", "lab", "whole number"),
            ("storage_id", "", "whole number"),
            ("auto_sync", "yes", "true, false, 1, 0"),
            ("version", "0", "from 1"),
            ("version", "v2", "from 1"),
            ("sha256", "abc", "sha256sum"),
            ("os_type", "linux", "l26"),
            ("cores", "0", "from 1 to 1024"),
            ("memory_mb", "8", "from 16"),
            ("bridge", "vmbr0;id", "vmbr0"),
        ] {
            let message = message(&[(field, value)]);
            assert!(message.contains(says), "{field}={value}: {message}");
        }
    }
}
