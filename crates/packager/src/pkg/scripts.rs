//! What runs on macOS when a package is installed, and what removes it.
//!
//! The system's own scripts are given the package and the target volume; only the running system's is
//! installed to.

use crate::{
    layout::{MACOS, MACOS_USER},
    scripts::IDENTIFIER,
};

/// Stops what runs, so that its program can be replaced.
pub(crate) fn preinstall() -> String {
    format!(
        r#"#!/bin/sh
set -e
if [ "${{3:-/}}" != / ]; then
    echo "Caelum installs to the system that runs only." >&2
    exit 1
fi
launchctl bootout system/{IDENTIFIER} 2>/dev/null || :
exit 0
"#
    )
}

/// Makes the user, puts settings and invitation in place, and starts the service.
pub(crate) fn postinstall() -> String {
    let (data, config, join, state, unit) =
        (MACOS.data, MACOS.config, MACOS.join, MACOS.join_state, MACOS.unit);
    format!(
        r#"#!/bin/sh
set -e
user={MACOS_USER}
if ! dscl . -read "/Users/$user" >/dev/null 2>&1; then
    number=400
    while dscl . -list /Users UniqueID | awk '{{ print $2 }}' | grep -qx "$number" ||
        dscl . -list /Groups PrimaryGroupID | awk '{{ print $2 }}' | grep -qx "$number"; do
        number=$((number + 1))
        if [ "$number" -ge 500 ]; then
            echo "Caelum: no number is free for the user $user" >&2
            exit 1
        fi
    done
    dscl . -create "/Groups/$user" PrimaryGroupID "$number"
    dscl . -create "/Users/$user" UniqueID "$number"
    dscl . -create "/Users/$user" PrimaryGroupID "$number"
    dscl . -create "/Users/$user" UserShell /usr/bin/false
    dscl . -create "/Users/$user" NFSHomeDirectory /{data}
    dscl . -create "/Users/$user" RealName Caelum
    dscl . -create "/Users/$user" IsHidden 1
fi
[ -e /{config} ] || cp /{config}.default /{config}
mkdir -p /{data}
chown "$user" /{data}
chmod 0700 /{data}
if [ -f /{join} ]; then
    chmod 0600 /{join}
    chown "$user" /{join}
    mv -f /{join} /{state}
fi
touch /var/log/caelum.log
chown "$user" /var/log/caelum.log
launchctl bootstrap system /{unit} || launchctl kickstart -k system/{IDENTIFIER} || :
exit 0
"#
    )
}

/// Removes what was installed.
pub(crate) fn uninstall() -> String {
    let (program, config, join, data, unit) =
        (MACOS.program, MACOS.config, MACOS.join, MACOS.data, MACOS.unit);
    let documents = MACOS.documents;
    format!(
        r#"#!/bin/sh
# Removes Caelum: sudo sh uninstall.sh [--purge]. Settings and data stay unless --purge is given.
set -eu
purge=no
case "${{1:-}}" in
    --purge) purge=yes ;;
    "") ;;
    *) echo "usage: sh uninstall.sh [--purge]" >&2; exit 2 ;;
esac
if [ "$(id -u)" -ne 0 ]; then
    echo "uninstall.sh: removing takes root: sudo sh uninstall.sh" >&2
    exit 1
fi
launchctl bootout system/{IDENTIFIER} 2>/dev/null || :
rm -f /{unit} /{program} /{join} /{config}.default
rm -rf /{documents} /usr/local/share/caelum
pkgutil --forget {IDENTIFIER} >/dev/null 2>&1 || :
if [ "$purge" = yes ]; then
    rm -rf /{data} /usr/local/etc/caelum /var/log/caelum.log
    dscl . -delete /Users/{MACOS_USER} 2>/dev/null || :
    dscl . -delete /Groups/{MACOS_USER} 2>/dev/null || :
    echo "Caelum is removed, with its settings and data."
else
    echo "Caelum is removed. /{config} and /{data} stay; --purge removes them too."
fi
"#
    )
}
