#!/bin/sh
# check_supervise.sh TRILITH SOURCE — trilith train --supervise from outside: what is started again and with how many ranks, what is not, what
# is shown, and that the bits are those of a run that was never lost. Launchers of our own stand in for mpirun, so that no MPI is needed.
. "$2/tests/program.sh"
cd "$work" || exit 1
make_text text 600
settings='--data text --model tiny --tokenizer bytes --steps 12 --batch 4 --seq 32 --threads 1 --sample-tokens 0 --val-samples 2 --checkpoint-every 3'
# shellcheck disable=SC2086
supervise() { run train --supervise $settings "$@"; }
count() { grep -c -e "$1" err; }
same_weights() { cmp "$1/checkpoints/latest/model.safetensors" "$2/checkpoints/latest/model.safetensors" || fail "$1 and $2 have other weights"; }

# Starts one rank, whatever number it is told, and notes that number. Killed ranks are told of as mpirun does.
cat >one.sh <<'END'
#!/bin/sh
[ "$1" = -n ] || exit 99
echo "$2" >>starts
shift 2
"$@" || code=$?
[ "${code-0}" -le 128 ] || {
    echo --------------------------------------------------------------------------
    echo "mpirun noticed that process rank 1 with PID 0 on node here exited on signal $((code - 128)) (Killed)."
    echo --------------------------------------------------------------------------
} >&2
exit ${code-0}
END
chmod +x one.sh
# shellcheck disable=SC2086
run train $settings --leaves 4 --out calm --quiet || fail 'a run to compare with'

# ---- nothing happens
supervise --ranks 4 --leaves 4 --out plain --launcher ./one.sh || fail 'a supervised run'
[ "$(cat starts)" = 4 ] || fail 'one start with four ranks expected'
[ "$(count '^step ')" -ge 1 ] || fail 'the progress of the job is not shown'
[ "$(count restart)" -eq 0 ] || fail 'a restart without a loss'
same_weights calm plain

# ---- killed twice: started again with one less each time, from the newest checkpoint, to the same bits
rm starts
# Once a checkpoint is begun, the one before it is published.
export TRILITH_FAULT='kill:rank=0,step=6,at=checkpoint;kill:rank=0,step=9,at=checkpoint,restart=1'
supervise --ranks 4 --leaves 4 --out killed --launcher ./one.sh --quiet || fail 'a supervised run that is killed twice'
[ "$(tr '\n' ' ' <starts)" = '4 3 2 ' ] || fail "4, 3 and 2 ranks expected, not $(tr '\n' ' ' <starts)"
[ "$(count '^restart  lost rank 1 (killed by signal 9 on here); 3 ranks go on from step [36]$')" -eq 1 ] || fail 'the first restart is not told of'
[ "$(count '^restart  lost rank 1 (killed by signal 9 on here); 2 ranks go on from step [69]$')" -eq 1 ] || fail 'the second restart is not told of'
grep -q -e '-----' -e 'mpirun noticed' err && fail "the launcher's noise is shown"
same_weights calm killed

# ---- never below one rank; given up without progress; the count begins anew with progress
rm starts
export TRILITH_FAULT='kill:rank=0,step=2;kill:rank=0,step=2,restart=1;kill:rank=0,step=2,restart=2'
supervise --ranks 2 --out lost --launcher ./one.sh --max-restarts 2 --quiet
code=$?
[ $code -eq 137 ] || fail "a job that is lost again and again: exit status $code, expected 137"
[ "$(tr '\n' ' ' <starts)" = '2 1 1 ' ] || fail "2, 1 and 1 ranks expected, not $(tr '\n' ' ' <starts)"
grep -q 'lost 3 times without a new checkpoint' err || fail 'it is not said why the supervisor gives up'
export TRILITH_FAULT='kill:rank=0,step=6,at=checkpoint;kill:rank=0,step=9,at=checkpoint,restart=1;kill:rank=0,step=12,at=checkpoint,restart=2'
supervise --ranks 4 --leaves 4 --out progress --launcher ./one.sh --max-restarts 1 --quiet || fail 'three losses with progress between them'
same_weights calm progress
unset TRILITH_FAULT

# ---- hosts that cannot be reached are left out of the launcher's list, one start after another, until none is left
cat >fleet.sh <<'END'
#!/bin/sh
# fleet.sh --hostfile FILE|--host LIST -n N COMMAND…: as mpirun over ssh; hosts named in `down` do not answer, those in `failing` do so later.
case $1 in --hostfile) hosts=$(sed '/^#/d; s/ .*//' "$2") ;; --host) hosts=$(echo "$2" | tr ',' ' ') ;; esac
echo "$4:" $hosts >>starts
for host in $hosts; do
    grep -qx "$host" down || continue
    echo "ssh: connect to host $host port 22: No route to host" >&2
    echo --------------------------------------------------------------------------  >&2
    echo 'ORTE was unable to reliably start one or more daemons.' >&2
    echo --------------------------------------------------------------------------  >&2
    exit 1
done
shift 4
"$@" || code=$?
for host in $hosts; do
    [ "${code-0}" -gt 128 ] && grep -qx "$host" failing || continue
    echo --------------------------------------------------------------------------  >&2
    echo "  HNP daemon   : [[1,0],0] on node n1" >&2
    echo "  Remote daemon: [[1,0],2] on node $host" >&2
    echo --------------------------------------------------------------------------  >&2
    echo "$host" >>down
done
exit ${code-0}
END
chmod +x fleet.sh
printf '# ours\nn1 slots=2\nn2 slots=2\nn3 slots=1 # the old one\nn4 slots=1\n' >hosts
cp hosts hosts-as-given
printf 'n2\nn4\n' >down
echo n3 >failing
rm -f starts
export TRILITH_FAULT='kill:rank=0,step=6,at=checkpoint,restart=2'
supervise --ranks 6 --leaves 4 --out fleet --launcher './fleet.sh --hostfile hosts' --max-restarts 1 --quiet || fail 'a fleet that loses three of four hosts'
unset TRILITH_FAULT
printf '6: n1 n2 n3 n4\n4: n1 n3 n4\n3: n1 n3\n2: n1\n' | cmp -s - starts || fail "four starts expected, each without the host that was gone, not $(tr '\n' '/' <starts)"
[ "$(count '^restart  host n2 cannot be reached and is left out; 4 ranks go on from its beginning$')" -eq 1 ] || fail 'it is not said that n2 is left out'
[ "$(count '^restart  host n3 cannot be reached and is left out; 2 ranks go on from step [36]$')" -eq 1 ] || fail 'it is not said that n3 is left out'
[ "$(count '^restart')" -eq 3 ] || fail 'three restarts expected, each told of in one line'
cmp -s hosts hosts-as-given || fail "the user's list of hosts was changed"
same_weights calm fleet
printf 'n1\nn2\n' >down
supervise --ranks 2 --out nobody --launcher './fleet.sh --host n1,n2' --quiet
code=$?
[ $code -eq 75 ] || fail "no host is left: exit status $code, expected 75"
grep -q 'none of the hosts that --launcher names can be reached; the job is not started again$' err || fail 'it is not said that no host is left'
[ ! -e nobody ] || fail 'a job that never started left a folder'

# ---- what is not tried again
ends_with() { # STATUS NAME: a rank that ends so is not replaced (75: is)
    rm -f starts
    TRILITH_FAULT="exit:rank=0,step=2,status=$1" supervise --ranks 2 --out "end-$1" --launcher ./one.sh --quiet
    code=$?
}
for status in 1 2 76; do
    ends_with $status
    [ $code -eq $status ] || fail "a job that ends with $status: exit status $code"
    [ "$(wc -l <starts)" -eq 1 ] || fail "a job that ends with $status was started again"
done
ends_with 75
[ $code -eq 0 ] && [ "$(tr '\n' ' ' <starts)" = '2 2 ' ] || fail 'status 75 without a name: once more with as many ranks expected'

# ---- stopped as asked: the job is told by SIGUSR1, checkpoints and ends; the same command with --resume goes on
cat >relay.sh <<'END'
#!/bin/sh
shift 2
"$@" &
trap 'kill -USR1 $!' USR1
wait $!
code=$?
[ $code -le 128 ] || { wait $!; code=$?; }
exit $code
END
chmod +x relay.sh
long=$(echo "$settings" | sed 's/--steps 12/--steps 4000/')
# shellcheck disable=SC2086
"$trilith" train --supervise $long --ranks 2 --out stop --launcher ./relay.sh >out 2>err </dev/null &
pid=$!
await_lines stop/metrics.jsonl 20
kill -TERM $pid
wait $pid
code=$?
[ $code -eq 0 ] || fail "SIGTERM: exit status $code, expected 0"
grep -q '"status": "stopped"' stop/plan.json || fail 'SIGTERM: the run is not stopped'
steps=$(wc -l <stop/metrics.jsonl)
[ "$steps" -lt 4000 ] || fail 'SIGTERM came after the run'
# shellcheck disable=SC2086
run train --supervise $long --ranks 2 --out stop --launcher ./relay.sh --resume --stop-after $((steps + 20)) --quiet || fail 'a stopped job resumed'

# ---- a supervisor that is killed takes its job along, in order
# shellcheck disable=SC2086
"$trilith" train --supervise $long --ranks 2 --out orphan --launcher ./relay.sh >out 2>err </dev/null &
pid=$!
await_lines orphan/metrics.jsonl 5
kill -KILL $pid
n=0
until grep -qs '"status": "stopped"' orphan/plan.json || [ $n -ge 200 ]; do
    sleep 0.05
    n=$((n + 1))
done
grep -q '"status": "stopped"' orphan/plan.json || fail 'the job of a killed supervisor goes on'
[ -e orphan/checkpoints/latest/manifest.json ] || fail 'the job of a killed supervisor left no checkpoint'

# ---- the launcher itself
cat >broken.sh <<'END'
#!/bin/sh
echo "$OMPI_MCA_oob_tcp_keepalive_time $OMPI_MCA_oob_tcp_keepalive_probes" >seen
echo '[node7:00042] plm: cannot start' >&2
echo '--------------------------------------------------------------------------' >&2
echo 'There are not enough slots available in the system.' >&2
echo '--------------------------------------------------------------------------' >&2
exit 1
END
chmod +x broken.sh
(export OMPI_MCA_oob_tcp_keepalive_probes=9 && supervise --ranks 2 --out broken --launcher ./broken.sh)
code=$?
[ "$(cat seen)" = '20 9' ] || fail "mpirun is to ask after its daemons, as the user's own settings have it: $(cat seen)"
[ $code -eq 2 ] || fail "a launcher that cannot start: exit status $code, expected 2"
grep -q 'not enough slots' err || fail 'what the launcher says when it cannot start is not shown'
grep -q 'the job did not start; ./broken.sh says why above' err || fail 'it is not said that the job did not start'
refuses "'./absent' could not be started; install Open MPI" train --supervise --data text --out x --ranks 2 --launcher ./absent
refuses 'launcher names no program' train --supervise --data text --out x --ranks 2 --launcher ' '
refuses 'supervise needs --ranks N' train --supervise --data text --out x
refuses 'ranks needs --supervise' train --ranks 2 --data text --out x
refuses 'launcher needs --supervise' train --launcher srun --data text --out x
refuses 'ranks needs a whole number from 1' train --supervise --ranks 0 --data text --out x
refuses 'supervise is for one run' train --supervise --ranks 2 --sweep text --data text --out x

finish
