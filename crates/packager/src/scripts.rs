//! What runs when a package is installed, upgraded and removed.
//!
//! Rules that every one keeps: POSIX `sh`; systemd is spoken to only where it runs; an upgrade never stops
//! what it cannot start again, and starts nothing that an operator stopped; the network being down is no
//! reason to fail; no secret is written anywhere or stands on a command line.

use crate::{PackageSpec, layout, layout::LINUX, service::USER};

/// What a package for macOS is known by.
pub(crate) const IDENTIFIER: &str = crate::service::LABEL;

/// Makes the user and the data directory, and moves the invitation to where the service may remove it.
fn prepare() -> String {
    let (data, join, state) = (LINUX.data, LINUX.join, LINUX.join_state);
    format!(
        r#"prepare() {{
    if ! id {USER} >/dev/null 2>&1; then
        if command -v useradd >/dev/null 2>&1; then
            useradd --system --user-group --home-dir /{data} --no-create-home --shell /usr/sbin/nologin {USER}
        elif command -v adduser >/dev/null 2>&1 && command -v addgroup >/dev/null 2>&1; then
            addgroup -S {USER} 2>/dev/null || :
            adduser -S -D -H -h /{data} -s /sbin/nologin -G {USER} {USER}
        else
            echo "caelum: there is neither useradd nor adduser: make a system user {USER} and install again" >&2
            return 1
        fi
    fi
    mkdir -p /{data}
    chown {USER}:{USER} /{data}
    chmod 0700 /{data}
    if [ -f /{join} ]; then
        chmod 0600 /{join}
        chown {USER}:{USER} /{join}
        mv -f /{join} /{state}
    fi
}}
"#
    )
}

/// Speaks to systemd where it runs.
const SYSTEMD: &str = r#"has_systemd() {
    [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1
}
begin() {
    if has_systemd; then
        systemctl daemon-reload || :
        systemctl enable caelum.service || :
        systemctl restart caelum.service || :
    fi
}
go_on() {
    if has_systemd; then
        systemctl daemon-reload || :
        systemctl try-restart caelum.service || :
    fi
}
end() {
    if has_systemd; then
        systemctl disable --now caelum.service || :
    fi
}
forget() {
    if has_systemd; then
        systemctl daemon-reload || :
        systemctl reset-failed caelum.service 2>/dev/null || :
    fi
}
"#;

/// A script of a Debian package.
pub(crate) fn deb(name: &str) -> String {
    let (data, config) = (LINUX.data, "etc/caelum");
    let body = match name {
        "postinst" => format!(
            r#"{}{SYSTEMD}
case "$1" in
    configure)
        prepare
        if [ -n "${{2:-}}" ]; then go_on; else begin; fi
        ;;
esac
"#,
            prepare()
        ),
        "prerm" => format!(
            r#"{SYSTEMD}
case "$1" in
    remove) end ;;
esac
"#
        ),
        _ => format!(
            r#"{SYSTEMD}
case "$1" in
    remove) forget ;;
    purge)
        forget
        rm -rf /{data} /{config}
        if id {USER} >/dev/null 2>&1; then
            if command -v userdel >/dev/null 2>&1; then userdel {USER} || :
            elif command -v deluser >/dev/null 2>&1; then deluser {USER} || :
            fi
        fi
        ;;
esac
"#
        ),
    };
    format!("#!/bin/sh\nset -e\n{body}exit 0\n")
}

/// What runs after an rpm's files are there. `$1` is how many versions are installed then: the old one's
/// scripts run after this one's, so that they act only when it is 0.
pub(crate) fn rpm_post() -> String {
    format!(
        "set -e\n{}{SYSTEMD}\nprepare\nif [ \"$1\" -gt 1 ]; then go_on; else begin; fi\nexit 0\n",
        prepare()
    )
}

/// What runs before an rpm's files go.
pub(crate) fn rpm_preun() -> String {
    format!("{SYSTEMD}\nif [ \"$1\" -eq 0 ]; then end; fi\nexit 0\n")
}

/// What runs after an rpm's files are gone.
pub(crate) fn rpm_postun() -> String {
    format!("{SYSTEMD}\nif [ \"$1\" -eq 0 ]; then forget; fi\nexit 0\n")
}

/// `install.sh` of an archive.
pub(crate) fn install(spec: &PackageSpec) -> String {
    let (program, config, join, unit, data) =
        (LINUX.program, LINUX.config, LINUX.join, LINUX.unit, LINUX.data);
    let machine = if spec.platform.is_arm() { "aarch64 arm64" } else { "x86_64 amd64" };
    let command = layout::command(spec.role);
    format!(
        r#"#!/bin/sh
# Installs Caelum from this folder: sh install.sh [--root DIR] [--no-start]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=
start=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --root)
            [ $# -ge 2 ] || {{ echo "install.sh: --root needs a directory" >&2; exit 2; }}
            root=${{2%/}}
            shift
            ;;
        --no-start) start=no ;;
        *) echo "usage: sh install.sh [--root DIR] [--no-start]" >&2; exit 2 ;;
    esac
    shift
done
if [ "$(uname -s)" != Linux ]; then
    echo "install.sh: this package is for Linux, and this is $(uname -s)" >&2
    exit 1
fi
case " {machine} " in
    *" $(uname -m) "*) ;;
    *) echo "install.sh: this package is for {platform}, and this machine is $(uname -m)" >&2; exit 1 ;;
esac
if [ -z "$root" ] && [ "$(id -u)" -ne 0 ]; then
    echo "install.sh: installing takes root: sudo sh install.sh" >&2
    exit 1
fi
# put FILE PATH MODE: whole at its place or not at all.
put() {{
    mkdir -p "$(dirname "$root/$2")"
    rm -f "$root/$2.new-$$"
    (umask 077; cp "$here/$1" "$root/$2.new-$$")
    chmod "$3" "$root/$2.new-$$"
    mv -f "$root/$2.new-$$" "$root/$2"
}}
{prepare}{SYSTEMD}
is_upgrade=no
[ -e "$root/{program}" ] && is_upgrade=yes
put bin/caelum {program} 0755
put caelum.service {unit} 0644
if [ -e "$root/{config}" ] && ! cmp -s "$here/caelum.toml" "$root/{config}"; then
    put caelum.toml {config}.new 0644
    echo "Kept {config} as it is; what came with this version lies beside it, with .new at its end."
else
    put caelum.toml {config} 0644
fi
put join {join} 0600
put uninstall.sh usr/share/caelum/uninstall.sh 0755
if [ -n "$root" ]; then
    echo "Installed into $root. Started by: /{program} {command} --config /{config} --data /{data} --join-file /{join}"
    exit 0
fi
prepare
if [ "$start" = no ]; then
    echo "Installed; start it with: systemctl enable --now caelum"
elif has_systemd; then
    if [ "$is_upgrade" = yes ]; then go_on; else begin; fi
    echo "Installed and started: systemctl status caelum"
else
    echo "Installed. No systemd runs here; start it as the user {USER} with:"
    echo "  /{program} {command} --config /{config} --data /{data} --join-file /{state}"
fi
"#,
        platform = spec.platform.as_str(),
        prepare = prepare(),
        state = LINUX.join_state,
    )
}

/// `uninstall.sh` of an archive.
pub(crate) fn uninstall() -> String {
    let (program, config, join, unit, data) =
        (LINUX.program, LINUX.config, LINUX.join, LINUX.unit, LINUX.data);
    format!(
        r#"#!/bin/sh
# Removes Caelum: sh uninstall.sh [--root DIR] [--purge]. Settings and data stay unless --purge is given.
set -eu
root=
purge=no
while [ $# -gt 0 ]; do
    case "$1" in
        --root)
            [ $# -ge 2 ] || {{ echo "uninstall.sh: --root needs a directory" >&2; exit 2; }}
            root=${{2%/}}
            shift
            ;;
        --purge) purge=yes ;;
        *) echo "usage: sh uninstall.sh [--root DIR] [--purge]" >&2; exit 2 ;;
    esac
    shift
done
if [ -z "$root" ] && [ "$(id -u)" -ne 0 ]; then
    echo "uninstall.sh: removing takes root: sudo sh uninstall.sh" >&2
    exit 1
fi
{SYSTEMD}
[ -n "$root" ] || end
rm -f "$root/{program}" "$root/{unit}" "$root/{join}" "$root/usr/share/caelum/uninstall.sh"
rmdir "$root/usr/share/caelum" 2>/dev/null || :
[ -n "$root" ] || forget
if [ "$purge" = yes ]; then
    rm -rf "$root/{data}" "$root/etc/caelum"
    if [ -z "$root" ] && id {USER} >/dev/null 2>&1; then
        userdel {USER} 2>/dev/null || deluser {USER} 2>/dev/null || :
    fi
    echo "Caelum is removed, with its settings and data."
else
    echo "Caelum is removed. /{config} and /{data} stay; --purge removes them too."
fi
"#
    )
}
