//! `caelum package`: files that make other machines nodes. A server builds them; this asks it to, and keeps
//! the file.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use caelum_model::package::PackageKind;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    cluster::{list, text},
    counting::{age, now_ms},
    join,
};
use crate::{
    arguments::{self, NewPackage, Package},
    client::{Client, Download, segment},
    exit::Exit,
    output,
};

/// Time in which a package is built and sent.
const PATIENCE: Duration = Duration::from_secs(300);
/// Largest package that is taken, bytes.
const PACKAGE_BYTES_MAX: u64 = 1 << 30;

/// Builds, lists, revokes, or shows what can be built.
pub async fn run(command: Package) -> Result<Exit> {
    match command {
        Package::Build(new) => build(new).await,
        Package::List(client) => show(&client, "/api/fleet/packages", packages).await,
        Package::Mailboxes(client) => show(&client, "/api/fleet/packages/mailboxes", mailboxes).await,
        Package::Platforms(client) => show(&client, "/api/fleet/packages/platforms", platforms).await,
        Package::Revoke { id, client } => {
            let path = format!("/api/fleet/packages/{}", segment(&id));
            Client::new(&client)?.ask(Method::DELETE, &path, None).await?;
            let said = match client.json {
                true => format!("{:#}\n", json!({ "package_id": id, "revoked": true })),
                false => format!("{} admits nobody any more\n", output::plain(&id)),
            };
            output::print(&said)?;
            Ok(Exit::Fine)
        }
    }
}

async fn show(
    arguments: &arguments::Client,
    path: &str,
    listed: impl Fn(&Value, i64) -> String,
) -> Result<Exit> {
    let answer = Client::new(arguments)?.ask(Method::GET, path, None).await?;
    let text = if arguments.json { format!("{answer:#}\n") } else { listed(&answer, now_ms()) };
    output::print(&text)?;
    Ok(Exit::Fine)
}

async fn build(new: NewPackage) -> Result<Exit> {
    let to_standard_output = new.output.as_deref() == Some(Path::new("-"));
    let named = new.output.as_deref().filter(|_| !to_standard_output).and_then(Path::file_name);
    let named = named.map(|name| name.to_string_lossy().into_owned());
    let of_name = named.as_deref().and_then(|name| PackageKind::of_name(name)).map(|(_, kind)| kind);
    let kind = new.kind.or(of_name).unwrap_or(PackageKind::Deb);
    let stem = match &new.name {
        Some(name) => format!("caelum-{name}"),
        None => "caelum".to_owned(),
    };
    let package_name = format!("{stem}{}", kind.ending());
    let passphrase = if new.sealed { Some(join::passphrase()?) } else { None };
    let wish = json!({
        "package_name": package_name, "node_name": new.name, "kind": kind, "role": new.role,
        "platform": new.platform, "ceiling": new.ceiling, "expires": new.expires,
        "passphrase": passphrase, "mailbox": new.mailbox,
    });
    let client = Client::new(&new.client)?.with_patience(PATIENCE);
    let download = client.download("/api/fleet/build-cluster-package", &wish, PACKAGE_BYTES_MAX).await?;
    let Download { bytes, package_id, sha256, image } = download;
    if to_standard_output {
        std::io::stdout().lock().write_all(&bytes).context("write to standard output")?;
        return Ok(Exit::Fine);
    }
    let meaning = match kind {
        PackageKind::Pkg => {
            let found =
                Client::new(&new.client)?.ask(Method::GET, "/api/fleet/packages/platforms", None).await;
            // The package is there; what is said of it is not worth losing it.
            found.map_or_else(|_| String::new(), |found| format!("{}\n\n", signature(&found)))
        }
        _ => String::new(),
    };
    let path = new.output.unwrap_or_else(|| PathBuf::from(&package_name));
    keep(&path, &bytes)?;
    let said = match new.client.json {
        true => format!(
            "{:#}\n",
            json!({ "package_id": package_id, "file": path, "size_bytes": bytes.len(), "sha256": sha256 })
        ),
        false => format!(
            "{} is {package_id}, {:.1} MB, SHA-256 {sha256}\n\nInstall it on the machine that is to join:\n\n  {}\n\n\
             {meaning}Until it is used this file lets its holder join one machine. Revoke it with `caelum package revoke \
             {package_id}` if it goes astray.\n",
            path.display(),
            bytes.len() as f64 / 1e6,
            installing(kind, &path, &output::plain(&image))
        ),
    };
    output::print(&said)?;
    Ok(Exit::Fine)
}

/// Writes the file for its owner only: there is an invitation in it.
fn keep(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    if path.exists() {
        bail!("{} is there already; name another file with --output", path.display());
    }
    write().with_context(|| format!("write {}", path.display()))
}

/// What to type where it is to be installed.
fn installing(kind: PackageKind, path: &Path, image: &str) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match kind {
        PackageKind::Deb => format!("sudo apt install ./{name}"),
        PackageKind::Rpm => format!("sudo dnf install ./{name}"),
        PackageKind::Pkg => format!("sudo installer -pkg {name} -target /"),
        PackageKind::TarGz => {
            let folder = name.strip_suffix(".tar.gz").unwrap_or(&name);
            format!("tar xf {name} && sudo sh {folder}/install.sh")
        }
        PackageKind::Oci => format!(
            "podman load -i {name}; tar xf {name} join.env; podman run -d --network host --env-file join.env \
             -v caelum:/var/lib/caelum {image}"
        ),
    }
}

fn packages(answer: &Value, now_ms: i64) -> String {
    let rows: Vec<Vec<String>> = list(answer, "packages").map(|package| row(package, now_ms)).collect();
    let mut said = match rows.is_empty() {
        true => "No package was built yet; `caelum package build` builds one.\n".to_owned(),
        false => output::table(&["ID", "NAME", "STATE", "FOR", "ROLE", "SIZE", "BUILT", "BY"], &rows),
    };
    if let Some(name) = answer["building"]["name"].as_str() {
        said.push_str(&format!("Being built: {}\n", output::plain(name)));
    }
    said
}

fn row(package: &Value, now_ms: i64) -> Vec<String> {
    let since = |at: &Value| at.as_i64().map_or_else(|| "-".to_owned(), |at| age((now_ms - at).abs()));
    let state = match package["state"].as_str() {
        Some("waiting") => format!("waiting, {} left", since(&package["expires_at_ms"])),
        Some("used") => format!("used by {}", text(&package["used_by_hostname"])),
        _ => text(&package["state"]),
    };
    vec![
        text(&package["package_id"]),
        text(&package["name"]),
        state,
        package["node_name"].as_str().unwrap_or("any").to_owned(),
        text(&package["role"]),
        package["size_bytes"]
            .as_f64()
            .map_or_else(|| "-".to_owned(), |bytes| format!("{:.1} MB", bytes / 1e6)),
        format!("{} ago", since(&package["built_at_ms"])),
        text(&package["built_by"]),
    ]
}

fn mailboxes(answer: &Value, now_ms: i64) -> String {
    let mut said = String::new();
    for found in list(answer, "mailboxes") {
        let state = match (found["error"].as_str(), found["looked_at_ms"].as_i64()) {
            (Some(error), _) => format!("away: {}", output::plain(error)),
            (None, Some(at)) => format!("looked into {} ago", age((now_ms - at).abs())),
            (None, None) => "not looked into yet".to_owned(),
        };
        said.push_str(&format!(
            "{} at {}: {state}\n{} answered, {} ignored since the start\n\n{}\n\nAn account for machines:\n\n",
            text(&found["kind"]),
            output::plain(&text(&found["place"])),
            found["answered"],
            found["ignored"],
            text(&found["warning"]),
        ));
        for line in found["rights"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            said.push_str(&format!("  {}\n", output::plain(line)));
        }
        said.push_str(&format!(
            "\nThen:\n\n  caelum package build --mailbox {}\n\n",
            output::plain(&text(&found["example"]))
        ));
    }
    if said.is_empty() {
        return "This server looks into no mailbox: it does where records are on PostgreSQL, or cluster.address names \
                Redis or a directory.\n"
            .to_owned();
    }
    said
}

/// Whether packages for macOS are signed, and what that means.
fn signature(answer: &Value) -> String {
    let signature = &answer["macos_signature"];
    let by = signature["by"].as_str().map_or_else(String::new, |by| format!(" By {by}."));
    output::plain(&format!("{}{by}", signature["meaning"].as_str().unwrap_or_default()))
}

fn platforms(answer: &Value, _: i64) -> String {
    let rows: Vec<Vec<String>> = list(answer, "platforms")
        .map(|found| {
            let is_ready = found["ready"] == true;
            vec![
                text(&found["platform"]),
                text(&found["kind"]),
                if is_ready { "ready".to_owned() } else { "not available".to_owned() },
                found["reason"].as_str().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    format!("{}\n{}\n", output::table(&["PLATFORM", "KIND", "STATE", "WHY"], &rows), signature(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_says_what_became_of_it() {
        let package = json!({"package_id": "p1", "name": "a.deb", "state": "waiting", "node_name": null,
            "role": "agent", "size_bytes": 19_200_000, "built_at_ms": 0, "expires_at_ms": 86_400_000,
            "built_by": "ops"});
        let row = row(&package, 7_200_000);
        assert_eq!(row, ["p1", "a.deb", "waiting, 22 h left", "any", "agent", "19.2 MB", "2 h ago", "ops"]);
        let none = packages(&json!({"packages": [], "building": {"name": "b.deb"}}), 0);
        assert!(none.starts_with("No package") && none.ends_with("Being built: b.deb\n"));
    }

    #[test]
    fn a_package_is_kept_for_its_owner_only_and_never_over_another_file() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.deb");
        keep(&path, b"1").expect("written");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(keep(&path, b"2").is_err());
        assert_eq!(fs::read(&path).expect("there"), b"1");
    }

    #[test]
    fn what_to_type_fits_the_kind() {
        let said = installing(PackageKind::TarGz, Path::new("/tmp/caelum-a.tar.gz"), "");
        assert_eq!(said, "tar xf caelum-a.tar.gz && sudo sh caelum-a/install.sh");
    }
}
