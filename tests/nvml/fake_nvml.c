// Copyright (c) 2026, gpufleet.models contributors
// GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// A libnvidia-ml.so.1 for tests: NVML's binary interface over values that a file describes.
//
// FAKE_NVML names the file. Its lines are "path = value": what the library knows ("driver_version = 580.95.05",
// "gpus.0.name = NVIDIA H100", "gpus.0.mig.1.uuid = MIG-…") and what its functions return instead of NVML_SUCCESS
// ("errors.nvmlInit = 18", "gpus.0.errors.nvmlDeviceGetTemperature = 3"; -1 is to hang). Without a value it is
// NVML_ERROR_NOT_SUPPORTED.
// OLD_DRIVER leaves out what drivers before 2023 do not export.

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HANG = -1,
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    ARGUMENT_VERSION_MISMATCH = 25,
};

typedef int Return;
typedef struct Device *Handle;

// A GPU ("gpus.0.") or one of its MIG devices ("gpus.0.mig.1."): the path that its values begin with.
struct Device {
    char prefix[64];
};

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} PciInfo;

typedef struct {
    unsigned long long total, free, used;
} Memory;

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} MemoryV2;

typedef struct {
    unsigned gpu, memory;
} Utilization;

typedef struct {
    unsigned version, sensor;
    int temperature;
} Temperature;

typedef struct {
    unsigned version;
    unsigned char cluster_uuid[16];
    Return status;
    unsigned clique_id, state, health_mask;
} FabricInfo;

typedef struct {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
} Process;

#define MAX_DEVICES 64
#define LENGTH 512

static struct Device devices[MAX_DEVICES];
static unsigned device_count;
static bool initialized;

static bool find(const char *path, char *value)
{
    const char *name = getenv("FAKE_NVML");
    FILE *file = name ? fopen(name, "r") : NULL;
    char line[LENGTH];
    bool found = false;

    while (file && !found && fgets(line, sizeof line, file)) {
        char *separator = strstr(line, " = ");

        if (!separator)
            continue;
        *separator = '\0';
        if (strcmp(line, path))
            continue;
        found = true;
        separator += 3;
        separator[strcspn(separator, "\n")] = '\0';
        strcpy(value, separator);
    }
    if (file)
        fclose(file);
    return found;
}

static bool text(char *value, const char *format, ...)
{
    char path[LENGTH];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(path, sizeof path, format, arguments);
    va_end(arguments);
    return find(path, value);
}

static Return failure(const char *prefix, const char *function)
{
    char value[LENGTH];
    Return error = text(value, "%serrors.%s", prefix, function) ? atoi(value) : SUCCESS;

    while (error == HANG)
        pause();
    return error;
}

static Return give_text(const char *prefix, const char *function, const char *key, char *out, unsigned length)
{
    char value[LENGTH];
    Return error = initialized ? failure(prefix, function) : UNINITIALIZED;

    if (error)
        return error;
    if (!text(value, "%s%s", prefix, key))
        return NOT_SUPPORTED;
    if (strlen(value) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

static Return give(const char *prefix, const char *function, const char *key, unsigned long long *out)
{
    char value[LENGTH];
    Return error = give_text(prefix, function, key, value, sizeof value);

    if (!error)
        *out = strtoull(value, NULL, 0);
    return error;
}

static Return give_unsigned(const char *prefix, const char *function, const char *key, unsigned *out)
{
    unsigned long long value;
    Return error = give(prefix, function, key, &value);

    if (!error)
        *out = (unsigned)value;
    return error;
}

static Return open_device(Handle *out, const char *format, ...)
{
    char prefix[64], value[LENGTH];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(prefix, sizeof prefix, format, arguments);
    va_end(arguments);
    if (!text(value, "%suuid", prefix))
        return NOT_FOUND;
    for (*out = devices; *out < devices + device_count; ++*out)
        if (!strcmp((*out)->prefix, prefix))
            return SUCCESS;
    if (device_count == MAX_DEVICES)
        return INVALID_ARGUMENT;
    strcpy(devices[device_count++].prefix, prefix);
    return SUCCESS;
}

// The library itself.

Return nvmlInitWithFlags(unsigned flags)
{
    char value[LENGTH];
    Return error = failure("", "nvmlInit");

    (void)flags;
    if (error)
        return error;
    if (!text(value, "driver_version"))
        return DRIVER_NOT_LOADED;
    initialized = true;
    return SUCCESS;
}

Return nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

Return nvmlShutdown(void)
{
    initialized = false;
    return SUCCESS;
}

const char *nvmlErrorString(Return error)
{
    return error == 18 ? "Driver/library version mismatch" : "Some error";
}

Return nvmlSystemGetDriverVersion(char *out, unsigned length)
{
    return give_text("", __func__, "driver_version", out, length);
}

Return nvmlSystemGetNVMLVersion(char *out, unsigned length)
{
    return give_text("", __func__, "nvml_version", out, length);
}

Return nvmlSystemGetCudaDriverVersion_v2(int *out)
{
    return give_unsigned("", __func__, "cuda_driver_version", (unsigned *)out);
}

Return nvmlSystemGetProcessName(unsigned pid, char *out, unsigned length)
{
    char key[64];

    snprintf(key, sizeof key, "process_names.%u", pid);
    return give_text("", __func__, key, out, length);
}

Return nvmlDeviceGetCount_v2(unsigned *out)
{
    return give_unsigned("", __func__, "gpus.count", out);
}

Return nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *out)
{
    char prefix[64];
    Return error;

    snprintf(prefix, sizeof prefix, "gpus.%u.", index);
    error = initialized ? failure(prefix, __func__) : UNINITIALIZED;
    return error ? error : open_device(out, "%s", prefix);
}

Return nvmlDeviceGetHandleByUUID(const char *uuid, Handle *out)
{
    char prefix[64], value[LENGTH];
    unsigned index, count = 0;
    Return error = give_unsigned("", __func__, "gpus.count", &count);

    for (index = 0; !error && index < count; index++) {
        snprintf(prefix, sizeof prefix, "gpus.%u.", index);
        if (text(value, "%suuid", prefix) && !strcmp(value, uuid))
            return open_device(out, "%s", prefix);
    }
    return error ? error : NOT_FOUND;
}

// One GPU.

Return nvmlDeviceGetName(Handle gpu, char *out, unsigned length)
{
    return give_text(gpu->prefix, __func__, "name", out, length);
}

Return nvmlDeviceGetUUID(Handle gpu, char *out, unsigned length)
{
    return give_text(gpu->prefix, __func__, "uuid", out, length);
}

Return nvmlDeviceGetPciInfo_v3(Handle gpu, PciInfo *out)
{
    memset(out, 0, sizeof *out);
    return give_text(gpu->prefix, __func__, "pci_address", out->bus_id, sizeof out->bus_id);
}

Return nvmlDeviceGetCudaComputeCapability(Handle gpu, int *major, int *minor)
{
    char value[LENGTH];
    Return error = give_text(gpu->prefix, __func__, "compute_capability", value, sizeof value);

    if (!error)
        sscanf(value, "%d.%d", major, minor);
    return error;
}

Return nvmlDeviceGetMemoryInfo(Handle gpu, Memory *out)
{
    Return error = give(gpu->prefix, __func__, "memory.total", &out->total);

    if (!error)
        error = give(gpu->prefix, __func__, "memory.free", &out->free);
    out->used = out->total - out->free;
    return error;
}

Return nvmlDeviceGetTemperature(Handle gpu, unsigned sensor, unsigned *out)
{
    return sensor ? INVALID_ARGUMENT : give_unsigned(gpu->prefix, __func__, "temperature", out);
}

Return nvmlDeviceGetPowerUsage(Handle gpu, unsigned *out)
{
    return give_unsigned(gpu->prefix, __func__, "power_usage", out);
}

Return nvmlDeviceGetEnforcedPowerLimit(Handle gpu, unsigned *out)
{
    return give_unsigned(gpu->prefix, __func__, "power_limit", out);
}

Return nvmlDeviceGetUtilizationRates(Handle gpu, Utilization *out)
{
    Return error = give_unsigned(gpu->prefix, __func__, "utilization.gpu", &out->gpu);

    return error ? error : give_unsigned(gpu->prefix, __func__, "utilization.memory", &out->memory);
}

Return nvmlDeviceGetEccMode(Handle gpu, unsigned *current, unsigned *pending)
{
    Return error = give_unsigned(gpu->prefix, __func__, "ecc.current", current);

    return error ? error : give_unsigned(gpu->prefix, __func__, "ecc.pending", pending);
}

Return nvmlDeviceGetTotalEccErrors(Handle gpu, unsigned type, unsigned counter, unsigned long long *out)
{
    char key[64];

    snprintf(key, sizeof key, "ecc.%s.%s", counter ? "aggregate" : "volatile", type ? "uncorrected" : "corrected");
    return give(gpu->prefix, __func__, key, out);
}

Return nvmlDeviceGetMigMode(Handle gpu, unsigned *current, unsigned *pending)
{
    Return error = give_unsigned(gpu->prefix, __func__, "mig_mode.current", current);

    return error ? error : give_unsigned(gpu->prefix, __func__, "mig_mode.pending", pending);
}

Return nvmlDeviceGetMaxMigDeviceCount(Handle gpu, unsigned *out)
{
    return give_unsigned(gpu->prefix, __func__, "mig_mode.most", out);
}

Return nvmlDeviceGetMigDeviceHandleByIndex(Handle gpu, unsigned index, Handle *out)
{
    return open_device(out, "%smig.%u.", gpu->prefix, index);
}

Return nvmlDeviceGetCurrentClocksThrottleReasons(Handle gpu, unsigned long long *out)
{
    return give(gpu->prefix, __func__, "throttle_reasons", out);
}

Return nvmlDeviceGetRemappedRows(
    Handle gpu, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed)
{
    Return error = give_unsigned(gpu->prefix, __func__, "remapped_rows.corrected", corrected);

    if (!error)
        error = give_unsigned(gpu->prefix, __func__, "remapped_rows.uncorrected", uncorrected);
    if (!error)
        error = give_unsigned(gpu->prefix, __func__, "remapped_rows.pending", pending);
    return error ? error : give_unsigned(gpu->prefix, __func__, "remapped_rows.failed", failed);
}

Return nvmlDeviceGetRetiredPages(Handle gpu, unsigned cause, unsigned *count, unsigned long long *addresses)
{
    unsigned pages, room = addresses ? *count : 0;
    Return error = give_unsigned(
        gpu->prefix, __func__, cause ? "retired_pages.double_bit" : "retired_pages.single_bit", &pages);

    if (error)
        return error;
    *count = pages;
    if (room < pages)
        return INSUFFICIENT_SIZE;
    for (unsigned page = 0; page < pages; ++page)
        addresses[page] = 0x1000ull * (page + 1);
    return SUCCESS;
}

Return nvmlDeviceGetRetiredPagesPendingStatus(Handle gpu, unsigned *out)
{
    return give_unsigned(gpu->prefix, __func__, "retired_pages.pending", out);
}

Return nvmlDeviceGetNvLinkState(Handle gpu, unsigned link, unsigned *out)
{
    char key[64];

    snprintf(key, sizeof key, "nvlinks.%u", link);
    return give_unsigned(gpu->prefix, __func__, key, out);
}

static Return give_processes(Handle gpu, const char *function, const char *kind, unsigned *count, Process *processes)
{
    char key[64], value[LENGTH];
    unsigned running, room = processes ? *count : 0;
    Return error;

    snprintf(key, sizeof key, "processes.%s.count", kind);
    error = give_unsigned(gpu->prefix, function, key, &running);
    if (error)
        return error;
    *count = running;
    if (room < running)
        return INSUFFICIENT_SIZE;
    for (unsigned index = 0; index < running; ++index) {
        memset(&processes[index], 0, sizeof *processes);
        if (text(value, "%sprocesses.%s.%u.pid", gpu->prefix, kind, index))
            processes[index].pid = (unsigned)strtoul(value, NULL, 0);
        // NVML cannot tell what a process uses inside of some containers.
        processes[index].memory = text(value, "%sprocesses.%s.%u.memory", gpu->prefix, kind, index)
            ? strtoull(value, NULL, 0)
            : UINT64_MAX;
    }
    return SUCCESS;
}

Return nvmlDeviceGetComputeRunningProcesses_v3(Handle gpu, unsigned *count, Process *processes)
{
    return give_processes(gpu, __func__, "compute", count, processes);
}

Return nvmlDeviceGetGraphicsRunningProcesses_v3(Handle gpu, unsigned *count, Process *processes)
{
    return give_processes(gpu, __func__, "graphics", count, processes);
}

Return nvmlDeviceGetMPSComputeRunningProcesses_v3(Handle gpu, unsigned *count, Process *processes)
{
    return give_processes(gpu, __func__, "mps", count, processes);
}

#ifndef OLD_DRIVER

Return nvmlDeviceGetMemoryInfo_v2(Handle gpu, MemoryV2 *out)
{
    Return error = give(gpu->prefix, __func__, "memory.total", &out->total);

    if (out->version != (sizeof *out | 2u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    if (!error)
        error = give(gpu->prefix, __func__, "memory.free", &out->free);
    out->used = out->total - out->free;
    return error;
}

Return nvmlDeviceGetTemperatureV(Handle gpu, Temperature *out)
{
    if (out->version != (sizeof *out | 1u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    return give_unsigned(gpu->prefix, __func__, "temperature", (unsigned *)&out->temperature);
}

Return nvmlDeviceGetCurrentClocksEventReasons(Handle gpu, unsigned long long *out)
{
    return give(gpu->prefix, __func__, "throttle_reasons", out);
}

Return nvmlDeviceGetGpuFabricInfoV(Handle gpu, FabricInfo *out)
{
    Return error;

    if (out->version != (sizeof *out | 2u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    error = give_unsigned(gpu->prefix, __func__, "fabric.state", &out->state);
    if (!error)
        error = give_unsigned(gpu->prefix, __func__, "fabric.clique_id", &out->clique_id);
    if (!error)
        error = give_unsigned(gpu->prefix, __func__, "fabric.health_mask", &out->health_mask);
    return error ? error : give_unsigned(gpu->prefix, __func__, "fabric.status", (unsigned *)&out->status);
}

#endif
