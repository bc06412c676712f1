/* A plugin for QEMU's user-mode emulation: how often each kind of instruction was executed.
 *
 *     cc -O2 -fPIC -shared counter.c -o counter.so
 *     qemu-aarch64 -plugin ./counter.so,out=counts.txt program
 *
 * writes a line for each kind to counts.txt when the program ends: how often, and the mnemonic with the class
 * of its first operand ("fmla v128", "ldp q", "ld1 {2x128}", "add x"; of 32-bit ARM "vmla.f32 q", "vld1.32 {2d}").
 * Plugin interface 1, as in QEMU 6.0 to 8.1; its header is not needed, these declarations are all that is used of
 * it. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info_t {
    const char* target_name;
};
enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0 };

typedef void tb_callback(qemu_plugin_id_t, struct qemu_plugin_tb*);
typedef void exit_callback(qemu_plugin_id_t, void*);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_callback*);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb*, int, void*, uint64_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, exit_callback*, void*);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
char* qemu_plugin_insn_disas(const struct qemu_plugin_insn*);

EXPORT int qemu_plugin_version = 1;

enum { MAX_KINDS = 4096, KIND_LENGTH = 32 };

/* A translated run of instructions. It is executed from its start to its end, so one counter does for all of
 * them, and counting costs a tenth of what a counter for each instruction would. */
struct block {
    uint64_t executed;
    struct block* next;
    size_t length;
    uint16_t kinds[];
};

static char names[MAX_KINDS][KIND_LENGTH];
static size_t name_count;
static struct block* blocks;
static FILE* output;
static int is_32_bit;

/* Bits of the vector that "v0.4s" or "v0.4s, ..." is; 0 for a lane of one, "v0.s[1]". */
static int vector_bits(const char* operand) {
    const char* dot = strchr(operand, '.');
    const int lanes = dot ? atoi(dot + 1) : 0;
    const char element = dot ? dot[1 + (lanes > 0) + (lanes > 9)] : 0;
    return lanes * (element == 'b' ? 8 : element == 'h' ? 16 : element == 's' ? 32 : 64);
}

/* What kind of register the first operand names: "x", "v128", "lane", or "{2x64}" for a list. */
static void operand_class(const char* operand, char* text, size_t size) {
    text[0] = 0;
    if (operand[0] == '{') {
        int registers = 1;
        for (const char* c = operand; *c && *c != '}'; c++) registers += *c == ',';
        const int bits = vector_bits(operand);
        snprintf(text, size, bits ? "{%dx%d}" : "{%d}lane", registers, bits);
    } else if (operand[0] == 'v' && isdigit((unsigned char)operand[1])) {
        const int bits = vector_bits(operand);
        snprintf(text, size, bits ? "v%d" : "lane", bits);
    } else if (!strncmp(operand, "sp", 2)) {
        snprintf(text, size, "x");
    } else if (operand[0] && strchr("qdshbxw", operand[0]) &&
               (isdigit((unsigned char)operand[1]) || operand[1] == 'z')) {
        snprintf(text, size, "%c", operand[0]);
    }
}

/* The same of 32-bit ARM: "r", "q", "d", or "{2d}" and "{1}lane" for a list. */
static void operand_class_32(const char* operand, char* text, size_t size) {
    text[0] = 0;
    if (operand[0] == '{') {
        int registers = 1;
        for (const char* c = operand; *c && *c != '}'; c++) registers += *c == ',';
        if (strcspn(operand, "[") < strcspn(operand, "}"))
            snprintf(text, size, "{%d}lane", registers);
        else
            snprintf(text, size, "{%d%c}", registers, operand[1] == 'd' ? 'd' : 'r');
    } else if (operand[0] && strchr("qds", operand[0]) && isdigit((unsigned char)operand[1])) {
        snprintf(text, size, "%c", operand[0]);
    } else if (isalpha((unsigned char)operand[0])) {
        snprintf(text, size, "r"); /* r0 to r9, sl, fp, ip, sp, lr, pc */
    }
}

static uint16_t kind_of(const char* disassembly) {
    char name[KIND_LENGTH], class[16];
    const size_t mnemonic = strcspn(disassembly, " \t");
    const char* operand = disassembly + mnemonic + strspn(disassembly + mnemonic, " \t");
    (is_32_bit ? operand_class_32 : operand_class)(operand, class, sizeof class);
    snprintf(name, sizeof name, "%.*s%s%s", (int)(mnemonic < 14 ? mnemonic : 14), disassembly,
             *class ? " " : "", class);
    for (size_t i = 0; i < name_count; i++)
        if (!strcmp(names[i], name)) return (uint16_t)i;
    if (name_count == MAX_KINDS) abort();
    strcpy(names[name_count], name);
    return (uint16_t)name_count++;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
    (void)id;
    const size_t length = qemu_plugin_tb_n_insns(tb);
    struct block* block = calloc(1, sizeof *block + length * sizeof block->kinds[0]);
    if (!block) abort();
    block->length = length;
    for (size_t i = 0; i < length; i++) {
        char* text = qemu_plugin_insn_disas(qemu_plugin_tb_get_insn(tb, i));
        block->kinds[i] = kind_of(text);
        free(text);
    }
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->executed, 1);
}

static void ended(qemu_plugin_id_t id, void* data) {
    static uint64_t counts[MAX_KINDS];
    (void)id;
    (void)data;
    for (const struct block* block = blocks; block; block = block->next)
        for (size_t i = 0; i < block->length; i++) counts[block->kinds[i]] += block->executed;
    for (size_t i = 0; i < name_count; i++)
        if (counts[i]) fprintf(output, "%" PRIu64 " %s\n", counts[i], names[i]);
    fclose(output);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t* info, int argc, char** argv) {
    is_32_bit = !strcmp(info->target_name, "arm");
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4)) output = fopen(argv[i] + 4, "w");
    if (!output) {
        fputs("counter: out=FILE is missing or cannot be written\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
