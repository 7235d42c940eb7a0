#!/bin/bash
# The first process of a stand-in appliance, in namespaces of its own (tests/appliances.py): makes the machine, says so,
# and lives until its standard input ends. Nothing here touches the machine around it: its disk is read-only, and every
# folder that is written to is a file system in memory that this host alone sees.
#
# Arguments: the service user, the base of the students' uids here, then the students' numbers.
set -eu
service=$1 base=$2
shift 2

mount -t tmpfs -o mode=0755 tmpfs /mnt
# Other tests make users meanwhile: a file that goes while it is copied spoils that copy, not the next.
for _ in {1..20}; do
    if cp -a /etc /mnt/etc 2>/mnt/said; then break; fi
    rm -rf /mnt/etc
done
[ -d /mnt/etc ] || { cat /mnt/said >&2; exit 1; }
mount --bind /mnt/etc /etc
for folder in /home /root /run /srv /tmp /usr/local/bin /var/log /var/spool/cron /var/tmp; do
    [ -d "$folder" ] || continue
    mount -t tmpfs -o mode=0755 tmpfs "$folder"
done
chmod 1777 /tmp /var/tmp
mkdir -m 0755 /run/sshd
mount -o remount,bind,ro /

read -r name
hostname "$name"
printf '127.0.0.1 localhost %s\n' "$name" >/etc/hosts

# Accounts of this host, none of the backend's: the students have other uids than on the backend, and homes elsewhere.
sed -i -E "/^($service|student[0-9]+):/d" /etc/passwd /etc/shadow /etc/group
add() {
    local user=$1 id=$2 shell=$3
    printf '%s:x:%s:%s::/home/%s:%s\n' "$user" "$id" "$id" "$user" "$shell" >>/etc/passwd
    printf '%s:*:19000:0:99999:7:::\n' "$user" >>/etc/shadow
    printf '%s:x:%s:\n' "$user" "$id" >>/etc/group
    mkdir -m 0755 "/home/$user"
    chown "$id:$id" "/home/$user"
}
add "$service" "$base" /bin/bash
for number; do
    add "student$number" "$((base + number))" /bin/sh
done
rm -f /etc/sudoers.d/*
printf '%s ALL=(root) NOPASSWD: ALL\n' "$service" >/etc/sudoers.d/service
chmod 0440 /etc/sudoers.d/service

rm -f /etc/ssh/ssh_host_* /etc/ssh/sshd_config.d/*
ssh-keygen -q -t ed25519 -N '' -C "$name" -f /etc/ssh/ssh_host_ed25519_key
printf '%s\n' 'HostKey /etc/ssh/ssh_host_ed25519_key' 'UsePAM yes' 'PasswordAuthentication yes' \
    'KbdInteractiveAuthentication no' 'PrintMotd no' 'PermitRootLogin no' >/etc/ssh/sshd_config
# As Debian's, but a wrong password is answered at once.
printf '%s\n' 'auth required pam_unix.so nodelay' 'account required pam_unix.so' 'session required pam_unix.so' \
    >/etc/pam.d/sshd
echo made

# The network card comes from outside.
read -r address gateway
ip link set lo up
ip address add "$address/32" dev eth0
ip link set eth0 up
ip route add "$gateway/32" dev eth0 src "$address"
/usr/sbin/sshd
echo up

# bash reaps what is left to the first process while it waits for a line.
while read -r _; do :; done
