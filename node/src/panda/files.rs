//! Uploads and downloads: sandboxes, and Harvester's logs.

use super::limits::{LOG_BYTES_MAX, SANDBOX_BYTES_MAX, SOURCES_BYTES_MAX, UPLOAD_BEHIND, UPLOAD_BYTES_PER_S};
use super::reply::{Answer, Done, Refusal, text};
use super::sandbox::{Hash, hex, on_disk, unhex};
use super::{Call, Front};
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use moso_proto::object::kind;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Bytes of a file's name.
const NAME_BYTES_MAX: usize = 100;

/// Begins the name of an object by which an equal file is found: no file is called so.
const SUM: &str = "sum-";

/// A name that says nothing of folders.
fn good_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-+=@".contains(c);
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && !name.starts_with(SUM)
        && name.chars().all(good)
}

/// Most bytes of an upload of this name.
fn bytes_max(name: &str, is_log: bool) -> u64 {
    match is_log {
        true => LOG_BYTES_MAX,
        false if name.starts_with("sources.") => SOURCES_BYTES_MAX,
        false => SANDBOX_BYTES_MAX,
    }
}

/// The name of the object by which a user's equal file is found.
fn sum_name(user: &str, size: u64, checksum: u64) -> String {
    let hash: Hash = Sha256::digest(format!("{user}\n{size}\n{checksum}")).into();
    format!("{SUM}{}", &hex(&hash)[..32])
}

/// What arrived.
struct Uploaded {
    name: String,
    hash: Hash,
    size: u64,
    checksum: u64,
}

/// When an upload of which so much has arrived must have gone on.
fn deadline(began: Instant, bytes: u64) -> Instant {
    began + UPLOAD_BEHIND + Duration::from_secs(bytes / UPLOAD_BYTES_PER_S)
}

async fn receive(front: &Front, headers: &HeaderMap, body: BodyDataStream, is_log: bool) -> Result<Uploaded, Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind)
        .map_err(|_| Refusal::new("Argument error: missing a required argument: 'file'"))?;
    let broken = |error: multer::Error| Refusal::new(format!("ERROR : the upload broke off: {error}"));
    let slow = |_| Refusal::new("ERROR : the upload is too slow");
    let began = Instant::now();
    let mut parts = multer::Multipart::new(body, boundary);
    while let Some(mut field) =
        timeout_at(deadline(began, 0), parts.next_field()).await.map_err(slow)?.map_err(broken)?
    {
        if field.name() != Some("file") {
            continue;
        }
        let name = field.file_name().unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned();
        if !good_name(&name) {
            return Err(Refusal::new(format!(
                "ERROR : the name of a file has 1 to {NAME_BYTES_MAX} letters, digits, '.', '_', '-', '+', '=' and '@'"
            )));
        }
        let max = bytes_max(&name, is_log);
        let mut incoming = front.sandboxes.begin()?;
        while let Some(bytes) =
            timeout_at(deadline(began, incoming.bytes), field.chunk()).await.map_err(slow)?.map_err(broken)?
        {
            if incoming.bytes + bytes.len() as u64 > max {
                let hint = if max == SANDBOX_BYTES_MAX {
                    ". Please submit the job without --noBuild/--libDS since those options impose a tighter size limit"
                } else {
                    ""
                };
                return Err(Refusal::new(format!("ERROR : Upload failure. Exceeded size limit {max}{hint}")));
            }
            incoming = on_disk(move || {
                incoming.write(&bytes).map(|()| incoming).map_err(|error| {
                    crate::request::Fault::new(
                        moso_proto::Code::Unavailable,
                        format!("the disk does not take it: {error}"),
                    )
                })
            })
            .await?;
        }
        let checksum = match incoming.tail.first_chunk::<4>() {
            Some(sum) if incoming.tail.len() == 8 => u64::from(u32::from_le_bytes(*sum)),
            _ => 0,
        };
        let size = incoming.bytes;
        let store = front.sandboxes.clone();
        let hash = on_disk(move || store.finish(incoming)).await?;
        return Ok(Uploaded { name, hash, size, checksum });
    }
    Err(Refusal::new("Argument error: missing a required argument: 'file'"))
}

/// `file_server/upload_cache_file`, and `upload_jedi_log`.
pub async fn upload(front: &Front, call: &Call, body: Body, is_log: bool) -> Answer {
    let told = call.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|length| length > SOURCES_BYTES_MAX + (1 << 20)) {
        return Err(Refusal::new(format!("ERROR : Upload failure. Exceeded size limit {SOURCES_BYTES_MAX}")));
    }
    let busy = || Refusal { is_retryable: true, ..Refusal::new("too many uploads at this node: come back later") };
    let _place = front.uploads.try_acquire().map_err(|_| busy())?;
    let uploaded = receive(front, &call.headers, body.into_data_stream(), is_log).await?;
    let Uploaded { name, hash, size, checksum } = uploaded;
    let name = if is_log { format!("jedilog/{name}") } else { name };
    let user = call.user().unwrap_or_else(|_| "nobody".to_owned());
    let other = |kept: &Map<String, Value>| kept["user"] != user.as_str() || is_log;
    if let Some(kept) = front.object(kind::PANDA_FILE, &name).await?
        && kept.map["sha256"] != hex(&hash).as_str()
        && !is_log
        && other(&kept.map)
    {
        return Err(Refusal::new(format!("ERROR : there is another file {name}")));
    }
    front.sandboxes.touch(&hash);
    front.sandboxes.replicate(&front.router, &hash).await?;
    let expires = front.now_ms() + front.times.upload_life_ms();
    let object = json!({
        "sha256": hex(&hash), "size": size, "checksum": checksum, "user": user, "expires_ms": expires,
    });
    front.put(kind::PANDA_FILE, &name, object.as_object().expect("made so"), None, &user).await?;
    if !is_log {
        let sum = json!({ "name": name, "expires_ms": expires });
        let sum_name = sum_name(&user, size, checksum);
        front.put(kind::PANDA_FILE, &sum_name, sum.as_object().expect("made so"), None, &user).await?;
        return Ok(Done::default());
    }
    // Harvesters look for the address in the message, PanDA's server of today has it in the data.
    let url = format!("{}/cache/{name}", call.base);
    Ok(Done { message: url.clone(), data: url.into() })
}

/// `file_server/validate_cache_file`: whether the user has uploaded an equal file.
pub async fn validate(front: &Front, call: &Call) -> Answer {
    let size = call.args.id("file_size")?;
    let checksum = call.args.int("checksum")? as u32;
    let user = call.user()?;
    let found = front.object(kind::PANDA_FILE, &sum_name(&user, size, checksum.into())).await?;
    let name = found.and_then(|kept| kept.map.get("name")?.as_str().map(str::to_owned));
    let Some(name) = name else { return Ok(Done::says("NOTFOUND")) };
    match front.object(kind::PANDA_FILE, &name).await? {
        Some(kept) if !is_expired(&kept.map, front.now_ms()) => {
            Ok(Done::says(format!("FOUND:{}:{name}", call.base.rsplit('/').next().unwrap_or_default())))
        }
        _ => Ok(Done::says("NOTFOUND")),
    }
}

/// `file_server/touch_cache_file`: keeps it longer.
pub async fn touch(front: &Front, call: &Call) -> Answer {
    let name = call.args.text("file_name")?;
    let expires = front.now_ms() + front.times.upload_life_ms();
    if front.object(kind::PANDA_FILE, name).await?.is_none() {
        return Err(Refusal::new(format!("there is no file {name}")));
    }
    let set = |map: &mut Map<String, Value>| drop(map.insert("expires_ms".into(), expires.into()));
    front.change(kind::PANDA_FILE, name, &call.caller.user, set).await?;
    Ok(Done::default())
}

/// `file_server/delete_cache_file`: by who uploaded it.
pub async fn delete(front: &Front, call: &Call) -> Answer {
    let name = call.args.text("file_name")?;
    let Some(kept) = front.object(kind::PANDA_FILE, name).await? else {
        return Err(Refusal::new(format!("there is no file {name}")));
    };
    if kept.map.get("user").and_then(Value::as_str) != Some(&*call.user()?) {
        return Err(Refusal::new(format!("the file {name} is another user's")));
    }
    front.forget(kind::PANDA_FILE, name).await?;
    Ok(Done::default())
}

fn is_expired(map: &Map<String, Value>, now_ms: u64) -> bool {
    map.get("expires_ms").and_then(Value::as_u64).is_none_or(|expires| expires <= now_ms)
}

fn hash_of(map: &Map<String, Value>) -> Option<Hash> {
    map.get("sha256").and_then(Value::as_str).and_then(unhex)
}

/// `GET /cache/…`: an upload.
pub async fn download(front: &Front, name: &str) -> Response {
    let found = match front.object(kind::PANDA_FILE, name).await {
        Ok(found) => found,
        Err(fault) => return text(StatusCode::SERVICE_UNAVAILABLE, format!("ERROR : {}", fault.message)),
    };
    let hash = found.filter(|kept| !is_expired(&kept.map, front.now_ms())).and_then(|kept| hash_of(&kept.map));
    let Some(hash) = hash else { return text(StatusCode::NOT_FOUND, "ERROR : there is no such file") };
    let path = match front.sandboxes.fetch(&front.router, &hash).await {
        Ok(path) => path,
        Err(fault) => return text(StatusCode::SERVICE_UNAVAILABLE, format!("ERROR : {}", fault.message)),
    };
    let opened = tokio::task::spawn_blocking(move || {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok::<_, std::io::Error>((file, size))
    });
    let Ok(Ok((file, size))) = opened.await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "ERROR : the file cannot be read");
    };
    let stream = futures::stream::try_unfold(Some(file), |file| async move {
        let Some(mut file) = file else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; 256 << 10];
            let read = file.read(&mut bytes)?;
            bytes.truncate(read);
            Ok::<_, std::io::Error>((Bytes::from(bytes), file))
        });
        let (bytes, file) = read.await.map_err(std::io::Error::other)??;
        Ok::<_, std::io::Error>((!bytes.is_empty()).then_some((bytes, Some(file))))
    });
    let head =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, size.to_string())];
    (head, Body::from_stream(stream)).into_response()
}

impl Front {
    /// Deletes what has expired, and fetches what this node should have. Called now and then on each node.
    pub async fn sweep_files(&self) -> Result<(), crate::request::Fault> {
        let now_ms = self.now_ms();
        let directory = &self.router.directory;
        let leads = directory.meta_leader.load(std::sync::atomic::Ordering::Relaxed) == directory.node;
        let is_voter = directory.meta_voters.load().contains(&directory.node);
        let mut named = BTreeSet::new();
        for (name, kept) in self.objects(kind::PANDA_FILE).await? {
            match hash_of(&kept.map) {
                _ if is_expired(&kept.map, now_ms) && leads => self.forget(kind::PANDA_FILE, &name).await?,
                _ if is_expired(&kept.map, now_ms) => {}
                Some(hash) => drop(named.insert(hash)),
                None => {}
            }
        }
        if is_voter {
            for hash in &named {
                if let Err(fault) = self.sandboxes.fetch(&self.router, hash).await {
                    tracing::warn!(file = %hex(hash), fault = %fault.message, "an upload is not here yet");
                }
            }
        }
        let (store, life) = (self.sandboxes.clone(), self.times.upload_life);
        on_disk(move || {
            store
                .sweep(&named, life)
                .map_err(|error| crate::request::Fault::new(moso_proto::Code::Internal, format!("sandboxes: {error}")))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_are_bounded() {
        assert!(good_name("jobO.80c7f028-db3f.tar.gz") && good_name("sources.x.tar.gz"));
        for bad in ["", ".x", "sum-1", "a/b", "a b", "a\n", "é", &"x".repeat(101)] {
            assert!(!good_name(bad), "{bad}");
        }
        assert_eq!(
            [("sources.a", false), ("jobO.a", false), ("jobO.a", true)].map(|(n, l)| bytes_max(n, l) >> 20),
            [768, 10, 100]
        );
        assert_ne!(sum_name("a", 1, 2), sum_name("a", 12, 0));
        assert!(sum_name("a", 1, 2).len() < 100);
    }

    #[test]
    fn an_upload_must_go_on() {
        let began = Instant::now();
        assert_eq!(deadline(began, UPLOAD_BYTES_PER_S - 1) - began, UPLOAD_BEHIND);
        assert_eq!(deadline(began, UPLOAD_BYTES_PER_S * 60) - began, UPLOAD_BEHIND + Duration::from_secs(60));
    }
}
