# Sourced by packages.sh and systemd.sh: clean Debian systems in folders, and checks. As root. MIRROR is
# where Debian comes from.
packages=$PWD/build/release/packages
roots=$PWD/build/roots
mkdir -p "$roots"
need() { command -v "$1" > /dev/null || apt-get install -y -qq --no-install-recommends "$2"; }
need debootstrap debootstrap

passed=0
ok() { passed=$((passed + 1)); echo "ok: $1"; }
fail() { echo "FAILED: $1" >&2; exit 1; }
check() { local what=$1; shift; if "$@" > "$roots/out" 2>&1; then ok "$what"; else cat "$roots/out" >&2; fail "$what"; fi; }

mounted=()
unmount_roots() { for m in "${mounted[@]}"; do umount "$m"; done; mounted=(); }
in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }

# A clean root of a suite, made once and copied.
root_of() {  # suite, name
  [ -f "$roots/$1.tar" ] || {
    rm -rf "$roots/$1.new"
    debootstrap --variant=minbase "$1" "$roots/$1.new" "${MIRROR:-http://deb.debian.org/debian}" > "$roots/$1.log" 2>&1 || { tail "$roots/$1.log" >&2; exit 1; }
    tar -C "$roots/$1.new" -cf "$roots/$1.tar" . && rm -rf "$roots/$1.new"
  }
  root=$roots/$2
  rm -rf "$root" && mkdir "$root" && tar -C "$root" -xf "$roots/$1.tar"
  mount -t proc proc "$root/proc" && mounted+=("$root/proc")
}
