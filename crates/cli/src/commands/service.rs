//! `caelum service`: what starts Caelum at boot and watches it. The text of units is `packager`'s, so that a
//! package and this command install the same.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use caelum_drivers::supervisor;
use caelum_packager::service::{self, LABEL, UNIT};

use crate::{
    arguments::{Installation, Service, Supervisor},
    exit::{Exit, Unreachable},
    output,
};

/// Where a package puts its unit.
const PACKAGED: &str = "/usr/lib/systemd/system/caelum.service";
/// Variables for the service, for those who make such a file.
const ENVIRONMENT: &str = "/etc/caelum/environment";
/// What a service logs to on macOS.
const LOG: &str = "/var/log/caelum.log";

/// Installs the service, removes it, or speaks to what runs it.
pub fn run(command: Service) -> Result<Exit> {
    match command {
        Service::Install(installation) => install(installation),
        Service::Uninstall { root } => uninstall(root.as_deref()),
        Service::Status => told(match own_manager()? {
            Supervisor::Systemd => supervise("systemctl", &["status", "--no-pager", UNIT])?,
            Supervisor::Launchd => supervise("launchctl", &["print", &target()])?,
        }),
        Service::Start => told(match own_manager()? {
            Supervisor::Systemd => supervise("systemctl", &["start", UNIT])?,
            Supervisor::Launchd => supervise("launchctl", &["kickstart", &target()])?,
        }),
        Service::Stop => told(match own_manager()? {
            Supervisor::Systemd => supervise("systemctl", &["stop", UNIT])?,
            Supervisor::Launchd => supervise("launchctl", &["bootout", &target()])?,
        }),
        Service::Logs { follow, lines } => {
            let lines = lines.to_string();
            told(match own_manager()? {
                Supervisor::Systemd if follow => {
                    supervise("journalctl", &["--unit", UNIT, "--lines", &lines, "--follow"])?
                }
                Supervisor::Systemd => {
                    supervise("journalctl", &["--unit", UNIT, "--lines", &lines, "--no-pager"])?
                }
                Supervisor::Launchd if follow => supervise("tail", &["-n", &lines, "-F", LOG])?,
                Supervisor::Launchd => supervise("tail", &["-n", &lines, LOG])?,
            })
        }
    }
}

fn target() -> String {
    format!("system/{LABEL}")
}

fn told(went_well: bool) -> Result<Exit> {
    Ok(if went_well { Exit::Fine } else { Exit::Failed })
}

fn supervise(program: &str, arguments: &[&str]) -> Result<bool> {
    supervisor::run(program, arguments).with_context(|| format!("run {program} {}", arguments.join(" ")))
}

fn usual_manager() -> Supervisor {
    if cfg!(target_os = "macos") { Supervisor::Launchd } else { Supervisor::Systemd }
}

/// What runs services here, which must be running itself.
fn own_manager() -> Result<Supervisor> {
    let manager = usual_manager();
    if manager == Supervisor::Systemd && !supervisor::is_systemd() {
        let what = "systemd does not run this machine: start Caelum by whatever does, as `caelum service install \
                    --print` shows";
        return Err(Unreachable(what.to_owned()).into());
    }
    Ok(manager)
}

/// Where the file of a service is, without its leading slash.
fn place(manager: Supervisor) -> PathBuf {
    match manager {
        Supervisor::Systemd => PathBuf::from("etc/systemd/system").join(UNIT),
        Supervisor::Launchd => PathBuf::from("Library/LaunchDaemons").join(format!("{LABEL}.plist")),
    }
}

fn install(installation: Installation) -> Result<Exit> {
    let manager = installation.manager.unwrap_or_else(usual_manager);
    let unit = text_of(&installation, manager)?;
    if installation.print {
        output::print(&unit)?;
        return Ok(Exit::Fine);
    }
    if let Some(root) = &installation.root {
        let path = root.join(place(manager));
        write(&path, &unit)?;
        output::print(&format!("{} is written\n", path.display()))?;
        return Ok(Exit::Fine);
    }
    let manager = own_manager()?;
    if Path::new(PACKAGED).exists() {
        bail!("a package has installed the service already: `caelum service start` starts it");
    }
    if manager == Supervisor::Systemd && !supervisor::is_user(&installation.user) {
        let home = plain(&installation.data)?;
        let made = supervise(
            "useradd",
            &[
                "--system",
                "--user-group",
                "--home-dir",
                home,
                "--no-create-home",
                "--shell",
                "/usr/sbin/nologin",
                &installation.user,
            ],
        )?;
        if !made {
            bail!("the user {} could not be made; name another with --user", installation.user);
        }
    }
    fs::create_dir_all(&installation.data)
        .with_context(|| format!("make {}", installation.data.display()))?;
    supervisor::give(&installation.data, &installation.user)
        .with_context(|| format!("give {} to {}", installation.data.display(), installation.user))?;
    if !installation.config.exists() {
        // A service that is given a file must find one.
        write(&installation.config, "# Settings; `caelum config example` shows all of them.\n")?;
    }
    let path = Path::new("/").join(place(manager));
    write(&path, &unit)?;
    let path = text_path(&path)?;
    let went_well = match manager {
        Supervisor::Systemd => {
            supervise("systemctl", &["daemon-reload"])? && supervise("systemctl", &["enable", "--now", UNIT])?
        }
        Supervisor::Launchd => supervise("launchctl", &["bootstrap", "system", &path])?,
    };
    if went_well {
        output::print("Caelum is a service now; `caelum service status` shows how it fares.\n")?;
    }
    told(went_well)
}

fn text_path(path: &Path) -> Result<String> {
    plain(path).map(str::to_owned)
}

fn plain(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no plain text", path.display()))
}

fn text_of(installation: &Installation, manager: Supervisor) -> Result<String> {
    let program = match &installation.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("find this program")?,
    };
    for path in [&program, &installation.config, &installation.data] {
        if !path.is_absolute() {
            bail!("{} is not absolute, as a service needs it", path.display());
        }
    }
    let join_file = installation.join_file.as_deref().map(plain).transpose()?;
    if join_file.is_some() && !matches!(installation.role.as_str(), "agent" | "beacon") {
        bail!("only an agent or a beacon joins by a file");
    }
    let service = service::Service {
        command: &installation.role,
        program: plain(&program)?,
        config: plain(&installation.config)?,
        data: plain(&installation.data)?,
        join_file,
        environment_file: Some(ENVIRONMENT),
        user: &installation.user,
    };
    Ok(match manager {
        Supervisor::Systemd => service::systemd_unit(&service),
        Supervisor::Launchd => service::launchd_plist(&service, LOG),
    })
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let beside = path.with_extension("new");
    fs::write(&beside, text).with_context(|| format!("write {}", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("put {} in its place", path.display()))
}

fn uninstall(root: Option<&Path>) -> Result<Exit> {
    let manager = match root {
        Some(_) => usual_manager(),
        None => own_manager()?,
    };
    let path = root.unwrap_or(Path::new("/")).join(place(manager));
    if root.is_none() {
        // Also where it does not run: then there is nothing to stop.
        match manager {
            Supervisor::Systemd => supervise("systemctl", &["disable", "--now", UNIT])?,
            Supervisor::Launchd => supervise("launchctl", &["bootout", &target()])?,
        };
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no {}: the service was not installed by this command", path.display())
        }
        removed => removed.with_context(|| format!("remove {}", path.display()))?,
    }
    if root.is_none() && manager == Supervisor::Systemd {
        supervise("systemctl", &["daemon-reload"])?;
    }
    output::print("The service is removed; settings and data stay.\n")?;
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(root: Option<&Path>) -> Installation {
        Installation {
            role: "agent".to_owned(),
            config: "/etc/caelum/caelum.toml".into(),
            data: "/var/lib/caelum".into(),
            join_file: Some("/var/lib/caelum/join".into()),
            user: "caelum".to_owned(),
            program: Some("/usr/bin/caelum".into()),
            manager: Some(Supervisor::Systemd),
            print: false,
            root: root.map(Path::to_owned),
        }
    }

    #[test]
    fn a_service_is_installed_under_a_folder_and_taken_back() {
        let folder = tempfile::tempdir().expect("a folder");
        install(installation(Some(folder.path()))).expect("installed");
        let unit = folder.path().join("etc/systemd/system/caelum.service");
        let text = fs::read_to_string(&unit).expect("written");
        assert!(text.contains("ExecStart=/usr/bin/caelum agent --config") && text.contains("Type=notify"));
        uninstall(Some(folder.path())).expect("removed");
        assert!(!unit.exists());
        assert!(uninstall(Some(folder.path())).is_err(), "what is not there cannot be removed");
    }

    #[test]
    fn launchd_gets_a_property_list_and_relative_paths_are_refused() {
        let list = text_of(&installation(None), Supervisor::Launchd).expect("is made");
        assert!(list.contains("<string>--join-file</string>") && list.contains(LABEL));
        let relative = Installation { data: "data".into(), ..installation(None) };
        assert!(text_of(&relative, Supervisor::Systemd).is_err());
        let server = Installation { role: "up".to_owned(), ..installation(None) };
        assert!(text_of(&server, Supervisor::Systemd).is_err(), "a server of its own joins nothing");
    }
}
