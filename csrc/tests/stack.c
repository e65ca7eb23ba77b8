/* stack.c: the bytes of stack that opening a model and running it take, with
 * each kernel: a thread's stack is painted, and read afterwards.
 *
 *     stack MODEL
 *
 * bifsmn.h promises a limit. Build as for a device, optimized. */

#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bifsmn.h"

enum {
    STACK = 1 << 18, /* bytes of the thread's */
    APART = 256,     /* of a frame that is not painted over */
    PAINT = 0xa5
};

static unsigned char file[1 << 20], *stack, *workspace;
static size_t size, bytes;
static bifsmn *net;
static int16_t *pcm;
static float *scores;
static struct bifsmn_info info;

static int open_model(void)
{
    return bifsmn_workspace_size(file, size, &bytes) ||
           bifsmn_open(file, size, workspace, bytes, &net);
}

static int run_model(void)
{
    return bifsmn_run(net, pcm, (size_t)info.samples, info.depth[0], scores);
}

struct job {
    int (*call)(void);
    int error;
    size_t used;
};

static void *watch(void *data)
{
    struct job *job = data;
    volatile unsigned char here = 0; /* at the top of what is used from now on */
    const size_t top = (size_t)((uintptr_t)&here - (uintptr_t)stack);
    size_t i;

    memset(stack, PAINT, top - APART);
    job->error = job->call();
    for (i = 0; i < top && stack[i] == PAINT; i++)
        ;
    job->used = top - i;
    return NULL;
}

/* Print what a call used; its error, if there was one. */
static int measure(const char *name, int (*call)(void))
{
    struct job job = {0};
    pthread_attr_t attributes;
    pthread_t thread;

    job.call = call;
    if (pthread_attr_init(&attributes) ||
        pthread_attr_setstack(&attributes, stack, STACK) ||
        pthread_create(&thread, &attributes, watch, &job) ||
        pthread_join(thread, NULL) || job.error)
        return 1;
    printf("%s %lu\n", name, (unsigned long)job.used);
    return 0;
}

int main(int argc, char **argv)
{
    FILE *in = argc == 2 ? fopen(argv[1], "rb") : NULL;
    const char *name;
    int i;

    size = in ? fread(file, 1, sizeof file, in) : 0;
    if (bifsmn_workspace_size(file, size, &bytes) ||
        posix_memalign((void **)&stack, 1 << 16, STACK))
        return 1;
    workspace = malloc(bytes);
    if (measure("open", open_model) || bifsmn_info(net, &info))
        return 1;
    pcm = calloc((size_t)info.samples, sizeof *pcm);
    scores = calloc((size_t)info.classes, sizeof *scores);
    for (i = 0; (name = bifsmn_kernel_name(i)) != NULL; i++)
        if (bifsmn_use_kernels(net, name) || measure(name, run_model))
            return 1;
    return 0;
}
