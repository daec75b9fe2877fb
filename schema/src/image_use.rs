//! Which images of the store the tables know, for those who make room.

use diesel::prelude::*;
use diesel::sql_types::Text;

use crate::sql::{self, Sql};
use crate::{Conn, DbError};

/// The names in the image store of images that were of deleted uploads alone.
///
/// An image that no row has ever named is not among them: it may be somebody else's, whose rows
/// are in another database.
pub async fn forgotten(conn: &mut Conn) -> Result<Vec<String>, DbError> {
    #[derive(QueryableByName)]
    struct Image {
        #[diesel(sql_type = Text)]
        file_path: String,
    }
    let rows = Sql::new(
        "SELECT DISTINCT file_path FROM template_upload \
         WHERE deleted_id <> 0 AND file_path IS NOT NULL AND file_path NOT IN \
         (SELECT file_path FROM template_upload WHERE deleted_id = 0 AND file_path IS NOT NULL)",
    );
    Ok(sql::fetch::<Image>(conn, &rows).await?.into_iter().map(|it| it.file_path).collect())
}
