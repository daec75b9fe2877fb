//! `pve_vm_tag`: which guests have a tag, so that a list by tag reads those guests only.
//!
//! It says nothing that `pve_vm.tags` does not say. The guest's writer keeps it, in the same
//! transaction; [`repair`] mends it after programs that knew nothing of it.

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::batch::{self, CHUNK, record};
use crate::db::on;
use crate::sql::{self, Sql};
use crate::tables::pve_vm_tag;
use crate::text::NAME;
use crate::{ClusterId, Conn, DbError};

/// One tag of one guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct GuestTag {
    pub(crate) vm_id: i64,
    pub(crate) cluster_id: ClusterId,
    pub(crate) tag: String,
}

record!(
    GuestTag, pve_vm_tag,
    key [vm_id = vm_id],
    fixed [vm_id = vm_id, cluster_id = cluster_id, tag = tag],
    synced [],
);

/// The tags in `a;b`, each once. One that is longer than the column can not be asked for.
pub(crate) fn parts(tags: Option<&str>) -> BTreeSet<&str> {
    let parts = tags.unwrap_or_default().split(';').map(str::trim);
    parts.filter(|tag| !tag.is_empty() && tag.chars().nth(NAME).is_none()).collect()
}

/// Makes the tags of these guests be these.
pub(crate) async fn replace(
    conn: &mut Conn,
    cluster_id: ClusterId,
    guests: &[(i64, Option<&str>)],
) -> Result<(), DbError> {
    let ids: Vec<i64> = guests.iter().map(|(id, _)| *id).collect();
    forget(conn, &ids).await?;
    add(conn, cluster_id, guests).await
}

/// Notes the tags of guests that have none yet.
pub(crate) async fn add(
    conn: &mut Conn,
    cluster_id: ClusterId,
    guests: &[(i64, Option<&str>)],
) -> Result<(), DbError> {
    let rows: Vec<GuestTag> = guests
        .iter()
        .flat_map(|(vm_id, tags)| {
            let vm_id = *vm_id;
            parts(*tags).into_iter().map(move |tag| GuestTag {
                vm_id,
                cluster_id,
                tag: tag.to_owned(),
            })
        })
        .collect();
    batch::insert(conn, &rows).await.map(drop)
}

/// Forgets the tags of these guests.
pub(crate) async fn forget(conn: &mut Conn, guests: &[i64]) -> Result<(), DbError> {
    for part in guests.chunks(CHUNK) {
        let rows = pve_vm_tag::table.filter(pve_vm_tag::vm_id.eq_any(part));
        on!(conn, c => diesel::delete(rows).execute(c).await?);
    }
    Ok(())
}

/// Makes `pve_vm_tag` say of a cluster what `pve_vm.tags` says, and returns for how many guests it
/// did not: an older program, or somebody by hand, has written the one and not the other.
///
/// Call it within [`crate::Db::write`].
pub async fn repair(conn: &mut Conn, cluster_id: ClusterId) -> Result<u64, DbError> {
    #[derive(QueryableByName)]
    struct Said {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        id: i64,
        #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
        tags: Option<String>,
    }
    let said = Sql::new("SELECT id, tags FROM pve_vm WHERE tags IS NOT NULL AND cluster_id = ");
    let said: Vec<Said> = sql::fetch(conn, &said.bind(cluster_id)).await?;
    let noted = Sql::new("SELECT vm_id AS id, tag AS tags FROM pve_vm_tag WHERE cluster_id = ");
    let noted: Vec<Said> = sql::fetch(conn, &noted.bind(cluster_id)).await?;

    let said: BTreeMap<i64, Option<&str>> =
        said.iter().map(|row| (row.id, row.tags.as_deref())).collect();
    let mut tags: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    for row in &noted {
        tags.entry(row.id).or_default().extend(row.tags.as_deref());
    }
    let wrong = differing(&said, &tags);
    replace(conn, cluster_id, &wrong).await?;
    Ok(wrong.len() as u64)
}

/// Pure: the guests of which something else is noted than said, with what is said.
fn differing<'a>(
    said: &BTreeMap<i64, Option<&'a str>>,
    noted: &BTreeMap<i64, BTreeSet<&str>>,
) -> Vec<(i64, Option<&'a str>)> {
    let ids: BTreeSet<i64> = said.keys().chain(noted.keys()).copied().collect();
    let none = BTreeSet::new();
    ids.into_iter()
        .map(|id| (id, said.get(&id).copied().flatten()))
        .filter(|(id, tags)| parts(*tags) != *noted.get(id).unwrap_or(&none))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_counts_once_and_without_what_is_around_it() {
        assert_eq!(parts(Some("b;a; b ;;a")), BTreeSet::from(["a", "b"]));
        assert_eq!(parts(Some(&"x".repeat(256))), BTreeSet::new());
        assert_eq!(parts(None), BTreeSet::new());
    }

    #[test]
    fn only_guests_whose_tags_differ_are_noted_anew() {
        let said = BTreeMap::from([(1, Some("a;b")), (2, Some("a")), (3, Some("c"))]);
        let noted = BTreeMap::from([
            (1, BTreeSet::from(["a", "b"])),
            (2, BTreeSet::from(["a", "b"])),
            (4, BTreeSet::from(["gone"])),
        ]);

        assert_eq!(differing(&said, &noted), [(2, Some("a")), (3, Some("c")), (4, None)]);
    }
}
