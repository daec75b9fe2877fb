//! `download`: a node fetches a file, checks it and renames it to its name.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::header;
use tokio::time::Instant;
use url::Url;

use super::dots::{Dots, date, length_text, speed_text};
use super::link::Link;
use super::wget::{Fetched, NoAnswer, Trust, ask, authority};
use super::{End, Worker};
use crate::world::File;
use crate::world::file::Digest;

/// wget's own limit.
const TRIES: u32 = 20;
const REDIRECTS: u32 = 20;
/// The temporary file's size is told this often.
const TOLD_EVERY: u64 = 1 << 20;

/// A file to fetch.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) url: Url,
    /// As the caller wrote it: the log repeats it.
    pub(crate) url_text: String,
    pub(crate) storage: String,
    pub(crate) content: String,
    pub(crate) name: String,
    /// Algorithm and sum.
    pub(crate) checksum: Option<(String, String)>,
    pub(crate) verify_certificates: bool,
}

impl Download {
    pub(crate) async fn run(self, worker: &Worker) -> Result<(), End> {
        let (path, existing) = {
            let world = worker.world()?;
            let gone = || End::Failed(format!("storage '{}' does not exist", self.storage));
            let storage = world.storage(&self.storage).ok_or_else(gone)?;
            let path = storage.file_path(&self.content, &self.name);
            let node = &worker.node;
            (path, world.file(&self.storage, node, &self.content, &self.name).cloned())
        };
        worker.log(&format!("downloading {} to {path}", self.url_text));
        if let Some(existing) = existing {
            return self.compare(worker, &existing, &path).await;
        }
        let temporary = format!("{}.tmp_dwnl.{}", self.name, worker.pid);
        let done = self.fetch_and_check(worker, &path, &temporary).await;
        let mut world = worker.world()?;
        world.remove_file(&self.storage, &worker.node, &self.content, &temporary);
        world.put_file(done?);
        drop(world);
        worker.log(&format!("download of '{}' to '{path}' finished", self.url_text));
        Ok(())
    }

    /// A file of that name is there already.
    async fn compare(&self, worker: &Worker, existing: &File, path: &str) -> Result<(), End> {
        let Some((algorithm, expected)) = &self.checksum else {
            return Err(End::Failed(format!("refusing to override existing file '{path}'")));
        };
        worker.log("calculating checksum of existing file...");
        worker.half_way().await?;
        verify(existing, algorithm, expected, ", aborting")?;
        worker.grow("OK, got correct file already, no need to download");
        Ok(())
    }

    async fn fetch_and_check(
        &self,
        worker: &Worker,
        path: &str,
        temporary: &str,
    ) -> Result<File, End> {
        let busy = Downloading::begin(worker);
        let image = format!("{path}.tmp_dwnl.{}", worker.pid);
        let digest = self.fetch(worker, &image, temporary).await.map_err(|end| match end {
            End::Interrupted => End::Failed("download failed: received interrupt".to_owned()),
            other => other,
        })?;
        drop(busy);
        let node = worker.world()?.home(&self.storage, &worker.node);
        let mut file = digest.into_file(&self.storage, node, &self.content, &self.name);
        file.ctime = worker.shared.clock.unix();
        if let Some((algorithm, expected)) = &self.checksum {
            worker.log("calculating checksum...");
            worker.until(std::future::ready(())).await?;
            verify(&file, algorithm, expected, "")?;
            worker.grow("OK, checksum verified");
        }
        if !file.image_fits() {
            let format = file.format();
            worker.log(&format!(
                "command '/usr/bin/qemu-img info '--output=json' {image} -f {format}' failed: \
                 exit code 1"
            ));
            return Err(End::Failed(format!(
                "failed to verify file: qemu-img: Could not open '{image}': Image is not in \
                 {format} format"
            )));
        }
        Ok(file)
    }

    /// What wget does: one GET, and others for the rest when the connection breaks.
    async fn fetch(&self, worker: &Worker, path: &str, temporary: &str) -> Result<Digest, End> {
        let trust = if self.verify_certificates {
            Trust::Only(worker.shared.config.trusted.clone())
        } else {
            Trust::Anybody
        };
        let mut url = self.url.clone();
        let mut digest = Digest::new();
        for attempt in 1..=TRIES {
            let fetched = self.open(worker, &mut url, attempt, digest.size, &trust).await?;
            let Some(mut fetched) = fetched else {
                worker.sleep(worker.shared.config.download_retry).await?;
                continue;
            };
            if fetched.response.status().as_u16() == 200 {
                digest = Digest::new();
            }
            if self.save(worker, &mut fetched, &mut digest, path, temporary).await? {
                return Ok(digest);
            }
            worker.sleep(worker.shared.config.download_retry * attempt.min(10)).await?;
        }
        worker.log("Giving up.");
        Err(End::Failed("download failed: exit code 4".to_owned()))
    }

    /// Connects and asks; `None` if the connection broke before an answer came.
    async fn open(
        &self,
        worker: &Worker,
        url: &mut Url,
        attempt: u32,
        from: u64,
        trust: &Trust,
    ) -> Result<Option<Fetched>, End> {
        let failed = |text: String| Err(End::Failed(format!("download failed: {text}")));
        let now = || date(worker.shared.clock.unix());
        let again = if attempt > 1 { format!("(try:{attempt:>2})  ") } else { String::new() };
        let mut before = String::new();
        for _ in 0..=REDIRECTS {
            worker.log(&format!("--{}--  {again}{}", now(), without_password(url)));
            let (whom, host) = (authority(url), url.host_str().unwrap_or_default().to_owned());
            let fetched = match worker.until(ask(Method::GET, url, from, trust)).await? {
                Ok(fetched) => fetched,
                Err(NoAnswer::Unresolved) => {
                    worker.log(&format!(
                        "Resolving {host} ({host})... failed: Temporary failure in name resolution."
                    ));
                    return failed(format!("wget: unable to resolve host address '{host}'"));
                }
                Err(NoAnswer::Refused(how)) => {
                    return failed(format!("Connecting to {whom}... failed: {how}."));
                }
                Err(NoAnswer::Untrusted) => {
                    worker.log(&format!("Connecting to {whom}... connected."));
                    worker.log(&format!("ERROR: The certificate of '{host}' is not trusted."));
                    return failed(format!(
                        "ERROR: The certificate of '{host}' doesn't have a known issuer."
                    ));
                }
                Err(NoAnswer::Broken(_)) => {
                    worker.log(&format!("Connecting to {whom}... connected."));
                    worker.log("HTTP request sent, awaiting response... No data received.");
                    worker.log("Retrying.");
                    return Ok(None);
                }
            };
            worker.log(&if before == whom {
                format!("Reusing existing connection to {whom}.")
            } else {
                format!("Connecting to {whom}... connected.")
            });
            before = whom;
            let said = fetched.status_text();
            worker.log(&format!("HTTP request sent, awaiting response... {said}"));
            match fetched.response.status().as_u16() {
                200 | 206 => return Ok(Some(fetched)),
                301 | 302 | 303 | 307 | 308 => {
                    let to = fetched.header(header::LOCATION).unwrap_or_default().to_owned();
                    worker.log(&format!("Location: {to} [following]"));
                    match url.join(&to) {
                        Ok(next) => *url = next,
                        Err(_) => return failed("exit code 1".to_owned()),
                    }
                }
                code => {
                    worker.log(&format!("{} ERROR {code}: {}.", now(), fetched.reason()));
                    return failed("exit code 8".to_owned());
                }
            }
        }
        worker.log(&format!("{REDIRECTS} redirections exceeded."));
        failed("exit code 8".to_owned())
    }

    /// Reads a body to its end; whether the file is whole.
    async fn save(
        &self,
        worker: &Worker,
        fetched: &mut Fetched,
        digest: &mut Digest,
        path: &str,
        temporary: &str,
    ) -> Result<bool, End> {
        let from = digest.size;
        let total = fetched.length().map(|length| from + length);
        let kind = fetched.kind();
        worker.log(&match total {
            Some(total) if from > 0 => format!(
                "Length: {}, {} remaining [{kind}]",
                length_text(total),
                length_text(total - from)
            ),
            Some(total) => format!("Length: {} [{kind}]", length_text(total)),
            None => format!("Length: unspecified [{kind}]"),
        });
        worker.log(&format!("Saving to: '{path}'"));
        let room = {
            let mut world = worker.world()?;
            let node = world.home(&self.storage, &worker.node);
            let free = world.free_space(&self.storage, &worker.node);
            let had = world.file(&self.storage, &worker.node, &self.content, temporary);
            let room = free + had.map_or(0, |file| file.size);
            let mut file = Digest::new().into_file(&self.storage, node, &self.content, temporary);
            (file.temporary, file.size) = (true, from);
            world.put_file(file);
            room
        };
        if from == 0 {
            worker.half_way().await?;
        }
        let link = link_of(worker);
        let (mut dots, skipping) = Dots::new(from, total);
        if let Some(line) = skipping {
            worker.log(&line);
        }
        let began = Instant::now();
        let mut told = from;
        let whole = loop {
            let frame = worker.until(fetched.response.frame()).await?;
            let bytes = match frame {
                None => break total.is_none_or(|total| total == digest.size),
                Some(Err(_)) => break false,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => bytes,
                    Err(_) => continue,
                },
            };
            if let Some(link) = &link {
                worker.until(link.carry(bytes.len())).await?;
            }
            if digest.size + bytes.len() as u64 > room {
                worker.log(&dots.end(began.elapsed()));
                return Err(End::Failed(format!(
                    "download failed: Cannot write to '{path}' (No space left on device)."
                )));
            }
            digest.take(&bytes);
            worker.shared.counters.lock().downloaded(&worker.node, bytes.len() as u64);
            for line in dots.take(bytes.len() as u64, began.elapsed()) {
                worker.log(&line);
            }
            if digest.size - told >= TOLD_EVERY {
                told = digest.size;
                self.tell_size(worker, temporary, told)?;
            }
        };
        self.tell_size(worker, temporary, digest.size)?;
        worker.log(&dots.end(began.elapsed()));
        let speed = speed_text(digest.size - from, began.elapsed());
        let now = date(worker.shared.clock.unix());
        worker.log(&match (whole, total) {
            (true, Some(total)) => {
                format!("{now} ({speed}) - '{path}' saved [{}/{total}]", digest.size)
            }
            (true, None) => format!("{now} ({speed}) - '{path}' saved [{}]", digest.size),
            (false, _) => {
                format!("{now} ({speed}) - Connection closed at byte {}. Retrying.", digest.size)
            }
        });
        Ok(whole)
    }

    fn tell_size(&self, worker: &Worker, temporary: &str, size: u64) -> Result<(), End> {
        let mut world = worker.world()?;
        let file = world
            .files
            .iter_mut()
            .find(|file| file.name == temporary && file.storage == self.storage && file.temporary);
        if let Some(file) = file {
            file.size = size;
        }
        Ok(())
    }
}

/// Compares a file's sum with the one that was asked for.
pub(crate) fn verify(
    file: &File,
    algorithm: &str,
    expected: &str,
    ending: &str,
) -> Result<(), End> {
    let Some(got) = file.sum(algorithm) else {
        return Err(End::Failed(format!(
            "the simulator keeps sha256 and sha512 of files, not {algorithm}"
        )));
    };
    if got.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(End::Failed(format!("checksum mismatch: got '{got}' != expect '{expected}'{ending}")))
}

fn without_password(url: &Url) -> String {
    let mut shown = url.clone();
    if shown.password().is_some() && shown.set_password(Some("*password*")).is_err() {
        return String::new();
    }
    shown.to_string()
}

fn link_of(worker: &Worker) -> Option<Arc<Link>> {
    let rate = worker.shared.config.node_link?;
    let mut links = worker.shared.links.lock();
    let link = links.entry(worker.node.clone()).or_insert_with(|| Arc::new(Link::new(rate)));
    Some(Arc::clone(link))
}

/// Counts a download as running while it is there.
struct Downloading<'a>(&'a Worker);

impl<'a> Downloading<'a> {
    fn begin(worker: &'a Worker) -> Self {
        worker.shared.counters.lock().download_begins(&worker.node);
        Self(worker)
    }
}

impl Drop for Downloading<'_> {
    fn drop(&mut self) {
        self.0.shared.counters.lock().download_ends(&self.0.node);
    }
}

/// How long `query-url-metadata` waits for a server.
pub(crate) const METADATA_PATIENCE: Duration = Duration::from_secs(10);
