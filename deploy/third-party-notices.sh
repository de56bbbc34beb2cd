#!/usr/bin/env bash
# Prints the licences of what a built program contains or loads: third-party-notices.sh BINARY. Taken from
# the copyright files of the Debian packages it was built with.
set -euo pipefail

# Compiled in from headers: no trace in the program's list of libraries.
packages=(libboost1.81-dev nlohmann-json3-dev libcli11-dev libtomlplusplus-dev)
for library in $(ldd "$1" | awk '$2 == "=>" && $3 ~ /^\// {print $3}'); do
  # Registered below / or /usr, while one may be a link to the other.
  package=$(dpkg-query -S "$library" "/usr$library" "${library#/usr}" 2> /dev/null | head -n 1 | cut -d: -f1 || true)
  [ -n "$package" ] || { echo "no package owns $library" >&2; exit 1; }
  packages+=("$package")
done

echo "Sluice contains or comes with the software below, under the licences that follow."
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
for package in "${packages[@]}"; do
  printf '\n%s\n%s %s\n%s\n\n' "$(printf '=%.0s' {1..80})" "$package" \
    "$(dpkg-query -W -f '${Version}' "$package" | head -n 1)" "$(printf '=%.0s' {1..80})"
  cat "/usr/share/doc/$package/copyright"
done
cat <<'TEXT'

================================================================================
CUDA runtime
================================================================================

libsluice_cuda.so, where it is there, contains the runtime library of NVIDIA's CUDA Toolkit, Copyright NVIDIA
Corporation, distributed under the End User License Agreement of the CUDA Toolkit.
TEXT
