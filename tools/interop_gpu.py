"""A GPU's counters: what `trilith doctor` reads through NVML and what NVIDIA's own binding (nvidia-ml-py) reads, of a library that plays NVML
(tests/observe/nvml_played.c), so that types, orders and units of a C interface that is declared by hand are those of NVIDIA's; with a GPU's driver, of that
GPU: tools/interop_gpu.py --trilith build/trilith --library libnvidia-ml.so.1."""

import argparse
import ctypes
import json
import os
import subprocess
import sys

import pynvml as nvml

PLAYED = os.path.join("tests", "libnvidia-ml.so.1")
MOVING = {"power_watts": 0.5, "energy_joules_total": None, "temperature_celsius": 0.1, "sm_clock_hertz": 0.9, "memory_clock_hertz": 0.9, "busy_ratio": None,
          "memory_busy_ratio": None, "memory_used_bytes": 0.2}  # of a real GPU, from one moment to the next: by what part, None: whatever it is


def theirs(pci):
    """The same counters by the same names, as the binding reads them."""
    gpu = nvml.nvmlDeviceGetHandleByPciBusId(pci)
    busy, memory = nvml.nvmlDeviceGetUtilizationRates(gpu), nvml.nvmlDeviceGetMemoryInfo(gpu)
    events = nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(gpu, nvml.nvmlEventTypeXidCriticalError, events)
    xids = []
    try:
        while True:
            xids.append(nvml.nvmlEventSetWait(events, 0).eventData)
    except nvml.NVMLError_Timeout:
        pass
    reasons = {name: getattr(nvml, "nvmlClocksThrottleReason" + name) for name in
               ("GpuIdle", "ApplicationsClocksSetting", "SwPowerCap", "HwSlowdown", "SyncBoost", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown", "DisplayClockSetting")}
    now = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
    return dict(
        power_watts=nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3, power_limit_watts=nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1e3, energy_joules_total=0,
        temperature_celsius=nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU), sm_clock_hertz=nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM) * 1e6,
        sm_clock_max_hertz=nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM) * 1e6, memory_clock_hertz=nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM) * 1e6,
        busy_ratio=busy.gpu / 100, memory_busy_ratio=busy.memory / 100, memory_used_bytes=memory.used, memory_total_bytes=memory.total,
        ecc_corrected_errors_total=nvml.nvmlDeviceGetTotalEccErrors(gpu, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_VOLATILE_ECC),
        ecc_uncorrected_errors_total=nvml.nvmlDeviceGetTotalEccErrors(gpu, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
        xid_errors_total=len(xids), xid_last=xids[-1] if xids else 0,
        throttle=["".join("_" + c.lower() if c.isupper() else c for c in name)[1:] for name, bit in reasons.items() if now & bit])


def run(trilith, library):
    """Says what was compared; AssertionError where the two differ."""
    played, folder = os.path.basename(os.path.dirname(library)) == "tests", os.path.dirname(library)
    seen = dict(os.environ, TRILITH_NVML=library, NVML_PLAYED_XIDS="2", NVML_PLAYED_REASONS="0x1ff")
    if played:
        seen["TRILITH_CUDA_MODULE"] = os.path.join(folder, "trilith-cuda.so")
        os.environ.update(NVML_PLAYED_XIDS="2", NVML_PLAYED_REASONS="0x1ff")
    said = json.loads(subprocess.run([trilith, "doctor", "--json", "--seconds", "0"], env=seen, stdout=subprocess.PIPE, check=True, timeout=300).stdout)["gpu"]
    assert said and said["now"], f"doctor sees no counters: {said}"
    nvml.nvmlLib = ctypes.CDLL(library)  # what nvmlInit would look for in the system
    nvml.nvmlInit()
    want, got = theirs(said["pci"]), said["now"]
    assert got.keys() == want.keys(), f"doctor has {sorted(got)}, NVIDIA's binding {sorted(want)}"
    for name, x in want.items():
        part = 1e-12 if played or name not in MOVING else MOVING[name]
        near = got[name] == x if name == "throttle" else part is None or abs(got[name] - x) <= part * abs(x) + 0.051
        assert near, f"{name} is {got[name]} to doctor and {x} to NVIDIA's binding"
    return f"{len(want)} counters, {'played' if played else said['name']}"


def main():
    parser = argparse.ArgumentParser(description="a GPU's counters beside NVIDIA's own binding")
    parser.add_argument("--trilith", required=True)
    parser.add_argument("--library", help="libnvidia-ml.so.1 of a driver (default: the one that the tests play, beside the program)")
    args = parser.parse_args()
    print(run(args.trilith, args.library or os.path.join(os.path.dirname(os.path.abspath(args.trilith)), PLAYED)))


if __name__ == "__main__":
    sys.exit(main())
