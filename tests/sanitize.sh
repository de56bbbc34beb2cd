#!/usr/bin/env bash
# Every test under AddressSanitizer with UndefinedBehaviorSanitizer, the end-to-end tests with a
# sanitized daemon included, then everything that does not link gRPC under ThreadSanitizer (Debian's
# libgrpc is not instrumented). Slow; tests/run.sh runs a short part. Last line: N passed, N failed.
set -uo pipefail
cd "$(dirname "$0")/.."
failures=0
deploy/build.sh asan all || exit 1
ctest --test-dir build/asan -j2 --output-on-failure || failures=$((failures + 1))
SLUICE_BINARY_UNDER_TEST=$PWD/build/asan/bin/sluice \
  build/venv/bin/pytest -q tests/e2e --deselect tests/e2e/memory_test.py -k "not memory_limit" || failures=$((failures + 1))
deploy/build.sh tsan all || exit 1
ctest --test-dir build/tsan -j2 --output-on-failure || failures=$((failures + 1))
echo "$((3 - failures)) passed, $failures failed"
[ "$failures" -eq 0 ]
