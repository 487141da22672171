//! A container image as one tar file, which is an OCI image layout and a Docker archive at once.
//!
//! The image holds the program and its configuration, and nothing else: no shell, no library, no root. The
//! invitation is not in it, because whoever gets the image would get it too; it lies beside the image in the
//! same file, as `join.env`, which is what `--env-file` takes and what loading the image passes over.

use caelum_model::cluster::NodeRole;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    PackageError, PackageSpec,
    binary::{Binary, BinaryError, Libc},
    deb::hex,
    layout::{self, LINUX},
    tars::{self, Tar},
};

/// Number of the user in the image: `nobody` in images without users.
const USER: u64 = 65_532;

/// What engines call an image of this version for this role, once it is loaded.
pub fn image_name(version: &str, role: NodeRole) -> String {
    format!("caelum:{}-{}", version.replace('+', "-"), role.as_str())
}

/// Builds one.
pub(crate) fn build(spec: &PackageSpec, program: &Binary) -> Result<Vec<u8>, PackageError> {
    if program.libc != Libc::Static {
        return Err(BinaryError::NotStatic.into());
    }
    write(spec).map_err(PackageError::form("OCI"))
}

fn write(spec: &PackageSpec) -> std::io::Result<Vec<u8>> {
    let layer = layer(spec)?;
    let packed = tars::gzipped(&layer)?;
    let architecture = if spec.platform.is_arm() { "arm64" } else { "amd64" };
    let created = rfc3339(spec.built_at_s);
    let tag = image_name(&spec.version, spec.role);
    let config = text(&json!({
        "architecture": architecture,
        "os": "linux",
        "created": created,
        "config": {
            "User": format!("{USER}:{USER}"),
            "Entrypoint": [format!("/{}", LINUX.program)],
            "Cmd": [layout::command(spec.role), "--config", format!("/{}", LINUX.config),
                "--data", format!("/{}", LINUX.data)],
            "ExposedPorts": { "8080/tcp": {}, "8080/udp": {} },
            "Volumes": { format!("/{}", LINUX.data): {} },
            "Labels": {
                "org.opencontainers.image.title": "caelum",
                "org.opencontainers.image.version": spec.version,
                "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        "history": [{ "created": created, "created_by": "caelum package build" }],
    }));
    let blob = |media: &str, bytes: &[u8]| json!({ "mediaType": media, "digest": digest(bytes), "size": bytes.len() });
    let manifest = text(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json", &config),
        "layers": [blob("application/vnd.oci.image.layer.v1.tar+gzip", &packed)],
    }));
    let mut described = blob("application/vnd.oci.image.manifest.v1+json", &manifest);
    described["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    let index = text(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described],
    }));
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", hex(&Sha256::digest(bytes)));
    let docker = text(&json!([{ "Config": path(&config), "RepoTags": [tag], "Layers": [path(&packed)] }]));
    let join = format!("CAELUM_JOIN={}\n", spec.invitation.trim());

    let mut tar = Tar::new(Vec::new(), spec.built_at_s);
    tar.folder("blobs", 0o755)?;
    tar.folder("blobs/sha256", 0o755)?;
    let mut blobs = [&packed, &config, &manifest].map(|bytes| (path(bytes), bytes.as_slice()));
    blobs.sort_unstable();
    for (path, bytes) in &blobs {
        tar.file(path, 0o644, bytes)?;
    }
    tar.file("index.json", 0o644, &index)?;
    tar.file("join.env", 0o600, join.as_bytes())?;
    tar.file("manifest.json", 0o644, &docker)?;
    tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar.finish()
}

fn layer(spec: &PackageSpec) -> std::io::Result<Vec<u8>> {
    let mut tar = Tar::new(Vec::new(), spec.built_at_s);
    for folder in ["etc", "etc/caelum", "usr", "usr/bin", "var", "var/lib"] {
        tar.folder(folder, 0o755)?;
    }
    tar.folder("tmp", 0o1777)?;
    tar.file(LINUX.config, 0o644, spec.config.as_bytes())?;
    tar.file(LINUX.program, 0o755, &spec.program)?;
    tar.owner = USER;
    tar.folder(LINUX.data, 0o700)?;
    tar.finish()
}

fn text(json: &Value) -> Vec<u8> {
    serde_json::to_vec(json).expect("a JSON value has a text")
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// A time as the form writes it: years, months and days counted from the seconds since 1970.
fn rfc3339(at_s: u64) -> String {
    let (days, second) = (at_s / 86_400, at_s % 86_400);
    // Days since 1 March of the year 0, in eras of 400 years; March comes first, so that a leap day is last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_a_date() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_868_799), "2000-02-29T23:59:59Z");
        assert_eq!(rfc3339(951_868_800), "2000-03-01T00:00:00Z");
        assert_eq!(rfc3339(1_735_689_599), "2024-12-31T23:59:59Z");
    }
}
