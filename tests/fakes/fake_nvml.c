/* A libnvidia-ml.so.1 for tests: it answers what a file says, and misbehaves where the file says.
 *
 * $FAKE_NVML names the file; tests/fakes/nvml.py writes it, and its docstring explains it. A line
 * is split at tabs:
 *
 *   answer <gpu> <query> <value> [<value of the second call> ...]    the last one stays
 *   fault  <gpu> <function> <calls that pass first> <kind> [<argument>]
 *
 * <gpu> is an index, or -1 for the system. <query> is the function's name without _v2 or _v3, and
 * its arguments, joined by dots: "nvmlDeviceGetTemperatureThreshold.1". A value "!15" is the error
 * code 15. What no line answers is NOT_SUPPORTED. <function> is a name without arguments or "*".
 *
 * Which value of several is next is remembered beside the file, so that a second process goes on
 * where the first one ended; the calls that a fault lets pass are counted in each process anew.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned int uint;
typedef unsigned long long ull;

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, UNKNOWN = 999 };
enum { SYSTEM = -1, MOST_GPUS = 64, MIG_BASE = 1000, SLOTS = 1 << 16 };

struct answer { int gpu; char *query; char *values[8]; int count; uint *calls; };
struct fault { int gpu; char *function; long after; char *kind; char *argument; long seen; };

static struct answer *answers;
static struct fault *faults;
static long answer_count, fault_count;
static int slots[SLOTS];  /* 1 + index in answers; open addressing */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint hash(int gpu, const char *query)
{
    uint h = 2166136261u ^ (uint)gpu;
    for (; *query; query++) h = (h ^ (unsigned char)*query) * 16777619u;
    return (h ^ (h >> 15)) & (SLOTS - 1);
}

static void load(void)
{
    const char *path = getenv("FAKE_NVML");
    struct stat status;
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0 || fstat(file, &status) < 0) return;
    char *text = malloc(status.st_size + 1);
    ssize_t got = read(file, text, status.st_size);
    close(file);
    text[got < 0 ? 0 : got] = 0;
    long lines = 1;
    for (char *c = text; *c; c++) lines += *c == '\n';
    answers = calloc(lines, sizeof *answers);
    faults = calloc(lines, sizeof *faults);
    char memory[4096];
    snprintf(memory, sizeof memory, "%s.calls", path);
    uint *calls = MAP_FAILED;
    int shared = open(memory, O_RDWR | O_CREAT, 0600);
    if (shared >= 0 && ftruncate(shared, lines * sizeof *calls) == 0)
        calls = mmap(NULL, lines * sizeof *calls, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
    if (calls == MAP_FAILED) calls = calloc(lines, sizeof *calls);
    if (shared >= 0) close(shared);
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n"))) {
        char *word = strsep(&line, "\t");
        if (word && !strcmp(word, "answer") && line) {
            struct answer *a = &answers[answer_count];
            a->gpu = atoi(strsep(&line, "\t"));
            a->query = strsep(&line, "\t");
            a->calls = &calls[answer_count];
            while (line && a->count < 8) a->values[a->count++] = strsep(&line, "\t");
            uint slot = hash(a->gpu, a->query);
            while (slots[slot]) slot = (slot + 1) & (SLOTS - 1);
            slots[slot] = ++answer_count;
        } else if (word && !strcmp(word, "fault") && line) {
            struct fault *f = &faults[fault_count++];
            f->gpu = atoi(strsep(&line, "\t"));
            f->function = strsep(&line, "\t");
            f->after = atol(strsep(&line, "\t"));
            f->kind = strsep(&line, "\t");
            f->argument = line ? line : "";
        }
    }
}

__attribute__((constructor)) static void start(void) { load(); }

/* Do what the file says goes wrong here. Returns a code other than SUCCESS to answer with. */
static int misbehave(int gpu, const char *function)
{
    for (long i = 0; i < fault_count; i++) {
        struct fault *f = &faults[i];
        if (f->gpu != gpu || (strcmp(f->function, "*") && strcmp(f->function, function))) continue;
        if (__sync_fetch_and_add(&f->seen, 1) < f->after) continue;
        if (!strcmp(f->kind, "hang")) {
            for (;;) pause();
        } else if (!strcmp(f->kind, "hang_all")) {  /* holding the lock that every call takes */
            pthread_mutex_lock(&lock);
            for (;;) pause();
        } else if (!strcmp(f->kind, "hang_deaf")) {  /* no signal but KILL ends it */
            sigset_t all;
            sigfillset(&all);
            sigprocmask(SIG_BLOCK, &all, NULL);
            for (;;) pause();
        } else if (!strcmp(f->kind, "touch")) {  /* look at a path, which may never answer */
            close(open(f->argument, O_RDONLY));
        } else if (!strcmp(f->kind, "crash")) {
            signal(SIGSEGV, SIG_DFL);
            *(volatile int *)0 = 0;
        } else if (!strcmp(f->kind, "abort")) {
            abort();
        } else if (!strcmp(f->kind, "exit")) {
            _exit(atoi(f->argument));
        } else if (!strcmp(f->kind, "error")) {
            return atoi(f->argument);
        } else if (!strcmp(f->kind, "sleep")) {
            double ms = atof(f->argument);
            struct timespec t = { (time_t)(ms / 1e3), (long)((ms - 1e3 * (long)(ms / 1e3)) * 1e6) };
            nanosleep(&t, NULL);
        } else if (!strncmp(f->kind, "print", 5)) {  /* "print": to stdout; "print3": to that fd */
            int fd = f->kind[5] ? atoi(f->kind + 5) : 1;
            static const char junk[] = "nvml: \xff\x1b[31m{[\"garbage\",0,\n";
            for (long left = atol(f->argument); left > 0;) {
                ssize_t n = write(fd, junk, left < (long)sizeof junk - 1 ? left : (long)sizeof junk - 1);
                if (n <= 0) break;
                left -= n;
            }
        }
    }
    return SUCCESS;
}

/* Find the answer to a query; NULL with *code set where it is an error. */
static const char *find(int gpu, const char *query, int *code)
{
    for (uint slot = hash(gpu, query); slots[slot]; slot = (slot + 1) & (SLOTS - 1)) {
        struct answer *a = &answers[slots[slot] - 1];
        if (a->gpu != gpu || strcmp(a->query, query) || !a->count) continue;
        uint turn = a->count > 1 ? __sync_fetch_and_add(a->calls, 1) : 0;
        const char *value = a->values[turn < (uint)a->count ? turn : (uint)a->count - 1];
        *code = value[0] == '!' ? atoi(value + 1) : SUCCESS;
        return *code ? NULL : value;
    }
    *code = NOT_SUPPORTED;
    return NULL;
}

static const char *ask(int gpu, const char *function, int *code, const char *arguments, ...)
{
    char query[160];
    int length = snprintf(query, sizeof query, "%s", function);
    va_list list;
    va_start(list, arguments);
    if (arguments) vsnprintf(query + length, sizeof query - length, arguments, list);
    va_end(list);
    pthread_mutex_lock(&lock);
    pthread_mutex_unlock(&lock);
    *code = misbehave(gpu, function);
    return *code ? NULL : find(gpu, query, code);
}

static int gpu_of(const void *device) { return (int)(long)device - 1; }

static int text(int gpu, const char *function, char *to, uint size)
{
    int code;
    const char *value = ask(gpu, function, &code, NULL);
    if (value) snprintf(to, size, "%s", value);
    return code;
}

static int parse(const char *value, ull *to, int count)
{
    for (int i = 0; i < count; i++) {
        char *end;
        to[i] = value[0] == '-' ? (ull)strtoll(value, &end, 0) : strtoull(value, &end, 0);
        if (end == value) to[i] = 0;
        value = end;
        while (*value == ' ') value++;
    }
    return SUCCESS;
}

#define QUERY(function, count, ...)                                                     \
    ull v[count];                                                                       \
    int code;                                                                           \
    const char *value = ask(gpu_of(device), function, &code, __VA_ARGS__);              \
    if (!value) return code;                                                            \
    parse(value, v, count)

/* int f(device, unsigned *) */
#define UINT(symbol, function) \
    int symbol(void *device, uint *to) { QUERY(function, 1, NULL); *to = v[0]; return 0; }
/* int f(device, unsigned *, unsigned *) */
#define TWO(symbol, function)                                                           \
    int symbol(void *device, uint *a, uint *b)                                          \
    { QUERY(function, 2, NULL); *a = v[0]; *b = v[1]; return 0; }
/* int f(device, char *, unsigned) */
#define TEXT(symbol) \
    int symbol(void *device, char *to, uint size) { return text(gpu_of(device), #symbol, to, size); }
/* int f(device, unsigned what, unsigned *) */
#define INDEXED(symbol)                                                                 \
    int symbol(void *device, uint what, uint *to)                                       \
    { QUERY(#symbol, 1, ".%u", what); *to = v[0]; return 0; }
/* int f(device, struct { unsigned version, n values }) */
#define VERSIONED(symbol, count)                                                        \
    int symbol(void *device, uint *to)                                                  \
    { QUERY(#symbol, count, NULL); for (int i = 0; i < count; i++) to[1 + i] = v[i]; return 0; }
#define PLAIN(symbol) UINT(symbol, #symbol)

/* ------------------------------------------------------------------------------- the system */

static int initialise(const char *function)
{
    int code;
    ask(SYSTEM, function, &code, NULL);
    return code == NOT_SUPPORTED ? SUCCESS : code;
}

int nvmlInit_v2(void) { return initialise("nvmlInit"); }
int nvmlInitWithFlags(uint flags) { (void)flags; return initialise("nvmlInit"); }
int nvmlShutdown(void) { return initialise("nvmlShutdown"); }

const char *nvmlErrorString(int code)
{
    static char text[64];
    if (code == 27) return "System is not in ready state";
    snprintf(text, sizeof text, "Fake error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *to, uint size)
{ return text(SYSTEM, "nvmlSystemGetDriverVersion", to, size); }
int nvmlSystemGetNVMLVersion(char *to, uint size)
{ return text(SYSTEM, "nvmlSystemGetNVMLVersion", to, size); }

static int system_number(const char *function, int *to)
{
    int code;
    const char *value = ask(SYSTEM, function, &code, NULL);
    if (value) *to = atoi(value);
    return code;
}

int nvmlSystemGetCudaDriverVersion(int *to)
{ return system_number("nvmlSystemGetCudaDriverVersion", to); }
int nvmlSystemGetCudaDriverVersion_v2(int *to)
{ return system_number("nvmlSystemGetCudaDriverVersion", to); }
int nvmlDeviceGetCount_v2(int *to) { return system_number("nvmlDeviceGetCount", to); }

/* "environment feature developer": numbers */
int nvmlSystemGetConfComputeState(uint *to)
{
    int code;
    const char *value = ask(SYSTEM, "nvmlSystemGetConfComputeState", &code, NULL);
    if (value) sscanf(value, "%u %u %u", &to[0], &to[1], &to[2]);
    return code;
}
int nvmlSystemGetConfComputeGpusReadyState(uint *to)
{ return system_number("nvmlSystemGetConfComputeGpusReadyState", (int *)to); }

int nvmlDeviceGetHandleByIndex_v2(uint index, void **device)
{
    int code, count = 0;
    if (find(SYSTEM, "nvmlDeviceGetCount", &code)) count = atoi(find(SYSTEM, "nvmlDeviceGetCount", &code));
    if ((int)index >= count) return INVALID_ARGUMENT;
    ask(index, "nvmlDeviceGetHandleByIndex", &code, NULL);
    if (code != SUCCESS && code != NOT_SUPPORTED) return code;
    *device = (void *)(long)(index + 1);
    return SUCCESS;
}

/* --------------------------------------------------------------------------------- identity */

TEXT(nvmlDeviceGetName)
TEXT(nvmlDeviceGetSerial)
TEXT(nvmlDeviceGetVbiosVersion)
TEXT(nvmlDeviceGetInforomImageVersion)
TEXT(nvmlDeviceGetBoardPartNumber)
int nvmlDeviceGetGspFirmwareVersion(void *device, char *to)
{ return text(gpu_of(device), "nvmlDeviceGetGspFirmwareVersion", to, 64); }

int nvmlDeviceGetUUID(void *device, char *to, uint size)
{
    int gpu = gpu_of(device), code;
    if (gpu < MIG_BASE) return text(gpu, "nvmlDeviceGetUUID", to, size);
    const char *value = ask(gpu / MIG_BASE - 1, "nvmlDeviceGetMigDeviceHandleByIndex", &code, ".%d", gpu % MIG_BASE);
    if (value) snprintf(to, size, "%s", value);
    return code;
}

struct pci { char old[16]; uint domain, bus, device, id, subsystem; char bus_id[32]; };

static void fill_pci(struct pci *to, const char *bus_id, ull id, ull subsystem)
{
    memset(to, 0, sizeof *to);
    uint function = 0;
    sscanf(bus_id, "%x:%x:%x.%x", &to->domain, &to->bus, &to->device, &function);
    snprintf(to->old, sizeof to->old, "%04X:%02X:%02X.%X", to->domain & 0xffff, to->bus & 0xff, to->device & 0xff, function & 7);
    snprintf(to->bus_id, sizeof to->bus_id, "%08X:%02X:%02X.%X", to->domain, to->bus, to->device, function);
    to->id = id;
    to->subsystem = subsystem;
}

/* "0000:00:06.0 0x233510de 0x18bf10de" */
static int pci_info(void *device, struct pci *to)
{
    int code;
    const char *value = ask(gpu_of(device), "nvmlDeviceGetPciInfo", &code, NULL);
    if (!value) return code;
    char bus_id[32] = "";
    ull id = 0, subsystem = 0;
    sscanf(value, "%31s %llx %llx", bus_id, &id, &subsystem);
    fill_pci(to, bus_id, id, subsystem);
    return SUCCESS;
}
int nvmlDeviceGetPciInfo_v2(void *device, struct pci *to) { return pci_info(device, to); }
int nvmlDeviceGetPciInfo_v3(void *device, struct pci *to) { return pci_info(device, to); }

PLAIN(nvmlDeviceGetMinorNumber)
PLAIN(nvmlDeviceGetIndex)
PLAIN(nvmlDeviceGetBrand)
PLAIN(nvmlDeviceGetArchitecture)
PLAIN(nvmlDeviceGetBoardId)
PLAIN(nvmlDeviceGetBusType)
PLAIN(nvmlDeviceGetIrqNum)
PLAIN(nvmlDeviceGetModuleId)
PLAIN(nvmlDeviceGetMultiGpuBoard)
PLAIN(nvmlDeviceGetNumGpuCores)
PLAIN(nvmlDeviceGetNumFans)
PLAIN(nvmlDeviceGetMemoryBusWidth)
PLAIN(nvmlDeviceGetVirtualizationMode)
PLAIN(nvmlDeviceGetInforomConfigurationChecksum)
TWO(nvmlDeviceGetCudaComputeCapability, "nvmlDeviceGetCudaComputeCapability")
TWO(nvmlDeviceGetGspFirmwareMode, "nvmlDeviceGetGspFirmwareMode")

int nvmlDeviceValidateInforom(void *device)
{
    int code;
    ask(gpu_of(device), "nvmlDeviceValidateInforom", &code, NULL);
    return code;
}

/* ----------------------------------------------------------------------- memory, processes */

/* "total reserved free used" */
int nvmlDeviceGetMemoryInfo(void *device, ull *to)
{
    QUERY("nvmlDeviceGetMemoryInfo", 4, NULL);
    to[0] = v[0]; to[1] = v[2]; to[2] = v[1] + v[3];
    return 0;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, ull *to)
{
    QUERY("nvmlDeviceGetMemoryInfo", 4, NULL);
    for (int i = 0; i < 4; i++) to[1 + i] = v[i];
    return 0;
}
/* "total free used" */
int nvmlDeviceGetBAR1MemoryInfo(void *device, ull *to)
{
    QUERY("nvmlDeviceGetBAR1MemoryInfo", 3, NULL);
    for (int i = 0; i < 3; i++) to[i] = v[i];
    return 0;
}

struct process1 { uint pid; ull used; };
struct process2 { uint pid; ull used; uint instance, compute; };

/* "pid:bytes pid:bytes"; bytes -1: not available */
static int processes(void *device, const char *function, uint *count, void *to, int old)
{
    int code;
    const char *value = ask(gpu_of(device), function, &code, NULL);
    if (!value) return code;
    uint room = *count, n = 0;
    for (const char *c = value; *c;) {
        char *end;
        uint pid = strtoul(c, &end, 10);
        ull used = *end == ':' ? (ull)strtoll(end + 1, &end, 10) : ~0ull;
        if (end == c) break;
        if (to && n < room && old) ((struct process1 *)to)[n] = (struct process1){ pid, used };
        if (to && n < room && !old) ((struct process2 *)to)[n] = (struct process2){ pid, used, ~0u, ~0u };
        n++;
        c = end;
        while (*c == ' ') c++;
    }
    *count = n;
    return n > room || (n && !to) ? INSUFFICIENT_SIZE : SUCCESS;
}
#define PROCESSES(name)                                                                            \
    int name(void *d, uint *n, void *to) { return processes(d, #name, n, to, 1); }                  \
    int name##_v2(void *d, uint *n, void *to) { return processes(d, #name, n, to, 0); }             \
    int name##_v3(void *d, uint *n, void *to) { return processes(d, #name, n, to, 0); }
PROCESSES(nvmlDeviceGetComputeRunningProcesses)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses)

/* --------------------------------------------------------------------- heat, power, clocks */

INDEXED(nvmlDeviceGetTemperature)
INDEXED(nvmlDeviceGetTemperatureThreshold)
INDEXED(nvmlDeviceGetClockInfo)
INDEXED(nvmlDeviceGetMaxClockInfo)
INDEXED(nvmlDeviceGetApplicationsClock)
INDEXED(nvmlDeviceGetDefaultApplicationsClock)
VERSIONED(nvmlDeviceGetMarginTemperature, 1)
int nvmlDeviceGetTemperatureV(void *device, int *to)
{ QUERY("nvmlDeviceGetTemperature", 1, ".%d", to[1]); to[2] = v[0]; return 0; }
PLAIN(nvmlDeviceGetPowerUsage)
PLAIN(nvmlDeviceGetPowerState)
PLAIN(nvmlDeviceGetPowerManagementMode)
PLAIN(nvmlDeviceGetPowerManagementLimit)
PLAIN(nvmlDeviceGetPowerManagementDefaultLimit)
PLAIN(nvmlDeviceGetEnforcedPowerLimit)
PLAIN(nvmlDeviceGetPowerSource)
PLAIN(nvmlDeviceGetPerformanceState)
PLAIN(nvmlDeviceGetFanSpeed)
PLAIN(nvmlDeviceGetAdaptiveClockInfoStatus)
TWO(nvmlDeviceGetPowerManagementLimitConstraints, "nvmlDeviceGetPowerManagementLimitConstraints")
int nvmlDeviceGetUtilizationRates(void *device, uint *to)
{ QUERY("nvmlDeviceGetUtilizationRates", 2, NULL); to[0] = v[0]; to[1] = v[1]; return 0; }

#define ULL(symbol, function) \
    int symbol(void *device, ull *to) { QUERY(function, 1, NULL); *to = v[0]; return 0; }
ULL(nvmlDeviceGetCurrentClocksEventReasons, "nvmlDeviceGetCurrentClocksEventReasons")
ULL(nvmlDeviceGetCurrentClocksThrottleReasons, "nvmlDeviceGetCurrentClocksEventReasons")
ULL(nvmlDeviceGetSupportedClocksEventReasons, "nvmlDeviceGetSupportedClocksEventReasons")
ULL(nvmlDeviceGetSupportedClocksThrottleReasons, "nvmlDeviceGetSupportedClocksEventReasons")
ULL(nvmlDeviceGetTotalEnergyConsumption, "nvmlDeviceGetTotalEnergyConsumption")

/* nvmlDeviceGetFieldValues: "nvmlDeviceGetFieldValues.<field>.<scope>": "type value"; types are
 * nvmlValueType_t's: 0 double, 1 unsigned, 2 unsigned long, 3 unsigned long long, 4 long long, 5 int */
struct field { uint id, scope; long long time, latency; uint type; int code; ull value; };

int nvmlDeviceGetFieldValues(void *device, int count, struct field *fields)
{
    int code;
    ask(gpu_of(device), "nvmlDeviceGetFieldValues", &code, NULL);
    if (code != SUCCESS && code != NOT_SUPPORTED) return code;
    for (int i = 0; i < count; i++) {
        char query[80];
        snprintf(query, sizeof query, "nvmlDeviceGetFieldValues.%u.%u", fields[i].id, fields[i].scope);
        const char *value = find(gpu_of(device), query, &fields[i].code);
        fields[i].value = 0;
        if (!value) continue;
        ull v[2];
        parse(value, v, 2);
        fields[i].type = v[0];
        if (v[0] == 0) { double d = atof(strchr(value, ' ') ? strchr(value, ' ') : "0"); memcpy(&fields[i].value, &d, 8); }
        else fields[i].value = v[1];
    }
    return SUCCESS;
}

/* --------------------------------------------------------------------------- memory errors */

TWO(nvmlDeviceGetEccMode, "nvmlDeviceGetEccMode")
PLAIN(nvmlDeviceGetDefaultEccMode)
int nvmlDeviceGetTotalEccErrors(void *device, uint kind, uint since, ull *to)
{ QUERY("nvmlDeviceGetTotalEccErrors", 1, ".%u.%u", kind, since); *to = v[0]; return 0; }
/* twelve counters as in nvmlEccSramErrorStatus_v1_t, the last is bThresholdExceeded */
int nvmlDeviceGetSramEccErrorStatus(void *device, ull *to)
{
    QUERY("nvmlDeviceGetSramEccErrorStatus", 12, NULL);
    for (int i = 0; i < 11; i++) to[1 + i] = v[i];
    *(uint *)&to[12] = v[11];
    return 0;
}
int nvmlDeviceGetRemappedRows(void *device, uint *a, uint *b, uint *c, uint *d)
{
    QUERY("nvmlDeviceGetRemappedRows", 4, NULL);
    *a = v[0]; *b = v[1]; *c = v[2]; *d = v[3];
    return 0;
}
int nvmlDeviceGetRowRemapperHistogram(void *device, uint *to)
{
    QUERY("nvmlDeviceGetRowRemapperHistogram", 5, NULL);
    for (int i = 0; i < 5; i++) to[i] = v[i];
    return 0;
}
/* the value is how many pages */
static int retired(void *device, uint cause, uint *count, ull *pages, ull *times)
{
    QUERY("nvmlDeviceGetRetiredPages", 1, ".%u", cause);
    uint room = *count, n = v[0];
    *count = n;
    if (n > room || (n && !pages)) return INSUFFICIENT_SIZE;
    for (uint i = 0; pages && i < n; i++) { pages[i] = 0x1000 * (i + 1); if (times) times[i] = 1700000000ull + i; }
    return SUCCESS;
}
int nvmlDeviceGetRetiredPages(void *d, uint cause, uint *n, ull *pages) { return retired(d, cause, n, pages, NULL); }
int nvmlDeviceGetRetiredPages_v2(void *d, uint cause, uint *n, ull *pages, ull *times) { return retired(d, cause, n, pages, times); }
PLAIN(nvmlDeviceGetRetiredPagesPendingStatus)
VERSIONED(nvmlDeviceGetUnrepairableMemoryFlag_v1, 1)
VERSIONED(nvmlDeviceGetRepairStatus, 2)

/* ----------------------------------------------------------------------------------- links */

PLAIN(nvmlDeviceGetCurrPcieLinkGeneration)
PLAIN(nvmlDeviceGetCurrPcieLinkWidth)
PLAIN(nvmlDeviceGetMaxPcieLinkGeneration)
PLAIN(nvmlDeviceGetMaxPcieLinkWidth)
PLAIN(nvmlDeviceGetGpuMaxPcieLinkGeneration)
PLAIN(nvmlDeviceGetPcieReplayCounter)
PLAIN(nvmlDeviceGetPcieSpeed)
PLAIN(nvmlDeviceGetPcieLinkMaxSpeed)
INDEXED(nvmlDeviceGetNvLinkState)
INDEXED(nvmlDeviceGetNvLinkVersion)
INDEXED(nvmlDeviceGetNvLinkRemoteDeviceType)
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *device, uint link, struct pci *to)
{
    int code;
    const char *value = ask(gpu_of(device), "nvmlDeviceGetNvLinkRemotePciInfo", &code, ".%u", link);
    if (value) fill_pci(to, value, 0, 0);
    return code;
}
int nvmlDeviceGetNvLinkErrorCounter(void *device, uint link, uint counter, ull *to)
{ QUERY("nvmlDeviceGetNvLinkErrorCounter", 1, ".%u.%u", link, counter); *to = v[0]; return 0; }

/* "state status health_mask health_summary" */
struct fabric { unsigned char uuid[16]; int status; uint clique; unsigned char state; };
struct fabric_v { uint version; unsigned char uuid[16]; int status; uint clique; unsigned char state; uint health; unsigned char summary; };

int nvmlDeviceGetGpuFabricInfo(void *device, struct fabric *to)
{
    QUERY("nvmlDeviceGetGpuFabricInfo", 4, NULL);
    to->state = v[0]; to->status = v[1];
    return 0;
}
int nvmlDeviceGetGpuFabricInfoV(void *device, struct fabric_v *to)
{
    QUERY("nvmlDeviceGetGpuFabricInfo", 4, NULL);
    uint version = to->version >> 24;
    int most = 3, dummy;
    const char *limit = find(SYSTEM, "fabric_version", &dummy);
    if (limit) most = atoi(limit);
    if ((int)version > most) return 25;  /* ARGUMENT_VERSION_MISMATCH */
    to->state = v[0]; to->status = v[1]; to->health = v[2];
    if (version >= 3) to->summary = v[3];
    return 0;
}

/* "nvmlDeviceGetP2PStatus.<other gpu>.<index>" and "nvmlDeviceGetTopologyCommonAncestor.<other>" */
int nvmlDeviceGetP2PStatus(void *device, void *other, uint index, uint *to)
{ QUERY("nvmlDeviceGetP2PStatus", 1, ".%d.%u", gpu_of(other), index); *to = v[0]; return 0; }
int nvmlDeviceGetTopologyCommonAncestor(void *device, void *other, uint *to)
{ QUERY("nvmlDeviceGetTopologyCommonAncestor", 1, ".%d", gpu_of(other)); *to = v[0]; return 0; }

/* -------------------------------------------------------------------------------- settings */

PLAIN(nvmlDeviceGetPersistenceMode)
PLAIN(nvmlDeviceGetDisplayActive)
PLAIN(nvmlDeviceGetDisplayMode)
PLAIN(nvmlDeviceGetComputeMode)
PLAIN(nvmlDeviceGetAccountingMode)
PLAIN(nvmlDeviceGetAccountingBufferSize)
PLAIN(nvmlDeviceGetMaxMigDeviceCount)
PLAIN(nvmlDeviceGetNumaNodeId)
UINT(nvmlDeviceGetC2cModeInfoV, "nvmlDeviceGetC2cModeInfoV")
TWO(nvmlDeviceGetMigMode, "nvmlDeviceGetMigMode")
/* the value is the MIG device's UUID; an index with no answer is NOT_FOUND */
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, uint index, void **to)
{
    int code, gpu = gpu_of(device);
    const char *value = ask(gpu, "nvmlDeviceGetMigDeviceHandleByIndex", &code, ".%u", index);
    if (!value) return code == NOT_SUPPORTED ? 6 : code;
    *to = (void *)(long)((gpu + 1) * MIG_BASE + index + 1);
    return SUCCESS;
}
/* the bit masks as numbers, 64 bits each */
static int mask(void *device, const char *function, uint count, ull *to)
{
    int code;
    const char *value = ask(gpu_of(device), function, &code, NULL);
    if (!value) return code;
    ull v[16];
    parse(value, v, 16);
    for (uint i = 0; i < count; i++) to[i] = i < 16 ? v[i] : 0;
    return SUCCESS;
}
int nvmlDeviceGetCpuAffinity(void *device, uint count, ull *to)
{ return mask(device, "nvmlDeviceGetCpuAffinity", count, to); }
int nvmlDeviceGetMemoryAffinity(void *device, uint count, ull *to, uint scope)
{ (void)scope; return mask(device, "nvmlDeviceGetMemoryAffinity", count, to); }

/* ------------------------------- what gpucheck does not ask, but the recorded machine answered */

/* queries that answer with an error, NOT_SUPPORTED where nothing else was told */
#define REFUSED(symbol) \
    int symbol(void *device) { int code; ask(gpu_of(device), #symbol, &code, NULL); return code; }
REFUSED(nvmlDeviceGetActiveVgpus)
REFUSED(nvmlDeviceGetAttributes_v2)
REFUSED(nvmlDeviceGetAutoBoostedClocksEnabled)
REFUSED(nvmlDeviceGetBridgeChipInfo)
REFUSED(nvmlDeviceGetClkMonStatus)
REFUSED(nvmlDeviceGetComputeInstanceId)
REFUSED(nvmlDeviceGetConfComputeGpuCertificate)
REFUSED(nvmlDeviceGetCoolerInfo)
REFUSED(nvmlDeviceGetCreatableVgpus)
REFUSED(nvmlDeviceGetDramEncryptionMode)
REFUSED(nvmlDeviceGetGpuOperationMode)
REFUSED(nvmlDeviceGetDriverModel)
REFUSED(nvmlDeviceGetDriverModel_v2)
REFUSED(nvmlDeviceGetFanSpeedRPM)
REFUSED(nvmlDeviceGetGpuInstanceId)
REFUSED(nvmlDeviceGetHostVgpuMode)
REFUSED(nvmlDeviceGetHostname_v1)
REFUSED(nvmlDeviceGetLastBBXFlushTime)
REFUSED(nvmlDeviceGetMinMaxFanSpeed)
REFUSED(nvmlDeviceGetPgpuMetadataString)
REFUSED(nvmlDeviceGetSupportedVgpus)
REFUSED(nvmlDeviceGetVgpuHeterogeneousMode)
REFUSED(nvmlDeviceGetVgpuMetadata)
REFUSED(nvmlDeviceGetVgpuSchedulerCapabilities)
REFUSED(nvmlDeviceGetVgpuSchedulerLog)
REFUSED(nvmlDeviceGetVgpuSchedulerState)

PLAIN(nvmlDeviceGetGpcClkVfOffset)
PLAIN(nvmlDeviceGetMemClkVfOffset)
TWO(nvmlDeviceGetGpcClkMinMaxVfOffset, "nvmlDeviceGetGpcClkMinMaxVfOffset")
TWO(nvmlDeviceGetMemClkMinMaxVfOffset, "nvmlDeviceGetMemClkMinMaxVfOffset")
TWO(nvmlDeviceGetDecoderUtilization, "nvmlDeviceGetDecoderUtilization")
TWO(nvmlDeviceGetEncoderUtilization, "nvmlDeviceGetEncoderUtilization")
TWO(nvmlDeviceGetJpgUtilization, "nvmlDeviceGetJpgUtilization")
TWO(nvmlDeviceGetOfaUtilization, "nvmlDeviceGetOfaUtilization")
VERSIONED(nvmlDeviceGetAddressingMode, 1)
ULL(nvmlDeviceGetSupportedEventTypes, "nvmlDeviceGetSupportedEventTypes")
int nvmlDeviceGetPdi(void *device, ull *to)
{ QUERY("nvmlDeviceGetPdi", 1, NULL); to[1] = v[0]; return 0; }
int nvmlDeviceGetEncoderStats(void *device, ull *a, ull *b, ull *c)
{ QUERY("nvmlDeviceGetEncoderStats", 3, NULL); *a = v[0]; *b = v[1]; *c = v[2]; return 0; }
int nvmlDeviceGetFBCStats(void *device, uint *to)
{ QUERY("nvmlDeviceGetFBCStats", 3, NULL); for (int i = 0; i < 3; i++) to[i] = v[i]; return 0; }
int nvmlDeviceGetConfComputeMemSizeInfo(void *device, ull *to)
{ QUERY("nvmlDeviceGetConfComputeMemSizeInfo", 2, NULL); to[0] = v[0]; to[1] = v[1]; return 0; }
int nvmlDeviceGetConfComputeProtectedMemoryUsage(void *device, ull *to)
{
    QUERY("nvmlDeviceGetConfComputeProtectedMemoryUsage", 3, NULL);
    for (int i = 0; i < 3; i++) to[i] = v[i];
    return 0;
}
/* lists: the value is their numbers; "" is an empty one */
static int list(void *device, const char *function, uint *count, uint *to)
{
    int code;
    const char *value = ask(gpu_of(device), function, &code, NULL);
    if (!value) return code;
    uint n = *value != 0, room = *count;
    for (const char *c = value; *c; c++) n += *c == ' ';
    *count = n;
    if (n > room || (n && !to)) return INSUFFICIENT_SIZE;
    ull v[64];
    parse(value, v, n < 64 ? n : 64);
    for (uint i = 0; i < n && i < 64; i++) to[i] = v[i];
    return SUCCESS;
}
#define LIST(symbol) \
    int symbol(void *device, uint *count, uint *to) { return list(device, #symbol, count, to); }
LIST(nvmlDeviceGetAccountingPids)
LIST(nvmlDeviceGetEncoderSessions)
LIST(nvmlDeviceGetFBCSessions)
LIST(nvmlDeviceGetSupportedMemoryClocks)
int nvmlDeviceGetSupportedPerformanceStates(void *device, uint *to, uint size)
{
    for (uint i = 0; i < size / sizeof *to; i++) to[i] = 32;  /* NVML_PSTATE_UNKNOWN */
    uint count = size / sizeof *to;
    return list(device, "nvmlDeviceGetSupportedPerformanceStates", &count, to);
}
struct versioned_text { uint version; char text[2048]; };
int nvmlDeviceGetCurrentClockFreqs(void *device, struct versioned_text *to)
{ return text(gpu_of(device), "nvmlDeviceGetCurrentClockFreqs", to->text, sizeof to->text); }
int nvmlDeviceGetPerformanceModes(void *device, struct versioned_text *to)
{ return text(gpu_of(device), "nvmlDeviceGetPerformanceModes", to->text, sizeof to->text); }
/* all zeros, where anything was told */
static int zeros(void *device, const char *function, void *to, uint size)
{
    int code;
    if (!ask(gpu_of(device), function, &code, NULL)) return code;
    memset(to, 0, size);
    return SUCCESS;
}
int nvmlDeviceGetDynamicPstatesInfo(void *device, void *to)
{ return zeros(device, "nvmlDeviceGetDynamicPstatesInfo", to, 4 + 8 * 16); }
/* "supported code state enabled [code state enabled ...]" */
struct license3 { uint code, state; char info[128], product[128]; uint enabled; };
struct license4 { uint code, state; char info[128], product[128]; uint enabled, year; unsigned short time[5]; unsigned char status; };
static int licenses(void *device, int *supported, uint *count, char *features, size_t size)
{
    ull v[10] = {0};
    int code;
    const char *value = ask(gpu_of(device), "nvmlDeviceGetGridLicensableFeatures", &code, NULL);
    if (!value) return code;
    parse(value, v, 10);
    *supported = v[0];
    *count = 0;
    for (int i = 0; i < 3 && v[1 + 3 * i]; i++, ++*count) {
        struct license3 *to = (struct license3 *)(features + i * size);
        memset(to, 0, size);
        to->code = v[1 + 3 * i]; to->state = v[2 + 3 * i]; to->enabled = v[3 + 3 * i];
        snprintf(to->product, sizeof to->product, "NVIDIA RTX Virtual Workstation");
    }
    return SUCCESS;
}
#define LICENSES(symbol, layout) \
    int symbol(void *device, void *to) \
    { return licenses(device, to, (uint *)to + 1, (char *)to + 8, sizeof(layout)); }
LICENSES(nvmlDeviceGetGridLicensableFeatures_v4, struct license4)
LICENSES(nvmlDeviceGetGridLicensableFeatures_v3, struct license3)
