#!/bin/sh
# Slurm Prolog (slurm.conf: Prolog=THIS). A status other than 0 drains the node and requeues the
# job, so only what no job survives counts: GPU001 (a GPU is lost), GPU003 (the driver asks for a
# recovery), GPU004 (uncorrected ECC errors), DRV006 and DRV009 (the driver does not work).
# Calls no Slurm command, writes to the system's log alone, and takes less than 20 s.
set -u
PATH=$PATH:/opt/gpucheck/bin # slurmd hands over no PATH: where gpucheck is
codes=GPU001,GPU003,GPU004,DRV006,DRV009
line=$(unset CUDA_VISIBLE_DEVICES
    timeout 20 gpucheck doctor --quick --select "$codes" --format oneline 2>/dev/null)
status=$?
[ "$status" -eq 0 ] || logger -t gpucheck "prolog: status $status: ${line:-no output}"
[ "$status" -ne 1 ] || exit 1
exit 0
