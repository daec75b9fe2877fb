//! Uploads: privileges first, then the body bit by bit, and no patience with silence.

use std::collections::BTreeMap;

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};

use crate::api;
use crate::api::answer::Answer;
use crate::work;
use crate::world::file::Digest;

use super::ask::{Ask, Head};
use super::exchange::{Dropped, Exchange, authenticated};
use super::form::{BadForm, Form};

impl Exchange {
    /// An upload: privileges first, then the body, bit by bit.
    pub(super) async fn upload(
        &self,
        request: &mut Request<Incoming>,
        ask: Ask,
    ) -> Result<Answer, Dropped> {
        if request.headers().contains_key(header::TRANSFER_ENCODING) {
            return Ok(Answer::plain(501, "chunked transfer encoding not supported", ""));
        }
        let head = Head::of(request);
        if let Some(refused) = self.forbids(&head, &ask) {
            return Ok(refused);
        }
        if !head.headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Dropped);
        }
        let boundary = boundary(&head.headers).ok_or(Dropped)?;
        let mut form = Form::new(&boundary);
        while !form.is_whole() {
            let next = tokio::time::timeout(
                self.shared.config.upload_patience,
                request.body_mut().frame(),
            );
            match next.await {
                Ok(Some(Ok(frame))) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    if let Err(bad) = form.take(&bytes) {
                        return Ok(not_understood(&bad));
                    }
                }
                Ok(None) => break,
                // Silence, or the client is gone: PVE says nothing and cleans up.
                Ok(Some(Err(_))) | Err(_) => return Err(Dropped),
            }
        }
        Ok(match form.finish() {
            Ok((fields, digest)) => self.uploaded(&head, ask, fields, digest),
            Err(bad) => not_understood(&bad),
        })
    }

    /// Whether an upload is refused before its body is read.
    fn forbids(&self, head: &Head, ask: &Ask) -> Option<Answer> {
        let mut world = self.shared.world.lock();
        let token = match authenticated(&head.headers, &world.tokens) {
            Ok(token) => token,
            Err(reason) => {
                return Some(Answer::bare(401, reason).after(self.shared.config.auth_delay));
            }
        };
        let (route, path) = ask.found.as_ref()?;
        let mut call = self.call(&mut world, token, path.clone(), BTreeMap::new());
        let refusal = api::permitted(&call, route).err()?;
        let delay = self.shared.config.auth_delay;
        call.later = None;
        Some(Answer::bare(refusal.status(), refusal.message().to_owned()).after(delay))
    }

    fn uploaded(
        &self,
        head: &Head,
        ask: Ask,
        fields: BTreeMap<String, String>,
        digest: Digest,
    ) -> Answer {
        let Some((route, path)) = ask.found else { return Answer::bare(501, "no such file") };
        let mut world = self.shared.world.lock();
        let token = match authenticated(&head.headers, &world.tokens) {
            Ok(token) => token,
            Err(reason) => return Answer::bare(401, reason),
        };
        let mut query: BTreeMap<String, String> =
            url::form_urlencoded::parse(head.query.as_bytes()).into_owned().collect();
        query.extend(fields);
        let mut call = self.call(&mut world, token, path, query);
        let answer = api::handle_upload(&mut call, route, digest);
        let jobs = std::mem::take(&mut call.jobs);
        drop(world);
        for job in jobs {
            work::start(&self.shared, job);
        }
        answer
    }
}

pub(super) fn is_upload(request: &Request<Incoming>, ask: &Ask) -> bool {
    let route = ask.found.as_ref().map(|(route, _)| (route.method, route.pattern));
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    route == Some(("POST", "/nodes/{node}/storage/{storage}/upload"))
        && (kind.is_some_and(|kind| kind.starts_with("multipart/form-data"))
            || request.headers().contains_key(header::TRANSFER_ENCODING))
}

fn not_understood(bad: &BadForm) -> Answer {
    match bad {
        BadForm::Field => Answer::bare(400, "Bad Request"),
        BadForm::Failed(words) => Answer::plain(500, words, "\n"),
    }
}

/// Quotes belong to it, as PVE takes them.
fn boundary(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let (_, boundary) = kind.split_once("boundary=")?;
    let boundary = boundary.split(';').next()?.trim();
    (!boundary.is_empty()).then(|| boundary.to_owned())
}
