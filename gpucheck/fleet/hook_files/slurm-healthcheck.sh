#!/bin/sh
# Slurm HealthCheckProgram (slurm.conf: HealthCheckProgram=THIS, HealthCheckInterval=300,
# HealthCheckNodeState=IDLE,CYCLE). Slurm kills it after 60 s; this takes less than 10.
#
# Drains the node when gpucheck finds an error. Never undrains a node, and never drains one because
# gpucheck itself failed (status 2 or 3). A node that is drained already keeps its reason.
set -u
PATH=$PATH:/opt/gpucheck/bin # slurmd hands over no PATH: where gpucheck and scontrol are
node=${SLURMD_NODENAME:-$(hostname -s)}
line=$(timeout 10 gpucheck doctor --quick --format oneline 2>/dev/null)
status=$?
if [ "$status" -eq 1 ]; then
    case $(scontrol show node "$node" -o 2>/dev/null) in
        *State=*DRAIN*) ;;
        *) scontrol update nodename="$node" state=drain reason="gpucheck: ${line:-broken}" ;;
    esac
elif [ "$status" -ne 0 ]; then
    logger -t gpucheck "the health check failed with status $status: ${line:-no output}"
fi
exit 0
