//! `caelum backup` and `caelum restore`: on the machine whose data directory it is, while a server runs there or
//! not. What is in a backup, and why what comes back is exact, is said in [`caelum_roles::backup`].

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use caelum_drivers::clock::{Clock, SystemClock};
use caelum_model::{UnixMs, backup::Manifest};
use caelum_roles::backup::{self, BackupError, Backups, Parts, Plan};
use caelum_store::Store;
use serde_json::json;

use super::{backends, settle, token::audit, up};
use crate::{
    arguments::{Backup, BackupCommand, MadeBackup, Restore},
    config::Settings,
    data::DataDirectory,
    enrolled,
    exit::{Exit, Unreachable},
    output,
};

/// Does what was asked.
pub async fn run(arguments: Backup) -> Result<Exit> {
    match arguments.command {
        None => make(arguments.made).await,
        Some(BackupCommand::List(asked)) => list(asked),
        Some(BackupCommand::Check { file, json }) => {
            let manifest = backup::verify(&file).await.map_err(explain)?;
            let text = match json {
                true => format!("{:#}\n", json!(manifest)),
                false => format!("{} is whole.\n{}", file.display(), shown(&manifest)),
            };
            output::print(&text)?;
            Ok(Exit::Fine)
        }
    }
}

/// What makes the backups of a server with these settings.
pub(super) fn of_server(
    settings: &Settings,
    data: &DataDirectory,
    store: &Arc<Store>,
    clock: &Arc<dyn Clock>,
    node_id: &str,
) -> Result<Arc<Backups>> {
    let queue = match backends::queue_address(settings, data)? {
        caelum_queue::Address::Embedded(path) => Some(path),
        caelum_queue::Address::Nats(_) => None,
    };
    Ok(Backups::new(Parts {
        data: data.root().to_owned(),
        store: Arc::clone(store),
        address: backends::store_address(settings, data)?,
        queue,
        plan: Plan {
            directory: directory(settings, data),
            every_h: settings.config.backup.every_h,
            keep_days: settings.config.backup.keep_days,
        },
        clock: Arc::clone(clock),
        version: env!("CARGO_PKG_VERSION"),
        node_id: node_id.to_owned(),
        cluster_name: settings.config.cluster.name.clone(),
    }))
}

fn directory(settings: &Settings, data: &DataDirectory) -> PathBuf {
    let named = settings.config.backup.directory.as_ref().map(PathBuf::from);
    named.unwrap_or_else(|| data.root().join("backups"))
}

async fn make(asked: MadeBackup) -> Result<Exit> {
    let MadeBackup { json, resolved } = asked;
    let (settings, data) = settle(resolved.place, resolved.overrides)?;
    let address = backends::store_address(&settings, &data)?;
    if let Some(file) = address.file().filter(|file| !file.is_file()) {
        return Err(Unreachable(format!(
            "there is nothing to back up: no records in {}; name the directory with --data",
            file.display()
        ))
        .into());
    }
    let store = Arc::new(backends::open_store(&address).await?);
    let node_id = enrolled::known_id(&data.secrets())?.map(|node_id| node_id.to_string()).unwrap_or_default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let backups = of_server(&settings, &data, &store, &clock, &node_id)?;
    output::progress("copying the records and the queue, and restoring the copy aside to prove it …");
    let made = backups.make().await.map_err(explain)?;
    store.audit(audit(clock.now_ms(), "backup.make", &made.name)).await?;
    store.close();
    let path = directory(&settings, &data).join(&made.name);
    let text = match json {
        true => format!("{:#}\n", json!({ "backup": made, "path": path })),
        false => format!("{} ({}), restored once to see that it can be\n", path.display(), size(made.bytes)),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

fn list(asked: MadeBackup) -> Result<Exit> {
    let MadeBackup { json, resolved } = asked;
    let (settings, data) = settle(resolved.place, resolved.overrides)?;
    let directory = directory(&settings, &data);
    let backups = backup::list(&directory).map_err(explain)?;
    let text = match (json, backups.is_empty()) {
        (true, _) => format!("{:#}\n", json!({ "directory": directory, "backups": backups })),
        (false, true) => format!("no backups in {}: `caelum backup` makes one\n", directory.display()),
        (false, false) => backups
            .iter()
            .map(|backup| {
                format!("{:<32} {:>10}  {}\n", backup.name, size(backup.bytes), moment(backup.made_at_ms))
            })
            .collect(),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

/// Puts a backup back.
pub async fn restore(arguments: Restore) -> Result<Exit> {
    let data = DataDirectory::locate(arguments.place.data)?;
    data.make()?;
    // A server that runs would go on writing into files that are set aside.
    let lock = up::lock(&data)?;
    output::progress("unpacking and looking at all of it …");
    let restored = backup::restore(&arguments.file, data.root(), arguments.replace).await.map_err(explain)?;
    drop(lock);
    let text = match arguments.json {
        true => format!(
            "{:#}\n",
            json!({ "backup": restored.manifest, "data": data.root(), "aside": restored.aside, "dump": restored.dump })
        ),
        false => {
            let mut text = format!("restored into {}\n{}", data.root().display(), shown(&restored.manifest));
            if let Some(aside) = &restored.aside {
                text.push_str(&format!("what was there before is in {}\n", aside.display()));
            }
            if let Some(dump) = &restored.dump {
                text.push_str(&format!(
                    "the records were on a PostgreSQL server; give them back to it before you start:\n  pg_restore --clean --if-exists --no-owner --dbname=URL {}\n  caelum db new-stream --store URL\n",
                    dump.display()
                ));
            }
            text.push_str(&format!(
                "start it with: caelum up --data {}\nthe machine it was made on must not run it, too: two would be one node\n",
                data.root().display()
            ));
            text
        }
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

fn shown(manifest: &Manifest) -> String {
    let bytes = manifest.files.iter().map(|file| file.bytes).sum();
    format!(
        "made {} by caelum {} of the cluster {}: {} files, {}\n",
        moment(manifest.made_at_ms),
        output::plain(&manifest.version),
        output::plain(&manifest.cluster_name),
        manifest.files.len(),
        size(bytes)
    )
}

fn moment(ms: UnixMs) -> String {
    caelum_engine::timestamp::iso(ms)
}

#[expect(clippy::cast_precision_loss, reason = "shown to one digit behind the point")]
fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn explain(error: BackupError) -> anyhow::Error {
    anyhow::Error::new(error).context("nothing was made or changed")
}
