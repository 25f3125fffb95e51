# runs.sh — the run that tests/hosts compares: $settings, `train_one FOLDER` for one process, `same_run ONE OTHER WHAT`;
# `mpi_or_skip` ends the check where this trilith knows no MPI.
mpi_or_skip() {
    [ -e "${trilith%/*}/trilith-mpi.so" ] || {
        echo 'skipped: needs a trilith built where libopenmpi-dev is installed (there is no trilith-mpi.so)'
        exit 77
    }
}
make_text "$work/text" 2000
settings="--data $work/text --model tiny --tokenizer bytes --seq 64 --batch 8 --steps 12 --leaves 4 --checkpoint-every 6 --val-samples 4 --threads 1 --quiet"

train_one() {
    run train --out "$1" $settings || fail 'training in one process'
}

# What of a run must be the same on any number of ranks: the losses, and every tensor of the last checkpoint by its manifest.
what_counts() { # FOLDER
    sed -n 's/.*"step":\([0-9]*\),"loss":\([^,]*\),.*"grad_norm":\([^,]*\),.*/\1 \2 \3/p' "$1/metrics.jsonl"
    readlink "$1/checkpoints/latest"
    grep -oE '"[A-Za-z0-9_.]+": "[0-9a-f]{32}"' "$1/checkpoints/latest/manifest.json" | sort
}
same_run() { # ONE OTHER WHAT
    what_counts "$1" >"$work/expected"
    what_counts "$2" >"$work/actual" 2>/dev/null
    [ "$(grep -c '": "' "$work/expected")" -gt 20 ] || fail "$3: one process left nothing to compare"
    if ! cmp -s "$work/expected" "$work/actual"; then
        fail "$3: not the bits of one process:"
        diff "$work/expected" "$work/actual" | head -n 6
    fi
}
