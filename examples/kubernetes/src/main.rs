//! Prints the pods of a namespace as they come, change and go; beside `kubectl proxy --port 8001`.

use futures::{Stream, StreamExt, TryFutureExt};
use informer::{Cursor, ListDone, ListWatcher, Listing, Object, SourceError, WatchEvent};
use informer::{SharedIndexInformer, SubscribeOptions};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent as Sent, WatchParams};
use kube::{Client, Config, Error};

/// What is kept of a pod: name, phase, revision. The rest is dropped page by page.
pub(crate) struct Row(String, String, String);

impl Object for Row {
    type Key = String;
    fn key(&self) -> String {
        self.0.clone()
    }
    fn version(&self) -> u64 {
        informer::fingerprint(&self.2)
    }
}

fn row(Pod { metadata: meta, status, .. }: Pod) -> Row {
    let text = Option::<String>::unwrap_or_default;
    Row(text(meta.name), text(status.and_then(|s| s.phase)), text(meta.resource_version))
}

type Event = WatchEvent<Row>;

pub(crate) struct Pods(pub(crate) Api<Pod>);

impl ListWatcher for Pods {
    type Object = Row;

    async fn list(&self, into: &mut Listing<'_, Row>) -> Result<ListDone, SourceError> {
        let mut params = ListParams::default().limit(500);
        loop {
            let page = self.0.list(&params).await.map_err(classed)?;
            page.items.into_iter().for_each(|pod| _ = into.put(row(pod)));
            let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) else {
                return Ok(ListDone::at(page.metadata.resource_version.unwrap_or_default()));
            };
            params = params.continue_token(&token);
        }
    }

    fn watch(&self, since: &Cursor) -> impl Stream<Item = Result<Event, SourceError>> + Send {
        let (pods, since) = (self.0.clone(), since.clone());
        async move { pods.watch(&WatchParams::default(), since.as_str()).await }
            .try_flatten_stream()
            .map(|sent| match sent.map_err(classed)? {
                Sent::Added(pod) | Sent::Modified(pod) => Ok(Event::Upsert(row(pod))),
                Sent::Deleted(pod) => Ok(Event::Delete(row(pod).0)),
                Sent::Bookmark(at) => Ok(Event::Progress(at.metadata.resource_version.into())),
                Sent::Error(status) => Err(classed(Error::Api(status))),
            })
    }
}

fn classed(error: Error) -> SourceError {
    let expired = matches!(&error, Error::Api(status) if status.code == 410);
    if expired { SourceError::expired(error) } else { SourceError::transient(error) }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8001".to_owned());
    let client = Client::try_from(Config::new(url.parse()?))?;
    let informer = SharedIndexInformer::builder(Pods(Api::default_namespaced(client)))
        .on_error(|error, _| eprintln!("{error}: {}", error.cause()))
        .build();
    let mut pods = informer.subscribe(SubscribeOptions::named("printer"));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(informer.run(async { drop(tokio::signal::ctrl_c().await) }));
    while let Some(event) = pods.next().await {
        println!("{} {} {}", event.kind(), event.key(), event.object().1);
    }
    Ok(())
}
