//! Operators and APIs are replaced one by one while images come in and templates are made, and an API
//! dies: nothing fails, nothing doubles.

mod service;
mod site;
mod uploads;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt as _;
use pve_sim::Config;
use ring::digest::{SHA256, digest};
use tokio::{task::JoinSet, time::Instant};

use crate::support::{Followed, LATER, eventually, on_every_database};
use site::Site;
use uploads::{Came, Order, Reins, form, image, resumable};

const KIB: usize = 1 << 10;

/// What is synced to nodes: some of it is there soon, some not while replicas are held back.
const SYNCED: [usize; 4] = [256 * KIB, 256 * KIB, 1024 * KIB, 1024 * KIB];

/// Three requests and a bit.
const RESUMED: usize = 1800 * KIB;

const FORM: usize = 512 * KIB;

const NODES: usize = 4;

fn cluster() -> Config {
    Config::quick().guests(3).nodes(NODES).task_time(Duration::from_millis(100))
}

/// A cluster, a node of it, and a storage there.
type Where<'a> = (usize, usize, &'a str);

/// What was asked for on a site.
struct Work {
    site: Site,
    /// Every image by its template's name, and on how many nodes it is to be.
    expected: BTreeMap<String, (Bytes, usize)>,
    syncs: usize,
    came: Came,
}

/// Uploads that are under way.
struct Uploads {
    resumable: (Vec<Reins>, JoinSet<Came>),
    forms: (Vec<Reins>, JoinSet<()>),
}

impl Work {
    fn on(site: Site) -> Self {
        Self { site, expected: BTreeMap::new(), syncs: 0, came: Came::default() }
    }

    /// An image for `storage` of one node of a cluster, with copies on the others.
    async fn order(
        &mut self,
        name: &str,
        (cluster, node, storage): Where<'_>,
        copies: bool,
        bytes: usize,
    ) -> Order {
        let id = self.site.clusters[cluster].id;
        let node_name = format!("pve{}", 1 + node % NODES);
        let mirror = &self.site.mirror;
        let storages = mirror.storages(id).await;
        let row = storages.iter().find(|row| {
            let key = &row.synced.key;
            key.node_name == node_name && key.storage_name == storage
        });
        let row = row.expect("the node has the storage");
        let others = mirror.nodes(id).await;
        let others = others.iter().filter(|row| copies && row.synced.node_name != node_name);
        let order = Order {
            name: name.to_owned(),
            cluster: id.0,
            storage: row.id.0,
            copies: others.map(|row| row.id.0).collect(),
            image: image(name, bytes),
        };
        self.expected.insert(name.to_owned(), (order.image.clone(), 1 + order.copies.len()));
        self.syncs += order.copies.len();
        order
    }

    /// Brings an image in, of which a template is made from then on, and copies on the other nodes.
    async fn bring(&mut self, name: &str, place: Where<'_>, copies: bool, bytes: usize) {
        let order = self.order(name, place, copies, bytes).await;
        let (_reins, bit) = Reins::held_at(usize::MAX);
        form(self.site.service.address, order, bit).await;
    }

    /// Begins uploads of both kinds, in turn, so that every replica has some of each.
    async fn begin(&mut self, round: u64, count: usize) -> Uploads {
        let (mut resumables, mut forms) = (Vec::new(), Vec::new());
        let (mut resuming, mut forming) = (JoinSet::new(), JoinSet::new());
        let service = self.site.service.address;
        for number in 0..count {
            let place = (number % self.site.clusters.len(), number, "local-lvm");
            let name = format!("form-{round}-{number}");
            let order = self.order(&name, place, false, FORM).await;
            let (reins, bit) = Reins::held_at(FORM / 2);
            forming.spawn(async move { drop(form(service, order, bit).await) });
            reins.until_held().await;
            forms.push(reins);
        }
        for number in 0..count {
            let place = (number % self.site.clusters.len(), number + 2, "local-lvm");
            let name = format!("resumable-{round}-{number}");
            let order = self.order(&name, place, false, RESUMED).await;
            let (reins, bit) = Reins::held_at(256 * KIB);
            resuming.spawn(resumable(service, order, bit));
            reins.until_held().await;
            resumables.push(reins);
        }
        Uploads { resumable: (resumables, resuming), forms: (forms, forming) }
    }

    async fn until_transferring(&self) {
        eventually("images are on their way to nodes", LATER, || async {
            let sql = "SELECT CONCAT(status, ' ', COALESCE(asked, '')) AS t FROM template_instance";
            let rows = self.site.texts(sql).await;
            if rows.iter().any(|row| row == "syncing fetch") { Ok(()) } else { Err(rows) }
        })
        .await;
    }

    /// Stops the operator that runs longest, and starts another one.
    async fn roll_operator(&mut self) {
        self.until_transferring().await;
        let old = self.site.operators.remove(0);
        old.tell_to_stop().await;
        old.ended().await;
        self.site.start_operator().await;
    }

    /// The same of the API. What can not be resumed, and what nodes fetch, comes to its end once the
    /// replica is stopping.
    async fn roll_api(&mut self, uploads: &Uploads) {
        self.until_transferring().await;
        let service = &self.site.service;
        let old = self.site.apis.remove(0);
        // As Kubernetes does, before SIGTERM.
        service.remove(old.address);
        let has = |reins: &&Reins| {
            reins.client().and_then(|client| service.replica_of(client)) == Some(old.address)
        };
        let forms: Vec<_> = uploads.forms.0.iter().filter(has).collect();
        assert!(!forms.is_empty(), "nothing is uploaded there that can not be resumed");
        assert!(uploads.resumable.0.iter().any(|it| has(&it)), "nor anything that can");
        old.tell_to_stop().await;
        for reins in forms {
            reins.let_go();
        }
        service.let_go(old.address);
        old.ended().await;
        self.site.start_api().await;
        for reins in &uploads.resumable.0 {
            reins.until_held().await;
        }
    }

    /// Lets all uploads come to their end.
    async fn finish(&mut self, uploads: Uploads) {
        for reins in uploads.resumable.0.iter().chain(&uploads.forms.0) {
            reins.let_go();
        }
        self.site.let_go();
        uploads.forms.1.join_all().await;
        for came in uploads.resumable.1.join_all().await {
            self.came.resumes += came.resumes;
            self.came.waits += came.waits;
        }
    }

    /// Waits until everything is made, and looks whether it is right.
    async fn is_whole(&self) {
        let site = &self.site;
        for table in ["template_sync_task", "template_instance"] {
            let sql = format!(
                "SELECT CONCAT(status, ' ', COALESCE(error_message, '')) AS t FROM {table}"
            );
            let good = if table == "template_instance" { "available " } else { "completed " };
            eventually(&format!("every {table} is {good}"), LATER, || async {
                let rows = site.texts(&sql).await;
                assert!(!rows.iter().any(|row| row.starts_with("failed")), "{rows:#?}");
                if rows.iter().all(|row| row == good) { Ok(()) } else { Err(rows) }
            })
            .await;
        }
        let tasks = site.texts("SELECT status AS t FROM template_sync_task").await;
        assert_eq!(tasks.len(), self.syncs, "sync tasks");
        eventually("PVE holds the templates and nothing else of ours", LATER, || async {
            let mut found = BTreeMap::<String, usize>::new();
            let mut places = Vec::new();
            let mut left = Vec::new();
            for it in &site.clusters {
                left.extend(it.sim.leftovers());
                left.extend(it.sim.all_files().iter().map(pve_sim::File::volid));
                for guest in it.sim.guests().into_iter().filter(|guest| guest.vmid >= 9000) {
                    if !guest.template {
                        left.push(format!("{guest:?}"));
                    }
                    *found.entry(guest.name.clone()).or_default() += 1;
                    places.push((it.name.clone(), guest.node, guest.name));
                }
            }
            let guests = self.expected.iter().map(|(name, (_, guests))| (name.clone(), *guests));
            let as_expected = found == guests.collect();
            places.sort_unstable();
            let doubled = places.windows(2).any(|two| two[0] == two[1]);
            if as_expected && left.is_empty() && !doubled { Ok(()) } else { Err((places, left)) }
        })
        .await;
        self.images_are_whole().await;
        for it in &site.clusters {
            let counters = it.sim.counters();
            let late = (counters.late_requests, counters.overlapping_requests);
            assert_eq!(late, (0, 0), "{}: two operators at once", it.name);
        }
    }

    /// Each image is there once, as it was sent; nothing else is.
    async fn images_are_whole(&self) {
        let (images, mut rows) = (self.site.images(), BTreeMap::new());
        let sql = "SELECT CONCAT(template_name, ' ', file_path, ' ', sha256, ' ', file_size) AS t \
                   FROM template_upload JOIN vm_template ON vm_template.id = template_id";
        for row in self.site.texts(sql).await {
            let mut words = row.split(' ').map(str::to_owned);
            let name = words.next().unwrap();
            let words: Vec<_> = words.collect();
            assert!(rows.insert(name, words).is_none(), "two uploads: {row}");
        }
        assert_eq!(rows.len(), self.expected.len(), "{:?}", rows.keys());
        for (name, (image, _)) in &self.expected {
            let [object, sha256, size] = &rows[name][..] else { panic!("{rows:?}") };
            let digest = digest(&SHA256, image);
            let hex: Vec<_> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((sha256, size), (&hex.concat(), &image.len().to_string()), "{name}");
            let read = images.read(&object.parse().unwrap(), 0..image.len() as u64).await.unwrap();
            let chunks: Vec<Bytes> = read.try_collect().await.unwrap();
            assert!(chunks.concat() == *image, "{name}: other bytes are kept than were sent");
        }
        assert_eq!(images.list().await.unwrap().len(), rows.len(), "images that nobody needs");
        eventually("nothing of resumable uploads is left", LATER, || async {
            let left = images.sessions().await.unwrap();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }

    fn print(&self, what: &str, took: Duration) {
        let downloads = self.downloads();
        let again = downloads.iter().filter(|(_, log)| log.contains("206 Partial")).count();
        let failed = downloads.iter().filter(|(exit, _)| exit != "OK").count();
        let upload = "/nodes/{node}/storage/{storage}/upload";
        let sent = |it: &Followed| it.sim.counters().of("POST", upload);
        let sendings: u64 = self.site.clusters.iter().map(sent).sum();
        let leases: Vec<_> = self.site.clusters.iter().map(|it| it.sim.counters().lease).collect();
        println!(
            "FIGURE {what}/{} ms {} templates {} syncs {} resumes {} waits {} fetches {} resumed \
             {again} failed {failed} sendings {sendings} leases {leases:?}",
            self.site.mirror.kind(),
            took.as_millis(),
            self.expected.len(),
            self.syncs,
            self.came.resumes,
            self.came.waits,
            downloads.len(),
        );
    }

    /// How each download of a node ended, and its log.
    fn downloads(&self) -> Vec<(String, String)> {
        let tasks = self.site.clusters.iter().flat_map(|it| it.sim.tasks());
        let downloads = tasks.filter(|task| task.kind == "download");
        downloads.map(|task| (task.exit.unwrap_or_default(), task.log.join("\n"))).collect()
    }
}

/// A19: two operators and two APIs are replaced one by one, beside 3 uploads that can be resumed, 3
/// that can not, and 12 syncs.
///
/// `ROLLING_SECONDS=600` for the long form (`scripts/long/rolling`), which goes on with the same site.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_nothing_and_doubles_nothing() {
    on_every_database("rolling", async |database| {
        let seconds = std::env::var("ROLLING_SECONDS").ok();
        let seconds: Option<u64> = seconds.map(|it| it.parse().expect("it is a number"));
        if database.kind() == "sqlite" {
            return; // It serves one operator.
        }
        let began = Instant::now();
        let mut work = Work::on(Site::of(database, vec![cluster(), cluster()], 2, 2).await);
        for round in 0.. {
            work.site.hold();
            let uploads = work.begin(round, 3).await;
            for (number, bytes) in SYNCED.into_iter().enumerate() {
                let name = format!("synced-{round}-{number}");
                work.bring(&name, (number % 2, number, "local-lvm"), true, bytes).await;
            }
            work.bring(&format!("shared-{round}"), (0, 3, "nfs-shared"), false, 256 * KIB).await;
            work.roll_operator().await;
            work.roll_operator().await;
            // Within one request, so that whoever serves it is the one that goes.
            for place in [320 * KIB, 384 * KIB] {
                for reins in &uploads.resumable.0 {
                    reins.let_to(place);
                    reins.until_held().await;
                }
                work.roll_api(&uploads).await;
            }
            work.finish(uploads).await;
            work.is_whole().await;
            assert!(work.site.unfinished().is_empty(), "{:?}", work.site.unfinished());
            if began.elapsed().as_secs() >= seconds.unwrap_or(0) {
                break;
            }
        }
        assert!(work.came.resumes > 0 && work.came.waits == 0, "{:?}", work.came);
        work.print("rolling", began.elapsed());
    })
    .await;
}

/// B16: of two processes on one bucket one dies in the middle of everything: uploads and downloads go on
/// with the other one, by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_that_is_killed_costs_those_that_it_served_a_resume() {
    on_every_database("rolling_kill", async |database| {
        if database.kind() != "postgres" {
            return; // Of the database nothing is asked here that others do not test.
        }
        let began = Instant::now();
        let mut work = Work::on(Site::of(database, vec![cluster()], 1, 2).await);
        let service = work.site.service.address;
        let order = work.order("resumable", (0, 1, "local-lvm"), false, RESUMED).await;
        let (reins, bit) = Reins::held_at(256 * KIB);
        let mut uploading = JoinSet::new();
        uploading.spawn(resumable(service, order, bit));
        reins.until_held().await;
        // More than the system sends on behalf of the dead.
        work.bring("synced", (0, 0, "local-lvm"), true, 6 << 20).await;
        eventually("all nodes fetch", LATER, || async {
            let fetched = work.site.clusters[0].sim.counters().downloaded_by_node;
            if fetched.len() == NODES { Ok(()) } else { Err(fetched) }
        })
        .await;

        let serving = reins.client().and_then(|client| work.site.service.replica_of(client));
        let index = work.site.apis.iter().position(|it| Some(it.address) == serving);
        let dead = work.site.apis.remove(index.expect("somebody serves it"));
        let address = dead.address;
        dead.kill().await;

        reins.let_go();
        work.site.service.let_go(address);
        work.site.let_go();
        work.came = uploading.join_next().await.unwrap().unwrap();
        work.is_whole().await;
        assert!(work.came.resumes > 0, "{:?}", work.came);
        let downloads = work.downloads();
        assert_eq!(downloads.len(), NODES + 1, "one for each: {downloads:#?}");
        assert!(downloads.iter().all(|(exit, _)| exit == "OK"), "{downloads:#?}");
        assert!(downloads.iter().any(|(_, log)| log.contains("206 Partial")), "{downloads:#?}");
        work.print("killed_api", began.elapsed());
    })
    .await;
}
