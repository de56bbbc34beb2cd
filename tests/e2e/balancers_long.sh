#!/usr/bin/env bash
# The tests of replicas behind balancers, with as many rolling restarts as asked for (default 50: about
# ten minutes), under load all the time. Needs a release build and what tests/run.sh installs.
set -euo pipefail
cd "$(dirname "$0")/../.."
SLUICE_TEST_ROLLING_ROUNDS=${1:-50} build/venv/bin/pytest -q -s tests/e2e/balancer_test.py
