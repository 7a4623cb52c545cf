#!/bin/sh
# Puts RabbitMQ 4 into a directory, from Debian 13, beside the one that is installed; as root. Then
#
#     PATH=$1/wrappers/bin:$PATH TEST_RABBITMQ=$1/wrappers pytest tests/faults
#
# runs tests on it.
set -eu

root=$1
if [ ! -x "$root/usr/sbin/rabbitmq-server" ]; then
    command -v debootstrap >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -qy debootstrap
    debootstrap --variant=minbase --include=rabbitmq-server trixie "$root"
fi

# A node's home is below /tmp. Paths that tests give to the node must name the same files inside.
mountpoint -q "$root/tmp" || mount --bind "${TMPDIR:-/tmp}" "$root/tmp"
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"
mkdir -p "$root/wrappers/bin" "$(dirname "$root$root")"
ln -sfn / "$root$root"
ln -sfn ../usr/lib/rabbitmq/lib "$root/wrappers/lib"
for program in /usr/lib/rabbitmq/bin/rabbitmq-server /usr/lib/rabbitmq/bin/rabbitmqctl /usr/bin/epmd /usr/bin/erl_call; do
    wrapper=$root/wrappers/bin/$(basename "$program")
    printf '#!/bin/sh\nexec chroot %s %s "$@"\n' "$root" "$program" >"$wrapper"
    chmod +x "$wrapper"
done
