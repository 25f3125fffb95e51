#!/bin/sh
# check_cuda.sh TRILITH SOURCE — `--device cuda`: on a device that one thread plays (tests/kernels/cuda_emulated.h), strict about whose memory a
# kernel is given, training, generating, scoring and serving give the CPU's bits; where module, driver or device is missing, one sentence says which.
# With TRILITH_CUDA_MODULE=build/trilith-cuda.so: on this machine's GPU.
. "$2/tests/program.sh"
module=$(realpath -m "${TRILITH_CUDA_MODULE:-$(dirname "$trilith")/tests/trilith-cuda.so}")
make_text "$work/text" 400
cat >"$work/model.json" <<'END'
{"model_type":"llama","vocab_size":257,"hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,
"num_key_value_heads":2,"max_position_embeddings":64,"tie_word_embeddings":true}
END
train() { # OUT OPTION…
    out=$1
    shift
    run train --data "$work/text" --model "$work/model.json" --tokenizer bytes --out "$work/$out" --batch 4 --seq 32 --steps 3 --val-samples 2 \
        --sample-tokens 6 --quiet "$@"
}

# What is missing is said before anything is made.
export TRILITH_CUDA_MODULE="$work/none.so"
train none --device cuda
refused 'no CUDA device: .*none.so' $? 'train without a module'
[ ! -e "$work/none" ] || fail 'a refused run has left files'
echo 'no library' >"$work/none.so"
refuses 'no CUDA device: .*cannot be loaded' bench --seconds 0 --only gelu --device cuda
run doctor --json --seconds 0
grep -q '"gpu":null' "$work/out" || fail 'doctor sees a GPU where there is none'
run doctor --seconds 0
grep -q 'no CUDA device' "$work/out" || fail 'doctor does not say why there is no GPU'
if [ ! -e "$module" ]; then
    echo 'no device is played here (a sanitizer, or no C++ compiler): the rest is left out'
    finish
    exit
fi

export TRILITH_CUDA_MODULE="$module" TRILITH_CUDA_STRICT=1
run doctor --json --seconds 0
grep -q '"gpu":{"name":"' "$work/out" || fail 'doctor does not see the device'
played=
case $module in */tests/trilith-cuda.so) played=1 ;; esac
if [ "$played" ]; then # two devices
    grep -q '"now":null' "$work/out" || fail 'doctor sees counters where there is no NVML'
    TRILITH_NVML=$(dirname "$module")/libnvidia-ml.so.1
    export TRILITH_NVML
    run doctor --json --seconds 0
    grep -q '"now":{"power_watts":412' "$work/out" || fail 'doctor does not see the counters of the GPU'
    export OMPI_COMM_WORLD_LOCAL_RANK=3
    run doctor --json --seconds 0
    unset OMPI_COMM_WORLD_LOCAL_RANK
    grep -q '"name":"emulated device 1"' "$work/out" || fail 'the fourth rank of a machine with two devices does not open the second'
    export TRILITH_CUDA_DEVICE=2
    refuses 'there are 2 GPUs, 0 to 1, and 2 was asked for' bench --seconds 0 --only gelu --device cuda
fi
export TRILITH_CUDA_DEVICE=first
refuses 'TRILITH_CUDA_DEVICE is "first"' bench --seconds 0 --only gelu --device cuda
unset TRILITH_CUDA_DEVICE
for dtype in f32 bf16; do
    for device in cpu cuda; do
        train $dtype-$device --dtype $dtype --device $device || fail "train --dtype $dtype --device $device"
    done
    cmp -s "$work/$dtype-cpu/checkpoints/latest/model.safetensors" "$work/$dtype-cuda/checkpoints/latest/model.safetensors" ||
        fail "training in $dtype gives other weights on the device"
    for device in cpu cuda; do grep -o '^{"step":.*,"grad_norm":[^,]*' "$work/$dtype-$device/metrics.jsonl" >"$work/loss-$device"; done
    cmp -s "$work/loss-cpu" "$work/loss-cuda" || fail "training in $dtype has other losses on the device"
done
if [ "$played" ]; then # by tests/observe/nvml_played.c
    [ "$(grep -c '"gpu":{"power_watts":412.3,.*"throttle":\["sw_power_cap"\]}' "$work/f32-cuda/metrics.jsonl")" -eq 3 ] || fail 'metrics.jsonl lacks the counters of the GPU'
    ! grep -q '"gpu"' "$work/f32-cpu/metrics.jsonl" || fail 'metrics.jsonl has the counters of a GPU that nobody uses'
    grep -q 'held back (power, heat) in 3 of 3 steps' "$work/f32-cuda/report.html" || fail 'the report does not say that the GPU was held back'
fi
trained=$work/f32-cpu/checkpoints/latest
if [ "$played" ]; then # a device that is lost, after a checkpoint: the later it is, the more of them
    for operators in 2000 1000 500 250 125; do
        rm -rf "$work/lost"
        export TRILITH_CUDA_LOST=$operators
        status=0
        train lost --checkpoint-every 1 --device cuda || status=$?
        unset TRILITH_CUDA_LOST
        [ $status -ne 0 ] || continue
        [ $status -eq 75 ] || fail "a lost device ends a run with status $status"
        grep -q 'emulated device 0 failed in .*resume from the last checkpoint' "$work/err" || fail "a lost device is told as: $(cat "$work/err")"
        break
    done
    [ $status -ne 0 ] && [ -e "$work/lost/checkpoints/latest" ] || fail 'the device was never lost after a checkpoint'
    train lost --checkpoint-every 1 --resume || fail 'what a lost device left does not resume on the CPU'
    cmp -s "$trained/model.safetensors" "$work/lost/checkpoints/latest/model.safetensors" || fail 'what a lost device left resumes to other weights'
fi
head -c 400 "$source/README.md" >"$work/scored"
for type in F32 F16 BF16 Q8_0 Q4_0; do
    model=$work/$type.gguf
    call convert "$trained" "$model" --type $type >/dev/null || fail "convert --type $type"
    for device in cpu cuda; do
        run generate --model "$model" --prompt 'The heaven' --max-tokens 12 --temperature 1 --json --device $device || fail "generate, $type, $device"
        grep -o '"ids":.*"logprobs":[^]]*]' "$work/out" >"$work/made-$device"
        run score --model "$model" --text "$work/scored" --window 64 --json --device $device || fail "score, $type, $device"
        grep -o '"logprobs":[^]]*]' "$work/out" >>"$work/made-$device"
    done
    [ "$(wc -l <"$work/made-cpu")" -eq 2 ] || fail "$type: nothing to compare"
    cmp -s "$work/made-cpu" "$work/made-cuda" || fail "$type: other log-probabilities on the device"
done

# A server, whose batcher asks more of the device than a session.
for device in cpu cuda; do
    : >"$work/err"
    "$trilith" serve "$trained" --unix "$work/$device" --device $device --threads 2 2>"$work/err" </dev/null &
    server=$!
    await_lines "$work/err" 2
    curl -s --max-time 60 --unix-socket "$work/$device" http://localhost/v1/completions \
        -d '{"prompt":"The heaven","max_tokens":16,"logprobs":2,"n":3,"temperature":1,"seed":3,"echo":true}' | grep -o '"choices":.*\]' >"$work/answer-$device"
    curl -s --max-time 60 --unix-socket "$work/$device" http://localhost/metrics >"$work/metrics-$device"
    kill -TERM $server
    wait $server || fail "serve --device $device ended with $?"
done
grep -q '"token_logprobs":\[null,-' "$work/answer-cpu" || fail "nothing was served: $(cat "$work/answer-cpu")"
cmp -s "$work/answer-cpu" "$work/answer-cuda" || fail 'other answers are served on the device'
! grep -q gpu_ "$work/metrics-cpu" || fail '/metrics has the counters of a GPU that nobody uses'
if [ "$played" ]; then
    for line in '_power_watts{model_name=".*"} 412.345' '_throttle{model_name=".*",reason="sw_power_cap"} 1' '_throttle{model_name=".*",reason="gpu_idle"} 0'; do
        grep -q "^trilith:gpu$line\$" "$work/metrics-cuda" || fail "/metrics lacks $line"
    done
fi
finish
