#!/bin/bash
# Installs a package, starts what it installs, upgrades and removes it, on a copy of this system that
# nothing else sees. Run by `unshare -m`, as root.
set -euo pipefail
package=$1 unit=$2 work=$3

mount -t tmpfs tmpfs "$work"
mkdir "$work"/{upper,work,root}
mount -t overlay overlay -o lowerdir=/,upperdir="$work/upper",workdir="$work/work" "$work/root"
mount --bind /dev "$work/root/dev"
mount -t proc proc "$work/root/proc"
mount -t tmpfs tmpfs "$work/root/run"
cp "$package" "$work/root/run/vfs-sync.deb"
in_copy() { chroot "$work/root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"; }

in_copy dpkg -i /run/vfs-sync.deb
[ "$(in_copy stat -c '%a %U' /etc/vfs-sync/jwt-secret)" = '600 root' ]
[ "$(in_copy stat -c '%s' /etc/vfs-sync/jwt-secret)" = 64 ]
in_copy id vfs-sync
in_copy test -e "$unit"
in_copy test -e /usr/share/man/man1/vfs-sync-serve.1.gz
in_copy vfs-sync --version

# As systemd does: the state's directory, the secret as a credential, the unit's environment.
in_copy install -d -m 700 -o vfs-sync -g vfs-sync /var/lib/vfs-sync
in_copy install -D -m 400 -o vfs-sync /etc/vfs-sync/jwt-secret /run/credentials/jwt-secret
environment=$(sed -n 's/^Environment=//p' "$work/root$unit" | sed 's|%d|/run/credentials|; s|127.0.0.1:7070|127.0.0.1:0|')
command=$(sed -n 's/^ExecStart=//p' "$work/root$unit")
start() {
  # shellcheck disable=SC2086
  in_copy setpriv --reuid vfs-sync --regid vfs-sync --init-groups --no-new-privs \
    env $environment $command >"$work/out" 2>"$work/err" &
  server=$!
  until grep -q listening "$work/out"; do
    kill -0 $server || { cat "$work/err" >&2; exit 1; }
  done
  url=$(sed -n 's/^listening on //p' "$work/out")
}
start
in_copy sh -c "VFS_SYNC_JWT_SECRET_FILE=/etc/vfs-sync/jwt-secret vfs-sync token --user alice >/run/token"
in_copy vfs-sync --replica /run/replica init --server "$url" --token-file /run/token
in_copy sh -c 'echo kept | vfs-sync --replica /run/replica put - /note'
in_copy vfs-sync --replica /run/replica sync
kill $server && wait $server || true

secret=$(in_copy sha256sum /etc/vfs-sync/jwt-secret)
echo '# changed' >>"$work/root/etc/vfs-sync/server.env"
in_copy dpkg -i /run/vfs-sync.deb
[ "$secret" = "$(in_copy sha256sum /etc/vfs-sync/jwt-secret)" ]
in_copy grep -q '# changed' /etc/vfs-sync/server.env
start
kill $server && wait $server || true

in_copy dpkg -r vfs-sync
in_copy test ! -e /usr/bin/vfs-sync
in_copy dpkg -P vfs-sync
# What people saved is not the package's to remove.
in_copy test -e /var/lib/vfs-sync/metadata.sqlite3
in_copy test -e /etc/vfs-sync/jwt-secret
echo tried
