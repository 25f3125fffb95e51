# slurm.sh — a real Slurm on the hosts of netns.sh, which comes before: `. "$source/tests/hosts/slurm.sh"`.
#
#   slurm_or_skip    ends the check with status 77 and a sentence where Slurm's programs are not installed
#   slurm_up         munged, slurmctld on host 1 and a slurmd on every host that hosts_up made; returns when all nodes are idle
#   slurm COMMAND…   runs srun, sbatch, scontrol … on host 1
#
# Everything is in $work/slurm and knows nothing of a Slurm that the machine may have. What runs ends with its host (hosts_down).
slurm=$work/slurm

slurm_or_skip() {
    lacking=
    for tool in munged slurmctld slurmd srun sbatch; do command -v $tool >/dev/null 2>&1 || lacking="$lacking $tool"; done
    [ -z "$lacking" ] || {
        echo "skipped: needs these programs (./dev setup hosts installs them):$lacking"
        exit 77
    }
}

slurm_up() {
    chmod 755 "$work" # munged wants its socket where everybody may look
    mkdir -p "$slurm/munge" "$slurm/run" "$slurm/log"
    chmod 700 "$slurm/munge"
    (umask 077 && head -c 128 /dev/urandom >"$slurm/munge/key")
    on 1 munged --foreground --socket "$slurm/run/munge" --key-file "$slurm/munge/key" --pid-file "$slurm/run/munged.pid" \
        --log-file "$slurm/munge/log" --seed-file "$slurm/munge/seed" --num-threads 2 >"$slurm/log/munged" 2>&1 &
    # TmpFS differs by node because Slurm's PMIx plugin keeps its rendezvous there, and the hosts share their files. cred_expire is how
    # long a job that was requeued is held back: 120 s unless told, 5 at least.
    cat >"$slurm/slurm.conf" <<END
ClusterName=trilith
SlurmctldHost=h1($net.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$slurm/run/munge,cred_expire=5
SlurmctldPidFile=$slurm/run/slurmctld.pid
SlurmdPidFile=$slurm/run/slurmd-%n.pid
SlurmdSpoolDir=$slurm/spool-%n
StateSaveLocation=$slurm/state
TmpFS=$slurm/tmp-%n
SlurmctldPort=6817
SlurmdPort=6818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
KillWait=20
END
    i=0
    while [ $i -lt $host_count ]; do
        i=$((i + 1))
        mkdir -p "$slurm/spool-h$i" "$slurm/tmp-h$i"
        echo "NodeName=h$i NodeAddr=$net.$i CPUs=8 State=UNKNOWN"
    done >>"$slurm/slurm.conf"
    echo "PartitionName=all Nodes=h[1-$host_count] Default=YES MaxTime=10 State=UP" >>"$slurm/slurm.conf"
    on 1 env SLURM_CONF="$slurm/slurm.conf" slurmctld -D -i >"$slurm/log/slurmctld" 2>&1 &
    i=0
    while [ $i -lt $host_count ]; do
        i=$((i + 1))
        on $i env SLURM_CONF="$slurm/slurm.conf" slurmd -D >"$slurm/log/slurmd-h$i" 2>&1 &
    done
    i=0
    until [ "$(slurm sinfo --noheader --format '%T %D' 2>/dev/null)" = "idle $host_count" ]; do
        i=$((i + 1))
        if [ $i -gt 100 ]; then
            slurm sinfo
            tail -n 4 "$slurm"/log/*
            return 1
        fi
        sleep 0.2
    done
}
slurm() { on 1 env SLURM_CONF="$slurm/slurm.conf" "$@"; }
