//! One poll of a large cluster, from the bytes of the answer to the changes in the hands of
//! whoever subscribed; beside it, what serde_json needs to parse the same bytes.

use std::{hint::black_box, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use benches::{
    bodies::{self, Size},
    figures::{Times, figure, milliseconds, ratio},
    peer::Answer,
};
use bytes::Bytes;
use informer::{Object, SharedIndexInformer, SubscribeOptions, Subscription};
use pve_operator::{
    inventory::{
        evidence::Desk,
        health::Board,
        interner::Interner,
        objects::{Guest, Node, Storage},
        poll::{Feed, Poll, Publish},
        sources::{Mirrored, Source},
    },
    metrics::Metrics,
    pve::{ApiToken, ClientConfig, FirstUse, Reader, Resources, Trust},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

const SIZE: Size = Size { nodes: 32, guests: 5_000, changed_guests: 50 };
const BODIES: usize = 20;
const WARM_UP: usize = 10;
const REPETITIONS: usize = 120;

/// As in the operator: the source paces itself.
const FOREVER: Duration = Duration::from_hours(365 * 24);

/// A change that does not come ends the bench.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let bodies = bodies::generate(SIZE, BODIES, 7);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(compare(&bodies))
}

async fn compare(bodies: &[Bytes]) -> anyhow::Result<()> {
    let mut mirror = Mirror::start()?;
    mirror.cycle(bodies[0].clone(), Changes::first()).await.context("the first poll")?;

    let (mut whole, mut decode) = (Times::default(), Times::default());
    let (mut owned, mut borrowed) = (Times::default(), Times::default());
    for (at, body) in there_and_back(bodies).take(WARM_UP + REPETITIONS).enumerate() {
        // Whoever comes first finds the body in no cache; so both do in turn.
        let early = (at % 2 == 0).then(|| parse::<String>(body)).transpose()?;
        let cycle = mirror.cycle(body.clone(), Changes::usual()).await?;
        let peer = match early {
            Some(peer) => peer,
            None => parse::<String>(body)?,
        };
        if at >= WARM_UP {
            whole.push(cycle.whole);
            decode.push(cycle.decode);
            owned.push(peer);
            borrowed.push(parse::<&str>(body)?);
        }
    }
    mirror.check()?;

    let ours = milliseconds(whole.median());
    let peer = milliseconds(owned.median());
    figure("poll_cycle/guests", SIZE.guests);
    figure("poll_cycle/body_bytes_per_guest", bodies[0].len() / SIZE.guests);
    figure("poll_cycle/repetitions", whole.len());
    figure("poll_cycle/ours_ms", format_args!("{ours:.2}"));
    figure("poll_cycle/ours_decode_ms", format_args!("{:.2}", milliseconds(decode.median())));
    figure("poll_cycle/serde_json_owned_ms", format_args!("{peer:.2}"));
    let slices = milliseconds(borrowed.median());
    figure("poll_cycle/serde_json_borrowed_ms", format_args!("{slices:.2}"));
    ratio("poll_cycle/serde_json_parse_borrowed", ours, slices);
    ratio("poll_cycle/serde_json_parse", ours, peer);
    Ok(())
}

/// The second body, the third, … the last, the last but one, … the first, and again: two
/// neighbours always differ by the same share.
fn there_and_back(bodies: &[Bytes]) -> impl Iterator<Item = &Bytes> {
    let there = 1..bodies.len();
    let back = (0..bodies.len() - 1).rev();
    there.chain(back).cycle().map(|at| &bodies[at])
}

/// Without the time to drop what was parsed.
fn parse<'de, T: serde::Deserialize<'de>>(body: &'de [u8]) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let answer: Answer<T> = serde_json::from_slice(black_box(body))?;
    let took = started.elapsed();
    drop(black_box(answer));
    Ok(took)
}

/// How many changes a poll must bring.
struct Changes {
    nodes: usize,
    guests: usize,
    storages: usize,
}

impl Changes {
    fn first() -> Self {
        Self { nodes: SIZE.nodes, guests: SIZE.guests, storages: bodies::storages(SIZE) }
    }

    fn usual() -> Self {
        Self {
            nodes: bodies::CHANGED_NODES,
            guests: SIZE.changed_guests,
            storages: bodies::CHANGED_STORAGES,
        }
    }
}

/// Three informers, wired as the operator wires them, without poller and database.
struct Mirror {
    publish: Publish,
    nodes: Subscription<Node>,
    guests: Subscription<Guest>,
    storages: Subscription<Storage>,
    /// Ends the informers when it is dropped.
    _tasks: JoinSet<()>,
}

/// Where the time of one poll went.
struct Cycle {
    decode: Duration,
    whole: Duration,
}

impl Mirror {
    fn start() -> anyhow::Result<Self> {
        let (publish, _) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let wiring = Wiring::new(&publish)?;
        Ok(Self {
            nodes: wiring.informer(&mut tasks),
            guests: wiring.informer(&mut tasks),
            storages: wiring.informer(&mut tasks),
            publish,
            _tasks: tasks,
        })
    }

    async fn cycle(&mut self, body: Bytes, changes: Changes) -> anyhow::Result<Cycle> {
        let started = Instant::now();
        let resources = Resources::parse(black_box(body))?;
        let decode = started.elapsed();
        let poll = Poll::new(resources, Arc::default(), None);
        self.publish.send_replace(Some(Arc::new(poll)));
        receive(&mut self.nodes, changes.nodes).await?;
        receive(&mut self.storages, changes.storages).await?;
        receive(&mut self.guests, changes.guests).await?;
        let whole = started.elapsed();

        let more = self.nodes.try_next().is_some()
            || self.storages.try_next().is_some()
            || self.guests.try_next().is_some();
        ensure!(!more, "more changes than the poll has");
        Ok(Cycle { decode, whole })
    }

    /// The mirror holds everything: a bench of half the work would look good.
    fn check(&self) -> anyhow::Result<()> {
        let all = Changes::first();
        ensure!(self.nodes.store().len() == all.nodes, "nodes are missing");
        ensure!(self.guests.store().len() == all.guests, "guests are missing");
        ensure!(self.storages.store().len() == all.storages, "storages are missing");
        Ok(())
    }
}

async fn receive<T: Object>(from: &mut Subscription<T>, changes: usize) -> anyhow::Result<()> {
    for _ in 0..changes {
        let event = match from.try_next() {
            Some(event) => Some(event),
            None => timeout(PATIENCE, from.next()).await.context("a change does not come")?,
        };
        black_box(event.context("the informer stopped")?);
    }
    Ok(())
}

/// What every kind's informer is made with.
struct Wiring<'a> {
    publish: &'a Publish,
    desk: Arc<Desk>,
    board: Board,
    metrics: Metrics,
    words: Interner,
}

impl<'a> Wiring<'a> {
    fn new(publish: &'a Publish) -> anyhow::Result<Self> {
        // Asked only when something is missing from a poll, which does not happen here.
        let token = ApiToken::parse("root@pam!bench", "00000000-0000-0000-0000-000000000000")?;
        let trust = Trust::parse(None, None, false, FirstUse::Refuse)?;
        let reader = Reader::new(ClientConfig::new("https://127.0.0.1:1", token, trust)?)?;
        Ok(Self {
            publish,
            desk: Arc::new(Desk::new(reader)),
            board: Board::default(),
            metrics: Metrics::new(),
            words: Interner::default(),
        })
    }

    fn informer<T: Mirrored>(&self, tasks: &mut JoinSet<()>) -> Subscription<T> {
        let source = Source::<T>::new(
            Feed::new(self.publish),
            Arc::clone(&self.desk),
            self.board.clone(),
            Arc::new(self.metrics.cluster("bench")),
            self.words.clone(),
        );
        let known = source.known();
        let informer = SharedIndexInformer::builder(source)
            .name(T::KIND.label())
            .self_paced()
            .list_timeout(FOREVER)
            .build();
        known.get_or_init(|| informer.handle().store().clone());
        let subscription = informer.handle().subscribe(SubscribeOptions::named("bench"));
        tasks.spawn(async move {
            informer.run(std::future::pending()).await;
        });
        subscription
    }
}
