#!/bin/sh
# try_slurm.sh TRILITH SOURCE — training under a real Slurm, on hosts that are network namespaces: srun with PMIx gives the bits of one
# process, also where its time limit ends it and another goes on, and deploy/slurm/train.sbatch outlives its time limit and a lost rank.
# Status 77: not on this machine, with the reason.
. "$2/tests/program.sh"
. "$source/tests/hosts/netns.sh"
. "$source/tests/hosts/slurm.sh"
. "$source/tests/hosts/runs.sh"
hosts_or_skip
slurm_or_skip
mpi_or_skip
script=$source/deploy/slurm/train.sbatch
hosts_up 2 && slurm_up || {
    fail 'Slurm did not start'
    finish
    exit
}

submit() { # ARGUMENT…: the script on four ranks; the job's number
    slurm sbatch --parsable --ntasks-per-node=2 --time=5 --output="$work/job.log" "$script" "$@"
}
state_of() { slurm scontrol show job "$1" 2>/dev/null | sed -n "s/.*\\b$2=\\([^ ]*\\).*/\\1/p"; }
# until_true SECONDS COMMAND…: whether it came true in time, asked ten times a second.
until_true() {
    left=$((10 * $1))
    shift
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 0.1
    done
}
steps_done() { [ -e "$1/metrics.jsonl" ] && [ "$(wc -l <"$1/metrics.jsonl")" -ge "$2" ]; }
ended() { case $(state_of "$1" JobState) in COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL) ;; *) return 1 ;; esac; }
ends_as() { # JOB STATE STATUS RESTARTS WHAT
    until_true 60 ended "$1"
    got="$(state_of "$1" JobState), status $(state_of "$1" ExitCode), $(state_of "$1" Restarts) restarts"
    [ "$got" = "$2, status $3:0, $4 restarts" ] || {
        cp "$work/job.log" "$work/err"
        fail "$5: $got where $2, status $3:0, $4 restarts was expected"
        slurm scancel "$1"
    }
    mv "$work/job.log" "$work/said"
}

train_one "$work/one"

# ---- a time limit that ends it, beside what follows ----
# Slurm looks at limits every half minute. So that this one ends soon, it is set to the present once the job computes. Steps that sleep have the
# job last longer than that; two of them, within which ranks stop together, last less than what Slurm waits between SIGTERM and SIGKILL.
sleeps=$(for step in 3 4 5 6 7 8 9 10 11 12; do printf 'sleep:rank=1,step=%s,seconds=5;' $step; done)
slurm env TRILITH_FAULT="${sleeps%;}" timeout -k 5 100 srun --job-name=limited --time=1 --nodes=2 -n 2 --mpi=pmix "$trilith" train --out "$work/limited" $settings \
    >"$work/limited.out" 2>"$work/limited.err" &
limited=$!
until_true 30 steps_done "$work/limited" 2 || fail 'the job with a time limit did not begin'
limited_job=$(slurm squeue --noheader --name=limited --format=%A)
slurm scontrol update "JobId=$limited_job" "EndTime=$(date +%Y-%m-%dT%H:%M:%S)" || fail 'no limit could be set'

# ---- srun ----
slurm timeout -k 5 60 srun --nodes=2 -n 4 --mpi=pmix "$trilith" train --out "$work/srun" $settings --shard zero1 >"$work/out" 2>"$work/err" ||
    fail "srun -n 4 --mpi=pmix: status $?"
same_run "$work/one" "$work/srun" 'srun -n 4 --mpi=pmix'

# ---- what the script does with an exit status: a program that says them in turn stands in for trilith ----
cat >"$work/stand-in" <<'END'
#!/bin/sh
# stand-in train --statuses FILE: each restart takes the next line of it.
[ "$SLURM_PROCID" -ne 3 ] || exit "$(sed -n "$((SLURM_RESTART_COUNT + 1))p" "$3")"
END
chmod +x "$work/stand-in"
statuses() { # STATE STATUS RESTARTS SENT…
    state=$1 status=$2 restarts=$3
    shift 3
    printf '%s\n' "$@" >"$work/statuses"
    job=$(TRILITH=$work/stand-in submit --statuses "$work/statuses" --out "$work/nowhere")
    ends_as "$job" "$state" "$status" "$restarts" "train.sbatch, statuses $*"
}
statuses COMPLETED 0 1 75 0
statuses FAILED 76 0 76 0
statuses FAILED 2 0 2 0

# ---- the time limit, and a rank that is killed ----
# The link is slow enough for steps that take some tenths of a second on any machine.
hosts_rate 10mbit
export TRILITH="$trilith"

job=$(submit --out "$work/limit" $settings)
until_true 30 steps_done "$work/limit" 2 || fail 'the job did not begin'
slurm scancel --batch --signal=USR1 "$job"
ends_as "$job" COMPLETED 0 1 'train.sbatch, signalled before its time limit'
[ "$(grep -c '^stopped after step' "$work/said")" -eq 1 ] || fail 'stopping was to be told of once, by rank 0'
same_run "$work/one" "$work/limit" 'train.sbatch, signalled before its time limit'

job=$(submit --out "$work/killed" $settings)
until_true 30 test -e "$work/killed/checkpoints/latest" || fail 'the job did not begin'
victim=$(for pid in $(ip netns pids "$prefix-2"); do grep -qs "$work/killed" "/proc/$pid/cmdline" && [ "$(cat "/proc/$pid/comm")" = trilith ] && echo "$pid"; done | head -n 1)
kill -9 "$victim" || fail 'there was no rank to kill'
ends_as "$job" COMPLETED 0 1 'train.sbatch, a rank killed'
grep -q '^resumed from .*/step-6$' "$work/said" || fail 'the job did not go on from step 6'
same_run "$work/one" "$work/killed" 'train.sbatch, a rank killed'

# ---- the job that its limit has ended ----
wait $limited
status=$?
cp "$work/limited.err" "$work/err"
until_true 30 ended "$limited_job"
[ "$(state_of "$limited_job" JobState)" = TIMEOUT ] || fail "a job beyond its limit: $(state_of "$limited_job" JobState), srun's status $status"
grep -q 'DUE TO TIME LIMIT' "$work/err" || fail 'Slurm did not speak of the limit'
grep -q '"status": "stopped"' "$work/limited/plan.json" || fail 'the run was not stopped in order'
steps=$(wc -l <"$work/limited/metrics.jsonl")
[ "$steps" -lt 12 ] && [ -e "$work/limited/checkpoints/step-$steps/manifest.json" ] || fail "$steps steps, and no checkpoint of the last one"
slurm timeout -k 5 60 srun --nodes=2 -n 2 --mpi=pmix "$trilith" train --out "$work/limited" --resume --quiet >"$work/out" 2>"$work/err" || fail "going on after the limit: status $?"
grep -q "^resumed from .*/step-$steps\$" "$work/err" || fail "the second job did not go on from step $steps"
same_run "$work/one" "$work/limited" 'a time limit, and another job'

finish
