/* count.c: a plugin for qemu-user that counts executed instructions.
 *
 *     qemu-aarch64 -plugin ./count.so,out=FILE[,trace=SYMBOL] -d plugin PROGRAM
 *
 * At the end it writes one line "SYMBOL COUNT" for every function that ran
 * (of a program that is not stripped). With `trace`, the address of every
 * instruction that SYMBOL executed comes first, in order, one "@ADDRESS" a
 * line. Counts, unlike times, are the same on every run and every host.
 *
 * Distributions ship qemu without its plugin header, so the few prototypes of
 * plugin API version 1 that are needed stand here. */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_info;
struct qemu_plugin_tb; /* a straight run of instructions, translated once */
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(
    qemu_plugin_id_t id,
    void (*callback)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb,
                                              enum qemu_plugin_op op,
                                              void *counter, uint64_t value);
void qemu_plugin_register_vcpu_insn_exec_cb(
    struct qemu_plugin_insn *insn, void (*callback)(unsigned cpu, void *user),
    enum qemu_plugin_cb_flags flags, void *user);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id,
                                    void (*callback)(qemu_plugin_id_t id,
                                                     void *user),
                                    void *user);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *,
                                                 size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *insn);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { SYMBOLS = 16384 };

static struct symbol {
    char name[64];
    uint64_t count;
} symbols[SYMBOLS];
static size_t used;
static FILE *out;
static const char *traced;

static struct symbol *find(const char *name)
{
    size_t i;

    for (i = 0; i < used; i++)
        if (!strncmp(symbols[i].name, name, sizeof symbols[i].name - 1))
            return &symbols[i];
    if (used == SYMBOLS)
        abort();
    strncpy(symbols[used].name, name, sizeof symbols[used].name - 1);
    return &symbols[used++];
}

static void executed(unsigned cpu, void *address)
{
    (void)cpu;
    fprintf(out, "@%llx\n", (unsigned long long)(uintptr_t)address);
}

/* A block seldom spans two functions, but may: calls do not end all. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    const size_t length = qemu_plugin_tb_n_insns(tb);
    size_t i;

    (void)id;
    for (i = 0; i < length; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const char *name = qemu_plugin_insn_symbol(insn);

        qemu_plugin_register_vcpu_tb_exec_inline(
            tb, QEMU_PLUGIN_INLINE_ADD_U64, &find(name ? name : "?")->count, 1);
        if (traced && name && !strcmp(name, traced))
            qemu_plugin_register_vcpu_insn_exec_cb(
                insn, executed, QEMU_PLUGIN_CB_NO_REGS,
                (void *)(uintptr_t)qemu_plugin_insn_vaddr(insn));
    }
}

static void finish(qemu_plugin_id_t id, void *user)
{
    size_t i;

    (void)id;
    (void)user;
    for (i = 0; i < used; i++)
        if (symbols[i].count)
            fprintf(out, "%s %llu\n", symbols[i].name,
                    (unsigned long long)symbols[i].count);
    fclose(out); /* qemu ends without flushing */
}

__attribute__((visibility("default"))) int
qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc,
                    char **argv)
{
    int i;

    (void)info;
    for (i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4))
            out = fopen(argv[i] + 4, "w");
        if (!strncmp(argv[i], "trace=", 6))
            traced = strdup(argv[i] + 6);
    }
    if (!out) {
        fputs("count.so: out=FILE is missing or cannot be written\n", stderr);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finish, NULL);
    return 0;
}
