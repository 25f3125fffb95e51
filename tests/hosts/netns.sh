# netns.sh — several hosts on one machine, as network namespaces: `. "$source/tests/hosts/netns.sh"`, after program.sh.
#
#   hosts_or_skip             ends the check with status 77 and a sentence where this machine cannot have such hosts
#   hosts_up N [RATE]         hosts 1 … N, on one switch; what each sends and receives is limited to RATE (as tc reads it: 200mbit)
#   hosts_rate RATE           another limit for all of them, each way; "none" lifts it
#   on I COMMAND…             runs it on host I
#   hosts_mpirun ARGUMENT…    mpirun on host 1, with all of them in $work/hostfile
#   on_mpi COMMAND…           on host 1, with what an mpirun there needs in its environment
#   host_cut I                pulls its cable
#   hosts_down                removes them and ends what still runs there; the trap calls it
#
# Host I is called hI and is a network and a UTS namespace with an address of its own, $net.I, and one interface (and loopback). Files
# and processors are shared. The switch is a bridge in one more namespace, so nothing of the machine's own network is touched. Names
# carry the process id of the check: what an earlier one left that was killed is found by it, and removed.
PATH=$PATH:/usr/sbin:/sbin # which a root shell may lack
net=198.18.$(($$ % 250)) # RFC 2544's addresses for tests of networks; no route leads there from outside the namespaces
prefix=trilith-$$
host_count=0

hosts_or_skip() {
    lacking=
    for tool in ip tc mpirun; do command -v $tool >/dev/null 2>&1 || lacking="$lacking $tool"; done
    if [ "$(id -u)" -ne 0 ]; then echo 'skipped: needs root (network namespaces)'
    elif [ -n "$lacking" ]; then echo "skipped: needs these programs (./dev setup hosts installs them):$lacking"
    elif ! { said=$(ip netns add "$prefix-probe" 2>&1) && said=$(ip netns exec "$prefix-probe" unshare --uts ip link add probe type veth 2>&1) &&
        said=$(ip -n "$prefix-probe" link add switch type bridge 2>&1) &&
        said=$(ip netns exec "$prefix-probe" tc qdisc add dev probe root tbf rate 1mbit burst 64kb latency 50ms 2>&1); }; then
        echo "skipped: needs the right to make network namespaces (CAP_SYS_ADMIN, CAP_NET_ADMIN) with veth, bridge and tbf:" $said
    else
        ip netns del "$prefix-probe"
        return 0
    fi
    ip netns del "$prefix-probe" 2>/dev/null
    exit 77
}

remove_host() { # NAMESPACE: with all that runs there
    for pid in $(ip netns pids "$1" 2>/dev/null); do kill -9 "$pid" 2>/dev/null; done
    ip netns del "$1" 2>/dev/null
}
remove_stale() {
    for name in $(ip netns list | sed -n 's/^\(trilith-[0-9][0-9]*-[a-z0-9]*\).*/\1/p'); do
        owner=${name#trilith-}
        owner=${owner%-*}
        [ -e "/proc/$owner" ] || remove_host "$name"
    done
}

hosts_up() { # N [RATE]
    remove_stale
    trap 'hosts_down; rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    ip netns add "$prefix-switch" || return 1
    ip -n "$prefix-switch" link add bridge type bridge forward_delay 0 &&
        ip -n "$prefix-switch" link set bridge up || return 1
    while [ $host_count -lt "$1" ]; do
        host_count=$((host_count + 1))
        name=$prefix-$host_count
        ip netns add "$name" &&
            ip link add "port$host_count" netns "$prefix-switch" type veth peer name eth0 netns "$name" &&
            ip -n "$prefix-switch" link set "port$host_count" master bridge up &&
            ip -n "$name" link set lo up &&
            ip -n "$name" addr add "$net.$host_count/24" dev eth0 &&
            ip -n "$name" link set eth0 up || return 1
    done
    hosts_rate "${2-none}"
}
hosts_rate() { # both ends of each cable, which is full duplex
    i=0
    while [ $i -lt $host_count ]; do
        i=$((i + 1))
        for end in "$prefix-$i eth0" "$prefix-switch port$i"; do
            tc -n "${end% *}" qdisc del dev "${end#* }" root 2>/dev/null
            [ "$1" = none ] || tc -n "${end% *}" qdisc add dev "${end#* }" root tbf rate "$1" burst 64kb latency 50ms || return 1
        done
    done
}
hosts_down() {
    while [ $host_count -gt 0 ]; do
        remove_host "$prefix-$host_count"
        host_count=$((host_count - 1))
    done
    remove_host "$prefix-switch"
}

on() { # HOST COMMAND…
    on_host=$1
    shift
    nsenter --net="/run/netns/$prefix-$on_host" unshare --uts sh -c 'hostname "$0" && exec "$@"' "h$on_host" "$@"
}

host_cut() { ip -n "$prefix-switch" link set "port$1" down; }

# mpirun starts its daemons elsewhere with `AGENT HOST COMMAND LINE`, which is ssh for clusters. Hosts have addresses for names.
on_mpi() {
    if [ ! -e "$work/hostfile" ]; then
        i=0
        while [ $i -lt $host_count ]; do
            i=$((i + 1))
            echo "$net.$i slots=8"
        done >"$work/hostfile"
        cat >"$work/agent" <<END
#!/bin/sh
i=\${1##*.}
shift
exec nsenter --net="/run/netns/$prefix-\$i" unshare --uts sh -c 'hostname "\$0" && eval "exec \$*"' "h\$i" "\$@"
END
        chmod +x "$work/agent"
    fi
    on 1 env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_plm_rsh_agent="$work/agent" \
        OMPI_MCA_orte_tmpdir_base="$work" "$@"
}
hosts_mpirun() { on_mpi mpirun --hostfile "$work/hostfile" "$@"; }
