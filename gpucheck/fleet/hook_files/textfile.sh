#!/bin/sh
# Prometheus node_exporter, textfile collector: call this from a timer.
# The file is written whole or not at all, and holds no timestamps: one would cost the whole file.
set -u
folder=${1:-/var/lib/node_exporter/textfile_collector}
timeout 60 gpucheck doctor --quick --format prometheus --output "$folder/gpucheck.prom"
[ "$?" -le 1 ]
