//! A `bool` that is a small integer in every database, so that people's `= 1` works in all.

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::SmallInt;

/// 0 or 1 in SQL; whatever is not 0 reads as true.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Hash, AsExpression, FromSqlRow)]
#[diesel(sql_type = SmallInt)]
pub struct Flag(pub bool);

impl From<bool> for Flag {
    fn from(on: bool) -> Self {
        Self(on)
    }
}

impl From<Flag> for bool {
    fn from(flag: Flag) -> Self {
        flag.0
    }
}

impl<DB: Backend> FromSql<SmallInt, DB> for Flag
where
    i16: FromSql<SmallInt, DB>,
{
    fn from_sql(bytes: DB::RawValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(i16::from_sql(bytes)? != 0))
    }
}

impl<DB: Backend> ToSql<SmallInt, DB> for Flag
where
    i16: ToSql<SmallInt, DB>,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> serialize::Result {
        // Constants, because some backends keep a reference until the statement runs.
        <i16 as ToSql<SmallInt, DB>>::to_sql(if self.0 { &1 } else { &0 }, out)
    }
}
