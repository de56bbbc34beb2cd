#!/usr/bin/env bash
# Writes what is installed beside the program, and made by it: manual.sh BINARY DIR.
set -euo pipefail
binary=$1
mkdir -p "$2"
"$binary" man | gzip -9n > "$2/sluice.1.gz"
"$binary" completion bash > "$2/sluice.bash"
"$binary" completion zsh > "$2/_sluice"
"$binary" completion fish > "$2/sluice.fish"
"$(dirname "$0")/third-party-notices.sh" "$binary" | gzip -9n > "$2/THIRD-PARTY-NOTICES.gz"
