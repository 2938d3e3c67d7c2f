#!/usr/bin/env bash
# A Slurm cluster of one node on this machine, for tests: munged, slurmctld and slurmd on loopback, without systemd, cgroups or
# an accounting database.
#
#   slurm.sh up DIR [PID]   start it; its files live in DIR, and a copy of slurm.conf at /etc/slurm. It goes down by itself when
#                           the process PID ends, whatever ends it
#   slurm.sh down DIR       cancel its jobs, stop what `up` started, remove DIR and the copy
#   slurm.sh check          say in one line what is missing here (exit 1), or nothing
#
# Needs root and the Debian packages slurm-wlm and munge. Jobs that exceed their memory are caught by polling (every second),
# as there are no cgroups. The node has two CPUs whatever the machine has: as many as a submission of profiles/slurm asks for.
set -euo pipefail
readonly CONF=/etc/slurm/slurm.conf
readonly DAEMONS=(slurmd slurmctld munged)

check() {
    local program
    [ "$(id -u)" = 0 ] || { echo "a test cluster needs root: Slurm's tools look for $CONF"; return 1; }
    for program in "${DAEMONS[@]}" sbatch srun squeue scontrol; do
        command -v "$program" >/dev/null || { echo "$program not found (Debian packages: slurm-wlm munge)"; return 1; }
    done
    [ ! -e "$CONF" ] || { echo "$CONF is there: this machine belongs to a cluster, or a test cluster is up"; return 1; }
}

free_port() {  # a port of the range that nobody listens on; the range lies below those that the kernel hands out
    local port
    for port in $(seq "$1" "$2"); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
    echo "no free port between $1 and $2" >&2
    return 1
}

configuration() {
    local host memory
    host=$(hostname -s)
    memory=$(($(awk '/MemTotal/{print $2}' /proc/meminfo) / 1024 - 512))
    cat <<END
ClusterName=editlab-test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port 16800 16849)
SlurmdPort=$(free_port 16850 16899)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge.sock
CredType=cred/munge
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,bf_interval=2,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/log/jobs.txt
ReturnToService=2
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
MinJobAge=300
MaxArraySize=1001
InactiveLimit=0
KillWait=5
DefMemPerCPU=1000
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=02:00:00 DefaultTime=00:10:00 State=UP
END
}

start() {  # NAME COMMAND...: in the background, in a session of its own; its process id goes to NAME.started
    local name=$1
    shift
    setsid "$@" >"$DIR/log/$name.out" 2>&1 </dev/null &
    echo $! >"$DIR/$name.started"
}

wait_for() {  # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

idle() { timeout -k 1 5 sinfo --noheader --format=%T 2>/dev/null | grep -qx idle; }
no_jobs() { [ -z "$(timeout -k 1 5 squeue --noheader 2>/dev/null)" ] && ! timeout -k 1 5 scontrol listpids 2>/dev/null | grep -q '[0-9]'; }

alive() {  # NAME: the process that `up` started is there, and is still that program (numbers come round again)
    [ -s "$DIR/$1.started" ] && [ "$(cat "/proc/$(cat "$DIR/$1.started")/comm" 2>/dev/null)" = "$1" ]
}
all_gone() { for name in "${DAEMONS[@]}"; do ! alive "$name" || return 1; done; }

up() {
    check >&2
    [ ! -e "$DIR/slurm.conf" ] || { echo "$DIR is in use" >&2; return 1; }
    mkdir -p "$DIR"/{spool,state,log}
    chmod 755 "$DIR"
    trap 'tail -n 20 "$DIR"/log/* >&2; down' ERR
    configuration >"$DIR/slurm.conf"
    (umask 077 && head -c 1024 /dev/urandom >"$DIR/munge.key")
    # The executor plugin removes SLURM_* from the environment of jobs: only the default place is found inside.
    install -D -m 644 "$DIR/slurm.conf" "$CONF"
    start munged munged --force --foreground --key-file="$DIR/munge.key" --socket="$DIR/munge.sock" \
        --pid-file="$DIR/munged.pid" --log-file="$DIR/log/munged.log" --seed-file="$DIR/munge.seed"
    wait_for 10 test -S "$DIR/munge.sock"
    start slurmctld slurmctld -D -c
    start slurmd slurmd -D
    wait_for 20 idle
    trap - ERR
    [ -z "$OWNER" ] || setsid "$0" watch "$DIR" "$OWNER" >/dev/null 2>&1 </dev/null &
}

watch() {
    while [ -e "$DIR" ] && kill -0 "$OWNER" 2>/dev/null; do sleep 1; done
    [ ! -e "$DIR" ] || down
}

down() {
    trap - ERR
    local name
    if alive slurmctld; then
        timeout -k 1 10 scancel --quiet --user="$(id -un)" 2>/dev/null || true
        wait_for 15 no_jobs || echo "jobs still running in the test cluster" >&2
    fi
    for name in "${DAEMONS[@]}"; do
        ! alive "$name" || kill "$(cat "$DIR/$name.started")"
    done
    if ! wait_for 10 all_gone; then
        for name in "${DAEMONS[@]}"; do
            ! alive "$name" || kill -9 "$(cat "$DIR/$name.started")"
        done
    fi
    if cmp -s "$DIR/slurm.conf" "$CONF"; then rm -f "$CONF"; fi
    rm -rf "$DIR"
}

case "${1:-}" in
    check) check ;;
    up | down | watch)
        DIR=$(realpath -m "${2:?directory}")
        OWNER=${3:-}
        "$1"
        ;;
    *)
        echo "usage: $0 up DIR [PID] | down DIR | check" >&2
        exit 2
        ;;
esac
