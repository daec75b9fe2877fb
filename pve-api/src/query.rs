//! Query strings, parsed strictly: whatever is not understood is refused by name, because a
//! filter that is passed over would answer with rows that nobody asked for.

use std::{convert::Infallible, fmt::Display};

use axum::{extract::FromRequestParts, http::request::Parts};
use chrono::Datelike as _;
use percent_encoding::percent_decode_str;
use schema::page::{Page, Sort, SortKey, Start};
use schema::{Revision, Timestamp};
use serde_json::{Value, json};

use crate::error::{ApiError, printable};
use crate::openapi::{Input, Operation};

/// What a route reads from its query string.
pub(crate) trait FromQuery: Sized + Send {
    /// Takes out what it knows. It is also how the description of a route learns which parameters
    /// there are; so it asks for each, whatever the others are, and an empty query is fine.
    fn from_query(query: &mut Query) -> Result<Self, ApiError>;
}

/// The parameters of a request; what no [`FromQuery`] asked for is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Params<Q>(pub Q);

impl<S: Send + Sync, Q: FromQuery> FromRequestParts<S> for Params<Q> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Ok(mut query) = Query::from_request_parts(parts, state).await;
        let asked = Q::from_query(&mut query)?;
        query.finish()?;
        Ok(Self(asked))
    }
}

impl<Q: FromQuery> Input for Params<Q> {
    fn describe(operation: &mut Operation) {
        let mut query = Query { asked: Some(Vec::new()), ..Query::default() };
        let outcome = Q::from_query(&mut query);
        debug_assert!(outcome.is_ok(), "an empty query is fine: {:?}", outcome.err());
        for (name, schema) in query.asked.into_iter().flatten() {
            operation.query_parameter(name, &schema);
        }
    }
}

/// No parameters.
impl FromQuery for () {
    fn from_query(_: &mut Query) -> Result<Self, ApiError> {
        Ok(())
    }
}

/// `force=true`: what would be refused, because it is seldom meant, is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Force(pub bool);

impl FromQuery for Force {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        Ok(Self(query.flag("force")?.unwrap_or_default()))
    }
}

impl FromQuery for Page {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        query.page()
    }
}

/// One page of a list, and which rows are in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paged<F>(pub Page, pub F);

/// A filter of a list that can be sorted by more than the id.
pub(crate) trait Sortable {
    const SORTS: &'static [SortKey];
}

impl<F: FromQuery + Sortable> FromQuery for Paged<F> {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        Ok(Self(query.page_by(F::SORTS)?, F::from_query(query)?))
    }
}

impl<A: FromQuery, B: FromQuery> FromQuery for (A, B) {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        Ok((A::from_query(query)?, B::from_query(query)?))
    }
}

/// The parameters of one request. Each is taken out by its name and type; [`Query::finish`]
/// then refuses what is left.
#[derive(Debug, Default)]
pub(crate) struct Query {
    raw: String,
    taken: Vec<&'static str>,
    /// For a description: what was asked for, with its schema.
    asked: Option<Vec<(&'static str, Value)>>,
}

impl Query {
    /// A number that a row's id, or a VMID, can be.
    pub(crate) fn number(&mut self, name: &'static str) -> Result<Option<i64>, ApiError> {
        self.describe(name, || json!({"type": "integer", "format": "int64", "minimum": 1}));
        self.take(name)?.map(|text| positive(name, &text)).transpose()
    }

    /// A revision: [`revision`].
    pub(crate) fn revision(&mut self, name: &'static str) -> Result<Option<Revision>, ApiError> {
        self.describe(name, || json!({"type": "integer", "format": "int64", "minimum": 0}));
        self.take(name)?.map(|text| revision(name, &text)).transpose()
    }

    /// A name or word as it is in a row, of at most [`LONGEST`] characters.
    pub(crate) fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        self.describe(name, || {
            json!({
                "type": "string", "minLength": 1, "maxLength": LONGEST,
                "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
            })
        });
        let Some(text) = self.take(name)? else { return Ok(None) };
        if text.chars().any(char::is_control) {
            let message = format!("{name} holds a control character, which no name has");
            return Err(ApiError::invalid(name, message));
        }
        if text.chars().nth(LONGEST).is_some() {
            let message = format!("{name} is too long; names have at most {LONGEST} characters");
            return Err(ApiError::invalid(name, message));
        }
        Ok(Some(text))
    }

    /// `t`, the token of an image's address; whatever else is there is left alone.
    pub(crate) fn token(&mut self) -> Option<String> {
        self.take("t").ok().flatten()
    }

    pub(crate) fn flag(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        const WORDS: [(&str, bool); 4] =
            [("true", true), ("false", false), ("1", true), ("0", false)];
        self.one_of(name, &WORDS)
    }

    /// A moment in RFC 3339, as answers show them.
    pub(crate) fn time(&mut self, name: &'static str) -> Result<Option<Timestamp>, ApiError> {
        self.describe(name, || json!({"type": "string", "format": "date-time"}));
        self.take(name)?.map(|text| moment(name, &text)).transpose()
    }

    /// One of a few words.
    pub(crate) fn one_of<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, ApiError> {
        self.describe(name, || {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            json!({"type": "string", "enum": words})
        });
        let Some(text) = self.take(name)? else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => Err(wrong(name, &text, one_of(words.iter().map(|(word, _)| *word)))),
        }
    }

    /// `page`, `page_size` and `after`, and `sort` by id.
    pub(crate) fn page(&mut self) -> Result<Page, ApiError> {
        self.page_by(&[SortKey::ID])
    }

    /// `page`, `page_size`, `after`, and `sort` by one of `keys`.
    pub(crate) fn page_by(&mut self, keys: &[SortKey]) -> Result<Page, ApiError> {
        let mut page = Page::default();
        let whole = |most: u32, default: u32| json!({"type": "integer", "minimum": 1, "maximum": most, "default": default});
        self.describe("page", || whole(u32::MAX, 1));
        self.describe("page_size", || whole(LARGEST_PAGE, page.page_size));
        self.describe(
            "sort",
            || json!({"type": "string", "enum": both_ways(keys), "default": "-id"}),
        );
        let number = self.take("page")?.map(|text| {
            let number = text.parse::<u32>().ok().filter(|number| *number > 0);
            number.ok_or_else(|| {
                wrong("page", &text, format!("a whole number from 1 to {}", u32::MAX))
            })
        });
        let number = number.transpose()?;
        if let Some(text) = self.take("page_size")? {
            let number = text.parse().ok().filter(|number| (1..=LARGEST_PAGE).contains(number));
            page.page_size = number.ok_or_else(|| {
                wrong("page_size", &text, format!("a whole number from 1 to {LARGEST_PAGE}"))
            })?;
        }
        let sort = self.take("sort")?.map(|text| sort(&text, keys)).transpose()?;
        let after = self.number("after")?;
        page.start = start(number, sort, after)?;
        Ok(page)
    }

    /// Refuses parameters that nobody took.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        for (name, _) in self.pairs() {
            let name = decoded(name)?;
            if !self.taken.contains(&name.as_str()) {
                let field = printable(&name);
                let known = if self.taken.is_empty() {
                    "it takes none".to_owned()
                } else {
                    format!("it takes {}", self.taken.join(", "))
                };
                let message = format!("this path has no parameter `{field}`; {known}");
                return Err(ApiError::Unknown { field, message });
            }
        }
        Ok(())
    }

    fn describe(&mut self, name: &'static str, schema: impl FnOnce() -> Value) {
        if let Some(asked) = &mut self.asked {
            asked.push((name, schema()));
        }
    }

    fn take(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        self.taken.push(name);
        let mut found = None;
        for (key, value) in self.pairs() {
            if decoded(key)? != name {
                continue;
            }
            if found.is_some() {
                return Err(ApiError::invalid(name, format!("{name} is given twice")));
            }
            let value = decoded(value).map_err(|_| {
                ApiError::invalid(name, format!("{name} is not UTF-8 once it is percent-decoded"))
            })?;
            if value.is_empty() {
                let message = format!("{name} is empty; give a value or leave {name} out");
                return Err(ApiError::invalid(name, message));
            }
            found = Some(value);
        }
        Ok(found)
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.raw
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

/// As long as the widest column that is compared with.
const LONGEST: usize = 255;
const LARGEST_PAGE: u32 = 100;

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self { raw: parts.uri.query().unwrap_or_default().to_owned(), ..Self::default() })
    }
}

/// A number that an id can be: from 1 up.
pub(crate) fn positive(name: &str, text: &str) -> Result<i64, ApiError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && *number > 0);
    number.ok_or_else(|| wrong(name, text, format!("a whole number from 1 to {}", i64::MAX)))
}

/// A revision that somebody was told: from 0 up.
pub(crate) fn revision(name: &str, text: &str) -> Result<Revision, ApiError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits).map(Revision);
    number.ok_or_else(|| {
        let expected = "the revision of the last message that came, or leave it out to be told \
                        everything";
        wrong(name, text, expected)
    })
}

/// A moment in RFC 3339, of any zone.
pub(crate) fn moment(name: &str, text: &str) -> Result<Timestamp, ApiError> {
    // The `+` of a zone, which forms read as a space.
    let text = text.replace(' ', "+");
    match chrono::DateTime::parse_from_rfc3339(&text) {
        // Years that every database has.
        Ok(moment) if (1..=9999).contains(&moment.naive_utc().year()) => Ok(moment.naive_utc()),
        Ok(_) | Err(_) => Err(wrong(name, &text, "a time as in 2025-01-02T03:04:05Z")),
    }
}

/// Forms write a space as `+`.
fn decoded(text: &str) -> Result<String, ApiError> {
    let text = text.replace('+', " ");
    match percent_decode_str(&text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(ApiError::invalid(
            &text,
            "a parameter's name is not UTF-8 once it is percent-decoded",
        )),
    }
}

/// `-name` is from the last to the first.
fn sort(text: &str, keys: &[SortKey]) -> Result<Sort, ApiError> {
    let (word, descending) = match text.strip_prefix('-') {
        Some(word) => (word, true),
        None => (text, false),
    };
    match keys.iter().find(|key| key.word == word) {
        Some(key) => Ok(Sort { key: *key, descending }),
        None => Err(wrong("sort", text, one_of(both_ways(keys).iter().map(String::as_str)))),
    }
}

/// Every word that `sort` may be.
fn both_ways(keys: &[SortKey]) -> Vec<String> {
    keys.iter().flat_map(|key| [key.word.to_owned(), format!("-{}", key.word)]).collect()
}

/// Pure: `after` goes on from a row in the one order that lets it.
fn start(page: Option<u32>, sort: Option<Sort>, after: Option<i64>) -> Result<Start, ApiError> {
    let Some(after) = after else {
        return Ok(Start::Number(page.unwrap_or(1), sort.unwrap_or(Sort::NEWEST_FIRST)));
    };
    if page.is_some() {
        let message = "after goes on from a row and page counts from the start; give one of them";
        return Err(ApiError::invalid("after", message));
    }
    if sort.is_some_and(|sort| sort != Sort::NEWEST_FIRST) {
        let message = "after goes on by id, newest first; leave sort out, or write -id";
        return Err(ApiError::invalid("after", message));
    }
    Ok(Start::After(after))
}

fn wrong(name: &str, text: &str, expected: impl Display) -> ApiError {
    ApiError::invalid(name, format!("{name} is `{}`; write {expected}", printable(text)))
}

fn one_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    format!("one of {}", words.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(raw: &str) -> Query {
        Query { raw: raw.to_owned(), ..Query::default() }
    }

    fn field(error: &ApiError) -> &str {
        match error {
            ApiError::Invalid { field, .. } | ApiError::Unknown { field, .. } => field,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn names_are_decoded_as_forms_encode_them() {
        let mut query = query("name=web+1%2B%E5%9F%BA&na%6De2=x");

        assert_eq!(query.text("name").unwrap().as_deref(), Some("web 1+基"));
        assert_eq!(query.text("name2").unwrap().as_deref(), Some("x"));
        query.finish().unwrap();
    }

    #[test]
    fn what_nobody_took_is_refused_by_name_with_what_there_is() {
        let mut query = query("status=running&colour=red");
        query.text("status").unwrap();

        let error = query.finish().unwrap_err();

        assert_eq!(field(&error), "colour");
        assert_eq!(error.to_string(), "this path has no parameter `colour`; it takes status");
    }

    #[test]
    fn empty_doubled_and_undecodable_values_are_refused() {
        for raw in ["name=", "name", "name=a&name=b", "name=%ff", "name=a%00b", "name=a%0ab"] {
            let error = query(raw).text("name").unwrap_err();
            assert_eq!(field(&error), "name", "{raw}");
        }
        query("%ff=1").finish().unwrap_err();
    }

    #[test]
    fn a_name_may_be_as_long_as_its_column_and_no_longer() {
        let fits = format!("name={}", "é".repeat(LONGEST));
        assert!(query(&fits).text("name").is_ok());
        assert!(query(&format!("{fits}x")).text("name").is_err());
    }

    #[test]
    fn numbers_are_whole_positive_and_fit() {
        assert_eq!(positive("id", "7").unwrap(), 7);
        assert_eq!(positive("id", &i64::MAX.to_string()).unwrap(), i64::MAX);
        for text in ["0", "-1", "+1", "1.0", "1e3", "0x10", " 1", "", "9223372036854775808", "٣"] {
            positive("id", text).unwrap_err();
        }
    }

    #[test]
    fn times_have_a_zone() {
        let utc = moment("since", "2025-01-02T03:04:05Z").unwrap();
        assert_eq!(moment("since", "2025-01-02T05:04:05+02:00").unwrap(), utc);
        assert_eq!(moment("since", "2025-01-02T05:04:05 02:00").unwrap(), utc, "of a form");
        for wrong in ["2025-01-02", "yesterday", "2025-01-02T03:04:05", "1735787045"] {
            let said = moment("since", wrong).unwrap_err().to_string();
            assert!(said.contains("2025-01-02T03:04:05Z"), "{said}");
        }
    }

    #[test]
    fn pages_begin_at_1_and_hold_at_most_100() {
        assert_eq!(query("").page().unwrap(), Page::number(1, 10));
        assert_eq!(query("page=3&page_size=100").page().unwrap(), Page::number(3, 100));
        for raw in ["page=0", "page=-1", "page=x", "page=4294967296"] {
            assert_eq!(field(&query(raw).page().unwrap_err()), "page", "{raw}");
        }
        for raw in ["page_size=0", "page_size=101", "page_size=ten"] {
            assert_eq!(field(&query(raw).page().unwrap_err()), "page_size", "{raw}");
        }
    }

    #[test]
    fn a_list_is_sorted_by_what_it_has_both_ways() {
        let name = schema::node::SORTS[1];
        let by = |raw| query(raw).page_by(schema::node::SORTS);

        let down = Start::Number(2, Sort { key: name, descending: true });
        assert_eq!(by("sort=-name&page=2").unwrap().start, down);
        let up = Start::Number(1, Sort { key: name, descending: false });
        assert_eq!(by("sort=name").unwrap().start, up);
        assert_eq!(by("sort=-id").unwrap(), Page::default());
        for raw in ["sort=colour", "sort=--name", "sort=Name", "sort=-", "sort=%2Bname"] {
            let error = by(raw).unwrap_err();
            assert_eq!(field(&error), "sort", "{raw}");
            assert!(error.to_string().ends_with("write one of id, -id, name, -name"), "{error}");
        }
        query("sort=name").page().unwrap_err();
    }

    #[test]
    fn a_cursor_goes_on_by_id_alone() {
        let after = query("after=41&page_size=20&sort=-id").page().unwrap();
        assert_eq!(after, Page::after(41, 20));
        for raw in ["after=0", "after=x", "after=41&page=1", "after=41&sort=id"] {
            assert_eq!(field(&query(raw).page().unwrap_err()), "after", "{raw}");
        }
    }
}
