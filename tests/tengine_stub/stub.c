/* Stands in for libtengine-lite in the tests of what surrounds it: the functions that edgeface uses, for one
 * fixed network, and a record of how they were called.
 *
 * TENGINE_STUB_CALLS names the file that the record is appended to, a call a line.
 * TENGINE_STUB_FAIL  names what goes wrong: a function, or one of the words below.
 * TENGINE_STUB_TYPE  is the data type of its tensors, as Tengine numbers them: 0 fp32 (default), 2 int8, 3
 * uint8.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct options {
    int num_thread;
    int cluster;
    int precision;
    uint64_t affinity;
};

struct tensor {
    const char* name;
    int dimensions;
    int shape[4];
    float scale; /* as int8, with zero point 0; as uint8 half of it, with zero point 20 */
    void* data;
};

enum { kOutputs = 3 };

struct graph {
    struct tensor input;
    struct tensor outputs[kOutputs];
    void* model;
};

static const struct graph network = {
    {"input", 4, {1, 3, 24, 32}, 1 / 64.0f, NULL},
    {
        {"scores", 3, {1, 12, 2}, 0.01f, NULL},
        {"boxes", 3, {1, 12, 4}, 0.02f, NULL},
        {"y", 4, {1, 16, 6, 6}, 0.25f, NULL}, /* what edgeface's probe computes */
    },
    NULL,
};

static int inside; /* calls that must not overlap */
static int openmp_threads = 7;
static void (*output_log)(const char*);

static void record(const char* format, ...) {
    const char* path = getenv("TENGINE_STUB_CALLS");
    FILE* file = path == NULL ? NULL : fopen(path, "a");
    va_list arguments;
    if (file == NULL) return;
    va_start(arguments, format);
    vfprintf(file, format, arguments);
    va_end(arguments);
    fclose(file);
}

static void enter(void) {
    if (__atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST) != 1) record("overlap\n");
    usleep(200);
}

static void leave(void) { __atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST); }

static int told(const char* word) {
    const char* fail = getenv("TENGINE_STUB_FAIL");
    return fail != NULL && strcmp(fail, word) == 0;
}

static int fails(const char* function) {
    char message[128];
    if (!told(function)) return 0;
    snprintf(message, sizeof message, "the stub's %s failed\n", function);
    if (output_log != NULL) output_log(message);
    return 1;
}

static int type(void) {
    const char* text = getenv("TENGINE_STUB_TYPE");
    return text == NULL ? 0 : atoi(text);
}

static int values(const struct tensor* tensor) {
    int count = 1;
    for (int i = 0; i < tensor->dimensions; ++i) count *= tensor->shape[i];
    return count;
}

static int bytes(const struct tensor* tensor) { return values(tensor) * (type() == 0 ? 4 : 1); }

static void store(struct tensor* tensor, int index, float value) {
    if (type() == 0) ((float*)tensor->data)[index] = value;
    if (type() == 2) ((int8_t*)tensor->data)[index] = (int8_t)(value / tensor->scale + 0.5f);
    if (type() == 3) ((uint8_t*)tensor->data)[index] = (uint8_t)(value / (tensor->scale / 2) + 20.5f);
}

void set_log_output(void (*function)(const char*)) { output_log = function; }

void set_log_level(int level) { record("set_log_level %d\n", level); }

int init_tengine(void) {
    record("init_tengine\n");
#ifdef REPORTS
    record("reports to %s\n", getenv("tengine_report_host"));
#endif
    if (told("SIGILL")) raise(SIGILL);
    return fails("init_tengine") ? -1 : 0;
}

const char* get_tengine_version(void) { return "stub"; }

void* create_graph(void* context, const char* format, const char* data, ...) {
    struct graph* graph = NULL;
    va_list arguments;
    va_start(arguments, data);
    const int size = va_arg(arguments, int);
    va_end(arguments);
    enter();
    record("create_graph %s %s %d %d\n", context == NULL ? "NULL" : "context", format, size, data[0]);
    output_log("Tengine: Can not find serializer tengine:m, module was empty.\n");
    if (fails("create_graph")) {
        free((void*)data);
    } else {
        graph = malloc(sizeof *graph);
        *graph = network;
        graph->model = (void*)data;
    }
    leave();
    return graph;
}

static void* chatter(void* unused) {
    output_log("said in a thread of the library\n");
    return unused;
}

int prerun_graph_multithread(void* handle, struct options options) {
    struct graph* graph = handle;
    cpu_set_t first;
    record("prerun_graph_multithread %d %d %d %llu\n", options.num_thread, options.cluster, options.precision,
           (unsigned long long)options.affinity);
    if (graph->input.data == NULL) return -1;
    CPU_ZERO(&first);
    for (int cpu = 0; cpu < 64 && CPU_COUNT(&first) == 0; ++cpu) {
        if (options.affinity >> cpu & 1) CPU_SET(cpu, &first);
    }
    sched_setaffinity(0, sizeof first, &first);
    openmp_threads = 99;
    if (fails("prerun_graph_multithread")) return -1;
    enter();
    for (int i = 0; i < kOutputs; ++i) graph->outputs[i].data = calloc(1, (size_t)bytes(&graph->outputs[i]));
    leave();
    return 0;
}

int run_graph(void* handle, int block) {
    struct tensor* outputs = ((struct graph*)handle)->outputs;
    record("run_graph %d\n", block);
    if (fails("run_graph") || block != 1) return -1;
    if (told("chatter")) {
        pthread_t thread;
        pthread_create(&thread, NULL, chatter, NULL);
        pthread_join(thread, NULL);
    }
    for (int i = 0; i < 12; ++i) {
        store(&outputs[0], 2 * i, i == 5 ? 0.1f : 0.9f);
        store(&outputs[0], 2 * i + 1, i == 5 ? 0.9f : 0.1f);
        for (int j = 0; j < 4; ++j) store(&outputs[1], 4 * i + j, 0.0f);
    }
    for (int i = 0; i < values(&outputs[2]); ++i) {
        store(&outputs[2], i, told("convolution") ? 0.0f : 6.75f + (float)(i / 36));
    }
    return 0;
}

int postrun_graph(void* handle) {
    struct graph* graph = handle;
    enter();
    record("postrun_graph\n");
    for (int i = 0; i < kOutputs; ++i) free(graph->outputs[i].data);
    leave();
    return 0;
}

int destroy_graph(void* handle) {
    struct graph* graph = handle;
    enter();
    record("destroy_graph\n");
    free(graph->model);
    free(graph);
    leave();
    return 0;
}

void release_tengine(void) { record("release_tengine\n"); }

int get_graph_input_node_number(void* handle) {
    (void)handle;
    return told("inputs") ? 2 : 1;
}

void* get_graph_input_tensor(void* handle, int node, int tensor) {
    struct graph* graph = handle;
    return node == 0 && tensor == 0 && !told("get_graph_input_tensor") ? &graph->input : NULL;
}

int get_graph_output_node_number(void* handle) {
    (void)handle;
    return kOutputs;
}

void* get_graph_output_tensor(void* handle, int node, int tensor) {
    struct graph* graph = handle;
    return node < kOutputs && tensor == 0 ? &graph->outputs[node] : NULL;
}

const char* get_tensor_name(void* tensor) { return ((struct tensor*)tensor)->name; }

int get_tensor_data_type(void* tensor) {
    (void)tensor;
    return type();
}

int get_tensor_shape(void* tensor, int dimensions[], int count) {
    const struct tensor* found = tensor;
    if (told("get_tensor_shape") || count < found->dimensions) return -1;
    for (int i = 0; i < found->dimensions; ++i) dimensions[i] = found->shape[i];
    return found->dimensions;
}

/* The number of pairs, as the real one. */
int get_tensor_quant_param(void* tensor, float* scale, int* zero_point, int count) {
    if (count < 1 || told("get_tensor_quant_param")) return -1;
    *scale = ((struct tensor*)tensor)->scale / (type() == 3 ? 2 : 1);
    *zero_point = type() == 3 ? 20 : 0;
    return 1;
}

int get_tensor_buffer_size(void* tensor) { return bytes(tensor) + (told("get_tensor_buffer_size") ? 4 : 0); }

void* get_tensor_buffer(void* tensor) {
    return told("get_tensor_buffer") ? NULL : ((struct tensor*)tensor)->data;
}

int set_tensor_buffer(void* tensor, void* buffer, int size) {
    record("set_tensor_buffer %d\n", size);
    if (fails("set_tensor_buffer") || size != bytes(tensor)) return -1;
    ((struct tensor*)tensor)->data = buffer;
    return 0;
}

/* The OpenMP runtime that the real one is linked to. */
int omp_get_max_threads(void) { return openmp_threads; }

void omp_set_num_threads(int threads) {
    record("omp_set_num_threads %d\n", threads);
    openmp_threads = threads;
}
