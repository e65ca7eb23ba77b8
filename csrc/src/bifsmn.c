/* bifsmn.c: the public functions, each a few lines around the other files. */

#include "bifsmn.h"

#include <string.h>

#include "network.h"

/* Every 64-bit ARM has NEON. Benchmarks choose by defining it themselves. */
#if defined(BIFSMN_KERNELS)
#elif defined(__aarch64__) && !defined(__AARCH64EB__)
#define BIFSMN_KERNELS bifsmn_best_neon()
#else
#define BIFSMN_KERNELS &bifsmn_kernels_scalar
#endif

const char *bifsmn_message(int error)
{
    static const char *const messages[] = {
        "no error",
        "an argument is NULL",
        "not a BiFSMN model file",
        "the model file has another major format version; "
        "install a matching version of the runtime",
        "the model file is truncated or padded; copy or export it again",
        "checksum does not match: the model file was altered; "
        "copy or export it again",
        "the section table of the model file is wrong: "
        "a section lies outside the file or in another",
        "a section of the model file is missing or there twice",
        "a size in section CONF of the model file is zero, too large, or "
        "not a possible one",
        "the depths of the model file are not decreasing from its layers to 1",
        "a section of the model file has the wrong type or size",
        "the model file holds a number that is not finite or out of order",
        "the model file does not have one label for each class",
        "the workspace is too small; ask bifsmn_workspace_size",
        "these are not the samples of one decision; pad or cut the clip",
        "the model file cannot run at this depth",
    };

    if (error < 0 || (size_t)error >= sizeof messages / sizeof messages[0])
        return "unknown error";
    return messages[error];
}

/* The workspace: the handle, the front end's tables, the network's arrays. */
static struct bifsmn *place(struct bifsmn *net, struct arena *arena)
{
    struct bifsmn *home = arena_take(arena, 1, sizeof *home);

    bifsmn_frontend_place(&net->frontend, &net->model, arena);
    bifsmn_network_place(net, arena);
    return home;
}

/* Bytes that must be skipped to align the workspace. */
static size_t misalignment(const void *workspace)
{
    size_t past = (uintptr_t)workspace % ARENA_ALIGNMENT;

    return past ? ARENA_ALIGNMENT - past : 0;
}

int bifsmn_workspace_size(const void *file, size_t file_size, size_t *bytes)
{
    struct bifsmn net;
    struct arena count = {NULL, ARENA_ALIGNMENT - 1};
    int error;

    if (!file || !bytes)
        return BIFSMN_ERROR_ARGUMENT;
    if ((error = bifsmn_read_model(file, file_size, &net.model)) != BIFSMN_OK)
        return error;
    place(&net, &count);
    if (count.used > (size_t)-1)
        return BIFSMN_ERROR_CONFIG; /* not in this machine's memory */
    *bytes = (size_t)count.used;
    return BIFSMN_OK;
}

int bifsmn_open(const void *file, size_t file_size, void *workspace,
                size_t workspace_size, bifsmn **net)
{
    struct bifsmn draft, *home;
    struct arena arena = {NULL, 0};
    int error;

    if (!file || !workspace || !net)
        return BIFSMN_ERROR_ARGUMENT;
    memset(&draft, 0, sizeof draft);
    if ((error = bifsmn_read_model(file, file_size, &draft.model)) != BIFSMN_OK)
        return error;
    place(&draft, &arena);
    if (workspace_size < misalignment(workspace) ||
        workspace_size - misalignment(workspace) < arena.used)
        return BIFSMN_ERROR_WORKSPACE;

    arena.base = (uint8_t *)workspace + misalignment(workspace);
    arena.used = 0;
    home = place(&draft, &arena);
    draft.kernels = BIFSMN_KERNELS;
    *home = draft;
    bifsmn_frontend_fill(&home->frontend, &home->model);
    bifsmn_network_fill(home);
    *net = home;
    return BIFSMN_OK;
}

void bifsmn_info(const bifsmn *net, struct bifsmn_info *info)
{
    const struct model *m = &net->model;

    info->sample_rate = (int)m->sample_rate;
    info->samples = (int)m->samples;
    info->hop_length = (int)m->hop_length;
    info->stride = (int)m->stride;
    info->frames = (int)m->frames;
    info->mels = (int)m->mels;
    info->frames1 = (int)m->frames1;
    info->mels1 = (int)m->mels1;
    info->frames2 = (int)m->frames2;
    info->mels2 = (int)m->mels2;
    info->conv1_channels = (int)m->conv1_channels;
    info->conv2_channels = (int)m->conv2_channels;
    info->channels = (int)m->channels;
    info->expansion = (int)m->expansion;
    info->layers = (int)m->layers;
    info->classes = (int)m->classes;
    info->depths = (int)m->depths;
    info->depth = net->depth;
    info->kernels = net->kernels->name;
}

const char *bifsmn_label(const bifsmn *net, int index)
{
    const char *label = (const char *)net->model.section[LABL].data;

    if (index < 0 || (size_t)index >= net->model.classes)
        return NULL;
    for (; index > 0; index--)
        label += strlen(label) + 1;
    return label;
}

int bifsmn_features(bifsmn *net, const int16_t *pcm, size_t samples,
                    int8_t *features)
{
    const struct model *m = &net->model;

    if (!pcm || !features)
        return BIFSMN_ERROR_ARGUMENT;
    if (samples != m->samples)
        return BIFSMN_ERROR_SAMPLES;
    bifsmn_frontend_run(&net->frontend, m, pcm, features);
    bifsmn_network_trace(net, "features", 0, features, m->frames * m->mels);
    return BIFSMN_OK;
}

int bifsmn_run_features(bifsmn *net, const int8_t *features, int depth,
                        float *scores)
{
    size_t i;

    if (!features || !scores)
        return BIFSMN_ERROR_ARGUMENT;
    for (i = 0; i < net->model.depths; i++)
        if (net->depth[i] == depth) {
            bifsmn_network_run(net, features, i, scores);
            return BIFSMN_OK;
        }
    return BIFSMN_ERROR_DEPTH;
}

int bifsmn_run(bifsmn *net, const int16_t *pcm, size_t samples, int depth,
               float *scores)
{
    int error = bifsmn_features(net, pcm, samples, net->features);

    if (error)
        return error;
    return bifsmn_run_features(net, net->features, depth, scores);
}

void bifsmn_set_trace(bifsmn *net, bifsmn_trace *trace, void *user)
{
    net->trace = trace;
    net->trace_user = user;
}
