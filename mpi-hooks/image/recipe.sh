# What the guest's root file system consists of. Sourced by scripts/guest-image; the cache is keyed by this file's
# hash, so whatever changes the result belongs here.

guest_suite=trixie
# What a guest needs to run MPI programs, and its administrator to look around.
# libgfortran5, python3-mpi4py: Open MPI has its Fortran libraries here, and programs in Python are programs too.
guest_packages=(openmpi-bin hpcc libgfortran5 python3-mpi4py iproute2 procps e2fsprogs)
# Not installed but unpacked beside it: the kernel (no initramfs tools wanted in the guest) and the init's shell.
guest_kernel=linux-image-cloud-amd64
guest_shell=busybox-static
# What turns the same root into the SDK that programs for the guest are compiled in.
sdk_packages=(gcc g++ gfortran libc6-dev libopenmpi-dev)

# In the order of loading, with whatever modules.dep says they need before them.
guest_modules=(virtio_blk virtio_net squashfs overlay tcp_diag virtio-rng)

# Left out of the base: what belongs to the making of it, to one machine, or to the kernel that is booted directly.
base_excludes=(
  'boot/*' 'dev/*' 'proc/*' 'sys/*' 'run/*' 'tmp/*' 'root/.*' 'lib/modules' 'usr/lib/modules'
  'etc/apt/sources.list' 'etc/apt/sources.list.d/*' 'etc/apt/apt.conf.d/99mmdebstrap'
  'etc/machine-id' 'var/lib/dbus/machine-id' 'etc/hostname' 'etc/resolv.conf' 'etc/ssh/ssh_host_*'
  'var/cache/apt/*' 'var/cache/debconf/*-old' 'var/lib/apt/lists/*' 'var/log/*'
)

# The kernel as an ELF file, which QEMU boots through its PVH entry: a guest under TCG would need as long to decompress
# it as for half of its boot. Where it cannot be unpacked, the compressed one serves.
unpack_kernel() {
  local vmlinuz="$1" config="$2" result="$3" sectors offset length unpack
  sectors="$(od -An -tu1 -j 497 -N 1 "$vmlinuz" | tr -d ' ')"
  read -r offset length < <(od -An -tu4 -j 584 -N 8 "$vmlinuz")
  offset=$((offset + (${sectors:-4} + 1) * 512))
  # The payload's last four bytes are its unpacked size.
  tail -c "+$((offset + 1))" "$vmlinuz" | head -c "$((length - 4))" >"$result.payload"
  case "$(od -An -tx1 -N 4 "$result.payload" | tr -d ' ')" in
    28b52ffd) unpack="zstd -qdc" ;;
    fd377a58) unpack="xz -dc" ;;
    1f8b*) unpack="gzip -dc" ;;
    *) unpack=false ;;
  esac
  if ! grep -q '^CONFIG_PVH=y' "$config" || ! $unpack <"$result.payload" >"$result" ||
    [ "$(od -An -tx1 -N 4 "$result" | tr -d ' ')" != 7f454c46 ]; then
    cp "$vmlinuz" "$result"
  fi
  rm "$result.payload"
}

# Runs inside mmdebstrap's customize step, with the root at $1 and the result directory at $2.
customize_root() {
  local root="$1" out="$2" version
  # The meta package depends on the kernel that is current.
  version="$(chroot "$root" apt-cache depends "$guest_kernel" | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')"
  [ -n "$version" ] || { echo "no kernel package behind $guest_kernel" >&2; return 1; }
  mkdir -p "$root/tmp/debs" "$out/kernel" "$out/shell"
  chroot "$root" sh -c "cd /tmp/debs && apt-get -o APT::Sandbox::User=root -qq download $version $guest_shell"
  dpkg-deb -x "$root/tmp/debs/linux-image"*.deb "$out/kernel"
  dpkg-deb -x "$root/tmp/debs/$guest_shell"*.deb "$out/shell"
  rm -rf "$root/tmp/debs"
  [ -e "$out/kernel/lib" ] || ln -s usr/lib "$out/kernel/lib"
  depmod -b "$out/kernel" "$(ls "$out/kernel/lib/modules")"

  unpack_kernel "$out"/kernel/boot/vmlinuz-* "$out"/kernel/boot/config-* "$out/vmlinuz"

  mksquashfs "$root" "$out/base.squashfs" -quiet -no-progress -noappend -comp zstd -Xcompression-level 9 \
    -wildcards -e "${base_excludes[@]}"
  chmod 0644 "$out/base.squashfs"

  chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${sdk_packages[@]}" >/dev/null
}
