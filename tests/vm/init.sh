# The first process of a kernel of these tests: init.sh NAME SHARED DIRECTORY MODULES COMMAND [ARGUMENT ...]
#
# Runs the command in DIRECTORY, with the kernel modules loaded.
#
# The root is the machine's own, read-only. What must be written goes to a tmpfs on /run, and to SHARED, a directory
# of the machine that is mounted on /run/shared; the kernel has mounted /dev itself. Ends by switching the machine off.
set -u
name=$1 shared=$2 directory=$3 modules=$4
shift 4

alias mount='busybox mount' mkdir='busybox mkdir'
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mkdir -p /run/home /run/shared /run/sshd /run/tmp
mount -t hostfs -o "$shared" hostfs /run/shared

# The same users on every machine; root has no password.
echo root:x:0:0::/run/home:/bin/sh >/run/passwd
echo sshd:x:1:1::/run/sshd:/bin/false >>/run/passwd
echo 'root:*:::::::' >/run/shadow
mount --bind /run/passwd /etc/passwd
mount --bind /run/shadow /etc/shadow

# What the kernel of a Hyper-V guest shows, and all that hvbridge knows one by.
mount -t tmpfs tmpfs /sys/bus && mkdir /sys/bus/vmbus

for module in $modules; do
    busybox insmod "/usr/lib/uml/modules/$(busybox uname -r)/kernel/net/vmw_vsock/$module.ko"
done
busybox ip link set lo up
busybox hostname "$name"

export HOME=/run/home TMPDIR=/run/tmp PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
export PYTHONDONTWRITEBYTECODE=1 HVBRIDGE_VM=/run/shared
cd "$directory" && "$@" </dev/null
busybox sync
busybox poweroff -f
