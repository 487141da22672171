//! Which files a machine gets, and where they lie.
//!
//! The invitation is no configuration file: it is used up at the first start, so that no package manager may
//! ask about it, keep it or put it back.

use caelum_model::cluster::NodeRole;

use crate::{
    PackageSpec,
    service::{self, Service},
};

/// Where things lie on one kind of system. Paths without their leading slash.
pub(crate) struct Places {
    pub program: &'static str,
    pub config: &'static str,
    pub join: &'static str,
    /// The data directory.
    pub data: &'static str,
    /// Where the invitation goes when it is installed: only there may the service remove it.
    pub join_state: &'static str,
    /// A file of settings for the service's environment, for those who make one.
    pub environment: &'static str,
    pub unit: &'static str,
    pub documents: &'static str,
}

/// On Linux.
pub(crate) const LINUX: Places = Places {
    program: "usr/bin/caelum",
    config: "etc/caelum/caelum.toml",
    join: "etc/caelum/join",
    data: "var/lib/caelum",
    join_state: "var/lib/caelum/join",
    environment: "etc/caelum/environment",
    unit: "usr/lib/systemd/system/caelum.service",
    documents: "usr/share/doc/caelum",
};

/// On macOS. Not in /etc and /var, which are links there.
pub(crate) const MACOS: Places = Places {
    program: "usr/local/bin/caelum",
    config: "usr/local/etc/caelum/caelum.toml",
    join: "usr/local/etc/caelum/join",
    data: "usr/local/var/caelum",
    join_state: "usr/local/var/caelum/join",
    environment: "usr/local/etc/caelum/environment",
    unit: "Library/LaunchDaemons/io.caelum.node.plist",
    documents: "usr/local/share/doc/caelum",
};

/// The user that it runs as on macOS.
pub(crate) const MACOS_USER: &str = "_caelum";

/// A file of a package.
pub(crate) struct File<'a> {
    /// Its path, without the leading slash.
    pub path: String,
    /// Its permissions.
    pub mode: u32,
    pub bytes: &'a [u8],
    /// Whether an operator's changes to it are kept.
    pub is_config: bool,
}

/// The texts of a package that the specification does not hold as such.
pub(crate) struct Texts {
    pub unit: String,
    pub copyright: String,
    pub readme: String,
}

/// What the program is started as.
pub(crate) fn command(role: NodeRole) -> &'static str {
    role.as_str()
}

/// Writes the texts.
pub(crate) fn texts(spec: &PackageSpec, places: &Places) -> Texts {
    let absolute = |path: &str| format!("/{path}");
    let (program, config) = (absolute(places.program), absolute(places.config));
    let (data, join) = (absolute(places.data), absolute(places.join_state));
    let environment = absolute(places.environment);
    let service = Service {
        command: command(spec.role),
        program: &program,
        config: &config,
        data: &data,
        join_file: Some(&join),
        environment_file: Some(&environment),
        user: if spec.platform.is_macos() { MACOS_USER } else { service::USER },
    };
    let unit = match spec.platform.is_macos() {
        true => service::launchd_plist(&service, "/var/log/caelum.log"),
        false => service::systemd_unit(&service),
    };
    let secret = match spec.is_sealed {
        true => "sealed to a passphrase that whoever built this package knows",
        false => "which works once and expires; until then it lets its holder join one machine",
    };
    Texts {
        unit,
        copyright: "Caelum\n\nLicense: MIT OR Apache-2.0\n".to_owned(),
        readme: format!(
            "Caelum {version}, {role} for {platform}\n\n\
             The service starts by itself, joins the cluster with the invitation in /{join}\n\
             ({secret}), and removes that file.\n\n\
             Program        /{program}\nConfiguration  /{config}\nData           /{data}\n\
             Service        /{unit}\n",
            version = spec.version,
            role = spec.role.as_str(),
            platform = spec.platform.as_str(),
            join = places.join,
            program = places.program,
            config = places.config,
            data = places.data,
            unit = places.unit,
        ),
    }
}

/// Every file, by path.
pub(crate) fn files<'a>(spec: &'a PackageSpec, places: &Places, texts: &'a Texts) -> Vec<File<'a>> {
    let file =
        |path: &str, mode, bytes: &'a [u8], is_config| File { path: path.to_owned(), mode, bytes, is_config };
    let mut files = vec![
        file(places.program, 0o755, &spec.program, false),
        file(places.config, 0o644, spec.config.as_bytes(), true),
        file(places.join, 0o600, spec.invitation.as_bytes(), false),
        file(places.unit, 0o644, texts.unit.as_bytes(), false),
        file(&format!("{}/copyright", places.documents), 0o644, texts.copyright.as_bytes(), false),
        file(&format!("{}/README", places.documents), 0o644, texts.readme.as_bytes(), false),
    ];
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Every folder above the files, each before what is in it.
pub(crate) fn folders(files: &[File<'_>]) -> Vec<String> {
    let mut folders = std::collections::BTreeSet::new();
    for file in files {
        let ends = file.path.match_indices('/').map(|(at, _)| at);
        folders.extend(ends.map(|end| file.path[..end].to_owned()));
    }
    folders.into_iter().collect()
}
