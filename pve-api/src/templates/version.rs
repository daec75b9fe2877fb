//! Decides which version of a template an image is.

use schema::template::{Desired, TemplateRow, TemplateStatus};

use crate::error::Refusal;

/// A template of the name that an upload has.
#[derive(Clone, Debug)]
pub(super) struct Existing {
    pub template: TemplateRow,
    /// Newest first.
    pub versions: Vec<i32>,
}

/// The version that an image becomes.
pub(super) fn next(
    existing: Option<&Existing>,
    name: &str,
    cluster: &str,
    asked: Option<i32>,
) -> Result<i32, Refusal> {
    let Some(Existing { template, versions }) = existing else {
        return Ok(asked.unwrap_or(1));
    };
    let id = template.id;
    if template.desired != Desired::Present || template.status != TemplateStatus::Active {
        let message = format!(
            "the template `{name}` (id {id}) of the cluster `{cluster}` is being deleted; wait \
             until it is gone, or take another name"
        );
        return Err(Refusal::conflict("deleting", message).of_field("template_name"));
    }
    let newest = versions.first().copied().unwrap_or_default();
    let advice = match newest.checked_add(1) {
        Some(next) => format!("give version={next} for a new version of it, or another name"),
        None => "take another name".to_owned(),
    };
    match asked {
        None => {
            let message = format!(
                "the cluster `{cluster}` has a template `{name}` (id {id}) already; {advice}"
            );
            Err(Refusal::conflict("name_taken", message).of_field("template_name"))
        }
        Some(asked) if versions.contains(&asked) => {
            let message =
                format!("the template `{name}` (id {id}) has a version {asked} already; {advice}");
            Err(Refusal::conflict("version_taken", message).of_field("version"))
        }
        Some(asked) => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    use schema::{ClusterId, Revision, TemplateId};

    use super::*;

    fn web() -> Existing {
        let now = schema::now();
        let template = TemplateRow {
            id: TemplateId(7),
            template_name: "web".to_owned(),
            cluster_id: ClusterId(1),
            description: None,
            desired: Desired::Present,
            status: TemplateStatus::Active,
            blocked_reason: None,
            revision: Revision(1),
            deleted_id: 0,
            gmt_create: now,
            gmt_modified: now,
            creator: None,
            modifier: None,
        };
        Existing { template, versions: vec![3, 1] }
    }

    #[test]
    fn a_new_name_begins_at_1_or_where_it_was_told() {
        assert_eq!(next(None, "web", "lab", None), Ok(1));
        assert_eq!(next(None, "web", "lab", Some(4)), Ok(4));
    }

    #[test]
    fn a_name_that_is_taken_needs_a_new_version() {
        let refused = |asked| next(Some(&web()), "web", "lab", asked).unwrap_err();

        assert_eq!(next(Some(&web()), "web", "lab", Some(2)), Ok(2));
        assert_eq!(refused(None).reason, "name_taken");
        assert!(refused(None).message.contains("version=4"), "{}", refused(None).message);
        assert_eq!(refused(Some(3)).reason, "version_taken");
    }

    #[test]
    fn nothing_is_added_to_what_is_being_deleted() {
        let mut going = web();
        going.template.desired = Desired::Absent;

        let refusal = next(Some(&going), "web", "lab", Some(4)).unwrap_err();

        assert_eq!(refusal.reason, "deleting");
    }
}
